"""The closed form of perturbations on trained networks: Table 1 and Figure 1.

Three comparisons with the perturbation of infinitely many steps (Theorem 2). With the
gates of the ReLUs fixed, kappa = E‖delta* - delta‖/E‖delta*‖ at every strength and
number of steps, in double precision: what is left of it at many steps is that H_z
changes along the path. With free gates, the same, which the paper has in its appendix
J. And the angles to l2 and linf attacks of a few steps on the network itself (section
3.2).

Where an image is black, the gates of a convolution without biases are exactly on their
kink, and some open with the first step, however small it is: with free gates there is
no limit of small strength then. ``config.noise`` moves them off it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import dynamics, losses, norms
from advjax.types import Array, Batch
from experiments import checks, devices, figures, intervals
from experiments.difficulty import networks, printed
from experiments.difficulty.networks import Family
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "horizons")
    checks.numbers(config, "horizons", above=0)
    checks.increasing(config, "num_steps")
    checks.tuples(config, "num_steps", least=2)
    counts = ("free_num_steps", "free_num_images", "few_steps", "batch_size")
    checks.integers(config, "num_steps", *counts)
    checks.single(config, *counts)
    checks.single(config, "noise")
    checks.numbers(config, "noise")
    family = networks.read(config)
    if family.config.positive_classes:
        raise checks.ConfigError("config.networks: give those of clean,table")


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Measures every network, and reports."""
    family = networks.read(config)
    found = networks.measured(config, family, workdir, _measured)
    kappas = {name: _kappas(values) for name, values in found.items()}
    _figure(config, found, kappas, workdir)
    _images(config, found[config.models[0]], config.models[0], workdir)
    return _report(config, family, found, kappas, workdir)


# --- measurement ---


def _measured(config: ConfigDict, family: Family, name: str) -> dict[str, np.ndarray]:
    model = family.model(name)
    per_seed = [
        _of_network(config, family, partial(networks.predict, model, network))
        for network in family.networks(name)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *per_seed)


def _of_network(config: ConfigDict, family: Family, predict: Callable) -> dict:
    batch = _noisy(config, family.images(config))
    reduced = jax.vmap(partial(networks.reduced, predict))
    logits, triangles = networks.in_batches(reduced, config.batch_size, batch.x)
    found = {"logits": logits, "labels": batch.y}
    with devices.double_precision():
        found |= _frozen(config, logits, triangles, batch.y)
    few = batch.x[: config.free_num_images], batch.y[: config.free_num_images]
    free_of = networks.compiled(jax.vmap(partial(_free, config, predict)))
    for j, horizon in enumerate(config.horizons):
        strength = np.full(len(few[0]), horizon, np.float32)
        free = free_of(config.batch_size, strength, *few)
        images = {name: free.pop(name)[:_NUM_SHOWN] for name in _SHOWN}
        if j == 0:
            found |= images | {"shown": few[0][:_NUM_SHOWN]}
        for field, values in free.items():
            found.setdefault(field, []).append(values)
    return jax.tree.map(np.asarray, found, is_leaf=lambda node: isinstance(node, list))


def _noisy(config: ConfigDict, batch: Batch) -> Batch:
    """Pixels with uniform noise in [0, config.noise] added."""
    bits = np.random.PCG64(config.subset_seed).random_raw(batch.x.size)
    noise = (bits >> 40).reshape(batch.x.shape) / 2.0**24
    return batch._replace(x=batch.x + np.float32(config.noise * noise))


_SHOWN = ("real", "theory", "to_l2", "to_linf")
_NUM_SHOWN = 8


