"""eps* of a network from scratch: Tables 1, 3 and B.2 to B.5, and Figure A.1.

Networks are trained at every radius of a grid. eps* is where the adversarial training
loss, which rises with the radius, crosses the clean test loss of clean training. Both
are read at one epoch a run, by two rules: the smallest adversarial test loss among the
epochs after the first drop of the rate, the rule of the networks that are released, and
among all epochs. The training loss is the mean over the epoch, each batch at the
network of its step, as in the paper.

``fine_tuning``, ``catastrophic``, ``overfitting``, ``connectivity`` and ``comparison``
start from the work directory of a finished grid.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import transition
from experiments import checks, figures
from experiments.training import recipe
from experiments.training.classifier import Trained, train_networks
from experiments.workdir import Workdir

RULES = ("after the first drop", "among all epochs")
CLEAN = "clean-best.npz"
ATTACKED = "attacked-best.npz"


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "eps", first=0.0)
    checks.tuples(config, "eps", least=2)
    checks.one_of(config, "objective", set(recipe.OBJECTIVES) - {"standard"})
    checks.single(config, "printed_eps_star")
    checks.numbers(config, "printed_eps_star")
    recipe.validate(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains clean and attacked networks, finds eps*, and reports."""
    clean = train_networks(clean_part(config), workdir, "clean")
    attacked = train_networks(attacked_part(config), workdir, "attacked")
    curves = {
        name: np.concatenate(
            [part.by_radius(part.curves[name]) for part in (clean, attacked)], axis=1
        )
        for name in clean.curves
    }
    readings = [read_off(config, curves, rule) for rule in RULES]
    main = readings[0]
    _transition_figure(config, main, workdir)
    _curves_figure(config, curves, workdir)
    _report(config, clean, curves, readings, workdir)
    found = figures.plus_minus(main.eps_star, 4)
    seeds = f"sd over {config.num_seeds} seeds" if config.num_seeds > 1 else "1 seed"
    return {
        "summary": [f"{setting(config, clean.num_train)}: eps* = {found} ({seeds})"],
        "num_train": clean.num_train,
        "num_test": clean.num_test,
        "eps": config.eps,
        "readings": [reading._asdict() for reading in readings],
        "images_per_second": attacked.curves["images_per_second"].max(),
        "curves": curves,
    }


def clean_part(config: ConfigDict) -> ConfigDict:
    """The grid's first radius: training without attack, unless the objective has one.

    MART at radius 0 is not cross-entropy, and its row of Table B.5 is of its objective.
    """
    part = _with_radii(config, config.eps[:1])
    part.test_num_steps = 1  # within a ball of radius 0
    if config.objective == "adversarial":
        part.objective = "standard"
    return part


def attacked_part(config: ConfigDict) -> ConfigDict:
    """The other radii."""
    return _with_radii(config, config.eps[1:])


def _with_radii(config: ConfigDict, radii: tuple[float, ...]) -> ConfigDict:
    part = ConfigDict(config.to_dict())
    part.eps = tuple(radii)
    return part


class Reading(NamedTuple):
    """eps* by one rule.

    Attributes:
        rule: of ``RULES``.
        epoch: ``[k, r]`` selected epochs of ``k`` radii and ``r`` seeds.
        threshold: ``[r]``, the clean test loss of clean training.
        loss: ``[k, r]`` training losses, of the objective.
        eps_star: ``[r]``, nan where there is no crossing.
        status: ``[r]``, names of ``transition.Status``.
        eps_star_robust: ``[r]``, with the cross-entropy at the attacked training
            inputs for the loss; the same unless the objective is TRADES or MART.
    """

    rule: str
    epoch: np.ndarray
    threshold: np.ndarray
    loss: np.ndarray
    eps_star: np.ndarray
    status: list[str]
    eps_star_robust: np.ndarray


def read_off(config: ConfigDict, curves: dict, rule: str) -> Reading:
    """Reads eps* off the curves ``[epoch, k, r]``."""
    first = recipe.first_selectable(config) if rule == RULES[0] else 0
    epoch = first + np.argmin(curves["test_robust_loss"][first:], axis=0)
    threshold = at(curves, "test_loss", epoch)[0]
    loss, robust_loss = (at(curves, name, epoch) for name in ("loss", "robust_loss"))
    eps_star, status = crossings(config.eps, loss, threshold)
    return Reading(
        *(rule, epoch, threshold, loss, eps_star, status),
        crossings(config.eps, robust_loss, threshold)[0],
    )


