"""The contrast in one pass: its target against a slow loop, its loss against rows read one by one, students that learn it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from slow_contrast import ENDS, POTIONS, RECKLESS, REQUESTS, SAFE, by_hand, in_double
from torch import nn

from safealign_lab import fetching, generation
from safealign_lab.alchemy.evaluation import potion_sets
from safealign_lab.alchemy.voices import KEEPER
from safealign_lab.alchemy.world import world
from safealign_lab.chat import conversation, encode
from safealign_lab.contrast import one_pass, soft_prompts
from safealign_lab.contrast.decoding import generate
from safealign_lab.contrast.one_pass import (
    Distillation,
    Fidelity,
    contrast_target,
    demonstrate,
    into_adapter,
    into_prompt,
)  # fmt: skip
from safealign_lab.divergence import kl
from safealign_lab.models.adapters import adapted
from safealign_lab.training import Plan, step_generator, weights_hash


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


STREAMS = {
    "texts": (SAFE, RECKLESS),
    "soft": (noise(4, 32), noise(3, 32, seed=1)),
    "mixed": (noise(4, 32), RECKLESS),
}  # fmt: skip


@pytest.fixture(scope="module")
def double(toy):
    """The toy model, norms and all, in double precision, with answers that end at different times."""
    model, tokenizer = in_double(toy, ENDS)
    for name, norm in [(name, part) for name, part in model.named_modules() if type(part).__name__.endswith("RMSNorm")]:
        same = nn.RMSNorm(norm.weight.shape, norm.variance_epsilon)
        same.weight = norm.weight
        model.set_submodule(name, same)
    return model.double(), tokenizer


@pytest.fixture(scope="module")
def single(toy):
    """The toy model as it is, with answers that end at different times."""
    model = copy.deepcopy(toy[0])
    model.generation_config.eos_token_id = ENDS
    return model, toy[1]


SHOWN = {"alpha": 0.6, "plausibility": 0.05, "tokens": 5}


@pytest.fixture(scope="module")
def shown(double):
    return demonstrate(*double, REQUESTS, SAFE, RECKLESS, **SHOWN)


def one_sentence(caught) -> None:
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the target

heights = st.floats(-20, 20)
two_streams = st.integers(2, 6).flatmap(
    lambda size: st.tuples(*2 * [st.lists(heights, min_size=size, max_size=size)])
)  # fmt: skip
alphas, limits = st.floats(0, 0.95), st.just(0.0) | st.floats(0.01, 1)


def slow_target(safe, reckless, alpha, plausibility):
    """Log-probabilities by ACD's printed score l_S - α l_A at temperature 1-α, token by token."""
    kept = [token for token, logit in enumerate(safe) if math.exp(logit - max(safe)) >= plausibility]
    heated = {token: (safe[token] - alpha * reckless[token]) / (1 - alpha) for token in kept}
    top = max(heated.values())
    total = top + math.log(sum(math.exp(value - top) for value in heated.values()))
    return [heated[token] - total if token in heated else -math.inf for token in range(len(safe))]


def on_the_edge(safe, plausibility) -> bool:
    """Whether rounding decides if a token is plausible."""
    ratios = [math.exp(logit - max(safe)) for logit in safe if logit != max(safe)]
    return any(abs(ratio - plausibility) < 1e-9 for ratio in ratios)


@given(pair=two_streams, alpha=alphas, plausibility=limits)
@settings(deadline=None)
def test_the_target_is_the_printed_score_at_temperature_one_minus_alpha(pair, alpha, plausibility):
    assume(not on_the_edge(pair[0], plausibility))
    target = contrast_target(torch.tensor(pair, dtype=torch.float64), alpha, plausibility).tolist()
    assert target == pytest.approx(slow_target(*pair, alpha, plausibility), rel=1e-9, abs=1e-9)
    assert sum(map(math.exp, target)) == pytest.approx(1, abs=1e-9)


@given(pair=two_streams, g=st.floats(0, 19))
@settings(deadline=None)
def test_the_target_is_that_of_a_model_pushed_away_from_a_harmful_teacher(pair, g):
    reference, harmful = logits = torch.tensor(pair, dtype=torch.float64)
    pushed = ((1 + g) * reference - g * harmful).softmax(-1)
    torch.testing.assert_close(contrast_target(logits, g / (1 + g), 0.0).exp(), pushed, atol=1e-10, rtol=0)