def _frozen(config: ConfigDict, logits, triangles, labels) -> dict[str, np.ndarray]:
    """‖delta*‖ and ‖delta* - delta‖, ``[horizon, steps, n]``."""
    arrays = (jnp.asarray(logits, float), jnp.asarray(triangles, float), labels)

    def compared(num_steps, horizon, logits, triangle, label):
        loss = partial(losses.cross_entropy, labels=label)
        # In the coordinates of Q an input has as many entries as there are logits.
        jacobian = triangle.T
        path = dynamics.ascend_logits(num_steps=num_steps)(
            loss, logits, jacobian, horizon
        )
        theory = _theory(loss, logits, jacobian, path.logit_hessian, horizon)
        return jnp.linalg.norm(path.delta), jnp.linalg.norm(path.delta - theory)

    sizes, errors = [], []
    for num_steps in config.num_steps:
        over_images = jax.vmap(partial(compared, num_steps), (None, 0, 0, 0))
        over_all = jax.jit(jax.vmap(over_images, (0, None, None, None)))
        size, error = over_all(jnp.asarray(config.horizons), *arrays)
        sizes.append(np.asarray(size))
        errors.append(np.asarray(error))
    return {"size": np.stack(sizes, 1), "error": np.stack(errors, 1)}


def _theory(loss, logits, jacobian, logit_hessian, horizon) -> Array:
    eigs = dynamics.logit_eigs(jacobian, logit_hessian)
    grad = jnp.tensordot(jax.grad(loss)(logits), jacobian, axes=1)
    return dynamics.closed_form(eigs, grad, horizon).delta


def _free(config: ConfigDict, predict, horizon, x: Array, label: Array) -> dict:
    """With free gates: errors of the closed form, and angles to l2 and linf attacks."""
    loss = partial(losses.cross_entropy, labels=label)
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    record = dynamics.logit_hessians(predict, loss)
    ascent = dynamics.ascend(
        num_steps=config.free_num_steps, record=record, unroll=config.free_num_steps
    )
    real = ascent(lambda x: loss(predict(x)), x, horizon)
    mean = dynamics.path_mean(*real.records[::-1])
    theory = _theory(loss, logits, jacobian, mean, horizon)
    length = jnp.linalg.norm(theory)
    g = jnp.tensordot(jax.grad(loss)(logits), jacobian, axes=1)
    # The length of linf steps whose effective part has the length of the theory's.
    linf_length = length * jnp.linalg.norm(g) / norms.l1.value(g)

    def attack(norm, length):
        steps = dynamics.ascend(
            num_steps=config.few_steps, direction=norm.steepest, unroll=config.few_steps
        )
        return steps(lambda x: loss(predict(x)), x, length).effective

    l2, linf = attack(norms.l2, length), attack(norms.linf, linf_length)
    after, jacobian_after = dynamics.logit_jacobian(predict, x + real.delta)
    top, top_after = (
        dynamics.logit_eigs(w, jax.hessian(loss)(z)).values[0]
        for z, w in ((logits, jacobian), (after, jacobian_after))
    )
    scaled = length / jnp.linalg.norm(linf)
    return {
        "free_size": jnp.linalg.norm(real.delta),
        "free_error": jnp.linalg.norm(real.delta - theory),
        "l2_mismatch": dynamics.matching_error(theory, l2),
        "linf_mismatch": dynamics.matching_error(theory, linf),
        "eigenvalue": top,
        "eigenvalue_change": jnp.abs(top_after - top),
        "real": real.delta,
        "theory": theory,
        "to_l2": theory - length / jnp.linalg.norm(l2) * l2,
        "to_linf": theory - scaled * linf,
    }


# --- report ---


def _kappas(found: dict[str, np.ndarray]) -> np.ndarray:
    """With fixed gates, over all seeds and images, ``[horizon, steps]``."""
    sizes, errors = found["size"], found["error"]
    return errors.mean(axis=(0, -1)) / sizes.mean(axis=(0, -1))


def _interval(found: dict[str, np.ndarray], prefix: str, *index: int):
    error, size = (
        found[prefix + kind][(slice(None), *index)].ravel()
        for kind in ("error", "size")
    )
    return intervals.ratio(error, size)