def at(curves: dict[str, np.ndarray], name: str, epoch: np.ndarray) -> np.ndarray:
    """A metric ``[epoch, ...]`` at the epoch ``[...]`` of each run."""
    return np.take_along_axis(curves[name], epoch[None], axis=0)[0]


def crossings(radii, losses, threshold, method=transition.crossing):
    """eps* of each seed, from ``losses[k, r]``, ``threshold[r]``, and its status."""
    found = [
        method(jnp.asarray(radii), jnp.asarray(column), level)
        for column, level in zip(np.transpose(losses), threshold, strict=True)
    ]
    statuses = [transition.Status(int(one.status)).name for one in found]
    return np.array([float(one.eps_star) for one in found]), statuses


def num_gradients(config: ConfigDict, num_train: int, num_test: int) -> int:
    """Per-example gradients that training one network takes, its tests included.

    An attack takes one a step, an update one for each forward pass in training mode.
    """
    attack = config.num_steps
    update = {
        "standard": 1,
        "adversarial": attack + 1,
        "trades": attack + 2,
        "mart": attack + 2,
    }[config.objective]
    attacked = max(config.eps) > 0
    test = attacked * (config.test_num_steps + 1)  # PGD and FGSM
    return config.num_epochs * (num_train * update + num_test * test)


class Grid(NamedTuple):
    """A finished grid.

    Attributes:
        path: its work directory.
        config: its configuration.
        results: what ``run`` returned, from JSON.
        commit: that wrote it.
    """

    path: Path
    config: ConfigDict
    results: dict[str, Any]
    commit: str

    @property
    def setting(self) -> str:
        """Data, network, size, objective and norm, in words."""
        return setting(self.config, self.results["num_train"])

    def reading(self, rule: str = RULES[0]) -> Reading:
        """What was read off by a rule."""
        stored = self.results["readings"][RULES.index(rule)]
        arrays = {
            name: value if name in ("rule", "status") else np.array(value, float)
            for name, value in stored.items()
        }
        return Reading(**arrays)

    def row(self, eps: float) -> int:
        """The index of a radius.

        Raises:
            ConfigError: if the grid does not have it.
        """
        radii = np.array(self.config.eps)
        if not np.isclose(radii, eps, rtol=1e-6, atol=0).any():
            raise checks.ConfigError(
                f"eps = {eps:.4g} is not in the grid of {self.path}: choose from "
                f"{', '.join(f'{radius:.4g}' for radius in radii)}"
            )
        return int(np.argmin(np.abs(radii - eps)))


GRID_FIELDS = {"grid": "", "grid_digest": "", "data_dir": ""}
"""Fields of a study of one grid: its work directory, and what was found there."""


def read_grid(config: ConfigDict) -> Grid:
    """The grid that a study starts from, by ``config.grid``.

    Its digest becomes part of the configuration, so that another grid under the same
    name does not meet the results of this one.

    Raises:
        ConfigError: unless the directory holds a finished one, of that digest.
    """
    grid = read_directory(config.grid)
    text = (grid.path / "results.json").read_bytes()
    digest = hashlib.sha256(text).hexdigest()[:12]
    if config.grid_digest not in ("", digest):
        raise checks.ConfigError(
            f"config.grid_digest = {config.grid_digest!r}: it is {digest!r}"
        )
    config.grid_digest = digest
    grid.config.data_dir = config.data_dir or grid.config.data_dir
    return grid


def read_directory(path: str) -> Grid:
    """A finished grid.

    Raises:
        ConfigError: if the directory holds something else.
    """
    try:
        if not path:
            raise FileNotFoundError("no directory is given")
        content = json.loads((Path(path) / "results.json").read_text())
        config = {**recipe.defaults().to_dict(), **content["config"]}
        if config["experiment"] != "transition.classifier_grid":
            raise KeyError(config["experiment"])
    except (OSError, ValueError, KeyError) as error:
        raise checks.ConfigError(
            f"config.grid = {path!r}: {error}; give the work directory of a finished "
            "grid, see experiments/transition/configs/classifier_grid.py"
        ) from None
    config = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
    }
    commit = content["environment"]["commit"]
    return Grid(Path(path), ConfigDict(config), content["results"], commit)


