"""Tests that cannot pass under one of jax's own checks, each with its reason.

CONTRIBUTING has the commands. ``conftest`` expects these to fail, and one that passes
fails: then its line is to go.
"""

import jax

_OPTAX = {r"equals_optax_row_by_row\[.*l1\]": "optax's own projection fails"}

_DOUBLE = "draws of double precision are other ones, and the numbers are of these draws"
_X64 = _OPTAX | {
    r"of_a_linear_model_is_found_from_above": _DOUBLE,
    r"proposition_3_1_holds": _DOUBLE,
    r"never_leave_more_examples_robust\[linf\]": _DOUBLE,
    r"knows_no_goals_keep_what_fools": _DOUBLE,
    r"uniform_at_any_number_of_replicates\[10-5\]": _DOUBLE,
}

_PROMOTES = "the test's own functions or networks mix types"
_COUNTS = "optax multiplies a number by an integer"
_STRICT = _OPTAX | {
    r"trains_adversarially\[": _COUNTS,
    r"bends_a_line_around_a_barrier": _COUNTS,
    r"at_the_lasso_with_exact_zeros\[adam\]": _COUNTS,
    r"unpenalised_parameters_take_the_plain": _COUNTS,
    r"gradient_that_is_not_a_number_stays": _COUNTS,
    r"with_further_arguments_take_them_inside": _COUNTS,
    r"do_not_disturb_optimisers_without": _COUNTS,
    r"extra_arguments_train\[(reduce|inside)": _COUNTS,
    r"statistics_keep_their_dtype_in_a_scan\[(bf|None)": "flax's own layers mix types",
    r"double_precision_keeps_every_dtype": "flax's own layers mix types",
    r"double_precision_follows_the_input": "flax's own layers mix types",
    r"test_equinox_(predicts|dropout|layers|parameters|modules)": _PROMOTES,
    r"as_a_plain_function\[equinox\]": _PROMOTES,
    r"as_one_by_one\[equinox\]": _PROMOTES,
    r"jit_changes_nothing\[(crop|flip|rotate|chain)\]": _PROMOTES,
    r"arrays_of_numpy_are_as_good": _PROMOTES,
    r"nothing_switches_are_refused\[noise\]": _PROMOTES,
    r"shared_arguments_may_be_pytrees": _PROMOTES,
    r"draws_depend_on_the_chunk_are_refused": _PROMOTES,
    r"single_precision_is_worse_by_no_more": _PROMOTES,
    r"accuracy_is_that_of_the_one_judge": _PROMOTES,
}

_BATCH = "what vmap draws from keys of rbg depends on the batch"
_DRAWS = "the numbers are of the draws of another generator"
_REFUSED = "keys of rbg are refused, as they should be"
_RBG = {
    r"seeds_make_their_own_networks": _BATCH,
    r"as_one_by_one": _BATCH,
    r"runs_at_once_are_the_runs_one_by_one": _BATCH,
    r"validation_is_an_evaluation_and_chooses": _BATCH,
    r"crosses_within_what_encloses_it": _BATCH,
    r"never_leave_more_examples_robust\[linf\]": _DRAWS,
    r"classifier_off_its_shells": _DRAWS,
    r"trains_adversarially\[linen\]": _DRAWS,
    r"uniform_in_the_ball\[(2|30)-l[12]\]": _DRAWS,
    r"mapped_is_vmap_for_any_chunk_size": _REFUSED,
    r"replicate_is_what_it_is_alone": _REFUSED,
    r"shared_value_compiles_nothing": _REFUSED,
    r"keys_of_the_default_generator_are_refused": _REFUSED,
    r"eight_devices_give_what_one_gives": _REFUSED,
}

_MEANT = "nan is what the test is about"
_NANS = {
    r"test_criteria.*(largest_output|every_size_are_labels|on_its_side)": _MEANT,
    r"test_criteria.*(wrong_and_undefined|loss_that_also_judges)": _MEANT,
    r"indefinite_covariance_is_nan|singular_covariance_is_nan": _MEANT,
    r"nan_predictions_count|undefined_row_hides|no_class_are_wrong": _MEANT,
    r"undefined_clean_output_is_shown": _MEANT,
    r"returns_nan_or_infinity|negative_radii_are_never_robust": _MEANT,
    r"test_flatness.*(edge_cases|no_signs_have_no_flatness)": _MEANT,
    r"sides_of_equal_length|negative_xi_gives_nan|negative_numbers_give": _MEANT,
    r"no_class_give_nan|no_sign_gives_nan|masks_leave_two_classes": _MEANT,
    r"where_they_had_no_direction": _MEANT,
    r"pass_for_one": _MEANT,
    r"negative_radii_of_the_memory|not_a_number_stays_visible": _MEANT,
    r"negative_penalty_gives_nan|freeze_the_other_features.*inf": _MEANT,
    r"radius_that_is_not_a_number": _MEANT,
    r"holds_anywhere_and_is_tight|what_is_not_finite_shows": _MEANT,
    r"trace_is_within_its_standard|density_has_the_moments": _MEANT,
    r"traced_index_that_is_no_example|flags_of_the_attack_are_met": _MEANT,
    r"single_logits_have_no_accuracy|maps_over_seeds\[crossing": _MEANT,
    r"nan_loss_stays_visible|negative_radius_is_nan_for_its": _MEANT,
    r"give_the_whole_spectrum\[1\]": "no direction is left, and its nan is not used",
    r"every_search_raises_them": _MEANT,
    r"gradients_are_flagged_by_size": _MEANT,
    r"features_have_radii_of_their_own": _MEANT,
    r"in_the_ball_and_in_the_box\[float16": _MEANT,
}

_TWICE = "the test draws from a key twice, to compare"
_REUSE = {
    r"not_lost_by_the_weights|alone_and_mapped_for": _TWICE,
    r"models_keys_and_radii_equals_a_loop(?!\[fgsm-l2)": _TWICE,
    r"dispatched_runs_equal_single|no_way_of_dispatching.*loop": _TWICE,
    r"ball_and_follow_their_law|states_trains_over_seeds": _TWICE,
    r"draws_depend_on_the_chunk_are_refused": _TWICE,
    r"classifier_off_its_shells|certificates_are_below": _TWICE,
    r"diagnostics\[lazy networks|data_of_numpy_and_counts": _TWICE,
    r"seeds_make_their_own|same_run\[|no_two_runs_are_the_same": _TWICE,
    r"input_hessians_of_a_batch|may_be_of_any_generator": _TWICE,
    r"of_the_whole_hessian|of_the_formula|evaluation_are_the_same": _TWICE,
    r"integers_of_numpy_are_plain|test_gaussian_design": _TWICE,
    r"at_its_point_times_its_weight": _TWICE,
}

# Mode: the value that turns it on, and {pattern of a test's name: reason}.
MODES = {
    "jax_enable_x64": (True, _X64),
    "jax_numpy_dtype_promotion": ("strict", _STRICT),
    "jax_default_prng_impl": ("rbg", _RBG),
    "jax_debug_nans": (True, _NANS),
    "jax_debug_key_reuse": (True, _REUSE),
}


def reasons() -> dict[str, str]:
    """Of the modes that are on, ``{pattern of a test's name: reason}``."""
    found: dict[str, str] = {}
    for option, (value, listed) in MODES.items():
        current = getattr(jax.config, option)
        if getattr(current, "value", current) == value:
            found |= listed
    return found
