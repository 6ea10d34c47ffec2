r"""The printed equations of the three papers, each with its working form, where both stand in the kit, and the proving tests.

TeX is written with \Vert and \mid, since a plain vertical bar would end the cell of a table.
"""

from __future__ import annotations

from .ledger import Equation

DISTILLATION = (
    Equation(
        "D1", "knowledge distillation", r"L_{\mathrm{KD}}=\sum\mathrm{KL}(\hat y\,\Vert\,\hat y_T)", "incomplete",
        "It settles on what the student likes already: one that is surely wrong gets next to no gradient. The teacher alone is "
        "softened, so the student ends softer than it; and without τ² a higher temperature weakens the term.",
        r"\tau^2\cdot\mathrm{KL}(\hat y_T^{\tau}\,\Vert\,\hat y_S^{\tau})",
        ("distillation.printed.kd_loss",), ("distillation.losses.kd_loss",),
        ("test_printed_distillation::test_a_student_confidently_wrong_gets_a_ten_thousandth_of_the_gradient",
         "test_printed_distillation::test_with_one_side_tempered_the_student_ends_softer_than_its_teacher",
         "test_divergence::test_tau_squared_keeps_the_gradient_within_thirty_percent"),
    ),
    Equation(
        "D2", "robustness to noise",
        r"L_{\mathrm{NR}}=\sum-\alpha\,\hat y\log\hat y-(1-\alpha)\,\tilde y\log\tilde y", "defeats itself",
        "It is the entropy of the prediction: no label and no teacher is in it. To minimise it sharpens whatever is on top.",
        r"\alpha\,\mathrm{CE}(y,p(x))+(1-\alpha)\,\mathrm{CE}(y,p(x+\delta))",
        ("distillation.printed.noise_robust_loss",),
        ("distillation.losses.noise_robust_loss", "distillation.losses.noise_robust_kd"),
        ("test_printed_distillation::test_permuted_labels_change_the_working_loss_alone",
         "test_printed_distillation::test_the_printed_loss_drives_a_true_class_out_that_is_second_to_begin_with",
         "test_distillation::test_both_noise_robust_losses_equal_slow_loops"),
    ),
    Equation(
        "D3", "bounded noise", r"\tilde x=x+\delta,\quad\Vert\delta\Vert_p\le\epsilon", "incomplete",
        "It says neither what δ is chosen by, nor p, nor in which units ε is measured; and words cannot be moved by a little.",
        r"\delta=\arg\max_{\Vert\delta\Vert\le\epsilon\,\overline{\Vert x\Vert}}L(x+\delta)",
        (), ("distillation.perturbations.Perturbation", "distillation.perturbations.random_control"),
        ("test_perturbations::test_no_norm_exceeds_the_radius_and_the_masked_are_untouched",
         "test_perturbations::test_an_attack_does_far_more_than_random_noise_of_equal_norm",
         "test_perturbations::test_the_radius_is_relative_to_the_mean_norm_and_linf_reaches_as_far_in_its_corners"),
    ),
    Equation(
        "D4", "gradient penalty", r"L_{\mathrm{Reg}}=\lambda\,\Vert\nabla_\theta L_{\mathrm{NR}}\Vert^2", "incomplete",
        "Of the printed entropy it likes overconfidence as much as having no opinion. And where the graph of the gradient is "
        "not kept it is a constant, which trains nothing.",
        r"\lambda\,\Vert\nabla_\theta L\Vert^2\ \text{of a loss with labels, differentiated twice}",
        ("distillation.printed.regulariser", "distillation.printed.detached_regulariser"),
        ("distillation.losses.gradient_penalty", "distillation.losses.finite_difference_penalty"),
        ("test_printed_distillation::test_the_printed_regulariser_is_as_pleased_by_no_opinion_as_by_overconfidence",
         "test_printed_distillation::test_without_create_graph_it_is_the_same_number_and_trains_nothing_at_any_weight",
         "test_distillation::test_value_and_gradient_agree_with_finite_differences_in_float64"),
    ),
    Equation(
        "D5", "the whole objective", r"L=L_{\mathrm{KD}}+L_{\mathrm{NR}}+L_{\mathrm{Reg}}", "incomplete",
        "There is no weight on the distillation, though a figure of the paper varies one.",
        r"w\,L_{\mathrm{KD}}+L_{\mathrm{NR}}+\lambda R",
        ("distillation.printed.total_loss",), ("distillation.losses.total_loss",),
        ("test_printed_distillation::test_the_printed_sum_has_no_weight_on_the_distillation",
         "test_distillation::test_the_total_weighs_each_term_and_its_gradient"),
    ),
    Equation(
        "D6", "the scores", r"\text{KD alignment, noise robustness, overall safety: no formula}", "incomplete",
        "Three scores are reported, one of them under two names, and none of them is defined; nor is the attack.",
        r"\text{alignment}=100\,(1-\mathrm{JSD}/\ln 2),\ \text{safety}=\text{its mean with robustness and stability}",
        (), ("distillation.quality.alignment", "distillation.quality.safety", "distillation.quality.measure"),
        ("test_quality::test_alignment_is_a_hundred_less_the_share_of_the_largest_divergence",
         "test_quality::test_safety_is_the_mean_of_alignment_robustness_and_stability"),
    ),
    Equation(
        "D7", "what is contrastive", r"\text{“contrastive”: no such term}", "incomplete",
        "The title says it, and no equation contrasts anything. The kit has a push of its own, named as an extension.",
        r"-\log(1-p_S(\arg\max T(x)))\ \text{where the teacher errs}",
        (), ("distillation.losses.teacher_error_push",),
        ("test_distillation::test_the_push_equals_a_slow_loop",
         "test_distillation::test_the_push_moves_the_favoured_class_down_and_leaves_rows_without_error_alone"),
    ),
)  # fmt: skip

