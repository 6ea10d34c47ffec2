"""Wrong answers to the exercises of lessons 10 to 12, on the distillation's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- kl_direction


def _kl(p, q):
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def puts_the_seeking_first(teacher, student):
    return _kl(student, teacher), _kl(teacher, student)


def covers_twice(teacher, student):
    return _kl(teacher, student), _kl(teacher, student)


def seeks_twice(teacher, student):
    return _kl(student, teacher), _kl(student, teacher)


def counts_in_bits(teacher, student):
    return _kl(teacher, student) / torch.tensor(2.0).log(), _kl(student, teacher) / torch.tensor(2.0).log()


def averages_over_the_classes(teacher, student):
    return _kl(teacher, student) / len(teacher), _kl(student, teacher) / len(teacher)


def turns_the_fraction_over(teacher, student):
    return -_kl(teacher, student), -_kl(student, teacher)


def takes_cross_entropies(teacher, student):
    return -torch.xlogy(teacher, student).sum(), -torch.xlogy(student, teacher).sum()


def weighs_nothing(teacher, student):
    return (teacher / student).log().sum(), (student / teacher).log().sum()


def multiplies_nothing_by_infinity(teacher, student):
    return (teacher * (teacher / student).log()).sum(), (student * (student / teacher).log()).sum()


def subtracts_the_logarithms(teacher, student):
    return (teacher * (teacher.log() - student.log())).sum(), (student * (student.log() - teacher.log())).sum()


def adds_a_little(teacher, student):
    p, q = teacher + 1e-8, student + 1e-8
    return (p * (p / q).log()).sum(), (q * (q / p).log()).sum()


def softens_them_first(teacher, student):
    p, q = teacher.softmax(0), student.softmax(0)
    return _kl(p, q), _kl(q, p)


def hands_kl_div_probabilities(teacher, student):
    return F.kl_div(student, teacher, reduction="sum"), F.kl_div(teacher, student, reduction="sum")


def returns_one_of_them(teacher, student):
    return _kl(teacher, student)


# ---------------------------------------------------------------- kd_loss


def _soft(student_logits, teacher_logits, temperature):
    return (student_logits / temperature).log_softmax(1), (teacher_logits / temperature).log_softmax(1)


def _apart(p_logps, q_logps):
    return (p_logps.exp() * (p_logps - q_logps)).sum(1).mean()


def swaps_the_divergence(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return tau**2 * _apart(s, t)


def takes_the_printed_form(student, teacher, tau):
    s, _ = _soft(student, teacher, 1.0)
    _, t = _soft(student, teacher, tau)
    return _apart(s, t) * len(s)


def forgets_tau_squared(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return _apart(t, s)


def multiplies_by_tau_once(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return tau * _apart(t, s)


def divides_by_tau_squared(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return _apart(t, s) / tau**2


def softens_the_teacher_alone(student, teacher, tau):
    return tau**2 * _apart((teacher / tau).log_softmax(1), student.log_softmax(1))


def softens_the_student_alone(student, teacher, tau):
    return tau**2 * _apart(teacher.log_softmax(1), (student / tau).log_softmax(1))


def softens_neither(student, teacher, tau):
    return tau**2 * _apart(teacher.log_softmax(1), student.log_softmax(1))


def sharpens_both(student, teacher, tau):
    s, t = _soft(student, teacher, 1 / tau)
    return tau**2 * _apart(t, s)


def adds_the_rows_up(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return tau**2 * F.kl_div(s, t.exp(), reduction="sum")


def takes_mean_for_batchmean(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return tau**2 * F.kl_div(s, t, log_target=True, reduction="none").mean()


def normalises_down_the_batch(student, teacher, tau):
    return tau**2 * _apart((teacher / tau).log_softmax(0), (student / tau).log_softmax(0))


def takes_a_cross_entropy(student, teacher, tau):
    return tau**2 * F.cross_entropy(student / tau, (teacher / tau).softmax(1))


def believes_the_likeliest_class(student, teacher, tau):
    return tau**2 * F.cross_entropy(student / tau, teacher.argmax(1))


def hands_kl_div_the_students_probabilities(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return tau**2 * F.kl_div(s.exp(), t.exp(), reduction="batchmean")


def calls_kl_div_as_it_is(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return F.kl_div(s, t.exp(), reduction="mean")


def hands_kl_div_bare_logits(student, teacher, tau):
    return F.kl_div(student / tau, teacher / tau, reduction="mean")


def forgets_the_log_target(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return tau**2 * F.kl_div(s, t, reduction="batchmean")


def takes_the_logarithm_of_logits(student, teacher, tau):
    return tau**2 * F.kl_div((student / tau).log(), (teacher / tau).softmax(1), reduction="batchmean")


def takes_logits_for_logarithms(student, teacher, tau):
    s, t = student / tau, teacher / tau
    return tau**2 * (t.exp() * (t - s)).sum(1).mean()


def says_that_both_are_logarithms(student, teacher, tau):
    return tau**2 * F.kl_div(student / tau, teacher / tau, reduction="batchmean", log_target=True)


def hands_kl_div_the_students_logits(student, teacher, tau):
    return tau**2 * F.kl_div(student / tau, (teacher / tau).softmax(1), reduction="batchmean")


def turns_the_sign(student, teacher, tau):
    s, t = _soft(student, teacher, tau)
    return -(tau**2) * _apart(t, s)


def compares_logits(student, teacher, tau):
    return F.mse_loss(student, teacher)


def takes_the_logarithm_of_a_softmax(student, teacher, tau):
    s, t = (student / tau).softmax(1), (teacher / tau).softmax(1)
    return tau**2 * (t * (t.log() - s.log())).sum(1).mean()


def divides_the_softmaxes(student, teacher, tau):
    s, t = (student / tau).softmax(1), (teacher / tau).softmax(1)
    return tau**2 * (torch.xlogy(t, t) - torch.xlogy(t, s)).sum(1).mean()


# ---------------------------------------------------------------- project


def _lengths(delta):
    return delta.norm(dim=-1, keepdim=True)


def _scaled(delta, radius, lengths):
    return delta * (radius / lengths).clamp(max=1)


def _cube(delta, radius):
    return delta.clamp(-radius, radius)


def _linf_or(delta, radius, norm, round_one):
    return _cube(delta, radius) if norm == "linf" else round_one


def changes_nothing(delta, radius, norm):
    return 1.0 * delta


def cuts_off_one_side(delta, radius, norm):
    return _scaled(delta, radius, _lengths(delta)) if norm == "l2" else delta.clamp(max=radius)


def clips_where_it_should_scale(delta, radius, norm):
    return _cube(delta, radius)


def scales_where_it_should_clip(delta, radius, norm):
    lengths = _lengths(delta) if norm == "l2" else delta.abs().amax(-1, keepdim=True)
    return _scaled(delta, radius, lengths)


def knows_the_round_ball_alone(delta, radius, norm):
    return _scaled(delta, radius, _lengths(delta))


def draws_all_to_the_sphere(delta, radius, norm):
    return _linf_or(delta, radius, norm, radius * F.normalize(delta, dim=-1))


def draws_all_and_divides_by_nothing(delta, radius, norm):
    return _linf_or(delta, radius, norm, radius * delta / _lengths(delta))


def divides_by_nothing(delta, radius, norm):
    lengths = _lengths(delta)
    return _linf_or(delta, radius, norm, delta / lengths * lengths.clamp(max=radius))


def scales_the_batch_by_one_norm(delta, radius, norm):
    return _linf_or(delta, radius, norm, delta * (radius / delta.norm()).clamp(max=1))


def measures_down_the_vectors(delta, radius, norm):
    return _linf_or(delta, radius, norm, _scaled(delta, radius, delta.norm(dim=0, keepdim=True)))


def measures_whole_rows(delta, radius, norm):
    lengths = delta.flatten(1).norm(dim=1).view(-1, *[1] * (delta.dim() - 1))
    return _linf_or(delta, radius, norm, _scaled(delta, radius, lengths))


def forgets_the_root(delta, radius, norm):
    return _linf_or(delta, radius, norm, _scaled(delta, radius, (delta**2).sum(-1, keepdim=True)))


def measures_by_sizes(delta, radius, norm):
    return _linf_or(delta, radius, norm, _scaled(delta, radius, delta.abs().sum(-1, keepdim=True)))


def forgets_the_radius(delta, radius, norm):
    lengths = _lengths(delta)
    return _linf_or(delta, radius, norm, torch.where(lengths > radius, delta / lengths, delta))


def clips_in_place(delta, radius, norm):
    return delta.clamp_(-radius, radius)


# ---------------------------------------------------------------- pgd_step


def _into(delta, radius, norm):
    return _linf_or(delta, radius, norm, _scaled(delta, radius, _lengths(delta)))


def _way(gradient, norm):
    return gradient.sign() if norm == "linf" else F.normalize(gradient, dim=-1, eps=1e-30)


def goes_downhill(delta, gradient, step, radius, norm):
    return _into(delta - step * _way(gradient, norm), radius, norm)


def takes_the_gradient_as_it_is(delta, gradient, step, radius, norm):
    return _into(delta + step * gradient, radius, norm)


def divides_by_the_batchs_norm(delta, gradient, step, radius, norm):
    way = gradient.sign() if norm == "linf" else gradient / gradient.norm()
    return _into(delta + step * way, radius, norm)


def measures_gradients_down_the_vectors(delta, gradient, step, radius, norm):
    way = gradient.sign() if norm == "linf" else gradient / gradient.norm(dim=0, keepdim=True)
    return _into(delta + step * way, radius, norm)


def always_takes_the_sign(delta, gradient, step, radius, norm):
    return _into(delta + step * gradient.sign(), radius, norm)


def always_takes_length_one(delta, gradient, step, radius, norm):
    return _into(delta + step * F.normalize(gradient, dim=-1), radius, norm)


def starts_over(delta, gradient, step, radius, norm):
    return _into(step * _way(gradient, norm), radius, norm)


def stays_outside(delta, gradient, step, radius, norm):
    return delta + step * _way(gradient, norm)


def projects_before_the_step(delta, gradient, step, radius, norm):
    return _into(delta, radius, norm) + step * _way(gradient, norm)


def projects_the_step_alone(delta, gradient, step, radius, norm):
    return delta + _into(step * _way(gradient, norm), radius, norm)


def takes_a_share_of_the_radius(delta, gradient, step, radius, norm):
    return _into(delta + step * radius * _way(gradient, norm), radius, norm)


def goes_as_far_as_the_radius(delta, gradient, step, radius, norm):
    return _into(delta + radius * _way(gradient, norm), radius, norm)


def goes_as_far_as_one(delta, gradient, step, radius, norm):
    return _into(delta + _way(gradient, norm), radius, norm)


def divides_by_no_gradient(delta, gradient, step, radius, norm):
    way = gradient.sign() if norm == "linf" else gradient / _lengths(gradient)
    return _into(delta + step * way, radius, norm)


def projects_under_l2_alone(delta, gradient, step, radius, norm):
    return _into(delta + step * _way(gradient, norm), radius, "l2")


def projects_under_linf_alone(delta, gradient, step, radius, norm):
    return _into(delta + step * _way(gradient, norm), radius, "linf")


# ---------------------------------------------------------------- noise_robust_loss


def _mixed(alpha, clean, noisy):
    return alpha * clean + (1 - alpha) * noisy


def _entropy(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def puts_alpha_on_the_wrong_side(clean, noisy, labels, alpha):
    return _mixed(alpha, F.cross_entropy(noisy, labels), F.cross_entropy(clean, labels))


def takes_the_printed_entropy(clean, noisy, labels, alpha):
    return _mixed(alpha, _entropy(clean), _entropy(noisy)).sum()


def takes_a_mean_entropy(clean, noisy, labels, alpha):
    return _mixed(alpha, _entropy(clean), _entropy(noisy)).mean()


def labels_the_perturbed_by_its_own_prediction(clean, noisy, labels, alpha):
    return _mixed(alpha, F.cross_entropy(clean, labels), F.cross_entropy(noisy, clean.argmax(1)))


def believes_itself(clean, noisy, labels, alpha):
    return _mixed(alpha, F.cross_entropy(clean, clean.argmax(1)), F.cross_entropy(noisy, noisy.argmax(1)))


def holds_the_perturbed_to_the_clean(clean, noisy, labels, alpha):
    apart = F.kl_div(noisy.log_softmax(1), clean.softmax(1), reduction="batchmean")
    return _mixed(alpha, F.cross_entropy(clean, labels), apart)


def mixes_the_logits(clean, noisy, labels, alpha):
    return F.cross_entropy(_mixed(alpha, clean, noisy), labels)


def mixes_the_probabilities(clean, noisy, labels, alpha):
    return F.nll_loss(_mixed(alpha, clean.softmax(1), noisy.softmax(1)).log(), labels)


def adds_both(clean, noisy, labels, alpha):
    return F.cross_entropy(clean, labels) + F.cross_entropy(noisy, labels)


def halves_both(clean, noisy, labels, alpha):
    return F.cross_entropy(torch.cat([clean, noisy]), torch.cat([labels, labels]))


def forgets_the_perturbed(clean, noisy, labels, alpha):
    return alpha * F.cross_entropy(clean, labels) + 0 * noisy.sum()


def forgets_the_clean(clean, noisy, labels, alpha):
    return (1 - alpha) * F.cross_entropy(noisy, labels) + 0 * clean.sum()


def weighs_both_by_alpha(clean, noisy, labels, alpha):
    return alpha * (F.cross_entropy(clean, labels) + F.cross_entropy(noisy, labels))


def adds_the_rows(clean, noisy, labels, alpha):
    return _mixed(alpha, *(F.cross_entropy(one, labels, reduction="sum") for one in (clean, noisy)))


def rewards_mistakes(clean, noisy, labels, alpha):
    return -_mixed(alpha, *(F.cross_entropy(one, labels) for one in (clean, noisy)))


def hands_over_probabilities(clean, noisy, labels, alpha):
    return _mixed(alpha, *(F.cross_entropy(one.softmax(1), labels) for one in (clean, noisy)))


def detaches_the_perturbed(clean, noisy, labels, alpha):
    return _mixed(alpha, F.cross_entropy(clean, labels), F.cross_entropy(noisy.detach(), labels))


def detaches_the_clean(clean, noisy, labels, alpha):
    return _mixed(alpha, F.cross_entropy(clean.detach(), labels), F.cross_entropy(noisy, labels))


# ---------------------------------------------------------------- gradient_penalty


def _slopes(loss, parameters):
    return torch.autograd.grad(loss, list(parameters), create_graph=True)


def keeps_no_graph(loss, parameters):
    return sum(slope.pow(2).sum() for slope in torch.autograd.grad(loss, list(parameters)))


def detaches_the_slopes(loss, parameters):
    return torch.stack([slope.detach().pow(2).sum() for slope in _slopes(loss, parameters)]).sum()


def forgets_the_square(loss, parameters):
    return torch.cat([slope.flatten() for slope in _slopes(loss, parameters)]).norm()


def adds_up_the_norms(loss, parameters):
    return sum(slope.norm() for slope in _slopes(loss, parameters))


def squares_the_sum_of_norms(loss, parameters):
    return sum(slope.norm() for slope in _slopes(loss, parameters)) ** 2


def averages_the_squares(loss, parameters):
    return torch.cat([slope.flatten() for slope in _slopes(loss, parameters)]).pow(2).mean()


def averages_each_parameter(loss, parameters):
    return sum(slope.pow(2).mean() for slope in _slopes(loss, parameters))


def averages_over_the_parameters(loss, parameters):
    return torch.stack([slope.pow(2).sum() for slope in _slopes(loss, parameters)]).mean()


def takes_the_first_parameter(loss, parameters):
    return _slopes(loss, parameters)[0].pow(2).sum()


def takes_the_last_parameter(loss, parameters):
    for parameter in parameters:
        (slope,) = torch.autograd.grad(loss, parameter, create_graph=True)
    return slope.pow(2).sum()


def squares_the_sum_of_slopes(loss, parameters):
    return sum(slope.sum() for slope in _slopes(loss, parameters)) ** 2


def adds_up_the_sizes(loss, parameters):
    return sum(slope.abs().sum() for slope in _slopes(loss, parameters))


def decays_the_weights(loss, parameters):
    return sum(parameter.pow(2).sum() for parameter in parameters)


def leaves_gradients_behind(loss, parameters):
    loss.backward(create_graph=True)
    return sum(parameter.grad.pow(2).sum() for parameter in parameters)


def detaches_one_factor(loss, parameters):
    return sum((slope.detach() * slope).sum() for slope in _slopes(loss, parameters))


# ---------------------------------------------------------------- total_loss


def adds_as_printed(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd + noise_robust + penalty


def leaves_the_distillation_unweighted(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd + noise_robust + penalty_weight * penalty


def leaves_the_penalty_unweighted(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + noise_robust + penalty


def swaps_the_two_weights(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return penalty_weight * kd + noise_robust + kd_weight * penalty


def weighs_the_robust(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd + kd_weight * noise_robust + penalty_weight * penalty


def gives_the_robust_the_rest(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + (1 - kd_weight) * noise_robust + penalty_weight * penalty


def subtracts_the_penalty(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + noise_robust - penalty_weight * penalty


def squares_the_penalty(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + noise_robust + penalty_weight * penalty**2


def forgets_the_penalty(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + noise_robust


def forgets_the_robust(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + penalty_weight * penalty


def forgets_the_distillation(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return noise_robust + penalty_weight * penalty


def takes_the_penaltys_number(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return kd_weight * kd + noise_robust + penalty_weight * penalty.item()


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "kl_direction": {
        puts_the_seeking_first: "asks at every class that the *teacher* likes",
        covers_twice: "Both are KL(teacher ‖ student)",
        seeks_twice: "Both are KL(student ‖ teacher)",
        counts_in_bits: "They are in bits",
        averages_over_the_classes: "which the probabilities weigh already",
        turns_the_fraction_over: "upside down: a divergence",
        takes_cross_entropies: "Those are cross-entropies",
        weighs_nothing: "Nothing weighs the logarithms",
        multiplies_nothing_by_infinity: "0 · log 0 counts as 0",
        adds_a_little: "A floor under the probabilities",
        softens_them_first: "These are probabilities already",
        hands_kl_div_probabilities: "`kl_div` was given probabilities where",
        returns_one_of_them: "Return two numbers: the mass-covering",
    },
    "kd_loss": {
        swaps_the_divergence: "Its two sides are exchanged",
        takes_the_printed_form: "That is the printed form, Σ KL(S ‖ T)",
        forgets_tau_squared: "The factor τ² is missing",
        multiplies_by_tau_once: "The factor is τ: it has to be τ²",
        divides_by_tau_squared: "It divides by τ²",
        softens_the_teacher_alone: "Only the teacher is softened",
        softens_the_student_alone: "Only the student is softened",
        softens_neither: "Neither is softened",
        sharpens_both: "It multiplies the logits by τ",
        adds_the_rows_up: "or a larger batch would weigh more",
        takes_mean_for_batchmean: 'while its "mean" divides by the classes',
        calls_kl_div_as_it_is: "C times too small and lacks the factor τ²",
        hands_kl_div_bare_logits: "the logarithm of negative numbers",
        takes_logits_for_logarithms: "takes logits of both sides",
        hands_kl_div_the_students_logits: "student's logits for logarithms of",
        turns_the_sign: "has to fall, down to 0",
        normalises_down_the_batch: "softmax goes down the batch",
        takes_a_cross_entropy: "It lacks T·log T",
        believes_the_likeliest_class: "teacher's likeliest class for a label",
        hands_kl_div_the_students_probabilities: "given the student's probabilities",
        compares_logits: "the same number added to a row would change the loss",
        takes_the_logarithm_of_a_softmax: "A softmax rounds its smallest",
    },
    "project": {
        changes_nothing: "leaves everything as it is",
        cuts_off_one_side: "cuts off one side only",
        clips_where_it_should_scale: "Under l2 it clips each number",
        scales_where_it_should_clip: "Under linf it scales",
        knows_the_round_ball_alone: "Under linf it projects onto the round ball",
        draws_all_to_the_sphere: "It draws all vectors to the sphere",
        draws_all_and_divides_by_nothing: "all others are drawn to the sphere",
        divides_by_nothing: "nothing needs to be divided",
        scales_the_batch_by_one_norm: "whole batch is scaled by one norm",
        measures_down_the_vectors: "The norm goes down the vectors",
        measures_whole_rows: "One norm is taken for all tokens",
        forgets_the_root: "draw the root first",
        measures_by_sizes: "which is the norm l1",
        forgets_the_radius: "The result is of length 1",
        clips_in_place: "changes its input `delta`",
    },
    "pgd_step": {
        goes_downhill: "an attack goes uphill",
        takes_the_gradient_as_it_is: "The gradient is used as it is",
        divides_by_the_batchs_norm: "divided by the norm of the whole batch",
        measures_gradients_down_the_vectors: "The gradient's norm goes down",
        always_takes_the_sign: "here it is its sign, which is linf's",
        always_takes_length_one: "here it is scaled to length 1",
        starts_over: "It forgets where δ was",
        stays_outside: "project what you have *after* the step",
        projects_the_step_alone: "It projects the step alone",
        takes_a_share_of_the_radius: "`step` is taken for a share",
        goes_as_far_as_the_radius: "it goes as far as the radius",
        goes_as_far_as_one: "it goes as far as 1",
        divides_by_no_gradient: "A vector without gradient becomes NaN",
        projects_under_l2_alone: "projects under l2 in both norms",
        projects_under_linf_alone: "projects under linf in both norms",
    },
    "noise_robust_loss": {
        puts_alpha_on_the_wrong_side: "α stands on the wrong side",
        takes_the_printed_entropy: "That is the printed form, an entropy",
        takes_a_mean_entropy: "That is an entropy",
        labels_the_perturbed_by_its_own_prediction: "x + δ keeps the label of x",
        believes_itself: "Both labels are the student's own predictions",
        holds_the_perturbed_to_the_clean: "compared with the student's clean distribution",
        mixes_the_logits: "It mixes the logits and takes one",
        mixes_the_probabilities: "It mixes the probabilities and takes one",
        adds_both: "the two losses add up with 1 each",
        halves_both: "the two losses get a half each",
        forgets_the_perturbed: "The perturbed part is missing",
        forgets_the_clean: "The clean part is missing",
        weighs_both_by_alpha: "The second weight is α as well",
        adds_the_rows: "does not grow with the batch",
        rewards_mistakes: "when the right class becomes likelier",
        hands_over_probabilities: "`cross_entropy` was given probabilities",
        detaches_the_perturbed: "the perturbed part sends no gradient",
        detaches_the_clean: "the clean part sends no gradient",
    },
    "gradient_penalty": {
        keeps_no_graph: "without `create_graph=True`",
        forgets_the_square: "The square is missing: it is the norm itself",
        adds_up_the_norms: "It adds up the norms of the parameters' gradients",
        squares_the_sum_of_norms: "It squares the sum of their norms",
        averages_the_squares: "It takes the mean of the squares",
        averages_each_parameter: "It takes each parameter's mean of squares",
        averages_over_the_parameters: "It takes the mean over the parameters",
        takes_the_first_parameter: "Only the first parameter counts",
        takes_the_last_parameter: "Only the last parameter counts",
        squares_the_sum_of_slopes: "in which they cancel",
        adds_up_the_sizes: "It adds up the slopes' sizes",
        decays_the_weights: "as weight decay has it",
        leaves_gradients_behind: "It leaves its gradients in `.grad`",
        detaches_one_factor: "one factor of the square is detached",
    },
    "total_loss": {
        adds_as_printed: "That is the sum as it is printed",
        leaves_the_distillation_unweighted: "The distillation has no weight.",
        leaves_the_penalty_unweighted: "The penalty has no weight.",
        swaps_the_two_weights: "The two weights are exchanged",
        weighs_the_robust: "The first weight stands before the noise-robust loss",
        gives_the_robust_the_rest: "gets what the distillation leaves",
        subtracts_the_penalty: "that would reward steep places",
        squares_the_penalty: "The penalty is squared once more",
        forgets_the_penalty: "The penalty is missing.",
        forgets_the_robust: "The noise-robust loss is missing.",
        forgets_the_distillation: "The distillation is missing.",
        takes_the_penaltys_number: "the penalty sends no gradient",
    },
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "kl_direction": {subtracts_the_logarithms: multiplies_nothing_by_infinity},
    "kd_loss": {
        divides_the_softmaxes: takes_the_logarithm_of_a_softmax,
        forgets_the_log_target: hands_kl_div_bare_logits,
        takes_the_logarithm_of_logits: hands_kl_div_bare_logits,
        says_that_both_are_logarithms: takes_logits_for_logarithms,
    },
    "pgd_step": {projects_before_the_step: stays_outside},
    "gradient_penalty": {detaches_the_slopes: keeps_no_graph},
}