@given(pair=two_streams)
@settings(deadline=None)
def test_without_alpha_and_limit_the_target_is_the_safe_stream_itself(pair):
    logits = torch.tensor(pair, dtype=torch.float64)
    assert torch.equal(contrast_target(logits, 0.0, 0.0), logits[0].log_softmax(-1))


@given(pair=two_streams, one=alphas, other=alphas, plausibility=limits)
@settings(deadline=None)
def test_more_alpha_moves_probability_to_what_the_safe_stream_likes_better(pair, one, other, plausibility):
    """Both the mean of log p_S / p_A and the distance from the safe stream grow with α; the spread need not."""
    logits = torch.tensor(pair, dtype=torch.float64)
    ratio, found = logits[0] - logits[1], []
    for alpha in sorted((one, other)):
        target = contrast_target(logits, alpha, plausibility)
        apart = kl(target, contrast_target(logits, 0.0, plausibility)).item()
        found.append(((target.exp() * ratio).sum().item(), apart))
    assert found[0][0] <= found[1][0] + 1e-9
    assert found[0][1] <= found[1][1] + 1e-9


def test_more_alpha_need_not_sharpen_and_ends_at_the_largest_ratio():
    logits = torch.tensor([[1.0, 0.0, -1.0], [4.0, 0.0, 0.0]])  # the ratio is largest at the second token
    spread = {
        alpha: -(target.exp() * target).sum().item()
        for alpha in (0.0, 0.25, 0.99)
        for target in [contrast_target(logits, alpha, 0.0)]
    }
    assert spread[0.25] > spread[0.0] > spread[0.99]
    assert contrast_target(logits, 0.99, 0.0).exp()[1] > 0.999


