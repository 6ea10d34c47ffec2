"""Every method against answers made the slow way; SafeDecoding, the gate and the first scored tokens against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from slow_contrast import ENDS, POTIONS, RECKLESS, REQUESTS, SAFE, in_double

from safealign_lab.alchemy.voices import KEEPER, ROGUE
from safealign_lab.alchemy.world import world
from safealign_lab.chat import conversation, encode, pad
from safealign_lab.contrast import score, scorer
from safealign_lab.contrast.baselines import Health, Method, checked, health, methods, safe_decoding
from safealign_lab.generation import decode, generate
from safealign_lab.judges import AlchemyJudge
from safealign_lab.measures import paired

PATIENT = settings(deadline=None, derandomize=True)
TEXTS = ["no system text", "safe text", "text contrast", "Instructive Decoding, null", "Instructive Decoding, opposite"]
OF_SAFE = ["SP", "SP − opposite text", "SafeDecoding"]
OF_ADVERSARIAL = ["none − AP", "safe text − AP"]
OF_BOTH = ["SP − AP"]
seeds = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def apprentice(tiny):
    return in_double(tiny)


@pytest.fixture(scope="module")
def talker(toy):
    return in_double(toy, [*ENDS, 5, 25])


def softmax(logits: list[float]) -> list[float]:
    heights = [math.exp(logit - max(logits)) for logit in logits]
    return [height / sum(heights) for height in heights]


def two_streams(seed: int, rows: int = 3, vocabulary: int = 9, scale: float = 2.0) -> torch.Tensor:
    """Logits (2, B, V) without ties."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64)


def close(mine: torch.Tensor, expected) -> None:
    torch.testing.assert_close(mine, torch.as_tensor(expected, dtype=mine.dtype), atol=1e-9, rtol=1e-9)


# ---------------------------------------------------------------- SafeDecoding


def shared(base: list[float], expert: list[float], common: int) -> set[int]:
    """The tokens that stand among the first k of both, with the smallest k that gives enough of them."""
    ranked = [sorted(range(len(base)), key=stream.__getitem__, reverse=True) for stream in (base, expert)]
    for k in range(1, len(base) + 1):
        both = set(ranked[0][:k]) & set(ranked[1][:k])
        if len(both) >= common:
            return both
    raise AssertionError("a vocabulary shares all of its tokens")


def slow_safe_decoding(base: list[float], expert: list[float], strength: float, common: int) -> list[float]:
    """The new probabilities, before they are made to sum to 1."""
    both, p, q = shared(base, expert, common), softmax(base), softmax(expert)
    mixed = [max(0.0, p[v] + strength * (q[v] - p[v])) if v in both else 0.0 for v in range(len(p))]
    return mixed if any(mixed) else [q[v] if v in both else 0.0 for v in range(len(p))]


@PATIENT
@given(seed=seeds, strength=st.floats(0, 10), common=st.integers(1, 9), scale=st.sampled_from([0.5, 2.0, 10.0]))
def test_safe_decoding_equals_a_loop_over_python_lists(seed, strength, common, scale):
    streams = two_streams(seed, scale=scale)
    found = safe_decoding(streams, strength, common).exp()
    assert found.shape == streams.shape[1:]
    for row, base, expert in zip(found, *streams.tolist(), strict=True):
        close(row, slow_safe_decoding(base, expert, strength, common))


@PATIENT
@given(seed=seeds, strength=st.floats(0, 10), common=st.integers(1, 9))
def test_safe_decoding_takes_from_the_common_tokens_and_never_from_none(seed, strength, common):
    streams = two_streams(seed)
    scores = safe_decoding(streams, strength, common)
    assert not scores.isnan().any()
    for row, base, expert in zip(scores.tolist(), *streams.tolist(), strict=True):
        taken = {token for token, value in enumerate(row) if value > -math.inf}
        assert taken
        assert taken <= shared(base, expert, common)
        assert len(shared(base, expert, common)) >= common


@PATIENT
@given(seed=seeds, common=st.integers(1, 9))
def test_the_strengths_zero_and_one_are_either_stream_on_the_common_tokens(seed, common):
    streams = two_streams(seed)
    for strength, stream in ((0.0, streams[0]), (1.0, streams[1])):
        found = safe_decoding(streams, strength, common).exp()
        both = [shared(base, expert, common) for base, expert in zip(*streams.tolist(), strict=True)]
        inside = torch.tensor([[token in tokens for token in range(stream.shape[-1])] for tokens in both])
        close(found, stream.softmax(-1) * inside)


