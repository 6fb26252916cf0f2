"""eps* of networks on images, from scratch: every row of Tables 1, 3 and B.2 to B.5.

Size: MNIST at ``cpu``: 8000 images, 30 epochs, 6 radii × 4 seeds. Time: 51 minutes on
one core; ``digits`` a minute or two.

    advjax run transition/classifier_grid:mnist_fc128,cpu
    advjax run transition/classifier_grid:cifar10_10k,gpu

A row and a size, joined by a comma. Rows: ``cifar10``, which is Table 1 as well,
``cifar10_10k``, ``cifar10_256`` (the batch size), ``cifar10_l2``, ``cifar10_10k_l2``,
``cifar100``, ``cifar100_25k``, ``svhn``, ``wrn34_1``, ``wrn34_10``, ``adam``, ``mart``,
``trades``, ``mnist_fc16``, ``mnist_fc128``, and ``digits`` and ``digits_l2``, which are
not of the paper and need no download. Sizes: ``paper``, its protocol, which is that of
Rice et al. 2020, by default with one seed; ``gpu``, a shorter one in bfloat16 for one
accelerator; ``cpu``, of MNIST only; ``demo``, fewer epochs and seeds of the digits;
``smoke``, seconds long, for tests.

Networks are trained at every radius of a grid. eps* is where the adversarial training
loss, which rises with the radius, crosses the clean test loss of clean training. Both
are read at one epoch a run, by two rules: the smallest adversarial test loss among the
epochs after the first drop of the rate, the rule of the networks that are released, and
among all epochs. The training loss is the mean over the epoch, each batch at the
network of its step, as in the paper. ``fine_tuning``, ``catastrophic``,
``overfitting``, ``connectivity`` and ``comparison`` start from a finished grid.

The MNIST rows at ``cpu`` give eps* = 0.132 ± 0.006 with 16 units and 0.205 ± 0.017 with
128, sd over 4 seeds.

Side runs: ``--config.beta=6.`` of ``trades``, the β of the original's CIFAR-10 script;
``--config.num_train=0`` of ``svhn``, all 73 257 images, where the paper says 50 000;
``--config.num_seeds=3`` for spread, and for ``connectivity``, which joins two seeds.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from experiments import arrays, checks, figures, findings, printed
from experiments.fields import numbers, one_of, with_defaults
from experiments.study import Config, Setup, Study
from experiments.training import recipe, trainer
from experiments.training.parts import Training, first_selectable
from experiments.transition import readings
from experiments.transition.readings import ATTACKED, CLEAN, RULES
from experiments.writing import Drawn, Report, Table

# --- the rows of the paper's tables ---

# n, the norm, 255 times the radii, and what differs from PreActResNet18 by the protocol
# of Rice et al. The radii of Table B.2 are joined by 12, which Figure 5 shows, for n =
# 50 000, and by 4, which lies beside eps*, for 10 000.
_ADAM = {"optimiser": "adam", "learning_rate": 1e-3}
_SVHN = {"dataset": "svhn_cropped", "learning_rate": 0.01, "augment": False}
_WIDE = {"model": "wideresnet34"}
# Not of the paper: the smallest real images, for a first look. The protocol of Rice et
# al. at this size; their rate of 0.1 leaves runs of 11 batches an epoch far from
# converged.
_DIGITS = {
    "dataset": "digits",
    "model": "mlp",
    "hidden": (128,),
    "augment": False,
    "num_seeds": 10,
    "learning_rate": 0.2,
    "keep_remainder": False,
    "num_steps": 7,
    "rel_step_size": 0.25,
    "test_num_steps": 7,
    "test_rel_step_size": 0.25,
    "test_batch_size": 360,
    "start": "",
    "dispatch": "scan",  # a network of matrix products
}
_DIGITS_LINF = (0, 5.1, 10.2, 15.3, 20.4, 25.5, 33.15, 40.8)
_DIGITS_L2 = (0, 25.5, 51, 76.5, 102, 127.5, 165.75, 204)
_MNIST_RADII = (0, 12.75, 25.5, 38.25, 51, 63.75, 76.5)
ROWS = {
    "digits": (0, "linf", _DIGITS_LINF, _DIGITS),
    "digits_l2": (0, "l2", _DIGITS_L2, _DIGITS),
    "cifar10": (50_000, "linf", (0, 0.5, 1, 2, 4, 8, 12), {}),
    "cifar10_10k": (10_000, "linf", (0, 1, 2, 4, 8), {}),
    "cifar10_256": (50_000, "linf", (0, 1, 2, 4), {"batch_size": 256}),
    "cifar10_l2": (50_000, "l2", (0, 32, 64, 96, 128), {}),
    "cifar10_10k_l2": (10_000, "l2", (0, 32, 64, 96, 128, 256, 512), {}),
    "cifar100": (50_000, "linf", (0, 1, 2, 4, 8), {"dataset": "cifar100"}),
    "cifar100_25k": (25_000, "linf", (0, 1, 2, 4, 8), {"dataset": "cifar100"}),
    "svhn": (50_000, "linf", (0, 2, 4, 8), _SVHN),
    "wrn34_1": (50_000, "linf", (0, 1, 2), {**_WIDE, "width": 1}),
    "wrn34_10": (50_000, "linf", (0, 1, 2), {**_WIDE, "width": 10}),
    "adam": (50_000, "linf", (0, 1, 2, 4), _ADAM),
    "mart": (50_000, "linf", (0, 1, 2), {"objective": "mart", "beta": 5.0}),
    # The losses of its row fit β = 1, the default of the original's function, and not
    # the 6 of its CIFAR-10 script.
    "trades": (50_000, "linf", (0, 1, 2), {"objective": "trades", "beta": 1.0}),
    "mnist_fc16": (50_000, "linf", _MNIST_RADII, {"width": 16}),
    "mnist_fc128": (50_000, "linf", _MNIST_RADII, {"width": 128}),
}


_ARCHITECTURES = {
    "wrn34_1": "wideresnet34_1",
    "wrn34_10": "wideresnet34_10",
    "mart": "preactresnet18_mart",
    "trades": "preactresnet18_trades",
    "mnist_fc16": "cnn_fc16",
    "mnist_fc128": "cnn_fc128",
}
"""As Table 3 calls them, where they are not PreActResNet18."""


def published_eps_star(row: str) -> str:
    """255 eps* of a row of ``ROWS``, as Table 3 prints it; empty if it does not."""
    if row in ("", "digits", "digits_l2", "cifar10_256", "adam"):
        return ""
    num_train, norm, _, options = ROWS[row]
    is_mnist = row.startswith("mnist")
    dataset = "mnist" if is_mnist else options.get("dataset", "cifar10")
    found = printed.row(
        "phase_transition_table_3_eps_star",
        dataset=dataset,
        architecture=_ARCHITECTURES.get(row, "preactresnet18"),
        n=str(num_train),
        norm=norm,
    )
    return found.get("eps_star_255", "")


def _row(name: str):
    def change(config: ConfigDict) -> None:
        config.row = name
        config.num_train, config.norm, radii, options = ROWS[name]
        config.eps = tuple(radius / 255 for radius in radii)
        if config.norm == "l2":
            config.rel_step_size = config.test_rel_step_size = 15 / 128
            config.start = "radius_uniform"
        if name.startswith("mnist"):
            # The paper says no more than two convolutions and two layers; this is our
            # choice. Without the warm-up of eps, training stays at chance from 0.2 on.
            config.dataset, config.model = "mnist", "cnn_fc"
            config.num_epochs, config.learning_rate = 100, 0.01
            config.eps_warmup_epochs = 10.0
        config.update(options)

    return change


def _gpu(config: ConfigDict) -> None:
    """Fewer epochs; the slow starts of small rates are helped by larger ones."""
    config.dtype = "bfloat16"
    config.test_batch_size = 1000
    if (config.model, config.width) == ("wideresnet34", 10):
        config.num_train = 10_000
    config.num_epochs = {50_000: 10, 25_000: 15}.get(config.num_train, 30)
    if config.dataset in ("mnist", "svhn_cropped"):
        config.num_epochs = 20
        config.learning_rate = 0.05
        config.eps_warmup_epochs = 4.0


def _cpu(config: ConfigDict) -> None:
    """Strided convolutions, which take a sixth of the time of pooled ones on CPU."""
    if config.dataset != "mnist":
        raise checks.ConfigError("variant 'cpu' of config: it is of MNIST only")
    config.model = "cnn_wong"
    config.num_seeds = 4
    config.num_train = 8000
    config.num_test = 2000
    config.eps = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
    config.num_epochs = 30
    config.learning_rate = 0.05
    config.eps_warmup_epochs = 5.0


def _demo(config: ConfigDict) -> None:
    if config.dataset != "digits":
        raise checks.ConfigError("variant 'demo' of config: it is of the digits only")
    config.num_seeds = 5
    config.num_epochs = 80


def _smoke(config: ConfigDict) -> None:
    config.eps = config.eps[:3]
    config.num_seeds = 2
    config.num_epochs = 4
    config.num_train = 32
    config.num_test = 16
    config.batch_size = 16
    config.test_batch_size = 16
    config.eps_warmup_epochs = min(config.eps_warmup_epochs, 1.0)
    config.num_steps = config.test_num_steps = 2
    if config.dataset == "mnist":
        config.model = "cnn_wong"  # compiles faster


# --- the study ---


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    recipe.check(config)
    knots = config.schedule_knots
    if config.schedule == "piecewise" and config.select_from != knots[0]:
        raise checks.ConfigError(
            f"config.select_from = {config.select_from!r}: give the first drop of the "
            f"rate, config.schedule_knots[0] = {knots[0]!r}"
        )


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    del inputs
    return readings.trainings(config)


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves of all radii, and what is read off them by each rule."""
    del found
    parts = [setup.trained[part] for part in (CLEAN, ATTACKED)]
    trained = xr.concat(parts, "eps", join="exact").drop_vars("best_epoch")
    first = first_selectable(setup.config.select_from, setup.config.num_epochs)
    by_rule = {rule: readings.read_off(trained, rule, first) for rule in RULES}
    read = arrays.stacked(by_rule, "rule")
    options = {"join": "exact", "combine_attrs": "override"}
    values = xr.merge([trained.astype(np.float32), read], **options)
    return values.assign_attrs(row=setup.config.row)


