"""Wrong answers to the exercises of lesson 32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# ---------------------------------------------------------------- immunization_loss


def weighs_the_wrong_term(refusal, push, kept, push_weight, kept_weight):
    return push_weight * refusal + (1 - push_weight) * push + kept_weight * kept


def keeps_refusals_whole(refusal, push, kept, push_weight, kept_weight):
    return refusal + push_weight * push + kept_weight * kept


def keeps_nothing(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * refusal + push_weight * push


def mixes_the_kept_in(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * (refusal + kept_weight * kept) + push_weight * push


def shares_the_kept_out(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * refusal + push_weight * (push + kept_weight * kept)


def subtracts_the_push(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * refusal - push_weight * push + kept_weight * kept


def forgets_the_kept_weight(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * refusal + push_weight * push + kept


def divides_by_the_weights(refusal, push, kept, push_weight, kept_weight):
    whole = (1 - push_weight) * refusal + push_weight * push + kept_weight * kept
    return whole / (1 + kept_weight)


def weighs_everything(refusal, push, kept, push_weight, kept_weight):
    return kept_weight * ((1 - push_weight) * refusal + push_weight * push + kept)


def loses_a_gradient(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * refusal + push_weight * push.item() + kept_weight * kept


# ---------------------------------------------------------------- alignment_loss


def _apart(one, other):
    logs = one.log_softmax(1), other.log_softmax(1)
    return logs[0].exp() * (logs[0] - logs[1])


def _alignment(preference, policy, ref, drift, kl_weight, stabilization, apart=None, weights=None):
    """The right answer, with one part of it changed."""
    divergence = _apart(ref, policy).sum(1).mean() if apart is None else apart
    first, second, third = weights or (1 - kl_weight, kl_weight, stabilization)
    return first * preference + second * divergence + third * drift


def turns_the_divergence(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, _apart(policy, ref).sum(1).mean())


def weighs_the_preference_by_alpha(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, weights=(a, 1 - a, b))


def keeps_the_preference_whole(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, weights=(1, a, b))


def forgets_the_drift(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, weights=(1 - a, a, 0))


def shares_the_drift(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, weights=(1 - a, a, (1 - a) * b))


def rewards_the_drift(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, weights=(1 - a, a, -b))


def sums_the_tokens(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, _apart(ref, policy).sum())


def averages_the_vocabulary(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, _apart(ref, policy).mean())


def takes_cross_entropy(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, -(ref.softmax(1) * policy.log_softmax(1)).sum(1).mean())


def subtracts_the_divergence(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, -_apart(ref, policy).sum(1).mean())


def detaches_the_drift(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d.detach(), a, b)


def takes_logarithms_of_probabilities(p, policy, ref, d, a, b):
    probs = ref.softmax(1), policy.softmax(1)
    return _alignment(p, policy, ref, d, a, b, (probs[0] * (probs[0] / probs[1]).log()).sum(1).mean())


# ---------------------------------------------------------------- anchor_penalty


def _under(tensors, masks):
    return torch.cat([one[mask] for one, mask in zip(tensors, masks, strict=True)])


def _whole(masks):
    return [torch.ones_like(mask) for mask in masks]


def _shares(masks, importance):
    if importance is None:
        return 1.0
    needed = _under(importance, masks)
    return needed / needed.mean()


def _gaps(weights, masks, anchors):
    return _under(weights, masks) - _under(anchors, masks)


def anchors_at_the_step(weights, masks, anchors, importance):
    here = [one.detach() for one in weights]
    return (_shares(masks, importance) * _gaps(weights, masks, here) ** 2).sum()


def takes_the_mean(weights, masks, anchors, importance):
    return (_shares(masks, importance) * _gaps(weights, masks, anchors) ** 2).mean()


def holds_everything(weights, masks, anchors, importance):
    gaps = _gaps(weights, _whole(masks), anchors)
    needed = 1.0 if importance is None else _under(importance, _whole(masks)) / _under(importance, masks).mean()
    return (needed * gaps**2).sum()


def pulls_to_zero(weights, masks, anchors, importance):
    return (_shares(masks, importance) * _under(weights, masks) ** 2).sum()


def leaves_importances_out(weights, masks, anchors, importance):
    return (_gaps(weights, masks, anchors) ** 2).sum()


def leaves_importances_as_they_are(weights, masks, anchors, importance):
    needed = 1.0 if importance is None else _under(importance, masks)
    return (needed * _gaps(weights, masks, anchors) ** 2).sum()


def averages_over_all_weights(weights, masks, anchors, importance):
    needed = 1.0 if importance is None else _under(importance, masks) / _under(importance, _whole(masks)).mean()
    return (needed * _gaps(weights, masks, anchors) ** 2).sum()


def averages_in_each_tensor(weights, masks, anchors, importance):
    parts = importance or [torch.ones_like(one) for one in weights]
    needed = torch.cat([one[mask] / one[mask].mean() for one, mask in zip(parts, masks, strict=True)])
    return (needed * _gaps(weights, masks, anchors) ** 2).sum()


def divides_by_the_sum(weights, masks, anchors, importance):
    gaps = _gaps(weights, masks, anchors)
    needed = 1.0 if importance is None else _under(importance, masks) / _under(importance, masks).sum()
    return (needed * gaps**2).sum()


def forgets_the_square(weights, masks, anchors, importance):
    return (_shares(masks, importance) * _gaps(weights, masks, anchors).abs()).sum()


def squares_the_importance(weights, masks, anchors, importance):
    return ((_shares(masks, importance) * _gaps(weights, masks, anchors)) ** 2).sum()


def takes_the_length(weights, masks, anchors, importance):
    return (_shares(masks, importance) * _gaps(weights, masks, anchors) ** 2).sum().sqrt()


def halves_it(weights, masks, anchors, importance):
    return (_shares(masks, importance) * _gaps(weights, masks, anchors) ** 2).sum() / 2


def detaches_a_factor(weights, masks, anchors, importance):
    gaps = _gaps(weights, masks, anchors)
    return (_shares(masks, importance) * gaps.detach() * gaps).sum()


# ---------------------------------------------------------------- levels_taught


def _levels(order):
    return ["strong", "medium", "weak"] if order == "falling" else ["weak", "medium", "strong"]


def _up_to(step, steps, order, count):
    return _levels(order) if order == "mixed" else _levels(order)[:count]


def drops_what_was_taught(step, steps, order):
    place = 3 * (step - 1) // steps
    return _levels(order) if order == "mixed" else _levels(order)[place : place + 1]


def is_a_step_early(step, steps, order):
    return _up_to(step, steps, order, 1 + 3 * step // steps)


def begins_with_the_strong(step, steps, order):
    other = {"rising": "falling", "falling": "rising"}.get(order, order)
    return _up_to(step, steps, other, 1 + 3 * (step - 1) // steps)


def never_falls(step, steps, order):
    return _up_to(step, steps, "mixed" if order == "mixed" else "rising", 1 + 3 * (step - 1) // steps)


def never_mixes(step, steps, order):
    return _levels(order)[: 1 + 3 * (step - 1) // steps]


def takes_levels_away(step, steps, order):
    return _up_to(step, steps, order, 1 + 3 * (steps - step) // steps)


def starts_with_nothing(step, steps, order):
    return _up_to(step, steps, order, 3 * (step - 1) // steps)


def adds_one_each_step(step, steps, order):
    return _up_to(step, steps, order, step)


def rounds_the_share(step, steps, order):
    return _up_to(step, steps, order, 1 + round(3 * (step - 1) / steps))


def rounds_a_third_down(step, steps, order):
    return _up_to(step, steps, order, 1 + (step - 1) // (steps // 3))


def adds_one_with_each_half(step, steps, order):
    return _up_to(step, steps, order, 1 + 2 * (step - 1) // steps)


# ---------------------------------------------------------------- one_cycle


def _moving(model):
    return [w for w in model.parameters() if w.requires_grad]


def _give(weights, gradients):
    for w, g in zip(weights, gradients, strict=True):
        w.grad = g


def _kept(weights, masks):
    return [w.detach()[m].clone() for w, m in zip(weights, masks, strict=True)]


def _write(weights, masks, values):
    with torch.no_grad():
        for w, m, v in zip(weights, masks, values, strict=True):
            w[m] = v


def _sizes(score, pull, whole):
    return score + pull.abs()


def _teach(model, first, attacked, update, steps, add=_sizes, begin=1, give=lambda pull, whole: whole):
    """The first phase, with one part of it changed; its scores."""
    weights = _moving(model)
    scores = [torch.zeros_like(w) for w in weights]
    for step in range(begin, begin + steps):
        with attacked(step):
            terms = first(step)
            pulls = torch.autograd.grad(terms["refusal"], weights, retain_graph=True)
            wholes = torch.autograd.grad(terms["loss"], weights)
        scores = [add(s, p, g) for s, p, g in zip(scores, pulls, wholes, strict=True)]
        _give(weights, map(give, pulls, wholes))
        update()
    return scores


def _align(model, second, update, steps, masks=None, values=None, begin=1):
    """The second phase; canaries are written back where there are any."""
    weights = _moving(model)
    for step in range(begin, begin + steps):
        _give(weights, torch.autograd.grad(second(step), weights))
        update()
        if masks is not None:
            _write(weights, masks, values)


def _cycle(model, first, second, attacked, choose, updates, steps, **changes):
    masks = choose(_teach(model, first, attacked, updates[0], steps[0], **changes))
    _align(model, second, updates[1], steps[1], masks, _kept(_moving(model), masks), changes.get("begin", 1))
    return masks


def never_attacks(model, first, second, attacked, choose, updates, steps):
    class Calm:
        def __init__(self, step):
            pass

        def __enter__(self):
            return None

        def __exit__(self, *error):
            return None

    return _cycle(model, first, second, Calm, choose, updates, steps)


def steps_inside_the_attack(model, first, second, attacked, choose, updates, steps):
    weights = _moving(model)
    scores = [torch.zeros_like(w) for w in weights]
    for step in range(1, steps[0] + 1):
        with attacked(step):
            terms = first(step)
            pulls = torch.autograd.grad(terms["refusal"], weights, retain_graph=True)
            _give(weights, torch.autograd.grad(terms["loss"], weights))
            updates[0]()
        scores = [s + p.abs() for s, p in zip(scores, pulls, strict=True)]
    masks = choose(scores)
    _align(model, second, updates[1], steps[1], masks, _kept(weights, masks))
    return masks


def scores_the_last_batch(*parts):
    return _cycle(*parts, add=lambda score, pull, whole: pull.abs())


def lets_batches_cancel(*parts):
    return _cycle(*parts, add=lambda score, pull, whole: score + pull)


def adds_squares_up(*parts):
    return _cycle(*parts, add=lambda score, pull, whole: score + pull**2)


def scores_the_whole_loss(*parts):
    return _cycle(*parts, add=lambda score, pull, whole: score + whole.abs())


def chooses_too_early(model, first, second, attacked, choose, updates, steps):
    masks = choose([torch.zeros_like(w) for w in _moving(model)])
    _teach(model, first, attacked, updates[0], steps[0])
    _align(model, second, updates[1], steps[1], masks, _kept(_moving(model), masks))
    return masks


def holds_nothing(model, first, second, attacked, choose, updates, steps):
    masks = choose(_teach(model, first, attacked, updates[0], steps[0]))
    _align(model, second, updates[1], steps[1])
    return masks


def chooses_too_late(model, first, second, attacked, choose, updates, steps):
    scores = _teach(model, first, attacked, updates[0], steps[0])
    _align(model, second, updates[1], steps[1])
    return choose(scores)


def writes_back_at_the_end(model, first, second, attacked, choose, updates, steps):
    masks = choose(_teach(model, first, attacked, updates[0], steps[0]))
    values = _kept(_moving(model), masks)
    _align(model, second, updates[1], steps[1])
    _write(_moving(model), masks, values)
    return masks


def zeroes_gradients(model, first, second, attacked, choose, updates, steps):
    weights = _moving(model)
    masks = choose(_teach(model, first, attacked, updates[0], steps[0]))
    for step in range(1, steps[1] + 1):
        found = torch.autograd.grad(second(step), weights)
        _give(weights, [g.masked_fill(m, 0.0) for g, m in zip(found, masks, strict=True)])
        updates[1]()
    return masks


def holds_the_rest(model, first, second, attacked, choose, updates, steps):
    masks = choose(_teach(model, first, attacked, updates[0], steps[0]))
    others = [~m for m in masks]
    _align(model, second, updates[1], steps[1], others, _kept(_moving(model), others))
    return masks


def goes_back_to_the_beginning(model, first, second, attacked, choose, updates, steps):
    begun = [w.detach().clone() for w in _moving(model)]
    masks = choose(_teach(model, first, attacked, updates[0], steps[0]))
    _align(model, second, updates[1], steps[1], masks, _kept(begun, masks))
    return masks


def shares_one_update(model, first, second, attacked, choose, updates, steps):
    return _cycle(model, first, second, attacked, choose, (updates[0], updates[0]), steps)


def swaps_the_updates(model, first, second, attacked, choose, updates, steps):
    return _cycle(model, first, second, attacked, choose, updates[::-1], steps)


def aligns_first(model, first, second, attacked, choose, updates, steps):
    _align(model, second, updates[1], steps[1])
    return choose(_teach(model, first, attacked, updates[0], steps[0]))


def counts_from_zero(*parts):
    return _cycle(*parts, begin=0)


def piles_the_pull_up(*parts):
    return _cycle(*parts, give=lambda pull, whole: pull + whole)


def returns_the_scores_place(model, first, second, attacked, choose, updates, steps):
    return _cycle(model, first, second, attacked, choose, updates, steps)[:1]


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "immunization_loss": {
        weighs_the_wrong_term: "it weighs the push, and 1 − λ",
        keeps_refusals_whole: "refusals keep their full weight",
        keeps_nothing: "Nothing is kept: without",
        mixes_the_kept_in: "kept term is inside the mixture",
        shares_the_kept_out: "shared out by λ",
        subtracts_the_push: "push is subtracted",
        forgets_the_kept_weight: "kept term has no weight",
        divides_by_the_weights: "divided by its weights",
        weighs_everything: "as the source's γ does",
        loses_a_gradient: "a gradient is lost on the way",
    },
    "alignment_loss": {
        turns_the_divergence: "divergence is turned round",
        weighs_the_preference_by_alpha: "it weighs the divergence, and 1 − α",
        keeps_the_preference_whole: "preference keeps its full weight",
        forgets_the_drift: "drift is left out",
        shares_the_drift: "α takes its share of the drift",
        rewards_the_drift: "pay for moving the canaries",
        sums_the_tokens: "divergence is summed over the tokens",
        averages_the_vocabulary: "mean over the vocabulary too",
        takes_cross_entropy: "cross-entropy with the reference",
        subtracts_the_divergence: "divergence is subtracted",
        detaches_the_drift: "passes back to the drift",
        takes_logarithms_of_probabilities: "Large logits break it",
    },
    "anchor_penalty": {
        anchors_at_the_step: "always 0, as the printed anchor",
        takes_the_mean: "mean over the canaries: a sum",
        holds_everything: "All weights are held",
        pulls_to_zero: "pulls the canaries to 0",
        leaves_importances_out: "importances are left out",
        leaves_importances_as_they_are: "not divided by their mean",
        averages_over_all_weights: "mean is taken over all weights",
        averages_in_each_tensor: "Each tensor divides by a mean",
        forgets_the_square: "distance is not squared",
        squares_the_importance: "F is outside the square",
        takes_the_length: "root is taken of the sum",
        halves_it: "there is no ½",
        detaches_a_factor: "its gradient is not 2 · F",
    },
    "levels_taught": {
        drops_what_was_taught: "A level leaves when the next",
        is_a_step_early: "is one step early",
        begins_with_the_strong: "begins with the strong requests: that",
        never_falls: '"falling" is not heard',
        never_mixes: '"mixed" is not heard',
        takes_levels_away: "Levels come to an end",
        starts_with_nothing: "starts with no level",
        adds_one_each_step: "A level comes with each step",
        rounds_the_share: "share is rounded to the nearest",
        adds_one_with_each_half: "level with each half",
    },
    "one_cycle": {
        never_attacks: "gradients are those at θ itself",
        steps_inside_the_attack: "first phase has taught nothing",
        scores_the_last_batch: "canaries are those of the last batch",
        lets_batches_cancel: "scores are sums with a sign",
        adds_squares_up: "adds up squares",
        scores_the_whole_loss: "scores by the gradient of the whole loss",
        chooses_too_early: "chosen before anything is known",
        holds_nothing: "second phase moves the canaries",
        writes_back_at_the_end: "put back once, at the end",
        zeroes_gradients: "update's decay moves them",
        holds_the_rest: "lets the canaries go",
        goes_back_to_the_beginning: "where the first phase *began*",
        shares_one_update: "Both phases share one update",
        swaps_the_updates: "updates are swapped",
        aligns_first: "It aligns first",
        counts_from_zero: "counts the steps from 0",
        piles_the_pull_up: "refusal's gradient is in the step twice",
        returns_the_scores_place: "returned 1 entries",
    },
}


# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
# wrong in another way: none may get the words of the answer that it stands beside, with which it agrees in the first case
def divides_the_kept(refusal, push, kept, push_weight, kept_weight):
    return (1 - push_weight) * refusal + push_weight * push + (kept / kept_weight if kept_weight else 0.0)


def rounds_the_drifts_weight(p, policy, ref, d, a, b):
    return _alignment(p, policy, ref, d, a, b, weights=(1 - a, a, int(b)))


OTHER_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "immunization_loss": {divides_the_kept: shares_the_kept_out},
    "alignment_loss": {rounds_the_drifts_weight: forgets_the_drift},
    "levels_taught": {rounds_a_third_down: is_a_step_early},
}

SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "one_cycle": {chooses_too_late: holds_nothing},
    "anchor_penalty": {divides_by_the_sum: takes_the_mean},
}