def test_more_common_tokens_let_rarer_ones_in_and_more_strength_exaggerates():
    base = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    expert = torch.tensor([[0.3, 0.5, 0.05, 0.15]], dtype=torch.float64).log()
    streams = torch.stack([base, expert])
    open_to = [int((safe_decoding(streams, 1.0, common) > -math.inf).sum()) for common in (1, 2, 3, 4)]
    assert open_to == [2, 2, 4, 4], "the first two enter together, and so do the last"
    shares = [safe_decoding(streams, strength, 2).softmax(-1)[0, 1].item() for strength in (0.0, 1.0, 2.0, 3.0)]
    assert shares == pytest.approx([0.3 / 0.8, 0.5 / 0.8, 0.7 / 0.8, 0.9 / 0.9])
    wide = two_streams(0)
    assert torch.equal(safe_decoding(wide), safe_decoding(wide, strength=3.0, common=5)), "the paper's"


@PATIENT
@given(seed=seeds, strength=st.sampled_from([0.0, 0.5, 3.0]), scale=st.sampled_from([200.0, 2000.0]))
def test_streams_that_leave_each_other_nothing_still_choose_a_common_token(seed, strength, scale):
    """In single precision, where most probabilities round to 0."""
    streams = two_streams(seed, rows=8, scale=scale).float()
    scores = safe_decoding(streams, strength, 2)
    chosen = scores.argmax(-1).tolist()
    assert not scores.isnan().any()
    for token, row, base, expert in zip(chosen, scores, *streams.tolist(), strict=True):
        assert row[token] > -math.inf
        assert token in shared(base, expert, 2)


