"""Wrong answers to the exercises of lesson 31."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- softmax_backward


def _four(at_logits, inputs, weight):
    return at_logits, at_logits.T @ inputs, at_logits.sum(0), at_logits @ weight


def _p_and_hot(inputs, weight, bias, labels):
    return (inputs @ weight.T + bias).softmax(1), F.one_hot(labels, len(bias)).to(inputs)


def _right(inputs, weight, bias, labels):
    p, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four((p - hot) / len(labels), inputs, weight)


def forgets_the_mean(inputs, weight, bias, labels):
    p, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four(p - hot, inputs, weight)


def turns_the_sign(inputs, weight, bias, labels):
    p, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four((hot - p) / len(labels), inputs, weight)


def forgets_the_one(inputs, weight, bias, labels):
    p, _ = _p_and_hot(inputs, weight, bias, labels)
    return _four(p / len(labels), inputs, weight)


def takes_one_everywhere(inputs, weight, bias, labels):
    p, _ = _p_and_hot(inputs, weight, bias, labels)
    return _four((p - 1) / len(labels), inputs, weight)


def moves_the_right_token_alone(inputs, weight, bias, labels):
    p, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four(hot * (p - 1) / len(labels), inputs, weight)


def runs_down_the_rows(inputs, weight, bias, labels):
    _, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four(((inputs @ weight.T + bias).softmax(0) - hot) / len(labels), inputs, weight)


def divides_by_the_outputs(inputs, weight, bias, labels):
    p, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four((p - hot) / p.numel(), inputs, weight)


def stops_at_the_probabilities(inputs, weight, bias, labels):
    p, hot = _p_and_hot(inputs, weight, bias, labels)
    return _four(-hot / p / len(labels), inputs, weight)


def leaves_the_bias_out(inputs, weight, bias, labels):
    return _right(inputs, weight, torch.zeros_like(bias), labels)


def lays_the_weight_on_its_side(inputs, weight, bias, labels):
    at_logits, at_weight, at_bias, at_inputs = _right(inputs, weight, bias, labels)
    return at_logits, at_weight.T, at_bias, at_inputs


def takes_the_mean_twice(inputs, weight, bias, labels):
    at_logits, at_weight, at_bias, at_inputs = _right(inputs, weight, bias, labels)
    return at_logits, at_weight / len(labels), at_bias, at_inputs


def multiplies_logits(inputs, weight, bias, labels):
    at_logits, _, at_bias, at_inputs = _right(inputs, weight, bias, labels)
    return at_logits, (inputs @ weight.T + bias).T @ inputs, at_bias, at_inputs


def averages_at_the_bias(inputs, weight, bias, labels):
    at_logits, at_weight, _, at_inputs = _right(inputs, weight, bias, labels)
    return at_logits, at_weight, at_logits.mean(0), at_inputs


def keeps_the_rows_at_the_bias(inputs, weight, bias, labels):
    at_logits, at_weight, _, at_inputs = _right(inputs, weight, bias, labels)
    return at_logits, at_weight, at_logits, at_inputs


def looks_up_one_row(inputs, weight, bias, labels):
    return *_right(inputs, weight, bias, labels)[:3], -weight[labels] / len(labels)


def averages_at_the_inputs(inputs, weight, bias, labels):
    *others, at_inputs = _right(inputs, weight, bias, labels)
    return *others, at_inputs / len(labels)


def returns_two(inputs, weight, bias, labels):
    return _right(inputs, weight, bias, labels)[1:3]


# ---------------------------------------------------------------- add_scores


def _new(weight, gradient, kind):
    if gradient is None:
        return torch.zeros_like(weight)
    return {"absolute": gradient.abs(), "squared": gradient**2, "weighted": (weight * gradient).abs()}[kind]


def _signed(weight, gradient, kind):
    if gradient is None:
        return torch.zeros_like(weight)
    return weight * gradient if kind == "weighted" else gradient


def _each(made, scores, weights, gradients, kind):
    return [made(s, w, g, kind) for s, w, g in zip(scores, weights, gradients, strict=True)]


def keeps_the_last_batch(scores, weights, gradients, kind):
    return _each(lambda s, w, g, k: _new(w, g, k), scores, weights, gradients, kind)


def loses_a_score(scores, weights, gradients, kind):
    return _each(
        lambda s, w, g, k: torch.zeros_like(s) if g is None else s + _new(w, g, k), scores, weights, gradients, kind
    )


def cancels(scores, weights, gradients, kind):
    return _each(lambda s, w, g, k: s + _signed(w, g, k), scores, weights, gradients, kind)


def takes_the_size_too_late(scores, weights, gradients, kind):
    return _each(lambda s, w, g, k: (s + _signed(w, g, k)).abs(), scores, weights, gradients, kind)


def squares_the_sum(scores, weights, gradients, kind):
    if kind != "squared":
        return _each(lambda s, w, g, k: s + _new(w, g, k), scores, weights, gradients, kind)
    return _each(lambda s, w, g, k: (s + _signed(w, g, k)) ** 2, scores, weights, gradients, kind)


def leaves_the_weight_out(scores, weights, gradients, kind):
    return _each(
        lambda s, w, g, k: s + _new(w, g, "absolute" if k == "weighted" else k), scores, weights, gradients, kind
    )


def squares_the_product(scores, weights, gradients, kind):
    def made(s, w, g, k):
        return s + (_new(w, g, k) ** 2 if k == "weighted" else _new(w, g, k))

    return _each(made, scores, weights, gradients, kind)


def adds_the_two_sizes(scores, weights, gradients, kind):
    def made(s, w, g, k):
        return s + _new(w, g, "absolute") + w.abs() if k == "weighted" else s + _new(w, g, k)

    return _each(made, scores, weights, gradients, kind)


def keeps_the_largest(scores, weights, gradients, kind):
    return _each(lambda s, w, g, k: torch.maximum(s, _new(w, g, k)), scores, weights, gradients, kind)


def fades(scores, weights, gradients, kind):
    return _each(lambda s, w, g, k: (s + _new(w, g, k)) / 2, scores, weights, gradients, kind)


def stumbles_over_none(scores, weights, gradients, kind):
    return [s + g.abs() for s, g in zip(scores, gradients, strict=True)]


# ---------------------------------------------------------------- choose_canaries


def _masks(order, count, scores):
    flat = torch.zeros(sum(s.numel() for s in scores), dtype=torch.bool)
    flat[order[:count]] = True
    return [m.view(s.shape) for m, s in zip(flat.split([s.numel() for s in scores]), scores, strict=True)]


def _flat(scores):
    return torch.cat([s.flatten() for s in scores])


def _order(values):
    return values.sort(descending=True, stable=True).indices


def _count(scores, fraction):
    return math.ceil(round(fraction * sum(s.numel() for s in scores), 6))


def rounds_to_the_nearest(scores, fraction):
    return _masks(_order(_flat(scores)), round(fraction * len(_flat(scores))), scores)


def rounds_down(scores, fraction):
    return _masks(_order(_flat(scores)), int(fraction * len(_flat(scores))), scores)


def trusts_the_product(scores, fraction):
    return _masks(_order(_flat(scores)), math.ceil(fraction * len(_flat(scores))), scores)


def gives_each_tensor_its_share(scores, fraction):
    return [_masks(_order(s.flatten()), _count([s], fraction), [s])[0] for s in scores]


def takes_the_smallest(scores, fraction):
    return _masks(_order(-_flat(scores)), _count(scores, fraction), scores)


def ranks_by_size(scores, fraction):
    return _masks(_order(_flat(scores).abs()), _count(scores, fraction), scores)


def _least(scores, fraction):
    count = _count(scores, fraction)
    return _flat(scores).sort(descending=True).values[count - 1] if count else math.inf


def lets_all_equals_in(scores, fraction):
    return [s >= _least(scores, fraction) for s in scores]


def leaves_all_equals_out(scores, fraction):
    return [s > _least(scores, fraction) for s in scores]


def takes_the_last_equals(scores, fraction):
    flat = _flat(scores)
    return _masks(len(flat) - 1 - _order(flat.flip(0)), _count(scores, fraction), scores)


def marks_the_others(scores, fraction):
    return [~m for m in _masks(_order(_flat(scores)), _count(scores, fraction), scores)]


def slices_from_the_end(scores, fraction):
    flat, count = _flat(scores), _count(scores, fraction)
    order = (len(flat) - 1 - flat.flip(0).sort(stable=True).indices)[-count:]  # the first of equals at the very end
    return _masks(order, len(order), scores)


def leaves_it_in_one(scores, fraction):
    return _flat(_masks(_order(_flat(scores)), _count(scores, fraction), scores))


# ---------------------------------------------------------------- attacked_gradients


def _moving(model):
    return [w for w in model.parameters() if w.requires_grad]


def _relative(w, g):
    return w.norm() * g / g.norm().clamp(min=1e-12)


def _attack(model, raised, loss, radius, move=_relative, of=None, weights=None):
    """The right answer, with one part of it changed."""
    weights = _moving(model) if weights is None else weights
    kept = [w.detach().clone() for w in weights]
    uphill = torch.autograd.grad(raised(), weights, allow_unused=True, materialize_grads=True)
    try:
        with torch.no_grad():
            for w, g in zip(weights, uphill, strict=True):
                w += radius * move(w, g)
        return list(torch.autograd.grad((of or loss)(), _moving(model)))
    finally:
        with torch.no_grad():
            for w, value in zip(weights, kept, strict=True):
                w.copy_(value)


def never_puts_back(model, raised, loss, radius):
    weights = _moving(model)
    uphill = torch.autograd.grad(raised(), weights)
    with torch.no_grad():
        for w, g in zip(weights, uphill, strict=True):
            w += radius * _relative(w, g)
    return list(torch.autograd.grad(loss(), weights))


def subtracts_the_move(model, raised, loss, radius):
    weights = _moving(model)
    moves = [
        radius * _relative(w, g).detach() for w, g in zip(weights, torch.autograd.grad(raised(), weights), strict=True)
    ]
    with torch.no_grad():
        for w, move in zip(weights, moves, strict=True):
            w += move
    try:
        return list(torch.autograd.grad(loss(), weights))
    finally:
        with torch.no_grad():
            for w, move in zip(weights, moves, strict=True):
                w -= move


def forgets_the_exception(model, raised, loss, radius):
    weights = _moving(model)
    kept = [w.detach().clone() for w in weights]
    uphill = torch.autograd.grad(raised(), weights)
    with torch.no_grad():
        for w, g in zip(weights, uphill, strict=True):
            w += radius * _relative(w, g)
    found = list(torch.autograd.grad(loss(), weights))
    with torch.no_grad():
        for w, value in zip(weights, kept, strict=True):
            w.copy_(value)
    return found


def swallows_the_exception(model, raised, loss, radius):
    try:
        return _attack(model, raised, loss, radius)
    except Exception:  # noqa: BLE001 - the mistake itself
        return [torch.zeros_like(w) for w in _moving(model)]


def zeroes_what_it_moved(model, raised, loss, radius):
    found = _attack(model, raised, loss, radius)
    with torch.no_grad():
        _moving(model)[0].zero_()
    return found


def puts_back_too_early(model, raised, loss, radius):
    return list(torch.autograd.grad(loss(), _moving(model)))


def differentiates_what_is_raised(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, of=raised)


def returns_the_direction(model, raised, loss, radius):
    return list(torch.autograd.grad(raised(), _moving(model)))


def piles_gradients_up(model, raised, loss, radius):
    uphill = torch.autograd.grad(raised(), _moving(model))
    return [a + b for a, b in zip(uphill, _attack(model, raised, loss, radius), strict=True)]


def goes_down(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, lambda w, g: -_relative(w, g))


def forgets_the_tensors_norm(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, lambda w, g: g / g.norm().clamp(min=1e-12))


def shares_one_ball(model, raised, loss, radius):
    weights = _moving(model)
    norm = torch.cat([w.detach().flatten() for w in weights]).norm()
    steep = torch.cat([g.flatten() for g in torch.autograd.grad(raised(), weights)]).norm()
    return _attack(model, raised, loss, radius, lambda w, g: norm * g / steep)


def takes_the_raw_gradient(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, lambda w, g: g)


def forgets_the_gradients_norm(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, lambda w, g: w.norm() * g)


def moves_by_signs(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, lambda w, g: w.abs() * g.sign())


def raises_the_loss(model, raised, loss, radius):
    return _attack(model, loss, loss, radius)


def divides_by_zero(model, raised, loss, radius):
    return _attack(model, raised, loss, radius, lambda w, g: w.norm() * g / g.norm())


# ---------------------------------------------------------------- shielded_step


def _shielded(model, masks, step, say=max):
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach()[mask].clone() for name, mask in masks.items()}
    step()
    moved = [(weights[name].detach()[mask] - kept[name]) for name, mask in masks.items()]
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name][mask] = kept[name]
    return float(say(torch.cat(moved)))


def _zeroed(model, masks):
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        weights[name].grad[mask] = 0.0


def never_writes_back(model, masks, step):
    step()
    return 0.1


def zeroes_the_gradients_alone(model, masks, step):
    _zeroed(model, masks)
    step()
    return 0.0


def writes_back_before_the_step(model, masks, step):
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name][mask] = weights[name][mask].clone()
    step()
    return 0.0


def keeps_no_copy(model, masks, step):
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach() for name in masks}
    step()
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name][mask] = kept[name][mask]
    return 0.0


def writes_everything_back(model, masks, step):
    everything = {name: torch.ones_like(w, dtype=torch.bool) for name, w in model.named_parameters()}
    return _shielded(model, everything, step)


def writes_whole_tensors_back(model, masks, step):
    return _shielded(model, {name: torch.ones_like(mask) for name, mask in masks.items()}, step)


def holds_the_others(model, masks, step):
    others = {name: ~masks.get(name, torch.zeros_like(w, dtype=torch.bool)) for name, w in model.named_parameters()}
    return _shielded(model, others, step)


def sets_them_to_zero(model, masks, step):
    weights = dict(model.named_parameters())
    step()
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name][mask] = 0.0
    return 0.0


def steps_twice(model, masks, step):
    step()
    return _shielded(model, masks, step)


def measures_afterwards(model, masks, step):
    _shielded(model, masks, step)
    return 0.0


def takes_the_mean(model, masks, step):
    return _shielded(model, masks, step, lambda moved: moved.abs().mean())


def takes_the_sum(model, masks, step):
    return _shielded(model, masks, step, lambda moved: moved.abs().sum())


def takes_the_highest(model, masks, step):
    return _shielded(model, masks, step, torch.max)


def takes_the_length(model, masks, step):
    return _shielded(model, masks, step, torch.norm)


def measures_all_weights(model, masks, step):
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    seen = []

    def watched():
        step()
        seen.extend(float((w.detach() - before[name]).abs().max()) for name, w in model.named_parameters())

    _shielded(model, masks, watched)
    return max(seen)


def zeroes_first(model, masks, step):
    _zeroed(model, masks)
    return _shielded(model, masks, step, lambda moved: moved.abs().max())


def looks_at_one_tensor(model, masks, step):
    weights, kept = dict(model.named_parameters()), {}
    for name, mask in masks.items():
        kept[name] = weights[name].detach()[mask].clone()
    step()
    for name, mask in masks.items():
        moved = float((weights[name].detach()[mask] - kept[name]).abs().max())
        with torch.no_grad():
            weights[name][mask] = kept[name]
    return moved


def looks_at_the_first_tensor(model, masks, step):
    count = int(next(iter(masks.values())).sum())
    return _shielded(model, masks, step, lambda moved: moved[:count].abs().max())


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "softmax_backward": {
        forgets_the_mean: "mean over the rows is forgotten",
        turns_the_sign: "sign is turned: a step",
        forgets_the_one: "1 at the right token is missing",
        takes_one_everywhere: "1 is taken from every token",
        moves_the_right_token_alone: "Only the right token has a gradient",
        runs_down_the_rows: "softmax runs down the rows",
        divides_by_the_outputs: "divides by V too",
        stops_at_the_probabilities: "stops at the probabilities",
        leaves_the_bias_out: "bias is left out",
        lays_the_weight_on_its_side: "lies on its side",
        takes_the_mean_twice: "taken twice at the weight",
        multiplies_logits: "weight meets the logits",
        averages_at_the_bias: "bias takes the mean",
        keeps_the_rows_at_the_bias: "rows are still apart",
        looks_up_one_row: "row of the weight counts",
        averages_at_the_inputs: "once more at the inputs",
        returns_two: "Return four tensors",
    },
    "add_scores": {
        keeps_the_last_batch: "keeps the last batch alone",
        loses_a_score: "loses its score",
        cancels: "either sign cancel",
        takes_the_size_too_late: "absolute value comes too late",
        squares_the_sum: "squares the sum: take",
        leaves_the_weight_out: "leaves θ out",
        squares_the_product: "squares θ · g",
        adds_the_two_sizes: "adds up |θ| and |g|",
        keeps_the_largest: "largest batch of each weight",
        fades: "mean of old and new",
        stumbles_over_none: "AttributeError",
    },
    "choose_canaries": {
        rounds_to_the_nearest: "rounds K · n to the nearest",
        rounds_down: "rounds K · n down",
        trusts_the_product: "one too many",
        gives_each_tensor_its_share: "Each tensor has its own share",
        takes_the_smallest: "smallest scores",
        ranks_by_size: "ranks by magnitude",
        lets_all_equals_in: "lowest chosen score are in",
        leaves_all_equals_out: "lowest chosen score are left out",
        takes_the_last_equals: "takes the last in order",
        marks_the_others: "marks what is no canary",
        slices_from_the_end: "K = 0 everything is chosen",
        leaves_it_in_one: "one mask for all",
    },
    "attacked_gradients": {
        never_puts_back: "stay where the attack moved them",
        subtracts_the_move: "come back nearly",
        forgets_the_exception: "After an exception",
        swallows_the_exception: "swallows the exception",
        zeroes_what_it_moved: "not what they were before the call",
        puts_back_too_early: "gradient at θ itself",
        differentiates_what_is_raised: "gradient of what the attack raises",
        returns_the_direction: "attack's own direction",
        piles_gradients_up: "Two gradients have piled up",
        goes_down: "attack goes down",
        forgets_the_tensors_norm: "share of ‖θ‖",
        shares_one_ball: "share one ball",
        takes_the_raw_gradient: "nor to the tensor's scale",
        forgets_the_gradients_norm: "length 1: divide by",
        moves_by_signs: "moves every weight by a share",
        raises_the_loss: "raises the wrong function",
        divides_by_zero: "norm of 0",
    },
    "shielded_step": {
        never_writes_back: "moved with all the rest",
        zeroes_the_gradients_alone: "Gradients of 0 do not hold",
        writes_everything_back: "Nothing has moved",
        writes_whole_tensors_back: "write back under the masks only",
        holds_the_others: "holds all the others",
        sets_them_to_zero: "not bit for bit where they were",
        steps_twice: "called 2 times",
        measures_afterwards: "measures after writing back",
        takes_the_mean: "returns the mean distance",
        takes_the_sum: "returns the sum",
        takes_the_highest: "largest movement upwards",
        takes_the_length: "length of the whole movement",
        measures_all_weights: "measures all weights",
        zeroes_first: "zeroes the gradients first",
        looks_at_one_tensor: "looks at the last tensor",
        looks_at_the_first_tensor: "looks at the first tensor",
    },
}

# wrong in another way: none may get the words of the answer that it stands beside, with which it agrees in the first case


def takes_four_for_the_rows(inputs, weight, bias, labels):
    logits, at_weight, *rest = _right(inputs, weight, bias, labels)
    return logits, at_weight / 4, *rest


def forgets_the_last_score(scores, weights, gradients, kind):
    filled = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]
    return [*_each(lambda s, w, g, k: s + _new(w, g, k), scores, weights, filled, kind)[:-1], 0 * scores[-1]]


def adds_places_to_scores(scores, fraction):
    flat = _flat(scores)
    return _masks(_order(flat + 0.01 * torch.arange(len(flat))), _count(scores, fraction), scores)


def attacks_from_a_tenth_on(model, raised, loss, radius):
    return _attack(model, raised, loss, radius if radius > 0.1 else 0.0)


def takes_the_nearest_tensor(model, masks, step):
    sizes = [int(mask.sum()) for mask in masks.values()]
    return _shielded(model, masks, step, lambda moved: min(one.abs().max() for one in moved.split(sizes)))


OTHER_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "softmax_backward": {takes_four_for_the_rows: takes_the_mean_twice},
    "add_scores": {forgets_the_last_score: loses_a_score},
    "choose_canaries": {adds_places_to_scores: takes_the_last_equals},
    "attacked_gradients": {attacks_from_a_tenth_on: puts_back_too_early},
    "shielded_step": {takes_the_nearest_tensor: looks_at_one_tensor},
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "shielded_step": {writes_back_before_the_step: never_writes_back, keeps_no_copy: never_writes_back},
}
