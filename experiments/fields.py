"""Fields of the experiments: how their values are written, what they mean, and help.

Nothing here imports jax, so that help is quick where the configuration does not either.
"""

import ast
import re
import runpy
from fractions import Fraction
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.checks import ConfigError

HELP = {"-h", "--help"}


def help_on(argv: list[str]) -> str:
    """Help on the experiment of ``--config=FILE.py:VARIANTS``; empty without that.

    Raises:
        ConfigError: for a wrong variant, or a file that cannot be read.
    """
    given = [arg for arg in argv if re.match("--?config=", arg)]
    if not given:
        return ""
    file, _, variants = given[-1].partition("=")[2].partition(":")
    return page(Path(file), variants)


def page(file: Path, variants: str = "", *, text: str = "") -> str:
    """What an experiment is, its fields and the common options.

    Args:
        file: the configuration.
        variants: of it, separated by commas.
        text: what it is; the docstring of the file by default.

    Raises:
        ConfigError: for a wrong variant, or a file that cannot be read.
    """
    try:
        module = runpy.run_path(str(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    if "get_config" not in module:
        raise ConfigError(f"{file} is no configuration: it has no get_config")
    config = module["get_config"](*([variants] if variants else []))
    rows = table(config)
    fields = [_FIELDS, "\n".join(rows), _VALUES] if rows else []
    return "\n\n".join([(text or module["__doc__"] or "").strip(), *fields, _OPTIONS])


_FIELDS = "Fields with their defaults, which --config.FIELD=VALUE changes:"
_VALUES = """\
Numbers that need not be whole may be fractions, such as 8/255. In a shell, brackets
need quotes: '--config.FIELD=(2/255,4/255)'."""
_OPTIONS = """\
Options:

  --workdir=DIRECTORY  where to write, by default runs/ and a name made from the fields;
                       run again, it goes on there, or shows the results

Exit status: 0 done, 1 the loss diverged, 2 wrong input, 130 and 143 stopped by Ctrl-C
and by SIGTERM."""


def table(config: ConfigDict) -> list[str]:
    """A line for each field: name, value and meaning, in the order of ``MEANINGS``."""
    order = {name: i for i, name in enumerate(MEANINGS)}
    names = sorted({*config} - {"experiment"}, key=lambda n: (order.get(n, 1e9), n))
    values = [written(config[name]) for name in names]
    widths = [max(map(len, column), default=0) for column in (names, values)]
    return [
        f"  {name:{widths[0]}}  {value:{widths[1]}}  {meaning(config, name)}".rstrip()
        for name, value in zip(names, values, strict=True)
    ]


def meaning(config: ConfigDict, field: str) -> str:
    """What a field means in its experiment; empty if it is not one of ours."""
    study = config.get("experiment", "").replace(".", "/")
    return MEANINGS.get(f"{study}.{field}", MEANINGS.get(field, ""))


def written(value: Any) -> str:
    """A value as it is typed after ``--config.FIELD=``, but for long tuples."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, tuple):
        return f"({_items(value)})"
    return str(value)


def _number(value: float) -> str:
    """Its digits if they are few, else as radii are, n/255, or as another fraction."""
    digits = repr(value)
    if len(digits) < 8:
        return digits
    n = round(255 * value, 3)
    if n / 255 == value and (n < 1 or n in range(256)):
        return f"{n:g}/255"
    fraction = Fraction(value).limit_denominator(1000)
    return str(fraction) if float(fraction) == value else digits


def _items(values: tuple) -> str:
    items = [f'"{v}"' if isinstance(v, str) else written(v) for v in values]
    if len(items) == 1:
        return f"{items[0]},"
    shown = items[:]
    while len(",".join(shown)) > 20:
        shown.pop()
    return ",".join(shown if len(shown) == len(items) else [*shown, "…"])


def divided(config: ConfigDict, field: str, text: str) -> str:
    """What was typed, with numbers for fractions if the field is of floats.

    Raises:
        ConfigError: for a fraction that is no number.
    """
    if "/" not in text or not _is_real(config, field):
        return text
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return ast.unparse(_Divided().visit(tree))
    except ArithmeticError as error:
        raise ConfigError(f"config.{field} = {text!r}: {error}") from None
    except (SyntaxError, ValueError, TypeError):
        return text  # refused by the parser of the field


class _Divided(ast.NodeTransformer):
    def visit_BinOp(self, node):
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        over, under = map(ast.literal_eval, (node.left, node.right))
        return ast.Constant(over / under)


def _is_real(config: ConfigDict, field: str) -> bool:
    """Whether a field is of floats; strings may be paths, and integers are whole."""
    value = config[field]
    if not isinstance(value, tuple):
        return config.get_type(field) is float
    return any(isinstance(v, float) for v in value) or (not value and field in _REAL)


# An empty tuple does not say what it is of.
_REAL = ("curve", "schedule_knots", "schedule_values")


def wanted(config: ConfigDict, field: str) -> str:
    """What to type for a field instead of what was refused."""
    kind, default = config.get_type(field).__name__, config[field]
    example = "" if default is None else f", as in {default!r}"
    return f"give a value of type {kind}{example}"


_GENERAL = {
    # What a run starts from.
    "checkpoint": "the FILE: released parameters, or the work directory of a run",
    "digest": "digest of that file; filled in, and checked if given",
    "grid": "work directory of a finished transition/classifier_grid",
    "grid_digest": "digest of that run; filled in, and checked if given",
    "grids": 'work directories of finished grids, as in ("runs/A","runs/B")',
    "grid_digests": "digests of those runs; filled in, and checked if given",
    "networks": "work directory of a finished difficulty/networks",
    "networks_digest": "digest of that run; filled in, and checked if given",
    "learning": "work directory of a finished memorization/learning_process",
    "learning_digest": "digest of that run; filled in, and checked if given",
    # Images.
    "dataset": "digits, mnist, cifar10, cifar100 or svhn_cropped",
    "data_dir": "directory of the data sets; that of TFDS if empty",
    "classes": "classes to keep; all if empty",
    "positive_classes": "classes with label 1, others with 0; no binary task if empty",
    "num_train": "training images, a random subset; 0 for all",
    "num_test": "test images, a random subset; 0 for all",
    "num_images": "test images to measure, a random subset; 0 for all",
    "subset_seed": "seed of random subsets",
    "augment": "augment training images, as is usual for the data set",
    "noise": "add uniform noise of at most this to pixels",
    # Simulated data.
    "n": "training examples",
    "d": "dimension of the inputs",
    "small_n": "training examples of each design with d << n",
    "small_d": "dimension of the inputs of each design with d << n",
    "moderate_n": "training examples of each design with d ~ n",
    "moderate_d": "dimension of the inputs of each design with d ~ n",
    "large_n": "training examples of each design with d >> n",
    "large_d": "dimension of the inputs of each design with d >> n",
    "num_active": "coefficients of theta0 that are not 0",
    "rho": "correlation of the inputs",
    "theta0_norm": "length of theta0, the true coefficients",
    "sigma": "standard deviation of the noise",
    "num_inputs": "dimension of the inputs",
    "num_examples": "training examples",
    "small_share": "mu, the chance that an example has the small margin",
    "large": "alpha, the large margin",
    "small": "beta, the small margin",
    "num_replicates": "simulated data sets, with a run for each",
    "num_adversarial": "adversarial runs at each radius",
    "num_repetitions": "random training sets of each size",
    "chunk_size": "replicates at once",
    "num_resamples": "resamples of the bootstrap over replicates",
    # Networks.
    "model": "name of the network in advjax.models",
    "models": "networks to measure; all if empty",
    "width": "width of the network; its own if 0",
    "hidden": "units of each hidden layer; the network's own if empty",
    "num_hidden": "hidden units",
    "activation": "relu, or relu_softplus of Xie et al. 2020",
    "dtype": "float32 or bfloat16, of the computation; parameters are float32",
    "init_from": "file of released parameters to start from; new ones if empty",
    "start_norm": "length of the coefficients at the start",
    "start_scale": "h^delta in the variance of the start, 1/(d h h^delta)",
    "delta": "delta in the variance of the start, 1/(d h h^delta)",
    # Radii.
    "norm": "norm of the attack: linf, l2 or l1",
    "norms": "norms of the attack, of l2 and linf",
    "eps": "radii, of pixels in [0, 1]; networks are trained at each",
    "eps_warmup_epochs": "epochs in which the radius rises linearly from 0",
    "eps_grid": "radii of training from scratch, increasing from 0",
    "fine_tune_eps": "radii of fine-tuning, increasing",
    "eps_small": "radius below eps* in each regime",
    "eps_star": "radius about eps* in each regime",
    "eps_large": "radius above eps* in each regime",
    "eps_most": "largest radius",
    "log_range": "largest absolute value of log(eps/sqrt(d/n))",
    "radii": "over the radius of training, increasing from 0, with 1 in it",
    "bounded": "attacked points stay images, with pixels in [0, 1]",
    # Training.
    "objective": "standard, adversarial, trades or mart",
    "beta": "weight of the KL divergence in trades and mart",
    "num_seeds": "networks at each radius, with a seed for each",
    "num_epochs": "epochs of training",
    "clean_epochs": "epochs on clean images before these",
    "kept_epochs": "numbers of epochs after which networks are released",
    "batch_size": "examples in a batch",
    "keep_remainder": "train on the smaller batch at the end of an epoch, too",
    "optimiser": "sgd or adam",
    "learning_rate": "learning rate, which the schedule multiplies",
    "schedule": "constant, piecewise, linear, cosine or fine_tuning",
    "schedule_knots": "where the rate changes, as fractions of the run, increasing",
    "schedule_values": "factors of the rate: of linear at knots, of piecewise between",
    "momentum": "momentum of SGD",
    "weight_decay": "decay of all parameters, added to the gradient",
    "l1_penalty": "LASSO penalty on weights, not on biases and normalisation",
    "l1_proximal": "LASSO by proximal steps, which leave exact zeros",
    "penalty": "LASSO penalty on the weights of both layers",
    "penalty_factor": "c in the LASSO penalty c v sqrt(s log(d)/n)",
    "proximal": "also train with LASSO by proximal steps, which leave exact zeros",
    "select_from": "share of the epochs before the best network may be chosen",
    "fine_tune_epochs": "epochs of fine-tuning",
    "fine_tune_knots": "where its rate changes, as fractions of the run, increasing",
    "fine_tune_multipliers": "factors of the learning rate there",
    "seed_shift": "seeds from one end of a curve to the other; 0 for the same",
    "step_size": "step size of gradient descent",
    "linear_step_size": "step size of the linear model; the network's is matched to it",
    "step_size_linear": "step size of the linear network",
    "step_size_sigmoid": "step size of the sigmoid network",
    "step_size_relu": "step size of the ReLU network",
    # Attacks.
    "num_steps": "steps of the attack in training",
    "rel_step_size": "step of the attack in training, over eps",
    "fgm_rel_step_size": "step of the single-step attack, over eps",
    "rel_path": "steps of the attack together, over eps, in each norm",
    "start": "none, in_ball, radius_uniform or gaussian; by objective if empty",
    "attack_mode": "train or eval, mode inside the attack; by objective if empty",
    "xi": "smoothing of the attack in training; 0 for the attack itself",
    "xi_follows_rate": "xi falls with the learning rate",
    "horizon": "strength of the attack, its steps times their size",
    "horizons": "strengths of the attack, its steps times their size, increasing",
    "few_steps": "steps of the l2 and linf attacks that are compared",
    "l2_step_size": "step size of the ascent along normalised gradients",
    "linf_step_size": "step size of the ascent along signs of gradients",
    "loss_steps": "steps of the search for the largest loss, 2.5 radii together",
    "num_starts": "random starts of each search",
    "split_steps": "steps of the first attack that looks for small margins",
    "strong_steps": "steps of the second one, and of the attacks that check",
    "num_restarts": "random starts of each attack",
    "num_random": "random points in the ball of each image",
    "shell": "distance from which indicators are 0, over the radius",
    "error": "largest error of a product in the ReLU network",
    # Tests and measurements.
    "test_num_steps": "steps of the attack in tests",
    "test_rel_step_size": "step of the attack in tests, over eps",
    "test_batch_size": "test images at once",
    "attack_steps": "steps of the attack in tests",
    "measured_steps": "steps of the attack that measures the last networks",
    "num_measured": "training images that the last networks are measured on",
    "curve": "bezier or polychain",
    "num_watched": "test images that are followed through training",
    "watched_steps": "numbers of steps of the attacks to compare, increasing",
    "layer_step": "step of a layer, over the norm of its weights",
    "free_num_images": "images to measure with free gates",
    "free_num_steps": "steps of the ascent with free gates",
    "least_steps": "leaves out images that are misclassified in fewer steps",
    "num_positions": "points at which the progress of an image is read",
    "num_groups": "groups of images, by the effect of their perturbations",
    "num_compared": "images of each kind on which the ReLU network is compared",
    "num_attacked": "images of each part on which the ReLU network is attacked",
    "num_points": "radii",
    "grid_size": "points a side of the plane through a curve",
    "num_eval": "training images for the losses of a curve; 0 for all",
    "eval_batch_size": "images at once, for the losses of a curve",
    "num_last": "last steps, over which the fluctuation is measured",
    "num_observations": "times at which losses are recorded",
    "steps_between": "steps from one of these times to the next",
    "confidence": "confidence of the intervals, at most 1",
    "compared": "field to compare: xi or l1_penalty",
    "compared_values": "values of that field; networks are trained with each",
    "show_from": "first epoch in the figure, counted from 0",
    "printed": "of the paper: field, value, and two accuracies, each with its sd",
    "printed_eps_star": "eps* of the paper; 0 if it has none",
    # How and where it computes.
    "seed": "random seed",
    "dispatch": "auto, loop (step after step) or scan (all in one program)",
    "num_devices": "devices that share a batch; 0 for one CPU, or all accelerators",
    "hosts": "join the devices of several hosts",
    "checkpoint_steps": "steps between checkpoints within an epoch; 0 for none",
}

# What means something else in some studies; the last entry counts.
_DIFFERENT = {
    (
        "difficulty/closed_form difficulty/growth difficulty/influential "
        "difficulty/weight_effects memorization/learning_process "
        "memorization/representation memorization/robust_memorization"
    ): {
        "data_dir": "directory of the data sets; that of the networks' run if empty",
        "num_devices": "not used: one device measures",
    },
    (
        "difficulty/closed_form difficulty/influential difficulty/weight_effects "
        "memorization/learning_process memorization/representation "
        "memorization/robust_memorization evaluate"
    ): {
        "batch_size": "images at once",
    },
    (
        "memorization/learning_process memorization/representation "
        "memorization/robust_memorization"
    ): {
        "networks": "work directory of a finished memorization/networks",
        "num_images": "training images, a random subset; 0 for all",
    },
    "memorization/learning_process memorization/robust_memorization": {
        "num_steps": "steps of the search for the largest gradient",
        "rel_step_size": "step of that search, over the radius",
    },
    "transition/catastrophic transition/connectivity transition/fine_tuning": {
        "dataset": "that of the grid; another one is refused",
        "norm": "that of the grid; another one is refused",
        "data_dir": "directory of the data sets; that of the grid's run if empty",
    },
    (
        "generalization/fluctuation generalization/interpolation generalization/lasso "
        "generalization/linf_sensitivity generalization/low_dimension "
        "memorization/separable transition/linear_paths transition/p_values "
        "transition/scaling transition/wide_limit"
    ): {
        "num_steps": "steps of gradient descent",
    },
    "generalization/fluctuation generalization/lasso memorization/separable": {
        "eps": "radius of the l2 attack",
    },
    (
        "generalization/interpolation generalization/low_dimension "
        "generalization/two_layer transition/wide_limit"
    ): {
        "eps": "radii of the l2 attack, increasing",
    },
    "generalization/fluctuation generalization/linf_sensitivity": {
        "xi": "smoothing of the attack, increasing; 0 for the attack itself",
    },
    (
        "difficulty/networks difficulty/oscillation generalization/wide_resnet "
        "memorization/networks"
    ): {
        "eps": "radius, of pixels in [0, 1]; one, in brackets",
    },
    "difficulty/networks difficulty/oscillation": {
        "model": "not used: see models",
        "models": "names in advjax.models of the networks to train",
    },
    "difficulty/oscillation memorization/networks": {
        "objective": "not used: both standard and adversarial",
    },
    "difficulty/closed_form": {
        "num_steps": "numbers of steps of the ascent with fixed gates, increasing",
    },
    "difficulty/growth": {
        "num_steps": "most steps of an ascent",
        "step_size": "step size of the ascent along gradients",
    },
    "difficulty/influential difficulty/weight_effects": {
        "num_steps": "steps of the ascent",
    },
    "generalization/lasso": {
        "n": "numbers of training examples, increasing",
    },
    "generalization/lasso_mnist": {
        "classes": "classes to keep, at least two",
        "num_train": "images to draw training sets from, a random subset; 0 for all",
        "n": "numbers of training images, increasing",
        "chunk_size": "repetitions at once; 0 for all",
        "eps": "radius in each norm",
        "xi": "smoothing of the attack, in each norm; 0 for the attack itself",
        "hidden": "units of the hidden layer",
        "learning_rate": "learning rate of Adam",
    },
    "generalization/linf_sensitivity transition/scaling": {
        "rel_step_size": "step size of gradient descent, times the largest curvature",
    },
    "generalization/linf_sensitivity": {
        "d": "dimensions of the inputs, increasing",
        "eps": "radius of the l2 attack; that of linf is eps/sqrt(d)",
    },
    "generalization/low_dimension": {
        "eps_most": "largest radius at which c(eps) is measured",
        "num_points": "radii at which c(eps) is measured",
    },
    "generalization/sparsity": {
        "num_measured": "radii at which data sets are fitted",
        "num_points": "radii at which the optimum is computed",
    },
    "generalization/two_layer": {
        "num_test": "fresh examples on which a network is tested",
    },
    "memorization/learning_process": {
        "num_images": "images of each part, a random subset; 0 for all",
    },
    "memorization/representation": {
        "num_test": "test images, a random subset",
    },
    "memorization/separable": {
        "num_test": "test examples",
    },
    "evaluate": {
        "norm": "norm of the attacks: linf, l2 or l1; that of training if empty",
        "eps": "radius of FGSM and PGD; the largest of training if None",
        "num_steps": "steps of PGD",
        "rel_step_size": "step of PGD, over the radius",
        "num_restarts": "random starts of PGD",
        "curve": "radii for a curve, attacked by PGD from one start; none if ()",
    },
    "transition/catastrophic": {
        "eps": "radii of single-step training, increasing",
        "rel_step_size": "the single step, over eps",
        "start": "none, in_ball, radius_uniform or gaussian; the grid's if empty",
    },
    "transition/connectivity": {
        "eps": "radii of the ends of curves, among those of the grid",
        "objective": "objective of the curves: standard or adversarial",
        "num_epochs": "epochs in which the curves are trained",
        "weight_decay": "decay of all parameters at points of the curves",
        "num_points": "points along a curve at which the loss is measured",
        "num_devices": "not used: one device trains the curves",
    },
    "transition/digits": {
        "dataset": "digits, the only choice",
        "hidden": "units of each hidden layer",
        "learning_rate": "learning rate, divided by ten after 1/2 and 3/4 of the run",
    },
    "transition/fine_tuning": {
        "eps": "radii of fine-tuning, increasing",
        "num_epochs": "epochs of fine-tuning; 0 for a fifth of the grid's",
    },
    "transition/linear_paths": {
        "n": "training examples of each regime",
        "d": "dimension of the inputs of each regime",
        "step_size": "step size of gradient descent in each regime",
    },
    "transition/moments": {
        "n": "training examples of each design",
        "d": "dimension of the inputs of each design",
    },
    "transition/overfitting": {
        "num_devices": "not used: nothing is trained",
        "hosts": "not used: nothing is trained",
        "data_dir": "not used: nothing is trained",
    },
    "transition/p_values": {
        "d": "dimensions of the inputs",
        "num_replicates": "clean runs",
        "num_resamples": "resamples of the bootstrap over adversarial runs",
        "step_size": "step size of gradient descent, divided by 1 + eps^2",
    },
    "transition/wide_limit": {
        "num_test": "fresh examples on which predictions are compared",
        "num_hidden": "numbers of hidden units, increasing",
    },
}

MEANINGS: dict[str, str] = _GENERAL | {
    f"{study}.{field}": text
    for studies, different in _DIFFERENT.items()
    for study in studies.split()
    for field, text in different.items()
}
"""By ``field``, and by ``study.field`` where it means something else there."""