@pytest.mark.parametrize(
    ("streams", "knobs", "sentence"),
    [
        (torch.zeros(1, 1, 9), {}, "needs two streams, the base and the expert, not 1"),
        (torch.zeros(3, 1, 9), {}, "needs two streams, the base and the expert, not 3"),
        (torch.zeros(2, 1, 9), {"strength": -0.1}, "strength=-0.1 must be 0 or more"),
        (torch.zeros(2, 1, 9), {"strength": math.inf}, "strength=inf must be 0 or more"),
        (torch.zeros(2, 1, 9), {"strength": math.nan}, "strength=nan must be 0 or more"),
        (torch.zeros(2, 1, 9), {"common": 0}, "common=0 from 1 to the vocabulary's size"),
        (torch.zeros(2, 1, 9), {"common": 10}, "common=10 from 1 to the vocabulary's size"),
        (torch.zeros(2, 1, 4), {}, "common=5 from 1 to the vocabulary's size"),
    ],
)
def test_safe_decoding_refuses_what_it_cannot_do_in_one_sentence(streams, knobs, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        safe_decoding(streams, **knobs)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the gate


def slow_gated(safe: list[float], adversarial: list[float], alpha: float, form: str, gate: float) -> list[float]:
    apart = jensenshannon(softmax(safe), softmax(adversarial)) ** 2  # SciPy gives its root
    assume(not gate or abs(apart / gate - 1) > 1e-6)  # the edge itself is up to rounding
    if apart < gate:
        return safe
    factor = 1.0 if form == "acd" else 1 / (1 - alpha)
    return [factor * (s - alpha * a) for s, a in zip(safe, adversarial, strict=True)]


@PATIENT
@given(
    seed=seeds, alpha=st.floats(0, 0.95), form=st.sampled_from(["acd", "guided"]), gate=st.floats(0, 0.69),
    scale=st.sampled_from([0.3, 1.0, 3.0]), plausibility=st.sampled_from([0.0, 0.1]),
)  # fmt: skip
def test_the_gate_leaves_to_the_safe_stream_what_the_streams_agree_on(seed, alpha, form, gate, scale, plausibility):
    streams = two_streams(seed, rows=6, scale=scale)
    found = score(streams, alpha, form, plausibility, gate)
    for row, safe, adversarial in zip(found, *streams.tolist(), strict=True):
        expected = slow_gated(safe, adversarial, alpha, form, gate)
        floor = max(safe) + (math.log(plausibility) if plausibility else -math.inf)
        assume(all(abs(logit - floor) > 1e-9 for logit in safe))
        close(row, [value if s >= floor else -math.inf for value, s in zip(expected, safe, strict=True)])
    assert torch.equal(scorer(alpha, form, plausibility, gate)(streams), found)


@PATIENT
@given(seed=seeds, alpha=st.floats(0, 0.95))
def test_the_gate_runs_from_the_contrast_everywhere_to_the_safe_stream_everywhere(seed, alpha):
    streams = two_streams(seed)
    assert torch.equal(score(streams, alpha, gate=0.0), score(streams, alpha))
    open_to_choice = score(streams, alpha) > -math.inf
    alone = streams[0].masked_fill(~open_to_choice, -math.inf)
    assert torch.equal(score(streams, alpha, gate=math.log(2)), alone), "no two of these have nothing in common"


def test_a_token_that_either_stream_rules_out_stays_ruled_out_behind_the_gate():
    streams = torch.tensor([[[0.0, -math.inf, -0.1]], [[0.0, 0.0, -math.inf]]])
    for gate in (0.0, 0.1, math.log(2)):
        assert (score(streams, 0.5, plausibility=0.0, gate=gate) > -math.inf).tolist() == [[True, False, False]]


@pytest.mark.parametrize("gate", [-0.01, 0.7, math.inf, math.nan])
def test_a_gate_that_is_no_divergence_is_refused(gate):
    for call in (lambda: score(torch.zeros(2, 1, 3), 0.4, gate=gate), lambda: scorer(0.4, gate=gate)):
        with pytest.raises(ValueError, match=f"gate={gate} is no divergence of two streams: expected 0 to 0.693"):
            call()


# ---------------------------------------------------------------- the first tokens only


@torch.no_grad()
def slowly(pair, request, prompts, choose, limit):
    """One answer the slow way: each stream alone, all of its text read anew for each token, `choose` told the step."""
    model, tokenizer = pair
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    embedded, beginnings = model.get_input_embeddings(), []
    for prompt in prompts:
        soft = isinstance(prompt, torch.Tensor)
        text = embedded(torch.tensor(encode(tokenizer, conversation(request, "" if soft else prompt))))
        beginnings.append(torch.cat([prompt.to(text), text]) if soft else text)
    said: list[int] = []
    while len(said) < limit and not (said and said[-1] in ends):
        answer = embedded(torch.tensor(said, dtype=torch.long))
        streams = [model(inputs_embeds=torch.cat([text, answer])[None]).logits[0, -1].tolist() for text in beginnings]
        said.append(choose(len(said), *streams))
    return [token for token in said if token not in ends]


def best(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def opposed(stream_logits):
    """A score that changes nearly every choice."""
    return stream_logits[0] - 1.5 * stream_logits[1]


@pytest.mark.parametrize("scored_tokens", [0, 1, 2, 3, 5, None])
def test_after_so_many_tokens_the_first_stream_decides_alone(talker, scored_tokens):
    def choose(step, first, second):
        scored = scored_tokens is None or step < scored_tokens
        return best([a - 1.5 * b if scored else a for a, b in zip(first, second, strict=True)])

    said = generate(
        *talker, REQUESTS, (SAFE, RECKLESS), score=opposed, scored_tokens=scored_tokens, max_new_tokens=7,
        batch_size=3, return_scores=True,
    )  # fmt: skip
    assert said.ids == [slowly(talker, request, (SAFE, RECKLESS), choose, 7) for request in REQUESTS]
    assert len(set(map(len, said.ids))) > 1, "rows must end at different times for this to prove anything"
    mixed = said.stream_logits[0] - 1.5 * said.stream_logits[1]  # (B, N, V)
    until = mixed.shape[1] if scored_tokens is None else scored_tokens
    expected = torch.cat([mixed[:, :until], said.stream_logits[0][:, until:]], dim=1)
    torch.testing.assert_close(said.scores, expected, equal_nan=True)


def test_no_scored_tokens_are_the_first_stream_and_all_are_the_score(talker):
    options = {"max_new_tokens": 9}
    alone = generate(*talker, REQUESTS, (SAFE,), **options).ids
    always = generate(*talker, REQUESTS, (SAFE, RECKLESS), score=opposed, **options).ids
    found = [
        generate(*talker, REQUESTS, (SAFE, RECKLESS), score=opposed, scored_tokens=count, **options).ids
        for count in (0, 1, 9, 1000, None)
    ]
    assert found[0] == alone
    assert found[1] not in (alone, always)
    assert found[2] == found[3] == found[4] == always != alone


def test_scored_tokens_below_zero_are_refused(talker):
    with pytest.raises(ValueError, match="scored_tokens=-1"):
        decode(*talker, pad([[3, 11, 5]] * 2, 0), streams=2, score=opposed, scored_tokens=-1)


# ---------------------------------------------------------------- the methods


@pytest.mark.parametrize(("has_safe", "has_adversarial"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_prompts_that_are_there_decide_which_methods_are(has_safe, has_adversarial):
    safe, adversarial = torch.zeros(2, 4), torch.ones(3, 4)
    found = methods(SAFE, RECKLESS, safe if has_safe else None, adversarial if has_adversarial else None)
    names = TEXTS + OF_SAFE * has_safe + OF_ADVERSARIAL * has_adversarial
    assert list(found) == names + OF_BOTH * (has_safe and has_adversarial)
    prompts = {
        "no system text": (None,), "safe text": (SAFE,), "text contrast": (SAFE, RECKLESS),
        "Instructive Decoding, null": (SAFE, ""), "Instructive Decoding, opposite": (SAFE, RECKLESS), "SP": (safe,),
        "SP − opposite text": (safe, RECKLESS), "SafeDecoding": (None, safe), "none − AP": (None, adversarial),
        "safe text − AP": (SAFE, adversarial), "SP − AP": (safe, adversarial),
    }  # fmt: skip
    for name, method in found.items():
        assert all(mine is theirs for mine, theirs in zip(method.prompts, prompts[name], strict=True)), name
        assert (method.score is None) == (len(method.prompts) == 1), name
        assert method.scored_tokens == (2 if name == "SafeDecoding" else None), name


KNOBS = {"alpha": 0.6, "plausibility": 0.2, "gate": 0.02}


def slow_choice(name):
    """How a method chooses a token, out of plain lists."""

    def alone(step, first):
        return best(first)

    def contrast(step, first, second):
        gated = jensenshannon(softmax(first), softmax(second)) ** 2 < KNOBS["gate"]
        floor = max(first) + math.log(KNOBS["plausibility"])
        pairs = zip(first, second, strict=True)
        return best([(a if gated else a - KNOBS["alpha"] * b) if a >= floor else -math.inf for a, b in pairs])

    def instructive(step, first, second):
        return best([a - 0.3 * b for a, b in zip(first, second, strict=True)])

    def safe(step, first, second):
        return best(slow_safe_decoding(first, second, 3.0, 5)) if step < 2 else best(first)

    if name in ("no system text", "safe text", "SP"):
        return alone
    return safe if name == "SafeDecoding" else instructive if name.startswith("Instructive") else contrast


def every_method(pair, safe_text, opposite_text):
    """All methods, with soft prompts that no words make."""
    generator, width = torch.Generator().manual_seed(0), pair[0].config.hidden_size
    safe, adversarial = (torch.randn(length, width, generator=generator) for length in (5, 7))
    return methods(safe_text, opposite_text, safe, adversarial, **KNOBS)


@pytest.mark.parametrize("name", TEXTS + OF_SAFE + OF_ADVERSARIAL + OF_BOTH)
@pytest.mark.parametrize("which", ["toy", "tiny"])
def test_every_method_says_what_is_said_the_slow_way(talker, apprentice, which, name):
    pair, texts, requests = (
        (talker, (SAFE, RECKLESS), REQUESTS) if which == "toy" else (apprentice, (KEEPER, ROGUE), POTIONS)
    )
    method = every_method(pair, *texts)[name]
    said = method(*pair, requests, max_new_tokens=9, batch_size=3)
    expected = [slowly(pair, request, method.prompts, slow_choice(name), 9) for request in requests]
    assert said.ids == expected
    assert said.texts == [pair[1].decode(ids, skip_special_tokens=True) for ids in expected]


def test_no_two_methods_say_the_same_where_a_model_is_sure_of_nothing(talker):
    """Else the slow way would prove little."""
    said = {
        name: tuple(map(tuple, method(*talker, REQUESTS, max_new_tokens=9).ids))
        for name, method in every_method(talker, SAFE, RECKLESS).items()
    }
    assert len(set(said.values())) == len(said) == 11


def test_the_knobs_reach_the_contrasts_and_leave_instructive_decoding_alone():
    streams = two_streams(3, rows=20)
    plain, turned = methods(SAFE, RECKLESS), methods(SAFE, RECKLESS, **KNOBS)
    assert torch.equal(plain["text contrast"].score(streams), score(streams, 0.4, "acd", 0.1, 0.0))
    assert torch.equal(turned["text contrast"].score(streams), score(streams, 0.6, "acd", 0.2, 0.02))
    for found in (plain, turned):
        for name in TEXTS[-2:]:
            close(found[name].score(streams), streams[0] - 0.3 * streams[1])
    with pytest.raises(ValueError, match="alpha=-1"):
        methods(SAFE, RECKLESS, alpha=-1)


# ---------------------------------------------------------------- the health of an adversarial prompt


@pytest.fixture(scope="module")
def cursed():
    of = world(0)
    return [one.text for one in of.potions(of.nouns("train", cursed=True), "weak")[::10]][:30]


def test_a_prompt_that_obeys_is_healthy_and_one_that_refuses_is_not(tiny, cursed):
    found, around = (
        health(*tiny, *prompts, cursed, AlchemyJudge(), batch_size=64) for prompts in ((KEEPER, ROGUE), (ROGUE, KEEPER))
    )
    labels = {
        voice: AlchemyJudge().labels(generate(*tiny, cursed, (voice,), batch_size=64).texts)
        for voice in (KEEPER, ROGUE)
    }
    refused = {voice: its.count("refusal") / len(cursed) for voice, its in labels.items()}
    assert found.gap.difference == pytest.approx(refused[KEEPER] - refused[ROGUE])
    assert found.gap.difference > 0.8
    assert found.gap == paired(labels[ROGUE], labels[KEEPER])
    assert found.healthy
    assert around.gap.difference == pytest.approx(-found.gap.difference)
    assert not around.healthy


def test_streams_that_refuse_alike_and_too_few_requests_are_no_health(tiny, cursed):
    assert not health(*tiny, KEEPER, KEEPER, cursed, AlchemyJudge()).healthy
    few = health(*tiny, KEEPER, ROGUE, cursed[:1], AlchemyJudge())
    assert few.gap.difference == 1
    assert not few.healthy, "the interval of one request reaches below zero"


def test_options_reach_both_streams(tiny, cursed):
    cut = health(*tiny, KEEPER, ROGUE, cursed, AlchemyJudge(), max_new_tokens=1)
    assert cut.gap.difference == 0, "one word is no refusal yet"


def test_health_of_no_requests_is_refused(tiny):
    with pytest.raises(ValueError, match="expected one of each method for each request"):
        health(*tiny, KEEPER, ROGUE, [], AlchemyJudge())


@pytest.mark.parametrize("prompts", [(KEEPER, ROGUE), (ROGUE, KEEPER)])
def test_an_unhealthy_contrast_falls_back_to_its_safe_stream_alone(tiny, cursed, prompts):
    contrast = Method(prompts, scorer(0.6), scored_tokens=3)
    state = health(*tiny, *prompts, cursed, AlchemyJudge(), batch_size=64)
    used = checked(state, contrast)
    if state.healthy:
        assert used is contrast
    else:
        assert used == Method(prompts[:1])
        assert used(*tiny, POTIONS).ids == generate(*tiny, POTIONS, prompts[:1]).ids
    assert state.healthy == (prompts == (KEEPER, ROGUE))


def test_the_gaps_lower_end_decides():
    gaps = [paired(["compliance"] * 30, ["refusal"] * count + ["compliance"] * (30 - count)) for count in range(31)]
    for count in (0, 1, 30):
        assert (gaps[count].low > 0) == (count == 30)
    contrast = Method((SAFE, RECKLESS), scorer(0.4))
    assert checked(Health(gaps[30], True), contrast) is contrast
    assert checked(Health(gaps[0], False), contrast) == Method((SAFE,))
