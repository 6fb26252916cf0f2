"""Exponential growth of perturbations and gradients: Figure 2.

Ascent of a fixed step size from correctly classified test images, each along its
progress m/m_success to the first step at which it is misclassified. With free gates,
with the gates of the clean image, and for comparison along normalised (l2) and signed
(linf) gradients, whose perturbations cannot grow exponentially. Three curves are fitted
to the geometric mean of a norm over images, all by least squares of the logarithm, so
that what they leave can be compared: c e^{bs}, a line through the logarithm; c + bs;
and, of perturbations, which begin at zero, the theory's c (e^{bs} - 1).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.optimize import least_squares

from advjax import dynamics, losses, norms
from experiments import checks, figures, intervals, progress
from experiments.difficulty import networks
from experiments.difficulty.networks import Family
from experiments.workdir import Workdir

ATTACKS = {
    "gates free": lambda g: g,
    "gates fixed": lambda g: g,
    "l2": norms.l2.steepest,
    "linf": norms.linf.steepest,
}
NORMS = {"delta": "‖δ‖", "grad": "‖g‖"}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    sizes = ("step_size", "l2_step_size", "linf_step_size")
    checks.single(config, *sizes, "num_steps", "least_steps", "num_positions")
    for field in sizes:
        checks.numbers(config, field, above=0)
    checks.integers(config, "num_steps", "least_steps", least=2)
    checks.integers(config, "num_positions", least=3)
    networks.read(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Attacks every network, and reports."""
    family = networks.read(config)
    found = {
        name: {
            attack: workdir.stage(
                f"{name}-{attack.replace(' ', '-')}",
                *(_attacked, config, family, name, attack),
            )
            for attack in ATTACKS
        }
        for name in config.models
    }
    curves = {
        name: {attack: _aligned(config, values) for attack, values in each.items()}
        for name, each in found.items()
    }
    _figure(curves, workdir)
    return _report(config, family, curves, workdir)


def _step_size(config: ConfigDict, attack: str) -> float:
    sizes = {"l2": config.l2_step_size, "linf": config.linf_step_size}
    return sizes.get(attack, config.step_size)


def _attacked(config: ConfigDict, family: Family, name: str, attack: str) -> dict:
    """Norms before every step and whether the image is right, ``[steps, seed, n]``."""
    batch, model = family.images(config), family.model(name)
    per_seed = []
    for network in family.networks(name):
        predict = partial(networks.predict, model, network)
        origin = jnp.asarray(batch.x)
        if attack == "gates fixed":
            predict, origin, extra = _with_fixed_gates(predict, batch.x)
        else:
            extra = ()
        step = jax.jit(jax.vmap(partial(_step, config, attack, predict)))
        delta, rows = jnp.zeros_like(origin), []
        label = f"{name}, {attack}"
        for _ in progress.steps(config.num_steps + 1, label):
            delta, row = step(origin, delta, jnp.asarray(batch.y), *extra)
            rows.append(row)
        rows = jax.device_get(rows)
        per_seed.append(jax.tree.map(lambda *leaves: np.stack(leaves), *rows))
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *per_seed)


def _with_fixed_gates(predict: Callable, x) -> tuple[Callable, Any, tuple]:
    """The affine network in the coordinates of Q, where W̃ = QR, from the origin."""
    reduced = jax.vmap(partial(networks.reduced, predict))
    logits, triangles = networks.in_batches(reduced, 50, x)

    def affine(x, logits, triangle):
        return logits + triangle.T @ x

    return affine, jnp.zeros(triangles.shape[:2]), (logits, triangles)


def _step(config: ConfigDict, attack: str, predict, origin, delta, label, *extra):
    def f(x):
        return losses.cross_entropy(predict(x, *extra), label)

    def record(x, g):
        is_right = jnp.argmax(predict(x, *extra)) == label
        return {"grad": jnp.linalg.norm(g), "right": is_right}

    ascend = dynamics.ascend(num_steps=1, direction=ATTACKS[attack], record=record)
    found = ascend(f, origin + delta, _step_size(config, attack))
    row = {name: values[0] for name, values in found.records.items()}
    return delta + found.delta, row | {"delta": jnp.linalg.norm(delta)}