def _report(config: Config, values: xr.Dataset) -> Report:
    setting = readings.setting(config, values.attrs["num_train"])
    sizes = f"tested on {values.attrs['num_test']} examples"
    return Report(
        f"ε* of {setting}",
        "At which radius does the adversarial training loss reach the clean test loss "
        "of clean training?",
        [_finding(config, values)],
        [
            Drawn("transition", _transition_figure(config, values), "loss over radius"),
            Drawn("curves", _curves_figure(values), "curves of training"),
        ],
        [
            _readings_table(config, values),
            *(
                _table(f"Smallest adversarial test loss {rule}", values.sel(rule=rule))
                for rule in RULES
            ),
        ],
        f"{config.num_epochs} epochs, {sizes}, mean ± sd over {config.num_seeds} "
        "seeds; epochs count from 0, those after the first drop from "
        f"{first_selectable(config.select_from, config.num_epochs)}. The threshold is "
        "the clean test loss of clean training. ε* is where the chord between two "
        "radii crosses it, the paper's rule; a monotone cubic through the losses shows "
        "what that choice is worth.",
    )


def _finding(config: Config, values: xr.Dataset) -> findings.Finding:
    eps_star = values["eps_star"].isel(rule=0)
    published = published_eps_star(values.attrs["row"])
    size = f"n = {values.attrs['num_train']}, {config.num_epochs} epochs, "
    return findings.finding(
        f"ε* of {recipe.named(config)} on {config.dataset}, {config.norm}",
        255 * eps_star,
        form=".1f",
        unit="/255",
        printed=f"{published}/255, of its network and size" if published else "",
        size=size + f"{config.num_seeds} seeds",
        # ε* depends on size and epochs, which are not the paper's.
        verdict=findings.unlike(published),
    )


