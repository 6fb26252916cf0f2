"""Exponential growth of perturbations and gradients: Figure 2.

Size: 40 images, 100 steps of the deep networks; 500 and 300 of the MLP. Time: 9
minutes, ``mlp`` half a minute.

    advjax run difficulty/growth --config.networks=runs/NETWORKS
    advjax run difficulty/growth:mlp --config.networks=runs/NETWORKS

The networks are those of ``difficulty/networks:clean,deep``, and for ``mlp``, the
five-layer MLP of panel (e), those of ``difficulty/networks:clean,table``.

Variants: ``mlp``; ``cpu``, the default, 40 images and 100 steps of the deep networks,
or ``paper``, 500 and 300; ``smoke``, small, for tests.

Ascent of a fixed step size from correctly classified test images, each along its
progress m/m_success to the first step at which it is misclassified. With free gates,
with the gates of the clean image, and for comparison along normalised (l2) and signed
(linf) gradients, whose perturbations cannot grow exponentially. Three curves are fitted
to the geometric mean of a norm over images, all by least squares of the logarithm, so
that what they leave can be compared: c e^{bs}, a line through the logarithm; c + bs;
and, of perturbations, which begin at zero, the theory's c (e^{bs} - 1).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from ml_collections import ConfigDict
from scipy.optimize import least_squares

from advjax import dynamics, losses, norms
from experiments import arrays, figures, findings, intervals, progress
from experiments.difficulty import measuring
from experiments.fields import count, number, with_defaults
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

ATTACKS = {
    "gates free": lambda g: g,
    "gates fixed": lambda g: g,
    "l2": norms.l2.steepest,
    "linf": norms.linf.steepest,
}
NORMS = {"delta": "‖δ‖", "grad": "‖g‖"}


# --- measurement ---


def _cases(setup: Setup) -> dict[str, tuple[str, str]]:
    return {
        f"{name}-{attack.replace(' ', '-')}": (name, attack)
        for name in measuring.names(setup)
        for attack in ATTACKS
    }


def _step_size(config: Config, attack: str) -> float:
    sizes = {"l2": config.l2_step_size, "linf": config.linf_step_size}
    return sizes.get(attack, config.step_size)


def _measured(setup: Setup, name: str, attack: str) -> xr.Dataset:
    """Norms before every step and whether the image is right."""
    config, model = setup.config, measuring.model(setup, name)
    batch = measuring.images(setup)

    def measure(network):
        predict = partial(measuring.predict, model, network)
        origin, extra = jnp.asarray(batch.x), ()
        if attack == "gates fixed":
            predict, origin, extra = _with_fixed_gates(predict, batch.x)
        step = jax.jit(jax.vmap(partial(_step, config, attack, predict)))
        delta, rows = jnp.zeros_like(origin), []
        for _ in progress.steps(config.num_steps + 1, f"{name}, {attack}"):
            delta, row = step(origin, delta, jnp.asarray(batch.y), *extra)
            rows.append(row)
        rows = jax.device_get(rows)
        steps = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        return arrays.dataset({k: (("step", "image"), v) for k, v in steps.items()})

    return measuring.over_seeds(setup, name, measure)


def _with_fixed_gates(predict: Callable, x) -> tuple[Callable, Any, tuple]:
    """The affine network in the coordinates of Q, where W̃ = QR, from the origin."""
    logits, triangles = measuring.reduced_in_batches(predict, 50, x)

    def affine(x, logits, triangle):
        return logits + triangle.T @ x

    return affine, jnp.zeros(triangles.shape[:2]), (logits, triangles)


def _step(config: Config, attack: str, predict, origin, delta, label, *extra):
    def f(x):
        return losses.cross_entropy(predict(x, *extra), label)

    def record(x, g):
        is_right = jnp.argmax(predict(x, *extra)) == label
        return {"grad": jnp.linalg.norm(g), "right": is_right}

    ascend = dynamics.ascend(num_steps=1, direction=ATTACKS[attack], record=record)
    found = ascend(f, origin + delta, _step_size(config, attack))
    row = {name: values[0] for name, values in found.records.items()}
    return delta + found.delta, row | {"delta": jnp.linalg.norm(delta)}


# --- values ---


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves over the progress, fits of them, and numbers of images."""
    summaries = {}
    for case, (name, attack) in _cases(setup).items():
        each = _summary(aligned(setup.config, found[case]))
        summaries.setdefault(name, {})[attack] = each
    values = arrays.stacked(
        {name: arrays.stacked(each, "attack") for name, each in summaries.items()},
        "network",
    )
    return measuring.with_facts(setup, values)


