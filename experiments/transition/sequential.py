"""eps* by a sequential choice of radii and seeds, against the grid.

Size: that of the grid; an MLP on the digits, and Wong et al.'s network of width 16 on
1500 images of MNIST. Time: 3 minutes each on two cores.

    advjax run transition/sequential --config.grid=runs/GRID
    advjax run transition/sequential:mnist --config.grid=runs/GRID

where GRID is a finished ``classifier_grid``, which decides on data, network, norm and
training. ``advjax.critical`` chooses the radii, and as many seeds as it takes for an
interval as narrow as Student's one over the grid's seeds. Networks are new ones, with
seeds of their own; batches that are not full are not trained on. Cost is in gradients
of single examples, tests included.

Variants: ``digits``, ``mnist``; ``smoke``, seconds long, for tests.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from advjax import critical, data, fit
from advjax.types import Batch, Key
from experiments import arrays, checks, figures, findings, finished, intervals
from experiments.fields import count, number, seed
from experiments.study import Config, Setup, Study
from experiments.training.parts import Training
from experiments.transition.readings import ATTACKED, CLEAN, GRID
from experiments.writing import Drawn, Report, Table

DESIGNS = ("grid", "sequential")
RULES = ("best", "last")


def _trained(training: Training, warm_up_epochs: int) -> critical.Trained:
    """Networks of the grid's training, at any radii and seeds."""
    num_steps = training.num_epochs * (training.num_train // training.batch_size)
    rate = training.schedule(num_steps)
    test = Batch(data.as_float(training.test.x), training.test.y)
    validation = fit.Validation(
        test,
        training.test_attack,
        batch_size=training.test_batch_size,
        first_epoch=1 + training.first_selectable,
    )
    return critical.by_fit(
        training.model,
        training.objective(rate(0)),
        training.optimiser(rate),
        Batch(data.as_float(training.train.x), training.train.y),
        validation,
        num_epochs=training.num_epochs,
        batch_size=training.batch_size,
        prepare=training.prepare,
        num_warm_up_epochs=warm_up_epochs,
    )


_NUM_ROUNDS = 12


def _rounds(setup: Setup) -> dict[str, tuple[int]]:
    """Calls that train, a stage each, so that a search goes on where it was."""
    del setup
    return {f"round-{k}": (k,) for k in range(_NUM_ROUNDS)}


def _measured(setup: Setup, k: int) -> xr.Dataset:
    """The losses of one round; of no network where the search is over."""
    rounds = [setup.found[f"round-{j}"] for j in range(k)]
    new: list[dict[str, critical.Losses]] = []
    training = setup.inputs["grid"].trainings()[ATTACKED]
    warm_up_epochs = int(setup.inputs["grid"].config.eps_warmup_epochs)

    def trained(keys: Key, eps: np.ndarray) -> dict[str, critical.Losses]:
        within = f"{eps.min():.3g} to {eps.max():.3g}"
        print(f"round {k + 1}: {len(eps)} networks at radii {within}", flush=True)
        new.append(_trained(training, warm_up_epochs)(keys, eps))
        return new[-1]

    if all(part.sizes["network"] for part in rounds):
        _search(setup, rounds, trained, num_rounds=k + 1)
    losses = new[0] if new else {rule: critical.Losses([], []) for rule in RULES}
    return xr.concat([_as_dataset(losses[rule]) for rule in RULES], "rule")


def _as_dataset(losses: critical.Losses) -> xr.Dataset:
    return arrays.dataset(
        {
            "train": ("network", np.asarray(losses.train, float)),
            "test": ("network", np.asarray(losses.test, float)),
            "caveats": ((), "; ".join(losses.caveats)),
        }
    )


def _search(
    setup: Setup,
    rounds: list[xr.Dataset],
    trained: critical.Trained,
    num_rounds: int = _NUM_ROUNDS,
) -> critical.Radius:
    """A search whose first rounds were trained already."""
    before = iter(rounds)

    def replayed(keys: Key, eps: np.ndarray) -> Mapping[str, critical.Losses]:
        part = next(before, None)
        if part is None:
            return trained(keys, eps)
        return {rule: _as_losses(part.isel(rule=i)) for i, rule in enumerate(RULES)}

    config = setup.config
    return critical.radius(
        replayed,
        jax.random.split(jax.random.key(config.seed), config.num_keys),
        highest=config.highest,
        width=_width(setup),
        num_first=config.num_first,
        num_rounds=num_rounds,
    )


def _as_losses(part: xr.Dataset) -> critical.Losses:
    lines = tuple(line for line in str(part["caveats"].values).split("; ") if line)
    return critical.Losses(part["train"].values, part["test"].values, lines)


def _theirs(setup: Setup) -> intervals.Interval:
    return intervals.student(setup.inputs["grid"].reading["eps_star"].values)


def _width(setup: Setup) -> float:
    return setup.config.width or _theirs(setup).high - _theirs(setup).low


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """eps* by both designs, the curves, and what they cost."""
    grid = setup.inputs["grid"]
    rounds = [part for part in found.values() if part.sizes["network"]]
    ours = _search(setup, rounds, trained=_over)
    clean, attacked = (
        grid.trainings()[part].num_gradients for part in (CLEAN, ATTACKED)
    )
    r, s = len(grid.config.eps), grid.config.num_seeds
    gradients = [s * (clean + (r - 1) * attacked), ours.num_trained * attacked]
    curves = {rule: _curves(ours.readings[rule]) for rule in RULES}
    return (
        arrays.stacked(curves, "rule")
        .assign(
            interval=(("design", "end"), [_theirs(setup), ours.eps_star]),
            by_rule=(("rule", "end"), [ours.by_rule[rule] for rule in RULES]),
            gradients=("design", gradients),
            num_networks=("design", [r * s, ours.num_trained]),
            num_seeds=("design", [s, ours.num_seeds]),
            wanted=_width(setup),
            caveats="; ".join(ours.caveats),
        )
        .assign_coords(design=[*DESIGNS], end=["mean", "low", "high"])
        .assign_attrs(setting=grid.setting, grid=grid.origin)
    )


def _over(keys: Key, eps: np.ndarray) -> Mapping[str, critical.Losses]:
    msg = f"{len(keys)} networks at {eps} were not trained"
    raise AssertionError(msg)


def _curves(readings: list[critical.Reading]) -> xr.Dataset:
    """Radii and losses of each seed, nan where it has fewer, and what is read off."""
    most = max(len(each.eps) for each in readings)

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, most - len(values)), constant_values=np.nan)

    return arrays.dataset(
        {
            "eps": (("seed", "point"), [padded(each.eps) for each in readings]),
            "loss": (("seed", "point"), [padded(each.losses) for each in readings]),
            "threshold": ("seed", [each.threshold for each in readings]),
            "eps_star": ("seed", [each.eps_star for each in readings]),
            "enclosed": (("seed", "side"), [each.enclosed for each in readings]),
            "status": ("seed", [each.status.name for each in readings]),
        },
        {"seed": np.arange(len(readings)), "point": np.arange(most)},
    )


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    share = float(values["gradients"][1] / values["gradients"][0])
    num_seeds, num_networks = (
        int(values[name].sel(design="sequential"))
        for name in ("num_seeds", "num_networks")
    )
    size = f"{num_seeds} seeds, {num_networks} networks"
    ends = {name: _interval(values.sel(design=name)) for name in DESIGNS}
    return Report(
        f"ε* of {values.attrs['setting']}, by a sequential design",
        "What does an interval for ε* cost where radii and seeds are chosen in turn?",
        [
            findings.finding(
                "ε* by the sequential design",
                _scaled(ends["sequential"]),
                size=size,
                form=".1f",
                unit="/255",
            ),
            findings.finding(
                "ε* by the sequential design less that by the grid",
                _scaled(intervals.apart(ends["sequential"], ends["grid"])),
                size=size,
                form="+.1f",
                unit="/255",
            ),
            findings.finding(
                "gradients of the sequential design, over those of the grid",
                share,
                size=size,
                form=".2f",
            ),
        ],
        [Drawn("sequential", _figure(config, values), "the curve of every seed")],
        [_costs(values, ends), _readings(values)],
        "95 % intervals of the mean over seeds: Student's of the grid; Stein's, wider "
        "by what the radii leave open, of the sequential design. The networks of the "
        f"two are different ones. Grid: {values.attrs['grid']}.",
        [line for line in str(values["caveats"].values).split("; ") if line],
    )


