"""Tables of cells of one kind that take long: by default a sample, all of them with `-m slow`.

A cell that is left out is marked slow: `make test ARGS="-m slow"` runs it.
"""

EVERY = {
    "tests/bounds/test_gradient_bounds.py::test_estimated_bounds_are_near_the_proven_ones": 2,
    "tests/bounds/test_gradient_bounds.py::test_no_bound_is_below_the_error": 3,
    "tests/bounds/test_kinks.py::test_a_kink_has_no_bound_and_is_named": 2,
    "tests/comparison/test_checkpoint.py::test_every_strategy_and_optimizer_goes_on_bitwise": 3,
    "tests/comparison/test_judging.py::test_rates_are_searched_by_validation_metrics_or_f": 2,
    "tests/comparison/test_loaded.py::test_what_is_read_back_is_what_was_written": 3,
    "tests/core/test_ordinary.py::test_a_mode_around_a_call_changes_nothing": 3,
    "tests/heads/test_default_solver.py::test_without_a_solver_heads_are_exact": 2,
    "tests/hypergradients/test_envelope.py::test_danskin_equals_the_total_derivative": 3,
    "tests/report/test_odd_results.py::test_odd_results_are_told_as_they_are": 2,
    "tests/strategies/test_own_loop.py::test_solve_gives_the_numbers_of_the_library": 2,
    "tests/training/test_best_responses.py::test_what_is_recorded_beside_the_best_response": 3,
    "tests/training/test_bilevel_training.py::test_known_optima_are_reached": 2,
    "tests/training/test_record_memory.py::test_records_stay_within_their_budget": 3,
    "tests/training/test_runs_at_once.py::test_no_number_depends_on_how_many_runs_are_at_once": 3,
}
"""Tests, and every which of their cells is in the sample."""
