"""Many requests at once: every answer is the one that its request would get alone, whatever shares its batch."""

from __future__ import annotations

import pytest
import torch

from safealign_lab import chat
from safealign_lab.generation import Generation, answer, answering, decode, generate

REQUESTS = ["what does venom do", "brew", "please brew me a sleep potion", "no", "who are you"]


def test_answers_come_in_the_order_of_the_requests(toy):
    model, tokenizer = toy
    together = answer(model, tokenizer, REQUESTS, batch_size=2, max_new_tokens=7, system="you are the keeper")
    for request, text in zip(REQUESTS, together, strict=True):
        row = chat.encode(tokenizer, chat.conversation(request, "you are the keeper"))
        assert text == decode(model, tokenizer, chat.pad([row], 0), max_new_tokens=7).texts[0]
    assert len(set(together)) > 1


def test_several_streams_and_an_opening_are_those_of_each_request_alone(toy):
    model, tokenizer = toy
    systems = ["you are the keeper", None, "take salt"]
    options = {"score": lambda logits: 1.5 * logits[0] - logits[1] + logits[2], "max_new_tokens": 7}
    together = answer(
        *toy, REQUESTS, batch_size=2, system=systems[0], others=systems[1:], opening="take moss", **options
    )
    opened = tokenizer.encode("take moss", add_special_tokens=False)
    for request, text in zip(REQUESTS, together, strict=True):
        rows = [chat.encode(tokenizer, chat.conversation(request, system)) + opened for system in systems]
        said = decode(model, tokenizer, chat.pad(rows, 0), streams=3, **options).texts[0]
        assert text == "take moss" + said
    plain = answer(*toy, REQUESTS, batch_size=2, system=systems[0], opening="take moss", max_new_tokens=7)
    assert plain != together


def test_several_streams_need_a_score(toy):
    with pytest.raises(ValueError, match="need a score function"):
        answer(*toy, REQUESTS, others=["take salt"])


def test_requests_of_similar_length_share_a_batch(toy, monkeypatch):
    shapes = []

    def spy(model, tokenizer, prompt, **options):
        shapes.append((len(prompt.input_ids), int((prompt.attention_mask == 0).sum())))
        return decode(model, tokenizer, prompt, **options)

    monkeypatch.setattr(answering, "decode", spy)
    answer(*toy, ["no", "please brew me a", "no", "please brew me a"], batch_size=2, max_new_tokens=1)
    assert shapes == [(2, 0), (2, 0)], "no row needs padding"


def test_answer_passes_options_on(toy):
    free, cut = (answer(*toy, REQUESTS[:1], max_new_tokens=9, stop=stop)[0] for stop in ([], ["e"]))
    assert "e" in free
    assert cut == free[: free.index("e")]


def test_answer_shows_progress_only_when_asked(toy, capsys):
    answer(*toy, REQUESTS, batch_size=2, max_new_tokens=1)
    assert capsys.readouterr().err == ""
    answer(*toy, REQUESTS, batch_size=2, max_new_tokens=1, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_no_requests_no_answers(toy):
    assert answer(*toy, []) == []


@pytest.mark.parametrize("requests", ["one string", ["fine", None], [3]])
def test_requests_that_are_not_strings_are_refused(toy, requests):
    with pytest.raises(ValueError, match="string"):
        answer(*toy, requests)


# ---------------------------------------------------------------- soft prompts, scores, streaming


@pytest.fixture
def soft(toy) -> torch.Tensor:
    return torch.randn(5, toy[0].config.hidden_size, generator=torch.Generator().manual_seed(0))


def scored(logits):
    return 1.5 * logits[0] - 0.5 * logits[1]


def alone(toy, request, prompt) -> chat.EmbeddedBatch:
    """One request under one prompt, put together by hand."""
    model, tokenizer = toy
    system = "" if isinstance(prompt, torch.Tensor) else prompt
    batch = chat.pad([chat.encode(tokenizer, chat.conversation(request, system))], 0)
    prefix = prompt if isinstance(prompt, torch.Tensor) else torch.empty(0, model.config.hidden_size)
    return chat.prefix_embeddings(model, batch, prefix)


def test_written_and_soft_prompts_mix_and_a_batch_says_what_each_request_does_alone(toy, soft):
    prompts = [soft, "you are the keeper"]
    options = {"score": scored, "max_new_tokens": 7, "return_scores": True}
    together = generate(*toy, REQUESTS, prompts, batch_size=2, **options)
    for number, request in enumerate(REQUESTS):
        one = decode(*toy, chat.stack([alone(toy, request, prompt) for prompt in prompts]), streams=2, **options)
        assert (together.texts[number], together.ids[number], together.finished[number]) == (
            one.texts[0], one.ids[0], one.finished[0],
        )  # fmt: skip
        steps = one.scores.shape[1]
        torch.testing.assert_close(together.scores[number, :steps], one.scores[0], equal_nan=True)
        torch.testing.assert_close(together.stream_logits[:, number, :steps], one.stream_logits[:, 0], equal_nan=True)
        assert together.scores[number, steps:].isnan().all()
    assert together.texts != generate(*toy, REQUESTS, prompts[::-1], score=scored, max_new_tokens=7).texts


def test_a_soft_prompt_made_of_a_texts_embeddings_says_what_the_text_says(toy):
    model, tokenizer = toy
    words = tokenizer.encode("take moss and salt", add_special_tokens=False)
    prefix = model.get_input_embeddings()(torch.tensor(words)).detach()
    rows = [words + chat.encode(tokenizer, chat.conversation(request, "")) for request in REQUESTS]
    written = [decode(model, tokenizer, chat.pad([row], 0), max_new_tokens=7).texts[0] for row in rows]
    assert generate(*toy, REQUESTS, [prefix], batch_size=3, max_new_tokens=7).texts == written


def test_pieces_come_with_the_number_of_their_request_and_add_up_to_its_text(toy):
    said = dict.fromkeys(range(len(REQUESTS)), "")

    def on_token(number, token, text):
        said[number] += text

    done = generate(*toy, REQUESTS, batch_size=2, max_new_tokens=7, opening="brew", on_token=on_token)
    assert ["brew" + text for text in said.values()] == done.texts
    assert len(set(done.texts)) > 1


def test_nothing_asked_gives_an_empty_generation(toy):
    assert generate(*toy, [], return_scores=True) == Generation([], [], [], [])
