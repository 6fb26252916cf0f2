"""Perturbations of many steps beside their closed form: Table 1 and Figure 1.

Of one network, with the gates of its ReLUs fixed and free, and as pictures.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import dynamics, losses, norms
from advjax.types import Array, Batch
from experiments import arrays, devices, figures
from experiments.batches import in_batches
from experiments.difficulty import measuring
from experiments.study import Config

NUM_SHOWN = 8
SHOWN = ("clean", "real", "theory", "to_l2", "to_linf")
"""What pictures are made of; the last are δ less that of an attack."""
LABELS = {
    "clean": "image",
    "real": "δ*, real",
    "theory": "δ, theory",
    "minus_real": "δ − δ*",
    "minus_l2": "δ − l2",
    "minus_linf": "δ − eff. linf",
}
"""Of the rows of pictures."""


# --- measurement ---


def measured(config: Config, batch: Batch, predict: Callable) -> xr.Dataset:
    """Lengths and errors of every image, and what pictures show of the first ones.

    Returns:
        size, error: ‖δ*‖ and ‖δ* - δ‖ with fixed gates, over ``strength``,
            ``num_steps`` and ``image``.
        free_size, free_error, l2_mismatch, linf_mismatch, eigenvalue,
            eigenvalue_change: with free gates, over ``strength`` and ``free_image``.
        SHOWN: at the first strength, over ``shown``, ``row``, ``column``, ``channel``.
    """
    logits, triangles = measuring.reduced_in_batches(
        predict, config.batch_size, batch.x
    )
    with devices.double_precision():
        fixed = _frozen(config, logits, triangles, batch.y)
    x, y = (each[: config.free_num_images] for each in batch)
    free_of = jax.jit(jax.vmap(partial(_free, config, predict)))
    strengths = [np.full(len(y), beta, np.float32) for beta in config.horizons]
    free = [in_batches(free_of, config.batch_size, beta, x, y) for beta in strengths]
    numbers = [name for name in free[0] if name not in SHOWN]
    drawn = {"clean": x, **free[0]}
    each, picture = ("strength", "free_image"), ("shown", "row", "column", "channel")
    return arrays.dataset(
        {name: (("strength", "num_steps", "image"), v) for name, v in fixed.items()}
        | {name: (each, np.stack([at[name] for at in free])) for name in numbers}
        | {name: (picture, drawn[name][:NUM_SHOWN]) for name in SHOWN},
        {"strength": config.horizons, "num_steps": config.num_steps},
    )


def _frozen(config: Config, logits, triangles, labels) -> dict[str, np.ndarray]:
    """‖delta*‖ and ‖delta* - delta‖, ``[strength, steps, n]``."""
    every = (jnp.asarray(logits, float), jnp.asarray(triangles, float), labels)

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
        size, error = over_all(jnp.asarray(config.horizons), *every)
        sizes.append(np.asarray(size))
        errors.append(np.asarray(error))
    return {"size": np.stack(sizes, 1), "error": np.stack(errors, 1)}


def _theory(loss, logits, jacobian, logit_hessian, horizon) -> Array:
    eigs = dynamics.logit_eigs(jacobian, logit_hessian)
    grad = jnp.tensordot(jax.grad(loss)(logits), jacobian, axes=1)
    return dynamics.closed_form(eigs, grad, horizon).delta


def _free(config: Config, predict, horizon, x: Array, label: Array) -> dict:
    """With free gates: errors of the closed form, and angles to l2 and linf attacks."""
    loss = partial(losses.cross_entropy, labels=label)
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    record = dynamics.logit_hessians(predict, loss)
    ascent = dynamics.ascend(num_steps=config.free_num_steps, record=record)
    real = ascent(lambda x: loss(predict(x)), x, horizon)
    mean = dynamics.path_mean(*real.records[::-1])
    theory = _theory(loss, logits, jacobian, mean, horizon)
    length = jnp.linalg.norm(theory)
    g = jnp.tensordot(jax.grad(loss)(logits), jacobian, axes=1)
    # The length of linf steps whose effective part has the length of the theory's.
    linf_length = length * jnp.linalg.norm(g) / norms.l1.value(g)

    def attack(norm, length):
        steps = dynamics.ascend(num_steps=config.few_steps, direction=norm.steepest)
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


# --- pictures ---


def pictures(found: xr.Dataset) -> xr.Dataset:
    """Images, perturbations, and differences enlarged by a power of ten.

    The strengths of attacks differ by orders of magnitude from image to image, so each
    one is in units of the largest entry of its own closed form. Rounded to what can be
    seen.
    """
    found = found[[*SHOWN]].astype(float)
    real, theory = found["real"], found["theory"]
    unit = np.abs(theory).max(("row", "column", "channel"))
    relative = (real, theory, theory - real, found["to_l2"], found["to_linf"])
    rows = [found["clean"], *(each / unit for each in relative)]
    most = [float(np.abs(row).max()) for row in rows]
    enlarged = [
        10.0 ** np.floor(-np.log10(each)) if each and i >= 3 else 1.0
        for i, each in enumerate(most)
    ]
    shown = {
        name: (factor * row.mean("channel")).round(2)
        for name, factor, row in zip(LABELS, enlarged, rows, strict=True)
    }
    pixels = arrays.stacked(shown, "picture")
    return xr.Dataset({"pixels": pixels, "enlarged": ("picture", enlarged)})


def figure(values: xr.Dataset, title: str) -> Any:
    """A column for each image; None where pictures were not kept."""
    if "pixels" not in values:
        return None
    number, rows = values.sizes["shown"], values.sizes["picture"]
    drawn, axes = figures.panels(number, rows)
    drawn.set_size_inches(1.1 * number + 0.8, 1.15 * rows)
    for i, (name, label) in enumerate(LABELS.items()):
        at = values.sel(picture=name)
        least, cmap = (0, "gray_r") if name == "clean" else (-1, "RdBu_r")
        if name.startswith("minus"):
            label += f"\n× {float(at['enlarged']):.0e}"
        for j, axis in enumerate(axes[i * number : (i + 1) * number]):
            axis.imshow(at["pixels"].isel(shown=j), cmap=cmap, vmin=least, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.set_ylabel("" if j else label, fontsize=7)
    drawn.suptitle(title, fontsize=10)
    return drawn