@given(pair=two_streams, alpha=alphas, shift=heights, plausibility=limits)
@settings(deadline=None)
def test_where_the_streams_agree_alpha_changes_nothing(pair, alpha, shift, plausibility):
    safe = torch.tensor(pair[0], dtype=torch.float64)
    agreed = torch.stack([safe, safe + shift])  # logits that differ by a constant are one distribution
    mine, its = contrast_target(agreed, alpha, plausibility).exp(), contrast_target(agreed, 0.0, plausibility).exp()
    torch.testing.assert_close(mine, its, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_any_number_of_positions_goes_through_at_once(shape):
    logits = 3 * noise(2, *shape)
    target = contrast_target(logits, 0.6, 0.05)
    assert target.shape == shape
    rows = zip(*logits.view(2, -1, 7).tolist(), target.view(-1, 7).tolist(), strict=True)
    for safe, reckless, mine in rows:
        assert mine == pytest.approx(slow_target(safe, reckless, 0.6, 0.05), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_before_anything_is_computed(dtype):
    logits = (3 * noise(2, 5, 7)).to(dtype)
    assert torch.equal(contrast_target(logits, 0.7, 0.0), contrast_target(logits.float(), 0.7, 0.0))


@given(seed=st.integers(0, 10**6), alpha=alphas, plausibility=limits, half=st.booleans())
@settings(deadline=None)
def test_removed_tokens_leave_the_loss_and_its_gradient_numbers(seed, alpha, plausibility, half):
    """The gradient of KL(target ‖ student) by the student's logits is (student - target) / N, at removed tokens too."""
    generator = torch.Generator().manual_seed(seed)
    logits, student = 3 * noise(2, 4, 7, seed=seed), noise(4, 7, seed=seed + 1).requires_grad_()
    best = logits[0].argmax(dim=-1, keepdim=True)  # (N, 1): one plausible token has to be left
    ruled_out = (torch.rand(logits.shape, generator=generator) < 0.3).scatter(-1, best.expand(2, -1, -1), False)
    target = contrast_target(logits.masked_fill(ruled_out, -torch.inf), alpha, plausibility)
    assert not target.isnan().any()
    assert (target[ruled_out.any(dim=0)] == -torch.inf).all()
    target = target.bfloat16().double() if half else target
    loss = kl(target, student)
    (gradient,) = torch.autograd.grad(loss, student)
    p, q = target.softmax(-1), student.detach().softmax(-1)
    slow = sum(
        a * math.log(a / b) for a, b in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True) if a > 0
    )  # fmt: skip
    assert loss.item() == pytest.approx(slow / 4, abs=1e-9)
    torch.testing.assert_close(gradient, (q - p) / 4, atol=1e-10, rtol=0)


@pytest.mark.parametrize("alpha", [1.0, 1.5, -0.1, math.nan])
def test_an_alpha_without_a_distribution_is_refused(single, alpha):
    with pytest.raises(ValueError, match=r"alpha=.* cannot be sampled: .* choose a smaller one") as caught:
        contrast_target(torch.zeros(2, 3, 4), alpha)
    one_sentence(caught)
    with pytest.raises(ValueError, match="cannot be sampled"):
        demonstrate(*single, REQUESTS, SAFE, RECKLESS, alpha=alpha)


@pytest.mark.parametrize("streams", [1, 3])
def test_another_number_of_streams_is_refused(streams):
    with pytest.raises(ValueError, match=f"two streams, safe and adversarial, not {streams}") as caught:
        contrast_target(torch.zeros(streams, 3, 4), 0.4)
    one_sentence(caught)


# ---------------------------------------------------------------- demonstrations


def ids_with_ends(said):
    return [ids if end is None else [*ids, end] for ids, end in zip(said.ids, said.ends, strict=True)]


@pytest.mark.parametrize(("alpha", "plausibility"), [(0.4, 0.1), (0.8, 0.0)])
@pytest.mark.parametrize("kind", STREAMS)
def test_demonstrations_are_the_contrasts_answers_and_what_it_thought(double, kind, alpha, plausibility):
    safe, adversarial = STREAMS[kind]
    knobs = {"alpha": alpha, "plausibility": plausibility}
    found = demonstrate(*double, REQUESTS, safe, adversarial, tokens=6, **knobs)
    said = generate(*double, REQUESTS, safe=safe, adversarial=adversarial, max_new_tokens=6, **knobs)  # as printed
    assert [one.request for one in found] == REQUESTS
    assert [one.ids for one in found] == ids_with_ends(said)
    for one, finished in zip(found, said.finished, strict=True):
        ids, streams = by_hand(*double, one.request, (safe, adversarial), limit=6, **knobs)
        assert one.ids[: len(ids)] == ids
        assert (one.ids[-1] in ENDS) == finished == (len(one.ids) > len(ids))
        assert torch.equal(one.target, contrast_target(streams, alpha, plausibility).bfloat16())
        said_logps = one.target[torch.arange(len(one.ids)), one.ids]
        assert torch.equal(said_logps, one.target.amax(dim=-1)), "nothing is likelier than what it said"
        assert (plausibility > 0) == bool((one.target == -torch.inf).any())
    assert len({len(one.ids) for one in found}) > 1, "answers must end at different times for this to prove anything"


@pytest.mark.parametrize("soft", [False, True])
def test_the_tiny_models_demonstrations_are_what_generate_says(tiny, soft):
    texts = ("you are the keeper .", "brew all potions .")
    safe, adversarial = (soft_prompts.initial(*tiny, text, 8) for text in texts) if soft else texts
    found = demonstrate(*tiny, POTIONS, safe, adversarial)
    said = generate(*tiny, POTIONS, safe=safe, adversarial=adversarial, max_new_tokens=12)
    assert [one.ids for one in found] == ids_with_ends(said)
    assert [one.target.argmax(dim=-1).tolist() for one in found] == [one.ids for one in found]


@pytest.mark.parametrize("together", [1, 2, 5])
def test_what_is_held_at_once_changes_no_demonstration(double, shown, together, monkeypatch):
    monkeypatch.setattr(one_pass, "TOGETHER", together)
    found = demonstrate(*double, REQUESTS, SAFE, RECKLESS, **SHOWN)
    assert [(one.request, one.ids) for one in found] == [(one.request, one.ids) for one in shown]
    assert all(torch.equal(one.target, its.target) for one, its in zip(found, shown, strict=True))


@pytest.mark.parametrize(("requests", "tokens"), [([], 3), (REQUESTS, 0), (REQUESTS, -1), ("brew", 3)])
def test_nothing_to_demonstrate_is_refused(single, requests, tokens):
    with pytest.raises(ValueError, match="nothing to demonstrate: give a list of one request or more, and 1") as caught:
        demonstrate(*single, requests, SAFE, RECKLESS, tokens=tokens)
    one_sentence(caught)


# ---------------------------------------------------------------- the loss, the gradient and the fidelity


def slow_readings(model, tokenizer, demonstrations, system, prompt=None):
    """(KL(contrast ‖ student), whether both find the same token likeliest), token by token, one unpadded text at a time."""
    for one in demonstrations:
        asked = encode(tokenizer, conversation(one.request, system))
        for place, (token, target) in enumerate(zip(one.ids, one.target.double(), strict=True)):
            vectors = model.get_input_embeddings()(torch.tensor([*asked, *one.ids[:place]]))
            vectors = vectors if prompt is None else torch.cat([prompt, vectors])
            logps = model(inputs_embeds=vectors[None]).logits[0, -1].log_softmax(-1)
            total = target.exp().sum()  # half precision has rounded it off 1
            kept = (target > -torch.inf).nonzero().flatten().tolist()
            yield (
                sum(target[v].exp() / total * (target[v] - total.log() - logps[v]) for v in kept),
                all(logps[token] >= logp for logp in logps),
            )


def close(mine, expected) -> None:
    torch.testing.assert_close(mine, torch.as_tensor(expected, dtype=mine.dtype), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("system", ["", None, SAFE])
def test_a_prompts_loss_and_gradient_equal_a_slow_loop(double, shown, system):
    prompt = noise(4, 32, seed=2).requires_grad_()
    chosen = [shown[number] for number in (3, 0, 4, 4, 1)]  # in no order, one of them twice
    mine = Distillation(*double, shown, system).loss(prompt, chosen)
    readings = [apart for apart, _ in slow_readings(*double, chosen, system, prompt)]
    slow = sum(readings) / len(readings)
    close(mine, slow.item())
    (gradient,), (expected,) = (torch.autograd.grad(loss, prompt) for loss in (mine, slow))
    assert expected.abs().min() > 0, "every number of the prompt has to matter"
    close(gradient, expected)


@pytest.fixture(scope="module")
def adapter(double):
    """An adapter in double precision that does something."""
    model = adapted(double[0], rank=3)
    for number, (name, weight) in enumerate(model.named_parameters()):
        if "lora_B" in name:
            weight.data += 0.1 * noise(*weight.shape, seed=number)
    return model


@pytest.mark.parametrize("system", ["", None, SAFE])
def test_a_whole_models_loss_and_logits_equal_a_plain_reading(double, adapter, shown, system):
    for student in (double[0], adapter):
        of = Distillation(student, double[1], shown, system)
        with torch.no_grad():
            readings = [apart for apart, _ in slow_readings(student, double[1], shown, system)]
            close(of.loss(None, shown), (sum(readings) / len(readings)).item())
            plain = []
            for one in shown:
                asked = encode(double[1], conversation(one.request, system))
                logits = student(input_ids=torch.tensor([asked + one.ids])).logits[0]
                plain.append(logits[len(asked) - 1 : -1])
            close(of.logits(None, shown), torch.cat(plain))
    with torch.no_grad():
        apart = (of.logits(None, shown) - Distillation(*double, shown, system).logits(None, shown)).abs().max()
    assert apart > 0.1, "the adapter has to matter"


@pytest.mark.parametrize("soft", [True, False])
def test_the_fidelity_equals_a_slow_loop_whatever_is_read_together(double, adapter, shown, soft):
    prompt, student = (noise(4, 32, seed=2), double[0]) if soft else (None, adapter)
    with torch.no_grad():
        readings = list(slow_readings(student, double[1], shown, "", prompt))
    apart, same = (sum(map(float, values)) / len(readings) for values in zip(*readings, strict=True))
    assert 0 < same < 1
    for per_step in (1, 2, 16):
        found = Distillation(student, double[1], shown, per_step=per_step).fidelity(prompt)
        assert found.divergence == pytest.approx(apart, abs=1e-10)
        assert found.agreement == pytest.approx(same, abs=1e-12)


def rounding(demonstrations) -> float:
    """The most that half precision can put between a target and what it was rounded from, in nats, mean over tokens.

    Its eight binary digits move a log-probability by 2⁻⁹ of itself at most, so all of them by amounts within 2⁻⁸ of the
    largest; and distributions whose logits differ by amounts within r are at most r²/8 apart (Hoeffding's lemma).
    """
    largest = torch.cat(
        [(-one.target.double()).masked_fill(one.target == -torch.inf, 0).amax(-1) for one in demonstrations]
    )
    return ((2**-8 * largest) ** 2 / 8).mean().item()


@pytest.mark.parametrize("kind", ["texts", "soft"])
def test_a_student_that_is_the_safe_stream_has_nothing_to_learn_without_alpha(double, kind):
    safe, adversarial = STREAMS[kind]
    shown = demonstrate(*double, REQUESTS, safe, adversarial, alpha=0.0, plausibility=0.0, tokens=5)
    prompt, other, system = (safe, adversarial, "") if kind == "soft" else (None, None, safe)
    of = Distillation(*double, shown, system)
    with torch.no_grad():
        loss = of.loss(prompt, shown).item()
    found = of.fidelity(prompt)
    assert -1e-12 < loss < rounding(shown) < 1e-2
    assert found == Fidelity(pytest.approx(loss, abs=1e-12), 1.0)
    stranger = Distillation(*double, shown, "" if kind == "soft" else adversarial).fidelity(other)
    assert stranger.divergence > 100 * rounding(shown)
    assert stranger.agreement < 1


def test_what_the_limit_takes_away_is_all_that_such_a_student_lacks(double):
    """KL(p restricted to the plausible ‖ p) = -log p(plausible)."""
    shown = demonstrate(*double, REQUESTS, SAFE, RECKLESS, alpha=0.0, plausibility=0.1, tokens=5)
    of, lacking = Distillation(*double, shown, SAFE), []
    with torch.no_grad():
        student = of.logits(None, shown).softmax(-1)
        for target, p in zip(torch.cat([one.target for one in shown]), student, strict=True):
            lacking.append(-math.log(sum(p[target > -torch.inf].tolist())))
    expected = sum(lacking) / len(lacking)
    assert expected > 0.01
    assert -1e-12 < of.fidelity(None).divergence - expected < rounding(shown) < 1e-3


@given(per_step=st.integers(1, 9), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_every_step_draws_so_many_and_a_seed_draws_the_same(double, shown, per_step, seed):
    of = Distillation(*double, shown, per_step=per_step)
    drawn, again = (of.drawn(torch.Generator().manual_seed(seed)) for _ in range(2))
    assert len(drawn) == per_step
    assert all(one is other for one, other in zip(drawn, again, strict=True))
    assert all(any(one is other for other in shown) for one in drawn)


def test_every_demonstration_comes_up(double, shown):
    of = Distillation(*double, shown, per_step=2)
    drawn = [one for step in range(1, 21) for one in of.drawn(step_generator(0, step))]
    assert {one.request for one in drawn} == set(REQUESTS)


@pytest.mark.parametrize(("count", "per_step"), [(0, 16), (2, 0), (2, -1)])
def test_nothing_to_learn_from_is_refused(double, shown, count, per_step):
    with pytest.raises(ValueError, match=f"Of {count} demonstrations, {per_step} at a step, nothing is") as caught:
        Distillation(*double, shown[:count], per_step=per_step)
    one_sentence(caught)


# ---------------------------------------------------------------- into a prompt


PLAN = Plan(steps=12, learning_rate=0.05, warmup=2, seed=0)


@pytest.fixture(scope="module")
def taught(single):
    return demonstrate(*single, REQUESTS, SAFE, RECKLESS, alpha=0.6, tokens=6)


@pytest.fixture
def start(single):
    return soft_prompts.initial(*single, SAFE)


def untimed(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]


def test_a_prompt_learns_the_contrast_and_the_model_stays(single, taught, start):
    model = copy.deepcopy(single[0]).requires_grad_(True)
    model.lm_head.weight.requires_grad_(False)  # what was frozen stays so
    before, kept = weights_hash(model), start.clone()
    flags = [weight.requires_grad for weight in model.parameters()]
    of = Distillation(model, single[1], taught, per_step=4)
    prompt, history = into_prompt(of, start, dataclasses.replace(PLAN, steps=40), progress=False)
    assert of.fidelity(prompt).divergence < 0.5 * of.fidelity(start).divergence
    assert of.fidelity(prompt).agreement > of.fidelity(start).agreement
    assert len(history.rows) == 40
    assert torch.equal(start, kept)
    assert prompt.shape == start.shape
    assert not prompt.requires_grad
    assert ((prompt - start).abs().amax(dim=-1) > 1e-3).all(), "the gradient reaches every vector"
    assert weights_hash(model) == before
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert {True, False} == set(flags)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_prompt_depends_on_its_seed_alone(single, taught, start):
    of, found = Distillation(*single, taught, per_step=3), []
    for chance, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(chance)
        prompt, history = into_prompt(of, start, dataclasses.replace(PLAN, seed=seed), progress=False)
        found.append((prompt, untimed(history)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not torch.equal(found[0][0], found[2][0])


def test_the_history_holds_the_loss_of_what_was_drawn(single, taught, start):
    of = Distillation(*single, taught, per_step=3)
    _, history = into_prompt(of, start, PLAN, progress=False)
    with torch.no_grad():
        first = of.loss(start, of.drawn(step_generator(PLAN.seed, 1)))
    assert history.rows[0]["loss"] == pytest.approx(first.item(), rel=1e-6)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("into", ["prompt", "adapter"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(single, taught, start, tmp_path, monkeypatch, into, error):
    plan, draw = dataclasses.replace(PLAN, checkpoint_every=3), Distillation.drawn

    def run(folder=None, fails_at=None):
        steps = []

        def drawn(of, generator):
            steps.append(generator.initial_seed())
            if len(steps) == fails_at:
                raise error
            return draw(of, generator)

        monkeypatch.setattr(Distillation, "drawn", drawn)
        if into == "prompt":
            prompt, history = into_prompt(Distillation(*single, taught), start, plan, folder, progress=False)
            return weights_hash({"prompt": prompt}), untimed(history), len(steps)
        student = adapted(single[0])
        history = into_adapter(Distillation(student, single[1], taught), plan, folder, progress=False)
        return weights_hash(student), untimed(history), len(steps)

    whole = run()
    assert whole[2] == 12
    with pytest.raises(error):
        run(tmp_path, fails_at=8)
    again = 5 if error is KeyboardInterrupt else 6  # on Ctrl-C the last step is saved too, else every third is
    assert run(tmp_path) == (*whole[:2], again)
    assert run(tmp_path) == (*whole[:2], 0), "a finished run is only read back"


# ---------------------------------------------------------------- into an adapter


def base_of(student) -> dict[str, torch.Tensor]:
    """The weights without the adapter's, under the names that they had before it came."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in student.state_dict().items()
        if "lora_" not in name
    }


def read(model, tokenizer) -> torch.Tensor:
    with torch.no_grad():
        ids = encode(tokenizer, conversation(REQUESTS[2], SAFE))
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits
    return logits


def state_of(model) -> tuple:
    return (
        weights_hash(model), [(name, type(part)) for name, part in model.named_modules()], sorted(vars(model)),
        [(name, weight.requires_grad) for name, weight in model.named_parameters()], model.config.to_dict(),
    )  # fmt: skip


def test_an_adapter_begins_as_the_model_itself_and_leaves_it_and_chance_alone(single):
    model = single[0]
    before, chance = state_of(model), torch.get_rng_state()
    student = adapted(model, rank=5)
    assert torch.equal(torch.get_rng_state(), chance)
    assert state_of(model) == before
    assert torch.equal(read(student, single[1]), read(model, single[1]))
    assert not student.training
    assert weights_hash(base_of(student)) == weights_hash(model)
    for name, weight in student.named_parameters():
        assert weight.requires_grad == ("lora_" in name)
        weight.data += 1  # a copy, of which the model knows nothing
    assert state_of(model) == before


def test_an_adapter_of_so_many_ranks_is_on_every_linear_layer_but_the_output(single):
    model, ranks = single[0], {}
    for name, part in adapted(model, rank=5).named_modules():
        if hasattr(part, "lora_A"):
            ranks[name.removeprefix("base_model.model.")] = part.lora_A["default"].weight.shape[0]
    linear = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert ranks == dict.fromkeys(linear - {"lm_head"}, 5)


def test_an_adapters_chance_is_its_seeds(single):
    hashes = []
    for chance, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(chance)
        hashes.append(weights_hash(adapted(single[0], seed=seed)))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft, as it loads
def test_an_adapter_learns_the_contrast_in_place_and_the_weights_below_it_stay(single, taught, tmp_path):
    student = adapted(single[0])
    of = Distillation(student, single[1], taught, None, per_step=4)
    begun, before = of.fidelity(), {name: weight.clone() for name, weight in student.state_dict().items()}
    history = into_adapter(of, dataclasses.replace(PLAN, steps=40, learning_rate=0.01), progress=False)
    assert of.fidelity().divergence < 0.5 * begun.divergence
    assert of.fidelity().agreement > begun.agreement
    assert len(history.rows) == 40
    assert weights_hash(base_of(student)) == weights_hash(single[0])
    changed = {name for name, weight in student.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    student.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(single[0]), tmp_path).eval()
    assert torch.equal(read(loaded, single[1]), read(student, single[1]))
    assert (read(loaded, single[1]) - read(single[0], single[1])).abs().max() > 0.1
    assert dataclasses.replace(of, model=loaded).fidelity() == of.fidelity()


@pytest.mark.parametrize("called", [None, "someone/a-model"])
def test_a_saved_adapter_holds_the_models_hub_id_and_no_path_of_the_machine(tiny, tmp_path, called):
    model = copy.deepcopy(tiny[0])
    model.name_or_path = model.config.name_or_path = called or model.name_or_path
    assert called or model.name_or_path.startswith("/"), (
        "the model has to come from a folder for this to prove anything"
    )
    before = model.name_or_path
    adapted(model).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)  # else a hub id is looked up
    assert model.name_or_path == model.config.name_or_path == before
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == called
    for file in (tmp_path / "adapter").rglob("*"):
        content = file.read_bytes().decode(errors="replace")
        assert str(fetching.data_folder()) not in content, file
        assert str(tmp_path) not in content, file


def test_a_model_without_an_adapter_to_train_is_refused(single, taught):
    frozen = adapted(single[0]).requires_grad_(False)
    for model in (single[0], copy.deepcopy(single[0]).requires_grad_(True), frozen):
        before = weights_hash(model)
        with pytest.raises(ValueError, match="no adapter to distil into: make one with `adapted`") as caught:
            into_adapter(Distillation(model, single[1], taught), PLAN, progress=False)
        one_sentence(caught)
        assert weights_hash(model) == before


# ---------------------------------------------------------------- the tiny model


@pytest.fixture(scope="module")
def potions(tiny):
    """What the contrast answers to requests of all kinds: some to learn from, as many held out."""
    sets = potion_sets(world(0), 8, splits=("train",))
    requests = [one.text for its in sets.values() for one in its]
    shown = demonstrate(*tiny, requests, KEEPER, "brew all potions .", tokens=6)
    return shown[::2], shown[1::2]


def test_a_reckless_prompt_learns_to_speak_as_the_contrast_does(tiny, potions):
    learned, held_out = (Distillation(*tiny, some, per_step=8) for some in potions)
    start = soft_prompts.initial(*tiny, "brew all potions .", 8)
    prompt, _ = into_prompt(learned, start, Plan(steps=25, learning_rate=0.03, warmup=3), progress=False)
    assert held_out.fidelity(prompt).divergence < 0.1 * held_out.fidelity(start).divergence
    assert held_out.fidelity(prompt).agreement > held_out.fidelity(start).agreement


def test_an_adapter_says_without_any_prompt_what_two_streams_said(tiny, potions):
    model, tokenizer = adapted(tiny[0]), tiny[1]
    learned, held_out = (Distillation(model, tokenizer, some, None, per_step=8) for some in potions)
    requests, before = [one.request for one in potions[1]], held_out.fidelity()

    def share_said(student):
        said = ids_with_ends(generation.generate(student, tokenizer, requests, max_new_tokens=6))
        return sum(ids == one.ids for ids, one in zip(said, potions[1], strict=True)) / len(said)

    into_adapter(learned, Plan(steps=25, learning_rate=0.005, warmup=3), progress=False)
    assert held_out.fidelity().divergence < 0.1 * before.divergence
    assert share_said(model) > share_said(tiny[0])