IMMUNIZATION = (
    Equation(
        "I1", "negative preference optimisation",
        r"L_{\mathrm{NPO}}=-\mathbb E\log\sigma\Big(\beta\log\tfrac{\pi_\theta(y_r)}{\pi_{\mathrm{ref}}(y_r)}"
        r"-\beta\log\tfrac{\pi_\theta(y_h)}{\pi_{\mathrm{ref}}(y_h)}\Big)", "incomplete",
        "It is DPO with the refusal chosen, and not NPO. It also falls where the refusal itself becomes less likely.",
        r"L_{\mathrm{DPO}}-w\log\pi_\theta(y_r)\ \text{or}\ -\tfrac2\beta\log\sigma"
        r"\big(-\beta\log\tfrac{\pi_\theta(y_h)}{\pi_{\mathrm{ref}}(y_h)}\big)",
        ("immunization.printed.npo_loss",), ("immunization.losses.refusal_dpo", "immunization.losses.npo"),
        ("test_immunization_losses::test_what_is_printed_as_npo_is_dpo_with_the_refusal_chosen",
         "test_immunization_losses::test_the_refusal_can_fall_with_the_loss_and_the_second_term_holds_it",
         "test_immunization_losses::test_npo_collapses_more_slowly_than_gradient_ascent"),
    ),
    Equation(
        "I2", "push away from the harmful teacher",
        r"L_{\mathrm{RKL}}=D_{\mathrm{KL}}(\pi_{\mathrm{harmful}}\,\Vert\,\pi_\theta)", "defeats itself",
        "Minimised, it pulls towards the harmful teacher. With its sides swapped it still does; negated, it has no bottom.",
        r"\mathrm{KL}\big(\mathrm{softmax}((1+g)\,\ell_{\mathrm{ref}}-g\,\ell_{\mathrm{harmful}})\,\Vert\,\pi_\theta\big)",
        ("immunization.printed.rkl_loss",),
        ("immunization.losses.bounded_push", "immunization.losses.hinge_push", "immunization.losses.token_npo"),
        ("test_immunization_losses::test_the_printed_push_has_the_gradient_of_an_attraction",
         "test_immunization_losses::test_the_printed_push_ends_at_the_harmful_teacher_and_so_does_its_mirror",
         "test_immunization_losses::test_every_working_push_lowers_compliance_and_stays_finite"),
    ),
    Equation(
        "I3", "nearness to the reference", r"L_{\mathrm{KL}}=D_{\mathrm{KL}}(\pi_{\mathrm{ref}}\,\Vert\,\pi_\theta)",
        "right", "Mind only that the reference is the model before it was made safe: ask for it on harmless answers.", "",
        ("immunization.losses.reference_kl",), ("immunization.losses.reference_kl",),
        ("test_immunization_losses::test_the_divergences_and_pushes_equal_slow_loops",),
    ),
    Equation(
        "I4", "attack on the weights", r"\theta'=\theta+\delta,\quad\theta'\leftarrow\theta'-\eta\,\nabla L(\theta')",
        "defeats itself",
        "δ has no size, and θ is never put back: the training goes on from a compromised model, and the deltas add up.",
        r"\theta\leftarrow\theta-\eta\,\nabla L(\theta+\delta),\ "
        r"\Vert\delta_j\Vert=\rho\,\Vert\theta_j\Vert\ \text{for each tensor}",
        ("immunization.printed.harden",), ("immunization.weight_attack.at_perturbed_weights",),
        ("test_immunization_losses::test_weights_that_are_hardened_as_printed_never_come_back",
         "test_immunization_weight_attack::test_weights_are_back_bit_for_bit_also_after_an_exception",
         "test_immunization_weight_attack::test_each_tensor_moves_by_the_share_of_its_norm_that_was_asked"),
    ),
    Equation(
        "I5", "refusal loss of phase one",
        r"L=\gamma\,\big((1-\lambda)L_{\mathrm{NPO}}+\lambda L_{\mathrm{RKL}}\big)", "incomplete",
        "A constant γ changes nothing under AdamW, an annealed one is a learning-rate schedule in disguise, and no term keeps "
        "harmless answers.",
        r"(1-\lambda)L_{\mathrm{refusal}}+\lambda L_{\mathrm{push}}+w\,L_{\mathrm{kept}}",
        ("immunization.printed.refusal_loss",), ("immunization.losses.immunization_loss",),
        ("test_immunization_losses::test_a_constant_factor_changes_nothing_and_an_annealed_one_is_a_schedule",
         "test_immunization_losses::test_the_sums_weigh_their_terms"),
    ),
    Equation(
        "I6", "choice of the canaries",
        r"\mathrm{canaries}=\text{top }K\,\%\text{ of }\vert\nabla_\theta L_{\mathrm{refusal}}\vert\ \text{of a batch}",
        "incomplete", "Inside the loop over batches each one overwrites the one before: the last batch alone decides.",
        r"\text{top }K\,\%\text{ of }\textstyle\sum_{\mathrm{batches}}\vert g\vert",
        ("immunization.printed_cycle.run_as_printed",),
        ("immunization.canaries.Accumulator", "immunization.canaries.select"),
        ("test_immunization_canaries::test_in_the_printed_way_the_last_batch_overwrites",
         "test_immunization_printed_cycle::test_canaries_come_from_the_last_batch_and_not_from_the_sum_of_all",
         "test_immunization_canaries::test_the_number_is_exact_for_every_fraction_in_hundredths"),
    ),
    Equation(
        "I7", "stabilization",
        r"L_{\mathrm{stab}}=\mathrm{MSE}(\theta_{\mathrm{canary}},\theta'_{\mathrm{canary}}),\quad"
        r"\theta'\text{ of the step's beginning}", "does nothing",
        "When it is evaluated θ is θ′: its value and its gradient are zero, at each step anew and at any weight.",
        r"\textstyle\sum_j F_j\,(\theta_j-a_j)^2,\ a\text{ of the phase's beginning; or a masked update}",
        ("immunization.printed.stab_loss",),
        ("immunization.shields.PhaseAnchor", "immunization.shields.MaskedUpdate"),
        ("test_immunization_shields::test_the_printed_anchor_is_bit_identical_for_no_weight_and_for_a_million",
         "test_immunization_shields::test_the_drift_of_the_canaries_falls_as_the_stabilization_grows",
         "test_immunization_shields::test_canaries_are_bit_identical_under_adamw_with_decay_and_momentum"),
    ),
    Equation(
        "I8", "loss of phase two", r"L=(1-\alpha)L_{\mathrm{DPO}}+\alpha L_{\mathrm{KL}}+\beta L_{\mathrm{stab}}",
        "incomplete", "Two of its terms are right; the third is always zero, and β has three meanings in the paper.",
        r"(1-\alpha)L_{\mathrm{DPO}}+\alpha L_{\mathrm{KL}}+\beta L_{\mathrm{anchor}}",
        ("immunization.printed.align_loss",), ("immunization.losses.alignment_loss",),
        ("test_immunization_phases::test_in_the_second_phase_the_printed_anchor_does_nothing_at_any_weight",
         "test_immunization_phases::test_in_the_second_phase_the_drift_falls_as_the_weight_of_the_phase_anchor_grows"),
    ),
    Equation(
        "I9", "the algorithm, whole", r"\text{immunise}\to\text{choose canaries}\to\text{align},\ \text{again and again}",
        "defeats itself",
        "All of the above in one run: the pull towards the teacher, the attack that piles up, the anchor that holds nothing.",
        r"\text{the same order, from the working parts}",
        ("immunization.printed_cycle.run_as_printed",), ("immunization.cycle.run",),
        ("test_immunization_printed_cycle::test_the_whole_cycle_equals_a_loop_by_hand",
         "test_immunization_printed_cycle::test_the_anchor_does_nothing_at_any_weight_and_for_any_canaries",
         "test_immunization_cycle::test_a_run_is_its_two_phases_one_after_the_other"),
    ),
)  # fmt: skip

