"""Shared fixtures: a toy model with random weights, the shipped tiny model, and SmolLM2 where it can be fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

if os.environ.get("PYTEST_XDIST_WORKER"):  # before torch is there: two processes, and a core for each
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch
import two_at_once
from real_lab import lab  # noqa: F401 (a fixture)
from toy_words import toy_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
hypothesis.settings.register_profile("beside others", deadline=None)  # two processes wait for each other now and then
hypothesis.settings.load_profile("beside others")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a test that skips has failed: everything that tests need can be had there."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {report.longrepr}"
    return report


def pytest_collection_modifyitems(items):
    """An order that lets later tests use what earlier ones made."""
    two_at_once.order(items)


def pytest_xdist_make_scheduler(config, log):
    """What belongs together goes to one process."""
    return two_at_once.Scheduling(config, log)


@pytest.fixture(autouse=True)
def room(request, tmp_path_factory) -> Iterator[None]:
    """A test that is timed by the clock has all cores to itself: it waits for the others, and keeps more from beginning."""
    alone = request.node.get_closest_marker("alone") is not None
    threads = torch.get_num_threads()
    with two_at_once.room(two_at_once.common(tmp_path_factory.getbasetemp()), alone):
        if alone:
            torch.set_num_threads(os.cpu_count() or threads)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_progress(tmp_path_factory, monkeypatch):
    """What a learner keeps goes into a folder of the test's own, never into that of whoever runs the tests."""
    monkeypatch.setenv("SAFEALIGN_PROGRESS", str(tmp_path_factory.mktemp("progress")))


@pytest.fixture(scope="session")
def caches(tmp_path_factory) -> Path:
    """A folder with a cache for each notebook, so that a later pass reads back what an earlier one of it has trained."""
    folder = two_at_once.common(tmp_path_factory.getbasetemp()) / "caches"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def toy() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A two-layer Llama with random weights and a word tokenizer: right for identities, wrong for behaviour."""
    tokenizer = toy_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="session")
def tiny():
    """The shipped tiny model of the alchemy world."""
    from safealign_lab import models

    return models.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct, fetched once. Without network and without a cached copy the test skips (in CI it fails)."""
    from safealign_lab import fetching, models

    try:
        return models.load("smollm2-135m", device="cpu")
    except fetching.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"SmolLM2 is not here and cannot be fetched: {error}")
