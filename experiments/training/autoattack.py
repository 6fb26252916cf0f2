"""Networks under AutoAttack, or an ensemble of our own, component by component.

Each component of each network is a stage, so that an interrupted run goes on with the
next one. A last stage of each network has the worst point of every image and what the
network says there, so that anyone may verify the number by one forward pass:

    with np.load("stages/network-0-points.npz") as stored:
        x_adv = stored["values/x_adv"].reshape(-1, *image_shape)
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from advjax import criteria, data, evaluate, flags, programs
from advjax.attacks import ensembles
from advjax.attacks.components import Component
from advjax.attacks.survivors import Found, Row, Status
from advjax.flags import Flags
from experiments import arrays, batches, findings, progress
from experiments.study import Config, Setup
from experiments.training import recipe
from experiments.training.subject import Subject, cautions, claim, name, percent
from experiments.writing import Report, Table

PROTOCOLS = {
    "autoattack": ensembles.standard,
    "plus": ensembles.plus,
    "strong": ensembles.strong,
}
_NAMES = {
    "autoattack": "AutoAttack",
    "plus": "AutoAttack, longer",
    "strong": "ensemble strong",
}
_FIRST = "input"
_POINTS = "points"


def cases(setup: Setup) -> dict[str, tuple[int, str]]:
    """Of every network: the input, each component, and the points in the end."""
    subject = setup.inputs["checkpoint"]
    parts = [_FIRST, *_components(setup.config, subject), _POINTS]
    return {
        _case(i, part): (i, part)
        for i in range(len(subject.networks))
        for part in parts
    }


def _case(i: int, part: str) -> str:
    return f"network-{i}-{part.replace(' ', '-')}"


def _components(config: Config, subject: Subject) -> dict[str, Component]:
    """By name."""
    x = jax.ShapeDtypeStruct((1, *subject.test.x.shape[1:]), np.float32)
    logits = jax.eval_shape(subject.predict(0), x)
    make = PROTOCOLS[config.protocol]
    made = make(recipe.NORMS[subject.norm], num_classes=logits.shape[-1])
    return {each.name: each for each in made}


def measured(setup: Setup, i: int, part: str) -> xr.Dataset:
    """What one component does to the images that those before it left robust."""
    config, subject = setup.config, setup.inputs["checkpoint"]
    before = _found(setup, setup.found, i)
    if part == _POINTS:
        return _at_points(config, subject, i, before)
    components = _components(config, subject)
    size = config.batch_size
    ensemble = ensembles.compiled(
        subject.predict(i),
        [*components.values()],
        batch_sizes=sorted({-(-size // 8), size}),
    )
    meter = progress.Meter(f"{subject.named(i)}, {part}")

    def watch(status: Status) -> None:
        meter.show(status.done, status.total, f"{status.num_robust} images robust")

    found = ensemble(
        jax.random.key(config.seed),
        data.as_float(subject.test.x),
        subject.test.y,
        subject.eps,
        start=before,
        num_components=[_FIRST, *components].index(part),
        watch=watch,
    )
    return _stored(before, found)


def _stored(before: Found | None, found: Found) -> xr.Dataset:
    """What is known of each image now, and the points that were broken last."""
    was_robust = found.correct if before is None else before.robust
    points = found.x_adv[was_robust & ~found.robust]
    each = {
        "correct": found.correct,
        "robust": found.robust,
        "probabilities": found.probabilities,
        "stuck": found.stuck,
        **found.flags._asdict(),
    }
    values = {name: (("image",), flag) for name, flag in each.items()}
    shape = (len(points), -1) if len(points) else (0, 0)
    return arrays.dataset(
        {**values, "points": (("broken", "feature"), points.reshape(shape))}
    )


def _found(setup: Setup, done: Mapping[str, xr.Dataset], i: int) -> Found | None:
    """What an ensemble has found on a network so far, from its stages."""
    subject = setup.inputs["checkpoint"]
    parts = [_FIRST, *_components(setup.config, subject)]
    stages = [done[_case(i, part)] for part in parts if _case(i, part) in done]
    if not stages:
        return None
    last, correct = stages[-1], stages[0]["correct"].values
    x_adv = np.array(data.as_float(subject.test.x))
    broken_by = np.full(len(x_adv), -1)
    rows, was_robust = [], correct
    for number, (part, stage) in enumerate(zip(parts[1:], stages[1:], strict=False)):
        robust = stage["robust"].values
        is_broken = was_robust & ~robust
        x_adv[is_broken] = stage["points"].values.reshape(-1, *x_adv.shape[1:])
        broken_by[is_broken] = number
        rows.append(Row(part, int(was_robust.sum()), int(is_broken.sum())))
        was_robust = robust
    seen = Flags(*(last[field].values for field in Flags._fields))
    known = (last[field].values for field in ("probabilities", "stuck"))
    return Found(correct, was_robust, x_adv, broken_by, seen, *known, tuple(rows))


def _at_points(config: Config, subject: Subject, i: int, found: Found) -> xr.Dataset:
    """The worst points, and which are classified rightly, by one forward pass more."""
    n, y = len(found.x_adv), subject.test.y
    predict = jax.jit(subject.predict(i))
    logits = batches.in_batches(predict, config.batch_size, found.x_adv)
    return arrays.dataset(
        {
            "x_adv": (("image", "feature"), found.x_adv.reshape(n, -1)),
            "label": (("image",), y),
            "is_right": (("image",), criteria.correct(logits, y)),
        }
    )


def values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The numbers of every network, under RobustBench's names where those exist."""
    config, subject = setup.config, setup.inputs["checkpoint"]
    results = []
    for i in range(len(subject.networks)):
        is_right = found[_case(i, _POINTS)]["is_right"].values
        lines = programs.caveats(subject.predict(i), data.as_float(subject.test.x[:1]))
        results.append(_numbers(config, _found(setup, found, i), is_right, lines))
    axes = {
        "clean": ("end",),
        "worst_case": ("end",),
        "after": ("component", "end"),
        "num_broken": ("component",),
    }
    return arrays.dataset(
        {
            **{
                key: (("network", *axes.get(key, ())), [row[key] for row in results])
                for key in results[0]
            },
            **subject.described(),
        },
        {
            "end": ["value", "low", "high"],
            "component": [*_components(config, subject)],
        },
        **subject.facts(),
    )