CONTRAST = (
    Equation(
        "C1", "soft prompt", r"z^{(0)}=\mathrm{Embed}(\text{a written prompt})", "right",
        "Its length is that of the written prompt, unless it is cut or repeated.", "",
        ("contrast.soft_prompts.initial",), ("contrast.soft_prompts.initial",),
        ("test_soft_prompts::test_a_prompt_starts_as_the_embeddings_of_the_system_turns_tokens",
         "test_soft_prompts::test_a_length_cuts_the_tokens_or_repeats_them"),
    ),
    Equation(
        "C2", "opposite prompt optimisation",
        r"L_{\mathrm{SP}}=\mathrm{CE}(y_r)+\mathrm{UL}(y_h)+\mathrm{CE}(y_{\mathrm{benign}}),\ L_{\mathrm{AP}}"
        r"\text{ mirrored};\quad\mathrm{UL}=-\log(1-p)", "incomplete",
        "With unit weights over whole answers it breaks harmless ones, whose words are partly those of the unwanted answers; and "
        "log(1 − p), computed as it is written, overflows where p rounds to 1.",
        r"\text{first tokens of the unwanted answer alone},\ \text{own answers kept by a KL},\ "
        r"\log(1-p)\text{ by logsumexp}",
        ("contrast.optimisation.PRINTED",), ("contrast.optimisation.Objective", "objectives.log_rest"),
        ("test_optimisation::test_the_printed_objective_is_the_papers_unit_weights_over_whole_answers",
         "test_optimisation::test_every_term_and_the_gradient_equal_a_slow_loop",
         "test_objectives::test_unlikelihood_is_right_at_logits_of_ten_thousand"),
    ),
    Equation(
        "C3", "the contrast", r"\ell=\ell_S-\alpha\,\ell_A", "incomplete",
        "Greedily it is classifier-free guidance by 1/(1−α); sampled, it has that temperature hidden in it.",
        r"(1+w)\,\ell_S-w\,\ell_A,\ w=\tfrac{\alpha}{1-\alpha}",
        ("contrast.scores.acd",), ("contrast.scores.guided", "contrast.scores.score"),
        ("test_contrast::test_sampling_from_acd_is_sampling_from_guidance_at_its_temperature",
         "test_contrast::test_acd_at_one_half_is_transformers_guidance_of_two_at_temperature_two",
         "test_contrast_decoding::test_greedy_without_a_limit_equals_transformers_guidance"),
    ),
    Equation(
        "C4", "which tokens may be chosen", r"v\in\text{the whole vocabulary}", "incomplete",
        "A token that the safe stream finds all but impossible can win, if the other stream finds it more so.",
        r"p_S(v)\ge\vartheta\,\max p_S",
        (), ("contrast.scores.plausible",),
        ("test_contrast::test_a_token_of_one_in_a_million_wins_without_the_limit_and_not_with_it",
         "test_contrast_decoding::test_an_implausible_token_is_never_said"),
    ),
    Equation(
        "C5", "the adversarial stream", r"\ell_A\ \text{is more harmful than}\ \ell_S", "incomplete",
        "It is taken for granted. A prompt that refuses more than S turns the contrast's refusals into compliance.",
        r"\text{measure both; fall back to }\ell_S",
        (), ("contrast.baselines.health", "contrast.baselines.checked"),
        ("test_baselines::test_a_prompt_that_obeys_is_healthy_and_one_that_refuses_is_not",
         "test_baselines::test_an_unhealthy_contrast_falls_back_to_its_safe_stream_alone"),
    ),
    Equation(
        "C6", "one cache for both streams", r"K,V\text{ of the request, shared by }S\text{ and }A", "defeats itself",
        "In a causal decoder the request's keys depend on the prompt before it: only those of layer 0 agree.",
        r"\text{two rows of one batch}",
        (), ("chat.stack", "generation.decoding.decode"),
        ("test_contrast_decoding::test_the_requests_keys_agree_in_layer_zero_only_so_the_cache_cannot_be_shared",
         "test_contrast_decoding::test_a_batch_of_both_streams_equals_separate_runs_without_cache"),
    ),
)  # fmt: skip

EQUATIONS = (*DISTILLATION, *IMMUNIZATION, *CONTRAST)