def _interval(values: xr.Dataset) -> intervals.Interval:
    return intervals.Interval(*map(float, values["interval"]))


def _scaled(interval: intervals.Interval) -> intervals.Interval:
    return intervals.Interval(*(255 * end for end in interval))


def _costs(values: xr.Dataset, ends: Mapping[str, intervals.Interval]) -> Table:
    rows = []
    for name in DESIGNS:
        there = values.sel(design=name)
        scaled = _scaled(ends[name])
        rows.append(
            [
                name,
                f"{scaled:.2f}",
                f"{scaled.high - scaled.low:.2f}",
                str(int(there["num_seeds"])),
                str(int(there["num_networks"])),
                f"{float(there['gradients']):.3g}",
            ]
        )
    header = ["design", "255 ε*", "width", "seeds", "networks", "gradients"]
    return Table("Intervals and what they cost", header, rows)


def _readings(values: xr.Dataset) -> Table:
    rows = []
    for rule in RULES:
        read = values.sel(rule=rule)
        scaled = _scaled(intervals.Interval(*map(float, read["by_rule"])))
        statuses = sorted({str(each) for each in read["status"].values})
        rows.append([rule, f"{scaled:.2f}", ", ".join(statuses)])
    return Table("By the epoch that is read", ["rule", "255 ε*", "status"], rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    del config
    figure, (axis,) = figures.panels(1)
    read = values.sel(rule="best")
    for i in range(read.sizes["seed"]):
        one = read.isel(seed=i)
        label = "one seed" if i == 0 else None
        axis.plot(one["eps"], one["loss"], "o-", color="C0", alpha=0.5, label=label)
        label = "its ε*" if i == 0 else None
        axis.plot(one["eps_star"], one["threshold"], "k|", markersize=12, label=label)
    found = _interval(values.sel(design="sequential"))
    if np.isfinite(found.low):
        axis.axvspan(found.low, found.high, color="C1", alpha=0.4, label="ε*, 95 %")
    axis.set(xlabel="radius ε", ylabel="adversarial training loss (nats)")
    axis.set_title(values.attrs["setting"], fontsize=9)
    figures.legend_below(figure, axis)
    return figure


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    """Raises ConfigError for a grid whose training ``fit`` does not have."""
    if config.num_first > config.num_keys:
        msg = f"config.num_first = {config.num_first}: choose at most num_keys, "
        raise checks.ConfigError(f"{msg}{config.num_keys}")
    grid = inputs["grid"]
    for name, wrong in (
        ("objective", grid.config.objective == "free"),
        ("init_from", grid.config.init_from),
        ("xi_follows_rate", grid.config.xi and grid.config.xi_follows_rate),
        ("eps_warmup_epochs", grid.config.eps_warmup_epochs % 1),
    ):
        if wrong:
            msg = f"config.grid: it was trained with {name} = {grid.config[name]!r}, "
            raise checks.ConfigError(f"{msg}which is not tried in turn")
    if not config.width and not np.isfinite(grid.reading["eps_star"].values).all():
        msg = (
            "config.width = 0: not all seeds of the grid cross, which leave no width; "
        )
        raise checks.ConfigError(f"{msg}give one")
    if not config.width and grid.config.num_seeds < 2:
        msg = "config.width = 0: the grid has one seed, which leaves no width; give one"
        raise checks.ConfigError(msg)


STUDY = Study(
    "transition.sequential",
    {
        **finished.FIELDS,
        "seed": seed(1),
        "num_keys": count(40, "seeds at most", least=5),
        "num_first": count(5, "seeds whose spread says how many it takes", least=5),
        "highest": number(0.16, "largest radius to try", above=0),
        "width": number(0, "wanted width of the interval; the grid's if 0"),
    },
    _report,
    variants=(
        {"digits": {}, "mnist": {"highest": 0.25, "num_keys": 12}},
        {"full": {}, "smoke": {"num_keys": 5, "width": 0.05}},
    ),
    needs={"grid": GRID},
    check=_check,
    cases=_rounds,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
