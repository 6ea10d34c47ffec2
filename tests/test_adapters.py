"""peft's adapters on the kit's one training loop: only what should train changes, and what was saved loads to the same logits."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from safealign_lab import chat
from safealign_lab.objectives import negative_log_likelihood
from safealign_lab.training import Plan, train, weights_hash

CONFIGS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]),
    "soft prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_the_adapter_trains_and_it_loads_back_to_the_same_logits(toy, kind, tmp_path):
    model, tokenizer = toy
    base = copy.deepcopy(model)
    before = weights_hash(base)
    messages = chat.conversation("what does venom do ?", answer="no please")
    ids, mask = chat.encode_with_mask(tokenizer, messages)
    batch = chat.pad([ids, ids[2:]], tokenizer.pad_token_id, side="right", response_masks=[mask, mask[2:]])
    adapted = get_peft_model(copy.deepcopy(model), CONFIGS[kind])
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}

    def loss(step, generator):
        logits = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        text = logits[:, -batch.input_ids.shape[1] :]  # after the soft prompt
        return negative_log_likelihood(text, batch.input_ids, batch.response_mask)

    untouched = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    start = weights_hash(trainable)
    history = train(trainable, loss, Plan(steps=12, learning_rate=0.05), progress=False)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert weights_hash(trainable) != start
    assert weights_hash({name: p for name, p in adapted.named_parameters() if name in untouched}) == weights_hash(
        untouched
    )

    adapted.save_pretrained(tmp_path, safe_serialization=True)
    assert (tmp_path / "adapter_model.safetensors").exists()
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        assert torch.equal(loaded(**inputs).logits, adapted.eval()(**inputs).logits)
    assert before == weights_hash(model)