def aligned(config: Config, found: xr.Dataset) -> xr.Dataset:
    """Norms of the images that were reached, at common shares of their progress.

    Of those that were right at first and wrong after ``least_steps`` at the earliest.

    Returns:
        delta, grad: over ``image``, those that were reached, and ``share``.
        num_correct, num_reached, num_early, num_never: numbers of images: right at
            first, and of those reached, wrong too early, never wrong.
        median_steps: to success, of the images that were reached.
    """
    found = found.stack(every=("seed", "image")).transpose("step", "every")
    right = found["right"].values
    success = np.where(right.all(axis=0), 0, np.argmin(right, axis=0))
    correct, reached = right[0], success >= config.least_steps
    shares = (1 + np.arange(config.num_positions)) / config.num_positions
    curves = {}
    for norm in NORMS:
        values = found[norm].values[:, reached]
        curve = [
            _between(shares * m, column, norm)
            for m, column in zip(success[reached], values.T, strict=True)
        ]
        curves[norm] = ("image", "share"), np.array(curve).reshape(-1, shares.size)
    numbers = {
        "num_correct": correct.sum(),
        "num_reached": reached.sum(),
        "num_early": (correct & (success > 0) & ~reached).sum(),
        "num_never": (correct & (success == 0)).sum(),
        "median_steps": np.median(success[reached]) if reached.any() else np.nan,
    }
    scalars = {name: ((), value) for name, value in numbers.items()}
    return arrays.dataset(curves | scalars, {"share": shares})


def _between(steps: np.ndarray, values: np.ndarray, norm: str) -> np.ndarray:
    """Values between two steps; of gradients on the scale of their logarithm."""
    rows = np.arange(len(values))
    if norm == "delta":
        return np.interp(steps, rows, values)
    return np.exp(np.interp(steps, rows, np.log(np.maximum(values, _LEAST))))


_LEAST = np.finfo(np.float32).tiny
MODELS = {
    "exponential": lambda s, c, b: c + b * s,
    "linear": lambda s, c, b: np.log(np.maximum(np.exp(c) + b * s, _LEAST)),
    "theory": lambda s, c, b: c + np.log(np.maximum(np.expm1(b * s), _LEAST)),
}
"""Logarithms of what is fitted, with c that of a factor or of a constant."""


def _summary(found: xr.Dataset) -> xr.Dataset:
    """Of one attack on one network: means, quartiles and fits of each norm."""
    fits = arrays.stacked({norm: fitted(found[norm]) for norm in NORMS}, "norm")
    return fits.merge(found.drop_vars([*NORMS]))


def fitted(values: xr.DataArray) -> xr.Dataset:
    """Slopes of the logarithm of each ``image``, and R² of the models of their mean.

    Returns:
        curve: over ``share``, ``end`` a geometric mean and quartiles over images.
        slope: the mean over images, with Student's interval.
        r2: by ``model``.
    """
    shares, names = values["share"].values, ["middle", "quarter", "three quarters"]
    coords = {"share": shares, "line": names, "bound": ["mean", "low", "high"]}
    coords["model"] = [*MODELS]
    curve, slope, r2 = (np.full(n, np.nan) for n in ((3, shares.size), 3, len(MODELS)))
    if values.sizes["image"]:
        logs = np.log(np.maximum(values.transpose("image", "share").values, _LEAST))
        mean = logs.mean(axis=0)
        curve = np.exp([mean, *np.quantile(logs, [0.25, 0.75], axis=0)])
        slope = intervals.student(np.polyfit(shares, logs.T, 1)[0])
        r2 = [_r2(model, shares, mean) for model in MODELS.values()]
    return arrays.dataset(
        {
            "curve": (("line", "share"), curve),
            "slope": (("bound",), slope),
            "r2": (("model",), r2),
        },
        coords,
    )


def _r2(model: Callable, shares: np.ndarray, logs: np.ndarray) -> float:
    """1 less the share of the variance that the best fit leaves; nan without any."""
    best = np.inf
    for b in (0.5, 3.0, 10.0):
        # The line's b is in units of the values.
        scale = np.exp(logs[-1]) if model is MODELS["linear"] else 1.0
        start = np.array([logs[0], b * scale])
        fit = least_squares(lambda p: logs - model(shares, *p), start)
        best = min(best, 2 * fit.cost)
    total = np.sum((logs - logs.mean()) ** 2)
    return float(1 - best / total) if total > 0 else float("nan")


# --- report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        f"Growth of perturbations: {values.attrs['setting']}",
        "Do perturbations and gradients grow exponentially along an ascent of fixed "
        "step size?",
        [
            _finding(values, str(name), norm)
            for norm in NORMS
            for name in values["network"].values
        ],
        [
            Drawn(
                "growth",
                _figure(values) if "curve" in values else None,
                "perturbations and gradients over the progress",
            )
        ],
        [_numbers_table(values), *(_fits_table(values, norm) for norm in NORMS)],
        "Geometric means over images, and quartiles. Steps of size "
        f"{config.step_size:g} along the gradient, {config.l2_step_size:g} of unit "
        f"length (l2), {config.linf_step_size:g} of its signs (linf), at most "
        f"{config.num_steps}. Images that are misclassified before step "
        f"{config.least_steps} or never are left out, each attack its own. Slopes are "
        "per m/m_success: means over images of each image's own, in brackets Student's "
        "95 % intervals. R² is of fits to the logarithm of the mean curve: c e^{bs} "
        "(exponential, of log ‖·‖ a line), c + bs (linear), c (e^{bs} − 1) (theory). A "
        "positive slope alone says little of ‖δ‖, which begins at zero.\n\n"
        f"Networks: {values.attrs['networks']}.",
    )


