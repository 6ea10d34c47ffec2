"""What SmolLM2's methods cost: which trainings are counted, how a step is timed, and what stands in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from safealign_lab.chat import conversation, encode
from safealign_lab.contrast.baselines import Method
from safealign_lab.one_plot import real_costs, tiny_lab
from safealign_lab.studies.undefended import NEW_TOKENS

TRAINED = {  # by hand: which prompts each method needs
    "no system text": "", "safe text": "", "text contrast": "", "Instructive Decoding, null": "",
    "Instructive Decoding, opposite": "", "SP": "S", "SP − opposite text": "S", "SafeDecoding": "S", "none − AP": "A",
    "safe text − AP": "A", "SP − AP": "SA",
}  # fmt: skip
BESIDES = ("refusal SFT", "refusal-DPO", "immunized", real_costs.GATE)


class Clock:
    """A processor that is busy only where it is told to be."""

    def __init__(self):
        self.now = 0.0

    def process_time(self):
        return self.now

    def busy(self, seconds):
        """Something that takes so long."""

        def _take(*_args, **_options):
            self.now += seconds(*_args, **_options) if callable(seconds) else seconds
            return {}, None

        return _take


KEPT = (real_costs._prompt, real_costs._defence, real_costs._gate, real_costs._hundred)


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    for module in (real_costs, tiny_lab):
        monkeypatch.setattr(module, "time", found)
    for kept in KEPT:
        kept.cache_clear()
    yield found
    for kept in KEPT:
        kept.cache_clear()


def test_every_method_of_the_plot_has_its_costs_measured():
    assert {*real_costs.COSTED} == {*TRAINED, *BESIDES}


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_a_method_pays_for_the_prompts_that_it_needs_and_for_no_other(monkeypatch, method):
    monkeypatch.setattr(real_costs, "method_of", lambda *_: Method((None,)))
    monkeypatch.setattr(real_costs, "_prompt", {"safeguarding": 100.0, "adversarial": 7.0}.get)
    monkeypatch.setattr(real_costs, "_hundred", lambda: 2.0)
    monkeypatch.setattr(real_costs, "_memory", lambda _: 1.0)
    monkeypatch.setattr(real_costs, "_per_token", lambda _: 3.0)
    cost = real_costs.measure_costs(0, method)
    expected = sum({"S": 50.0, "A": 3.5}[letter] for letter in TRAINED[method])
    assert cost == {"training": expected, "time": 1.0, "memory": 1.0}


def test_of_several_rounds_the_fastest_of_each_counts(monkeypatch):
    times = iter([2.0, 9.0, 4.0, 6.0, 3.0, 7.0])  # plain and own, three times
    monkeypatch.setattr(real_costs, "method_of", lambda *_: Method((None,)))
    monkeypatch.setattr(real_costs, "_hundred", lambda: 1.0)
    monkeypatch.setattr(real_costs, "_memory", lambda _: 1.0)
    monkeypatch.setattr(real_costs, "_per_token", lambda _: next(times))
    assert real_costs.measure_costs(0, "safe text")["time"] == 3.0


def test_a_step_is_timed_without_what_is_set_up_before_it(clock):
    assert real_costs._per_step(clock.busy(lambda steps: 50.0 + 3.0 * steps)) == pytest.approx(3.0)


def test_a_token_is_timed_without_the_first_one_and_what_comes_before_it(clock):
    assert tiny_lab.seconds_per_token(clock.busy(lambda tokens: 50.0 + 3.0 * tokens), 33) == pytest.approx(3.0)


def test_a_prompt_costs_what_is_prepared_once_and_all_its_steps(clock, monkeypatch, lab):
    monkeypatch.setattr(real_costs, "real_model", lambda: lab.model)
    monkeypatch.setattr(real_costs, "training_anchors", list)
    monkeypatch.setattr(real_costs, "Optimisation", clock.busy(11.0))
    monkeypatch.setattr(real_costs, "optimise", clock.busy(lambda _, __, plan: 5.0 + 2.0 * plan.steps))
    for role, steps in (("safeguarding", 400), ("adversarial", 200)):
        assert real_costs._prompt(role) == pytest.approx(11.0 + 2.0 * steps)


@pytest.fixture
def cycle(clock, monkeypatch):
    """Steps of known lengths in the place of both phases, of plain training, and of what is known beforehand."""
    rows = [SimpleNamespace(request=f"{n}", chosen="yes", rejected="no") for n in range(100)]
    room = SimpleNamespace(student=None)
    of = SimpleNamespace(harmful=rows, harmless=rows, model=None, tokenizer=None, fresh=lambda: room)
    monkeypatch.setattr(real_costs, "setting", lambda: of)
    monkeypatch.setattr(real_costs, "immunizing", lambda *_: len)
    monkeypatch.setattr(real_costs, "trained_weights", lambda _: {})
    monkeypatch.setattr(real_costs, "train", clock.busy(lambda _, __, plan, **___: 9.0 + 4.0 * plan.steps))
    monkeypatch.setattr(real_costs, "immunize", clock.busy(lambda _, __, ___, its, **____: 9.0 + 8.0 * its.first.steps))
    monkeypatch.setattr(real_costs, "align", clock.busy(lambda _, __, its, *___, **____: 9.0 + 5.0 * its.second.steps))
    monkeypatch.setattr(real_costs, "select", clock.busy(3.0))
    monkeypatch.setattr(real_costs, "measure", clock.busy(lambda _, __, some, ___, **____: 0.5 * len(some)))
    return real_costs.CYCLE


@pytest.mark.parametrize("defence", ["refusal SFT", "refusal-DPO"])
def test_what_has_no_cycle_costs_all_steps_of_the_first_phase(cycle, defence):
    assert real_costs._defence(defence) == pytest.approx(4.0 * cycle.first.steps)


def test_a_cycle_costs_both_phases_the_choice_of_canaries_and_what_the_reference_thinks(cycle):
    phases = 8.0 * cycle.first.steps + 5.0 * cycle.second.steps
    assert real_costs._defence("immunized") == pytest.approx(0.5 * 200 + 3.0 + phases)


def test_memory_is_that_of_the_weights_and_of_every_stream_by_hand(monkeypatch, tiny):
    model, tokenizer = tiny
    requests = ["brew me a calm sleep potion .", "what does venom do ?"]
    monkeypatch.setattr(real_costs, "real_model", lambda: tiny)
    monkeypatch.setattr(real_costs, "_requests", lambda: requests)
    config, soft = model.config, torch.zeros(5, model.config.hidden_size)  # (5, D)
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    tokens = sum(len(encode(tokenizer, conversation(one, ""))) + NEW_TOKENS for one in requests)
    numbers = sum(weight.numel() for weight in model.parameters())
    place = 2 * config.num_hidden_layers * width
    assert real_costs._memory(Method(("",))) == 4 * (numbers + tokens * place)
    both = 4 * (numbers + (2 * tokens + 5 * len(requests)) * place + soft.numel())
    assert real_costs._memory(Method((soft, ""), len)) == both


def test_a_gate_adds_its_head_to_the_memory_and_nothing_to_a_token(monkeypatch):
    monkeypatch.setattr(real_costs, "method_of", lambda *_: Method((None,)))
    monkeypatch.setattr(real_costs, "gate_with", lambda *_: SimpleNamespace(head=torch.nn.Linear(9, 1)))
    monkeypatch.setattr(real_costs, "_gate", lambda: 30.0)
    monkeypatch.setattr(real_costs, "_hundred", lambda: 60.0)
    monkeypatch.setattr(real_costs, "_memory", lambda _: 80.0)
    assert real_costs.measure_costs(0, real_costs.GATE) == {"training": 0.5, "time": 1.0, "memory": 1.5}