def _aligned(config: ConfigDict, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Norms of the images that were reached, at common shares of their progress.

    Of those that were right at first and wrong after ``least_steps`` at the earliest.
    Returns them with the numbers of images: all, reached, too early, never.
    """
    right = found["right"].reshape(len(found["right"]), -1)
    success = np.where(right.all(axis=0), 0, np.argmin(right, axis=0))
    correct, reached = right[0], success >= config.least_steps
    shares = (1 + np.arange(config.num_positions)) / config.num_positions
    curves = {}
    for norm in NORMS:
        values = found[norm].reshape(right.shape)[:, reached]
        curves[norm] = np.array(
            [
                _between(shares * m, column, norm)
                for m, column in zip(success[reached], values.T, strict=True)
            ]
        ).reshape(-1, shares.size)
    numbers = {
        "correct": int(correct.sum()),
        "reached": int(reached.sum()),
        "too early": int((correct & (success > 0) & ~reached).sum()),
        "never": int((correct & (success == 0)).sum()),
    }
    steps = np.median(success[reached]) if reached.any() else np.nan
    return {"shares": shares, **curves, "numbers": numbers, "median steps": steps}


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


def _fits(shares: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """Slopes of each image's logarithm, and R² of the models of their mean."""
    if not len(values):
        return {"slopes": None, "r2": dict.fromkeys(MODELS, np.nan)}
    logs = np.log(np.maximum(values, _LEAST))
    slopes = np.polyfit(shares, logs.T, 1)[0]
    mean = logs.mean(axis=0)
    r2 = {name: _r2(model, shares, mean) for name, model in MODELS.items()}
    return {"slopes": intervals.student(slopes), "r2": r2}


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


def _figure(curves: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(len(curves), 2)
    for i, (name, attacks) in enumerate(curves.items()):
        for j, (norm, label) in enumerate(NORMS.items()):
            axis = axes[j * len(curves) + i]
            colors = figures.colors(len(attacks))
            for (attack, found), color in zip(attacks.items(), colors, strict=True):
                if not len(found[norm]):
                    continue
                logs = np.log(np.maximum(found[norm], np.finfo(np.float32).tiny))
                middle = np.exp(logs.mean(axis=0))
                low, high = np.exp(np.quantile(logs, [0.25, 0.75], axis=0))
                axis.plot(found["shares"], middle, color=color, label=attack)
                axis.fill_between(
                    found["shares"], low, high, color=color, alpha=0.12, linewidth=0
                )
            axis.set(yscale="log", ylabel=label, title=name)
            axis.set_xlabel("m / m_success")
    axes[0].legend(fontsize=8)
    workdir.save_figure(figure, "growth")


def _report(
    config: ConfigDict, family: Family, curves: dict, workdir: Workdir
) -> dict[str, Any]:
    fits = {
        name: {
            attack: {norm: _fits(found["shares"], found[norm]) for norm in NORMS}
            for attack, found in attacks.items()
        }
        for name, attacks in curves.items()
    }
    header = ["network", "attack", "reached", "too early", "never", "median m_success"]
    for label in NORMS.values():
        header += [f"slope of log {label}", *(f"R², {model}" for model in MODELS)]
    rows = []
    for name, attacks in curves.items():
        for attack, found in attacks.items():
            numbers = (found["numbers"][kind] for kind in header[2:5])
            row = [name, attack, *map(str, numbers), f"{found['median steps']:g}"]
            for norm in NORMS:
                fit = fits[name][attack][norm]
                row.append("–" if fit["slopes"] is None else f"{fit['slopes']:.2f}")
                row += [f"{value:.3f}" for value in fit["r2"].values()]
            rows.append(row)
    workdir.write_text(
        "report.md",
        f"## Growth of perturbations: {family.setting}\n\n![growth](growth.png)\n\n"
        "Geometric means over images, and quartiles. Steps of size "
        f"{config.step_size:g} along the gradient, {config.l2_step_size:g} of unit "
        f"length (l2), {config.linf_step_size:g} of its signs (linf), at most "
        f"{config.num_steps}. Images that are misclassified before step "
        f"{config.least_steps} or never are left out, each attack its own. Slopes are "
        "per m/m_success: means over images of each image's own, in brackets Student's "
        "95 % intervals. R² is of fits to the logarithm of the mean curve: c e^{bs} "
        "(exponential, of log ‖·‖ a line), c + bs (linear), c (e^{bs} − 1) (theory). A "
        "positive slope alone says little of ‖δ‖, which begins at zero.\n\n"
        f"{figures.table(header, rows)}\nNetworks: {family.origin}.\n",
    )
    return {
        "summary": [
            f"growth, {name}, {attack}: "
            + "; ".join(_shown(norm, fit) for norm, fit in each.items())
            for name, attacks in fits.items()
            for attack, each in attacks.items()
            if attack.startswith("gates")
        ],
        "fits": fits,
        "numbers": {
            name: {attack: found["numbers"] for attack, found in attacks.items()}
            for name, attacks in curves.items()
        },
    }


def _shown(norm: str, fit: dict[str, Any]) -> str:
    r2 = ", ".join(f"{model} {value:.3f}" for model, value in fit["r2"].items())
    slope = "none" if fit["slopes"] is None else f"{fit['slopes'].mean:.2f}"
    return f"norm of {norm} slope {slope}, R2 {r2}"