_CLAIMED = {"delta": "theory", "grad": "exponential"}
"""The model of each norm in the paper."""


def _finding(values: xr.Dataset, name: str, norm: str) -> findings.Finding:
    at = values.sel(network=name, attack="gates free", norm=norm)
    model = _CLAIMED[norm]
    r2 = {k: float(at["r2"].sel(model=k)) for k in (model, "linear")}
    formula = {"theory": "c (e^{bs} − 1)", "exponential": "c e^{bs}"}[model]
    # Fits to one mean curve have no interval.
    return findings.finding(
        f"{NORMS[norm]} of {name} grows as {formula} and not as a line",
        f"R² {_number(r2[model])}; of a line {_number(r2['linear'])}",
        size=f"{int(at['num_reached'])} images reached, gates free",
        verdict=findings.UNDECIDED,
    )


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"


def _rows(values: xr.Dataset):
    for name in values["network"].values:
        for attack in ATTACKS:
            yield [str(name), attack], values.sel(network=name, attack=attack)


def _numbers_table(values: xr.Dataset) -> Table:
    columns = {"num_reached": "reached", "num_early": "too early", "num_never": "never"}
    rows = [
        [*names, *(f"{int(at[c])}" for c in columns), f"{float(at['median_steps']):g}"]
        for names, at in _rows(values)
    ]
    header = ["network", "attack", *columns.values(), "median m_success"]
    return Table("Images", header, rows)


def _fits_table(values: xr.Dataset, norm: str) -> Table:
    rows = []
    for names, at in _rows(values.sel(norm=norm)):
        slope = intervals.at(at["slope"])
        text = "–" if np.isnan(slope.mean) else f"{slope:.2f}"
        rows.append([*names, text, *(_number(float(each)) for each in at["r2"])])
    label = NORMS[norm]
    header = ["network", "attack", f"slope of log {label}"]
    return Table(f"Growth of {label}", [*header, *(f"R², {m}" for m in MODELS)], rows)


def _figure(values: xr.Dataset) -> Any:
    names = values["network"].values
    figure, axes = figures.panels(len(names), 2)
    labels = {
        "delta": "length of the perturbation, ‖δ‖",
        "grad": "length of the gradient, ‖g‖",
    }
    panels = ((norm, name) for norm in NORMS for name in names)
    for axis, (norm, name) in zip(axes, panels, strict=True):
        for attack, color in zip(ATTACKS, figures.colors(len(ATTACKS)), strict=True):
            curve = values["curve"].sel(network=name, norm=norm, attack=attack)
            middle, low, high = curve.transpose("line", "share").values
            axis.plot(curve["share"], middle, color=color, label=attack)
            options = {"color": color, "alpha": 0.12, "linewidth": 0}
            axis.fill_between(curve["share"], low, high, **options)
        axis.set(yscale="log", ylabel=labels[norm], title=name)
        axis.set_xlabel("progress to success, m / m_success")
    figures.legend_below(figure, axes[0])
    return figure


def _mlp(config: ConfigDict) -> None:
    config.models = ("mlp5",)
    config.num_images = 500
    config.step_size, config.num_steps = 0.02, 300
    config.l2_step_size, config.linf_step_size = 0.02, 0.002


def _smoke(config: ConfigDict) -> None:
    config.models = ()
    config.num_images = 20
    config.step_size, config.num_steps = 1.0, 10
    config.least_steps = 2


STUDY = Study(
    "difficulty.growth",
    {
        **with_defaults(measuring.FIELDS, num_images=40),
        # The paper's are unknown. With these AlexNet takes about twenty steps.
        "step_size": number(0.1, "step size of the ascent along gradients", above=0),
        "l2_step_size": number(
            0.05, "step size of the ascent along normalised gradients", above=0
        ),
        "linf_step_size": number(
            0.004, "step size of the ascent along signs of gradients", above=0
        ),
        "num_steps": count(100, "steps of the ascent at most", least=2),
        "least_steps": count(
            5, "leaves out images that are misclassified in fewer steps", least=2
        ),
        "num_positions": count(
            50, "points at which the progress of an image is read", least=3
        ),
    },
    _report,
    variants=(
        {"deep": {}, "mlp": _mlp},
        {"cpu": {}, "paper": {"num_images": 500, "num_steps": 300}, "smoke": _smoke},
    ),
    needs={"networks": measuring.NETWORKS},
    cases=_cases,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