def _transition_figure(config: Config, values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    read = values.isel(rule=0)
    figures.crossing(
        axis,
        read["selected_loss"],
        "eps",
        read["threshold"],
        read["eps_star"],
        "adversarial training, from scratch",
    )
    axis.set_xlabel(f"radius ε of the {config.norm} ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title(
        f"{config.dataset}, {config.model}, {config.num_seeds} seeds", fontsize=10
    )
    axis.legend(loc="upper left")
    return figure


def _curves_figure(values: xr.Dataset) -> Any:
    """A colour for every radius, a line for every seed."""
    figure, axes = figures.panels(2)
    titles = {"loss": "training loss", "test_robust_loss": "adversarial test loss"}
    radii = values["eps"].values
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for eps, color in zip(radii, figures.shades(radii.size), strict=True):
            curves = values[name].sel(eps=eps).transpose("epoch", "seed")
            lines = axis.plot(values["epoch"], curves, color=color, linewidth=1.2)
            lines[0].set_label(f"ε = {eps:.3g}")
        axis.set(xlabel="epoch", title=title, yscale="log")
    figures.legend_below(figure, axes[0])
    return figure


_COLUMNS = {
    "loss": "adv. training loss",
    "accuracy": "adv. training accuracy",
    "test_robust_loss": "adv. test loss",
    "test_robust_accuracy": "adv. test accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}


def _table(title: str, values: xr.Dataset) -> Table:
    epoch = values["selected_epoch"]
    columns = {
        label: trainer.at(values, name, epoch).astype(float)
        for name, label in _COLUMNS.items()
    }
    every = zip(readings.rows(columns), epoch.transpose("eps", "seed"), strict=True)
    rows = [
        [eps, ", ".join(f"{each:.0f}" for each in epochs), *cells]
        for (eps, *cells), epochs in every
    ]
    return Table(title, ["ε", "epochs", *columns], rows)


def _readings_table(config: Config, values: xr.Dataset) -> Table:
    header = ["smallest adversarial test loss", "threshold", "ε*", "255 ε*"]
    header += ["ε* by a cubic", "status"]
    is_surrogate = config.objective != "adversarial"
    header += ["ε* by cross-entropy"] * is_surrogate
    rows = []
    for rule in RULES:
        read = values.sel(rule=rule)
        row = [
            rule,
            figures.plus_minus(read["threshold"], 4),
            figures.plus_minus(read["eps_star"], 4),
            figures.plus_minus(255 * read["eps_star"], 1),
            figures.plus_minus(read["eps_star_cubic"], 4),
            ", ".join(sorted({*read["status"].values})),
        ]
        row += [figures.plus_minus(read["eps_star_robust"], 4)] * is_surrogate
        rows.append(row)
    return Table("ε* by both rules", header, rows)


STUDY = Study(
    "transition.classifier_grid",
    {
        **with_defaults(
            recipe.FIELDS,
            dataset="cifar10",
            model="preactresnet18",
            select_from=0.5,
        ),
        "eps": numbers(
            (0.0, 8 / 255),
            "radii, of pixels in [0, 1], increasing from 0",
            length=2,
            increasing=True,
            first=0.0,
        ),
        "objective": one_of(
            "adversarial",
            "adversarial, trades or mart",
            sorted({*recipe.OBJECTIVES} - {"standard"}),
        ),
        "row": one_of("", "row of the paper's tables that it is for", ("", *ROWS)),
    },
    _report,
    variants=(
        {name: _row(name) for name in ROWS},
        {"paper": {}, "gpu": _gpu, "cpu": _cpu, "demo": _demo, "smoke": _smoke},
    ),
    needs=recipe.NEEDS,
    check=_check,
    trains=_trains,
    values=_values,
)
get_config = STUDY.config