def _figure(config: ConfigDict, found: dict, kappas: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(3)
    colors = figures.shades(len(kappas))
    steps, horizons = np.array(config.num_steps), np.array(config.horizons)
    for (name, kappa), color in zip(kappas.items(), colors, strict=True):
        line = {"color": color, "marker": "o", "markersize": 3, "label": name}
        axes[0].loglog(steps, kappa[0], **line)
        axes[1].loglog(horizons, kappa[:, -1], **line)
        free = found[name]["free_error"].mean(axis=(0, -1))
        axes[2].loglog(horizons, free / found[name]["free_size"].mean((0, -1)), **line)
    titles = (
        f"gates fixed, β = {horizons[0]:g}",
        f"gates fixed, {steps[-1]} steps",
        f"gates free, {config.free_num_steps} steps",
    )
    labels = ("number of steps m", "strength β", "strength β")
    for axis, title, label in zip(axes, titles, labels, strict=True):
        axis.set(xlabel=label, ylabel="κ")
        axis.set_title(title, fontsize=10)
    axes[2].legend(fontsize=7, ncols=2)
    workdir.save_figure(figure, "kappa")


def _images(config: ConfigDict, found: dict, name: str, workdir: Workdir) -> None:
    """Figure 1: perturbations, and differences enlarged by a power of ten.

    The strengths of attacks differ by orders of magnitude from image to image, so each
    column is in units of its own largest entry.
    """
    real, theory, to_l2, to_linf = (found[field][0] for field in _SHOWN)
    units = np.abs(theory).max(axis=(1, 2, 3), keepdims=True)
    differences = {"δ − δ*": theory - real, "δ − l2": to_l2, "δ − eff. linf": to_linf}
    rows = {"image": (found["shown"][0], "gray_r", (0, 1))}
    rows |= {
        label: (values / units, "RdBu_r", (-1, 1))
        for label, values in {"δ*, real": real, "δ, theory": theory}.items()
    }
    for label, values in differences.items():
        most = np.abs(values / units).max()
        factor = 10.0 ** np.floor(-np.log10(most)) if most else 1.0
        shown = f"{label}\n× {factor:.0e}"
        rows[shown] = (factor * values / units, "RdBu_r", (-1, 1))
    number = len(real)
    figure, axes = figures.panels(number, len(rows))
    figure.set_size_inches(1.1 * number + 0.8, 1.15 * len(rows))
    for i, (label, (pictures, cmap, limits)) in enumerate(rows.items()):
        for j, axis in enumerate(axes[i * number : (i + 1) * number]):
            picture = pictures[j].mean(axis=-1)
            axis.imshow(picture, cmap=cmap, vmin=limits[0], vmax=limits[1])
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.set_ylabel("" if j else label, fontsize=7)
    figure.suptitle(f"{name}, β = {config.horizons[0]:g}", fontsize=10)
    workdir.save_figure(figure, "perturbations")


def _fixed_table(config: ConfigDict, found: dict, kappas: dict) -> str:
    paper = printed.errors("kappa")
    header = ["network", "printed κ", *(f"κ, β = {beta:g}" for beta in config.horizons)]
    rows = [
        [
            *(name, printed.shown(paper.get(name))),
            *(f"{_interval(found[name], '', j, -1):.1e}" for j in range(len(kappa))),
            f"{_halving(config, kappa[0]):.2f}",
            f"{_order(config, kappa):.2f}",
        ]
        for name, kappa in kappas.items()
    ]
    return figures.table([*header, "m doubled", "order in β"], rows)


def _free_table(config: ConfigDict, found: dict) -> str:
    betas, ends = config.horizons, (0, len(config.horizons) - 1)
    every = range(len(betas))
    header = ["network", *(f"κ, β = {beta:g}" for beta in betas)]
    header += [f"1 − cos, l2, β = {betas[0]:g}", f"l2, β = {betas[-1]:g}"]
    header += [f"linf, β = {betas[0]:g}", f"linf, β = {betas[-1]:g}"]
    header += [f"change of λ₁, β = {beta:g}" for beta in betas]
    rows = [
        [
            name,
            *(f"{_interval(values, 'free_', j):.1e}" for j in every),
            *(
                f"{np.nanmean(values[kind][:, j]):.1e}"
                for kind in ("l2_mismatch", "linf_mismatch")
                for j in ends
            ),
            *(f"{_change(values, j):.1e}" for j in every),
        ]
        for name, values in found.items()
    ]
    return figures.table(header, rows)


def _report(
    config: ConfigDict, family: Family, found: dict, kappas: dict, workdir: Workdir
) -> dict[str, Any]:
    horizons = config.horizons
    num_images = next(iter(found.values()))["logits"].shape[1]
    steps = config.num_steps[-1]
    workdir.write_text(
        "report.md",
        f"## Closed form of perturbations: {family.setting}{_with(config)}\n\n"
        "![kappa](kappa.png)\n\n### Table 1: gates fixed\n\n"
        f"κ = E‖δ* − δ‖/E‖δ*‖ at {steps} steps over {num_images} test images, in "
        "double precision from Jacobians of single precision, in brackets 1.96 "
        "standard errors over images, of one trained network. m doubled: κ at "
        f"{config.num_steps[0]} steps over κ at twice as many, at β = {horizons[0]:g}; "
        "2 is an error of 1/m. Order in β: between the first two strengths, of what is "
        f"left at {steps} steps.\n\n{_fixed_table(config, found, kappas)}\n"
        "### Gates free, and other attacks\n\n"
        f"{config.free_num_images} images, {config.free_num_steps} steps of the "
        f"network itself, whose gates may change; l2 and the effective part of linf by "
        f"{config.few_steps} steps to the length of δ, without clipping; change of the "
        "largest eigenvalue of H_x over the attack, relative, of the means. Images "
        f"without a gradient, {_without_gradient(found)} in all, have no angles.\n\n"
        f"{_free_table(config, found)}\n### Figure 1\n\n"
        "![perturbations](perturbations.png)\n\nColumns are in units of the "
        "largest entry of δ, differences enlarged as written.\n\n"
        f"Networks: {family.origin}.\n",
    )
    return {
        "summary": _summary(config, found, kappas),
        "horizons": horizons,
        "num_steps": config.num_steps,
        "kappa": kappas,
        "free_kappa": {
            name: [_interval(values, "free_", j) for j in range(len(horizons))]
            for name, values in found.items()
        },
        "mismatch": {
            name: {
                kind: np.nanmean(values[f"{kind}_mismatch"], axis=(0, -1))
                for kind in ("l2", "linf")
            }
            for name, values in found.items()
        },
    }


def _halving(config: ConfigDict, kappa: np.ndarray) -> float:
    first, second = config.num_steps[:2]
    return float((kappa[0] / kappa[1]) ** (np.log(2) / np.log(second / first)))


def _order(config: ConfigDict, kappa: np.ndarray) -> float:
    if len(config.horizons) < 2:
        return float("nan")
    first, second = config.horizons[:2]
    return float(np.log(kappa[1, -1] / kappa[0, -1]) / np.log(second / first))


def _change(found: dict, j: int) -> float:
    changes, values = found["eigenvalue_change"][:, j], found["eigenvalue"][:, j]
    return float(changes.mean() / values.mean())


def _with(config: ConfigDict) -> str:
    return f", noise of {config.noise:g}" if config.noise else ""


def _without_gradient(found: dict) -> int:
    return sum(int(np.isnan(each["l2_mismatch"]).sum()) for each in found.values())


def _summary(config: ConfigDict, found: dict, kappas: dict) -> list[str]:
    beta, steps = config.horizons[0], config.num_steps[-1]
    shown = ", ".join(f"{name} {kappa[0, -1]:.1e}" for name, kappa in kappas.items())
    l2, linf = (
        [np.nanmean(values[f"{kind}_mismatch"][:, 0]) for values in found.values()]
        for kind in ("l2", "linf")
    )
    angles = (
        f"1 - cos at strength {beta:g}{_with(config)}: l2 {min(l2):.1e} to "
        f"{max(l2):.1e}, effective linf {min(linf):.1e} to {max(linf):.1e}"
    )
    free = ", ".join(
        f"{name} {_interval(values, 'free_', 0).mean:.1e}"
        for name, values in found.items()
    )
    setting = f"at strength {beta:g}{_with(config)}"
    return [
        f"kappa {setting}, {steps} steps, gates fixed: {shown}",
        f"kappa {setting}, {config.free_num_steps} steps, gates free: {free}",
        angles,
    ]
