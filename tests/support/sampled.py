"""Tables of cells of one kind that take long: by default a sample, all of them with `-m slow`.

A sample is drawn at random, and is the same one every time, so that of a product of axes it takes
all their values. A cell that is left out is marked slow: `make test ARGS="-m slow"` runs it.
"""

import random

EVERY = {
    "tests/bounds/test_certificate.py": {
        "test_a_nearly_singular_gram_matrix_gives_no_false_proof": 3,
        "test_bounds_hold_at_every_distance": 4,
        "test_box_bounds_hold": 4,
    },
    "tests/bounds/test_certified_gradients.py": {
        "test_bounds_hold_for_general_heads": 3,
        "test_the_bound_covers_rounding_at_the_exact_head": 2,
        "test_the_envelope_bound_covers_the_error": 2,
    },
    "tests/bounds/test_cross_derivative.py": {
        "test_a_bound_takes_a_few_bodies": 2,
        "test_the_estimated_norm_is_the_spectral_one_rounded_up": 4,
    },
    "tests/bounds/test_gradient_bounds.py": {
        "test_estimated_bounds_are_near_the_proven_ones": 2,
        "test_no_bound_is_below_the_error": 3,
        "test_quadratic_heads_are_proven_where_f_is_g": 2,
    },
    "tests/bounds/test_kinks.py": {
        "test_a_kink_has_no_bound_and_is_named": 2,
    },
    "tests/bounds/test_structured_bounds.py": {
        "test_bounds_of_heads_of_many_numbers_cover_the_error": 2,
    },
    "tests/commands/test_cli.py": {
        "test_wrong_usage_is_exit_code_2": 6,
    },
    "tests/comparison/test_budget.py": {
        "test_records_are_those_of_solve_at_the_same_steps": 2,
    },
    "tests/comparison/test_checkpoint.py": {
        "test_every_strategy_and_optimizer_goes_on_bitwise": 3,
        "test_every_way_of_drawing_goes_on_bitwise": 2,
        "test_tuning_goes_on_bitwise": 2,
    },
    "tests/comparison/test_checkpoint_damage.py": {
        "test_a_damaged_file_is_refused_by_name_and_costs_its_strategies_only": 4,
    },
    "tests/comparison/test_comparison.py": {
        "test_poor_results_are_reported_all_the_same": 2,
    },
    "tests/comparison/test_comparison_gradients.py": {
        "test_the_page_says_how_rows_were_drawn": 2,
    },
    "tests/comparison/test_judging.py": {
        "test_rates_are_searched_by_validation_metrics_or_f": 2,
        "test_records_are_chosen_by_the_same": 2,
        "test_what_is_shown_and_who_wins": 2,
    },
    "tests/comparison/test_loaded.py": {
        "test_what_is_read_back_is_what_was_written": 3,
    },
    "tests/comparison/test_one_run.py": {
        "test_runs_that_differ_in_anything_are_all_trained": 2,
    },
    "tests/comparison/test_tuning.py": {
        "test_rates_are_chosen_by_validation_or_training_rows": 2,
    },
    "tests/core/test_ordinary.py": {
        "test_a_mode_around_a_call_changes_nothing": 6,
    },
    "tests/data/test_chunks.py": {
        "test_trainings_record_the_same_numbers": 4,
    },
    "tests/data/test_epochs.py": {
        "test_an_epoch_visits_every_row_once": 2,
    },
    "tests/data/test_numpy_data.py": {
        "test_arrays_train_as_tensors_do": 2,
    },
    "tests/data/test_task_groups.py": {
        "test_padding_changes_nothing": 2,
    },
    "tests/derivatives/test_oracles.py": {
        "test_second_derivatives_are_central_differences_of_gradients": 3,
        "test_the_structure_of_linear_heads_changes_no_gradient": 3,
        "test_values_and_gradients_are_those_of_single_runs": 3,
    },
    "tests/derivatives/test_task_memory.py": {
        "test_steps_and_records_hold_blocks_only": 2,
    },
    "tests/heads/test_absent_classes.py": {
        "test_a_free_bias_without_rows_has_no_minimiser": 6,
        "test_a_penalised_one_has_a_minimiser": 3,
    },
    "tests/heads/test_cvxpy.py": {
        "test_heads_of_all_scales_are_exact": 2,
        "test_it_keeps_the_contract_of_head_solvers": 2,
    },
    "tests/heads/test_cvxpy_criteria.py": {
        "test_newton_agrees": 2,
    },
    "tests/heads/test_cvxpy_gradients.py": {
        "test_bounds_are_not_below_the_true_errors": 6,
        "test_projected_steps_lead_to_the_same_gradient": 2,
        "test_the_envelope_gradient_is_that_of_phi": 2,
    },
    "tests/heads/test_default_solver.py": {
        "test_gradients_without_a_solver_are_those_of_phi": 4,
        "test_without_a_solver_heads_are_exact": 2,
    },
    "tests/heads/test_drawn_heads.py": {
        "test_gradients_vanish": 3,
    },
    "tests/heads/test_far_features.py": {
        "test_a_shift_that_the_bias_takes_up_changes_nothing_else": 3,
        "test_sums_that_g_does_not_determine_are_no_singular_heads": 2,
    },
    "tests/heads/test_heads.py": {
        "test_gradient_vanishes_at_the_closed_form": 3,
    },
    "tests/heads/test_newton.py": {
        "test_every_path_ends_at_the_same_head": 3,
        "test_scikit_learn_agrees_on_real_data": 4,
        "test_the_slope_vanishes": 3,
    },
    "tests/heads/test_newton_flat.py": {
        "test_a_status_of_success_means_a_good_head_from_any_start": 2,
        "test_huber_heads_are_found_from_targets_deltas_away": 6,
        "test_warm_huber_heads_of_several_outputs_and_large_features_are_found": 2,
    },
    "tests/heads/test_newton_gradients.py": {
        "test_bounds_are_never_below_the_error": 4,
        "test_gradients_equal_central_differences_of_heads_solved_anew": 4,
        "test_the_table_of_analytic_problems": 3,
    },
    "tests/heads/test_newton_starts.py": {
        "test_separable_rows_without_a_penalty_have_no_head": 2,
    },
    "tests/heads/test_one_factor.py": {
        "test_a_linear_head_is_factored_once": 2,
    },
    "tests/heads/test_projected_newton.py": {
        "test_all_forms_of_squared_error": 3,
    },
    "tests/heads/test_projected_newton_heads.py": {
        "test_convex_criteria_satisfy_the_optimality_conditions": 6,
        "test_slopes_tell_where_values_of_g_cannot": 2,
        "test_the_contract_holds_between_bounds": 2,
    },
    "tests/heads/test_quadratic_heads.py": {
        "test_no_proven_bound_of_a_bent_head_in_a_box_is_below_the_error": 4,
    },
    "tests/hypergradients/test_drawn_gradients.py": {
        "test_differences_and_unrolled_steps": 3,
        "test_no_bound_is_below_the_error_at_early_heads": 2,
        "test_stackelberg": 2,
        "test_true_bilevel": 3,
    },
    "tests/hypergradients/test_envelope.py": {
        "test_danskin_equals_the_total_derivative": 3,
        "test_value_and_gradient_equal_those_through_a_dense_solve": 3,
    },
    "tests/hypergradients/test_finite_differences.py": {
        "test_differences_of_exact_heads_are_the_known_gradient": 4,
    },
    "tests/hypergradients/test_hypergradients.py": {
        "test_against_autograd_through_a_dense_solve": 3,
        "test_against_differences_of_phi_with_heads_solved_anew": 6,
        "test_beside_a_kink_gradients_are_the_one_sided_derivatives": 2,
    },
    "tests/hypergradients/test_implicit.py": {
        "test_bounds_that_hold_do_not_spoil_the_scale": 2,
        "test_each_trouble_has_its_status": 4,
    },
    "tests/hypergradients/test_overlooked_bodies.py": {
        "test_bodies_of_any_scale": 3,
    },
    "tests/hypergradients/test_penalty_method.py": {
        "test_linear_heads_of_every_kind": 3,
    },
    "tests/hypergradients/test_unrolled.py": {
        "test_against_autograd_through_the_steps": 6,
        "test_the_rate_from_any_start": 4,
    },
    "tests/linear/test_hard_systems.py": {
        "test_each_coefficient_is_right_on_its_own_scale": 3,
        "test_the_bound_stays_a_proven_one": 3,
    },
    "tests/linear/test_hard_verdicts.py": {
        "test_a_positive_ridge_has_a_minimiser": 2,
    },
    "tests/linear/test_linear_solvers.py": {
        "test_against_dense_algebra": 6,
        "test_neumann_meets_its_rate": 3,
    },
    "tests/point/test_accumulator.py": {
        "test_sums_against_long_double": 2,
    },
    "tests/problem/test_module_agreement.py": {
        "test_what_is_accepted_is_the_module": 3,
    },
    "tests/problem/test_module_refused.py": {
        "test_what_would_be_something_else_is_refused": 3,
    },
    "tests/problem/test_modules.py": {
        "test_gradients_are_those_of_the_plain_network": 2,
        "test_networks_train_together_as_alone_and_go_back_into_a_module": 2,
    },
    "tests/problem/test_sets_of_any_size.py": {
        "test_the_head_is_the_free_one_or_zero": 6,
        "test_trainings_in_single_precision_do_not_fail": 3,
    },
    "tests/problem/test_transforms.py": {
        "test_the_numbers_are_seen_inside": 2,
    },
    "tests/problems/analytic/test_analytic_options.py": {
        "test_the_library_finds_the_best_response": 3,
    },
    "tests/problems/analytic/test_analytic_problems.py": {
        "test_lipschitz_constants_are_never_exceeded": 6,
    },
    "tests/problems/few_shot/test_sinusoid.py": {
        "test_anil_is_autograd_through_its_steps": 2,
    },
    "tests/problems/mspbe/test_neural_tdc.py": {
        "test_implicit_gradients_of_lstd_heads": 2,
    },
    "tests/problems/regression/test_problems.py": {
        "test_lemma_4_1_second_derivative": 2,
        "test_problems_train": 2,
    },
    "tests/report/test_file_names.py": {
        "test_checkpoints_keep_metrics_of_any_name": 2,
    },
    "tests/report/test_odd_results.py": {
        "test_curves_and_gaps_of_any_size_are_drawn": 2,
        "test_numbers_of_any_size_are_told_and_drawn": 2,
        "test_odd_results_are_told_as_they_are": 4,
    },
    "tests/strategies/test_own_loop.py": {
        "test_solve_gives_the_numbers_of_the_library": 4,
    },
    "tests/testing/test_testing.py": {
        "test_hypergradients_pass_on_problems_of_others": 2,
        "test_known_problems_pass": 6,
        "test_linear_solvers_pass": 2,
        "test_seeds_that_start_alike_must_differ_in_something": 2,
        "test_wrong_problems_fail": 2,
    },
    "tests/testing/test_testing_parts.py": {
        "test_wrong_hypergradients_fail": 2,
    },
    "tests/training/test_best_responses.py": {
        "test_a_general_strongly_convex_head_is_measured_too": 2,
        "test_heads_in_a_set_are_measured_against_the_minimiser_there": 2,
        "test_what_is_recorded_beside_the_best_response": 3,
    },
    "tests/training/test_bilevel_training.py": {
        "test_a_training_goes_on_bit_for_bit": 2,
        "test_known_optima_are_reached": 2,
        "test_many_runs_equal_single_runs": 2,
    },
    "tests/training/test_causes.py": {
        "test_the_cause_is_not_hidden_by_the_divergence_it_leads_to": 2,
    },
    "tests/training/test_record_memory.py": {
        "test_a_recorder_is_made_within_its_budget": 2,
        "test_records_stay_within_their_budget": 3,
        "test_steps_on_all_rows_stay_near_their_budget": 4,
    },
    "tests/training/test_recorded_gradients.py": {
        "test_records_know_the_error_of_the_gradient_at_their_head": 2,
    },
    "tests/training/test_response_records.py": {
        "test_records_of_a_training_that_goes_on_have_the_same_bits": 2,
    },
    "tests/training/test_responses_in_sets.py": {
        "test_balls_that_do_not_hold_the_head": 2,
        "test_the_best_response_is_found_from_far_off": 2,
    },
    "tests/training/test_runs_at_once.py": {
        "test_no_number_depends_on_how_many_runs_are_at_once": 3,
        "test_nor_does_one_of_heads_that_take_steps_beyond_rounding": 2,
    },
    "tests/training/test_saved_solutions.py": {
        "test_a_loaded_solution_is_the_same_and_goes_on_bit_for_bit": 2,
    },
    "tests/training/test_trained_tasks.py": {
        "test_exact_heads_follow_a_loop_over_tasks": 2,
        "test_heads_of_steps_follow_a_loop_over_tasks": 2,
        "test_numbers_of_a_run_hold_for_all_of_its_heads": 2,
    },
    "tests/training/test_training.py": {
        "test_a_run_does_not_depend_on_the_runs_beside_it": 4,
        "test_one_diverging_run_leaves_the_others_unchanged_bitwise": 2,
    },
    "tests/training/test_training_endings.py": {
        "test_going_on_gives_the_bits_of_an_uninterrupted_training": 4,
    },
}
"""Files and their tests: one of how many cells is in the sample."""


def in_sample(name: str, cells: int) -> set[int]:
    """The numbers of the cells that are in the sample of the test `file::test`."""
    file, _, test = name.partition("::")
    every = EVERY.get(file, {}).get(test, 1)
    return set(random.Random(name).sample(range(cells), -(-cells // every)))