def _numbers(
    config: Config, found: Found, is_right: np.ndarray, lines: tuple[str, ...]
) -> dict[str, Any]:
    """One network's numbers; proportions are ``(value, low, high)``."""
    n = len(is_right)
    lines = found.caveats() + lines
    if differ := int((is_right != found.robust).sum()):
        lines += (f"{differ} of {n} points are judged otherwise in another batch",)
    # What one of the two calls wrong counts as wrong.
    robust = is_right & found.robust
    clean = evaluate.wilson(int(found.correct.sum()), n)
    worst = evaluate.wilson(int(robust.sum()), n)
    left = [row.num_attacked - row.num_broken for row in found.rows]
    is_autoattack = config.protocol == "autoattack"
    return {
        "clean_acc": 100 * clean.value,
        "reported": 100 * worst.value,
        "autoattack_acc": 100 * worst.value if is_autoattack else np.nan,
        "unreliable": bool(lines),
        "caveats": "\n".join(lines),
        "clean": tuple(clean),
        "worst_case": tuple(worst),
        "after": [tuple(evaluate.wilson(number, n)) for number in left],
        "num_broken": [row.num_broken for row in found.rows],
        "num_zero_grad": flags.raised(found.flags.zero_grad & found.robust),
        "num_undefined": flags.raised(found.flags.undefined),
    }


# --- the report ---


def report(config: Config, values: xr.Dataset) -> Report:
    """Robust accuracy in the end, and after each component."""
    facts = values.attrs
    attacked = f"ε = {facts['eps']:.4g} ({facts['norm']})"
    components = [str(each) for each in values["component"].values]
    networks = [values.isel(network=i) for i in range(values.sizes["network"])]
    header = ["trained ε", "seed", "clean", *(f"after {each}" for each in components)]
    rows = [
        [
            *name(network),
            *_percents([network["clean"], *network["after"]]),
        ]
        for network in networks
    ]
    size = f"{facts['num_examples']} images, {_NAMES[config.protocol]}"
    return Report(
        f"{facts['architecture']} on {facts['dataset']}, attacked at {attacked}",
        f"How many test images are classified rightly at {attacked}, whatever the "
        "attack?",
        [
            findings.finding(
                claim(facts, network),
                percent(network["worst_case"]),
                size=size,
                form=".2f",
                unit=" %",
            )
            for network in networks
        ],
        [],
        [Table("Accuracies in %, each component on what was left", header, rows)],
        f"{facts['num_examples']} test images; Wilson's 95 % intervals; "
        f"{_NAMES[config.protocol]}, seed {config.seed}; parameters of commit "
        f"{facts['trained_by']}.",
        cautions(networks),
    )


def _percents(proportions: Iterable[xr.DataArray]) -> list[str]:
    return [f"{percent(each):.2f}" for each in proportions]
