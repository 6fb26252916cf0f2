"""Networks under FGSM, PGD with restarts, the worst of both, and a curve of radii."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from advjax import data, evaluate, programs
from advjax.evaluate import Outcome
from advjax.types import Attack
from experiments import arrays, figures, findings, progress
from experiments.study import Config, Setup
from experiments.training import recipe, testing
from experiments.training.subject import Subject, cautions, claim, name, percent
from experiments.writing import Drawn, Report, Table


class Run(NamedTuple):
    """An attack of every network: the attack, its radius and its number of starts."""

    attack: Attack
    eps: float
    num_starts: int


def cases(setup: Setup) -> dict[str, tuple[Subject, Run]]:
    """The attacks, by name."""
    config, subject = setup.config, setup.inputs["checkpoint"]
    steps, size = config.num_steps, config.rel_step_size
    pgd = recipe.pgd(subject.norm, steps, size, "in_ball")
    fgsm = recipe.pgd(subject.norm, 1, 1.0, "none")
    runs = {
        "fgsm": Run(fgsm, subject.eps, 1),
        "pgd": Run(pgd, subject.eps, config.num_restarts),
        **{f"curve-{i}": Run(pgd, eps, 1) for i, eps in enumerate(config.curve)},
    }
    return {name: (subject, run) for name, run in runs.items()}


def measured(setup: Setup, subject: Subject, run: Run) -> xr.Dataset:
    """The worst outcomes over the starts of an attack, over networks and images."""
    test = testing.tester(
        subject.model, run.attack, subject.test, subject.mesh, setup.config.batch_size
    )
    # One start after the other: at once they would need as many times the memory, and
    # on CPU a batch that leaves the cache takes twice the time per image.
    runs = list(itertools.product(subject.networks, range(run.num_starts)))
    found = []
    for i in progress.steps(len(runs), f"ε = {run.eps:.4g}"):
        network, start = runs[i]
        key = jax.random.fold_in(jax.random.key(setup.config.seed), start)
        found.append(test(network, key, run.eps))
    by_network = [
        found[i : i + run.num_starts] for i in range(0, len(found), run.num_starts)
    ]
    worst = [evaluate.worst_case(*outcomes) for outcomes in by_network]
    outcome = jax.tree.map(lambda *leaves: np.stack(leaves), *worst)
    axes = ("network", "image")
    return arrays.dataset({k: (axes, v) for k, v in outcome._asdict().items()})


SHOWN = ("clean", "fgsm", "pgd", "worst_case")


def values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The numbers of every network, under RobustBench's names where those exist."""
    config, subject = setup.config, setup.inputs["checkpoint"]
    rows = []
    for i in range(len(subject.networks)):
        lines = programs.caveats(subject.predict(i), data.as_float(subject.test.x[:1]))
        outcomes = {name: _outcome(each, i) for name, each in found.items()}
        rows.append(_numbers(outcomes, lines))
    numbers = {
        name: (("network", "end")[: np.ndim(value) + 1], [row[name] for row in rows])
        for name, value in rows[0].items()
        if name != "curve"
    }
    return arrays.dataset(
        {
            **numbers,
            "curve": (("network", "curve_eps", "end"), [r["curve"] for r in rows]),
            **subject.described(),
        },
        {"end": ["value", "low", "high"], "curve_eps": np.array(config.curve, float)},
        **subject.facts(),
    )


def _outcome(found: xr.Dataset, i: int) -> Outcome:
    return Outcome(**{field: found[field].values[i] for field in Outcome._fields})


def _numbers(outcomes: Mapping[str, Outcome], lines: tuple[str, ...]) -> dict[str, Any]:
    """One network's numbers; proportions are ``(value, low, high)``."""
    summaries = {name: evaluate.summary(found) for name, found in outcomes.items()}
    total = evaluate.summary(evaluate.worst_case(outcomes["fgsm"], outcomes["pgd"]))
    robust = {name: each.robust_accuracy for name, each in summaries.items()}
    curve = [tuple(robust[name]) for name in summaries if name.startswith("curve")]
    return {
        "clean_acc": 100 * total.accuracy.value,
        "reported": 100 * total.robust_accuracy.value,
        "autoattack_acc": np.nan,
        "unreliable": bool(total.caveats + lines),
        "caveats": "\n".join(total.caveats + lines),
        "clean": tuple(total.accuracy),
        "fgsm": tuple(robust["fgsm"]),
        "pgd": tuple(robust["pgd"]),
        "worst_case": tuple(total.robust_accuracy),
        "robust_loss": total.robust_loss,
        "num_zero_grad": total.num_zero_gradients,
        "num_undefined": total.num_undefined,
        "curve": np.reshape(curve, (-1, 3)),
    }


# --- the report ---


def report(config: Config, values: xr.Dataset) -> Report:
    """Accuracies of each network, and the curve."""
    facts = values.attrs
    attacked = f"ε = {facts['eps']:.4g} ({facts['norm']})"
    networks = [values.isel(network=i) for i in range(values.sizes["network"])]
    drawn = []
    if values.sizes["curve_eps"]:
        figure = _figure(config, networks)
        drawn.append(Drawn("curve", figure, "robust accuracy over the radius"))
    pgd = f"PGD-{config.num_steps} × {config.num_restarts}"
    header = ["trained ε", "seed", "clean", "FGSM", pgd, "worst case", "zero gradients"]
    rows = [
        [
            *name(network),
            *(f"{percent(network[each]):.2f}" for each in SHOWN),
            str(int(network["num_zero_grad"])),
        ]
        for network in networks
    ]
    return Report(
        f"{facts['architecture']} on {facts['dataset']}, attacked at {attacked}",
        f"How many test images are classified rightly at {attacked}, whatever the "
        "attack?",
        [_finding(config, facts, network) for network in networks],
        drawn,
        [Table("Accuracies in %", header, rows)],
        f"{facts['num_examples']} test images; Wilson's 95 % intervals; steps of "
        f"{config.rel_step_size:.4g} ε; parameters of commit {facts['trained_by']}.",
        cautions(networks),
    )


def _finding(
    config: Config, facts: Mapping[str, Any], network: xr.Dataset
) -> findings.Finding:
    return findings.finding(
        claim(facts, network),
        percent(network["worst_case"]),
        size=f"{facts['num_examples']} images, PGD-{config.num_steps} × "
        f"{config.num_restarts}, FGSM",
        form=".2f",
        unit=" %",
    )


def _figure(config: Config, networks: list[xr.Dataset]) -> Any:
    figure, (axis,) = figures.panels()
    for color, network in zip(figures.colors(len(networks)), networks, strict=True):
        x, curve = network["curve_eps"], network["curve"]
        label = "trained at ε = {}, seed {}".format(*name(network))
        axis.plot(x, curve.sel(end="value"), color=color, label=label, marker="o")
        ends = curve.sel(end="low"), curve.sel(end="high")
        axis.fill_between(x, *ends, color=color, alpha=0.2, linewidth=0)
    axis.set(xlabel="radius ε", ylabel=f"accuracy under PGD-{config.num_steps}")
    axis.set_ylim(0, 1.02)
    axis.legend()
    return figure