def setting(config: ConfigDict, num_train: int) -> str:
    """Data, network, size, objective and norm, in words."""
    width = f" (width {config.width})" if config.width else ""
    return (
        f"{config.dataset}, {config.model}{width}, n = {num_train}, "
        f"{config.objective}, {config.norm}"
    )


def _transition_figure(config: ConfigDict, reading: Reading, workdir: Workdir) -> None:
    figure, (axis,) = figures.panels()
    figures.crossing(
        axis,
        config.eps,
        reading.loss,
        reading.threshold,
        reading.eps_star,
        "adversarial training, from scratch",
    )
    axis.set_xlabel(f"radius ε of the {config.norm} ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title(
        f"{config.dataset}, {config.model}, {config.num_seeds} seeds", fontsize=10
    )
    axis.legend(loc="upper left")
    workdir.save_figure(figure, "transition")


def _curves_figure(config: ConfigDict, curves: dict, workdir: Workdir) -> None:
    """A colour for every radius, a line for every seed."""
    figure, axes = figures.panels(2)
    titles = {"loss": "training loss", "test_robust_loss": "adversarial test loss"}
    epochs = 1 + np.arange(config.num_epochs)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for k, color in enumerate(figures.shades(len(config.eps))):
            lines = axis.plot(epochs, curves[name][:, k], color=color, linewidth=1.2)
            lines[0].set_label(f"ε = {config.eps[k]:.3g}")
        axis.set(xlabel="epoch", title=title, yscale="log")
    axes[0].legend(fontsize=8)
    workdir.save_figure(figure, "curves")


_COLUMNS = {
    "loss": "adv. training loss",
    "accuracy": "adv. training accuracy",
    "test_robust_loss": "adv. test loss",
    "test_robust_accuracy": "adv. test accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}


def _table(config: ConfigDict, curves: dict, reading: Reading) -> str:
    columns = {name: at(curves, name, reading.epoch) for name in _COLUMNS}
    rows = [
        [
            f"{eps:.4g} ({255 * eps:.3g}/255)",
            ", ".join(f"{epoch:.0f}" for epoch in reading.epoch[k]),
            *(figures.plus_minus(values[k], 4) for values in columns.values()),
        ]
        for k, eps in enumerate(config.eps)
    ]
    return figures.table(["ε", "epochs", *_COLUMNS.values()], rows)


def _report(config, clean: Trained, curves, readings: list[Reading], workdir) -> None:
    is_surrogate = config.objective != "adversarial"
    rows = []
    for reading in readings:
        row = [
            reading.rule,
            figures.plus_minus(reading.threshold, 4),
            figures.plus_minus(reading.eps_star, 4),
            figures.plus_minus(255 * reading.eps_star, 1),
            ", ".join(sorted({*reading.status})),
        ]
        if is_surrogate:
            row.append(figures.plus_minus(reading.eps_star_robust, 4))
        rows.append(row)
    header = ["smallest adversarial test loss", "threshold", "ε*", "255 ε*", "status"]
    header += ["ε* by cross-entropy"] * is_surrogate
    printed = config.printed_eps_star
    beside = f" The paper prints {255 * printed:.3g}/255 at its size." * bool(printed)
    tables = [
        f"\n### Smallest adversarial test loss {reading.rule}\n\n"
        + _table(config, curves, reading)
        for reading in readings
    ]
    workdir.write_text(
        "report.md",
        f"## ε* of {setting(config, clean.num_train)}\n\n"
        "![loss against radius](transition.png)\n\n![curves of training](curves.png)"
        f"\n\n{config.num_epochs} epochs, tested on {clean.num_test} examples, mean ± "
        f"sd over {config.num_seeds} seeds; epochs count from 0, those after the first "
        f"drop from {recipe.first_selectable(config)}. The threshold is the clean test "
        f"loss of clean training.{beside}\n\n"
        + figures.table(header, rows)
        + "".join(tables),
    )
