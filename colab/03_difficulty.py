# %% [markdown]
# # Perturbations, curvature and unstable gradients
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/advjax/advjax/blob/main/colab/03_difficulty.ipynb)
#
# Cheng et al., *Clarifying the behavior and the difficulty of adversarial training*
# (2024), explain why adversarial training is hard by how an ascent moves an input. Here,
# on networks for the digits: Theorem 2, the closed form of a perturbation; its growth; the
# eigenvalues of Hessians, of inputs and of parameters; and how unstable the gradient of
# each layer is.
#
# A minute on a CPU, set-up aside.

# %% [markdown]
# ## Set-up
#
# The jax that is here stays as it is: Colab's GPU and TPU runtimes bring their own.

# %%
import importlib
import os
import subprocess
import sys
from importlib import metadata, util

if util.find_spec("advjax") is None:
    # ADVJAX may name another source, such as a checkout.
    source = os.environ.get("ADVJAX", "git+https://github.com/advjax/advjax")
    here = [name for name in ("jax", "jaxlib", "flax") if util.find_spec(name)]
    pins = [f"{name}=={metadata.version(name)}" for name in here]
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"advjax[colab] @ {source}", *pins], check=True)
    importlib.invalidate_caches()

# %% [markdown]
# ## Parameters
#
# `DATASET = "mnist"` or `"cifar10"` reads what TensorFlow Datasets has prepared in
# `DATA_DIR`. They are larger: take an accelerator, and fewer epochs.

# %% tags=["parameters"]
DATASET = "digits"
DATA_DIR = None  # ~/tensorflow_datasets, or the environment's TFDS_DATA_DIR
EPS = 0.1  # of PGD (linf), in units of the pixel range [0, 1]
NUM_STEPS = 7  # of PGD
NUM_SEEDS = 3
NUM_EPOCHS = 20
NUM_IMAGES = 200  # test images under ascent
ASCENT_STEPS = (10, 100, 1000)
HORIZONS = (0.001, 0.01, 0.1, 1.0)  # strengths β of an ascent
GROWTH_STEPS = 300  # at most, to an image that is misclassified
GROWTH_SIZE = 0.05
NUM_MATVECS = 40  # of Lanczos
NUM_EIGS = 5
NUM_WATCHED = 20  # test images whose weight gradients are followed
SEED = 0

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import attacks, data, losses, models, norms, objectives, train
from advjax.types import Batch
from experiments import figures, intervals

parts = [
    data.load(DATASET, split=name, data_dir=DATA_DIR) for name in ("train", "test")
]
training, test = (Batch(data.as_float(x), jnp.asarray(y)) for x, y in parts)
keys = iter(jax.random.split(jax.random.key(SEED), 20))
training.x.shape, test.x.shape

# %% [markdown]
# ## Networks
#
# Clean and adversarial training differ in the radius alone. The parameters of every epoch
# are kept.

# %%
num_classes, tx = int(training.y.max()) + 1, optax.adam(2e-3)
model = models.make("mlp", num_classes=num_classes, hidden=(64, 64))
ball = {"start": attacks.in_ball(norms.linf), "bounds": (0.0, 1.0)}
pgd = attacks.pgd(norms.linf, num_steps=NUM_STEPS, rel_step_size=0.25, **ball)
objective = objectives.adversarial(model, losses.cross_entropy, pgd)
steps = train.scanned(train.make_step(objective, tx))


def run(key, eps):
    """Parameters after every epoch; a pure function, to be vmapped."""

    def epoch(state, i):
        order = train.epoch_indices(train.shuffle_key(state, i), len(training.y), 128)
        state, _ = steps(state, training, order, eps)
        return state, state.params

    state = train.create(key, model, tx, training.x[:1])
    return jax.lax.scan(epoch, state, jnp.arange(NUM_EPOCHS))[1]


def loss_fn(params, x, y):
    """The loss of a network, per example."""
    return losses.cross_entropy(model.predict(params, {}, x), y)


def attacked(params, key, batch):
    """A batch under PGD."""
    return Batch(pgd(key, partial(loss_fn, params), *batch, EPS)[0], batch.y)


def accuracies(params, key):
    """On clean and on attacked test images."""
    logits = lambda batch: model.predict(params, {}, batch.x)
    parts = test, attacked(params, key, test)
    return [(logits(part).argmax(axis=1) == part.y).mean() for part in parts]


runs = jax.jit(jax.vmap(jax.vmap(run, (0, None)), (None, 0)))
epochs = runs(jax.random.split(next(keys), NUM_SEEDS), jnp.array([0.0, EPS]))
last = jax.tree.map(lambda leaf: leaf[:, :, -1], epochs)  # [training, seed, ...]
both = jax.jit(jax.vmap(jax.vmap(accuracies, (0, None)), (0, None)))(last, next(keys))
TRAININGS, KINDS = ("clean training", "adversarial training"), ("clean", "attacked")
NAMES = [f"{training}, {kind} images" for training in TRAININGS for kind in KINDS]
for k, name in enumerate(NAMES):
    print(f"{name}: {figures.plus_minus(100 * both[k % 2][k // 2], 1)} % right")
print(f"{len(test.y)} test images, PGD-{NUM_STEPS} at {EPS}; {NUM_SEEDS} seeds")

# %% [markdown]
# ## The closed form of a perturbation
#
# Ascent of m steps of size β/m along the gradient, without normalisation. With the gates of
# the ReLUs fixed the logits are affine in the input, and Theorem 2 has the perturbation of
# infinitely many steps from the mean Hessian along the path. κ is the mean error over the
# mean length.

# %%
from advjax import dynamics

params = jax.tree.map(lambda leaf: leaf[0, 0], last)  # clean training, the first seed
predict = lambda x: model.predict(params, {}, x[None])[0]
few = Batch(test.x[:NUM_IMAGES], test.y[:NUM_IMAGES])


def errors(num_steps, is_free, x, y, horizon):
    """The length of the error of the closed form, and of the closed form."""
    loss = partial(losses.cross_entropy, labels=y)
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    if is_free:
        record = dynamics.logit_hessians(predict, loss)
        ascent = dynamics.ascend(num_steps=num_steps, record=record)
        path = ascent(lambda x: loss(predict(x)), x, horizon)
        hessian = dynamics.path_mean(*path.records[::-1])
    else:
        path = dynamics.ascend_logits(num_steps=num_steps)(
            loss, logits, jacobian, horizon
        )
        hessian = path.logit_hessian
    grad = jnp.tensordot(jax.grad(loss)(logits), jacobian, axes=1)
    eigs = dynamics.logit_eigs(jacobian, hessian)
    theory = dynamics.closed_form(eigs, grad, horizon).delta
    return jnp.linalg.norm(theory - path.delta), jnp.linalg.norm(theory)


figure, (axis,) = figures.panels()
ascents = [(False, m, "fixed") for m in ASCENT_STEPS] + [(True, 100, "free")]
for (is_free, m, gates), color in zip(ascents, figures.PALETTE, strict=False):
    over_images = jax.vmap(partial(errors, m, is_free), (0, 0, None))
    found = jax.jit(jax.vmap(over_images, (None, None, 0)))(*few, jnp.array(HORIZONS))
    kappa = np.array([intervals.ratio(*pair) for pair in zip(*found, strict=True)]).T
    bars = np.abs(kappa[1:] - kappa[:1])
    label = f"gates {gates}, m = {m}"
    axis.errorbar(HORIZONS, kappa[0], bars, color=color, label=label)
axis.set(xlabel="strength β", ylabel="κ", xscale="log", yscale="log")
axis.set_title(f"{len(few.y)} test images, 95 % intervals", fontsize=10)
_ = axis.legend(fontsize=8)

# %% [markdown]
# The weaker the ascent, the more accurate is the closed form. At small β more steps help;
# at large β what is left is that the Hessian changes along the path.
#
# ## Growth
#
# Conclusion C. 2 has ‖δ‖ and the gradient grow exponentially with the steps, straight lines
# below. Each ascent is shown along its way to the first step at which the image is
# misclassified, relative to the value there (Figure 2); for comparison an l2 attack, whose
# steps are of equal length.


# %%
def grown(is_fixed, direction, x, y):
    """‖δ‖, ‖g‖ and whether the image is right, before every step."""
    network = dynamics.frozen(predict, x) if is_fixed else predict
    loss = lambda x: losses.cross_entropy(network(x), y)
    norm, is_right = jnp.linalg.norm, lambda x: jnp.argmax(network(x)) == y
    record = lambda at, g: (norm(at - x), norm(g), is_right(at))
    ascent = dynamics.ascend(num_steps=GROWTH_STEPS, direction=direction, record=record)
    return ascent(loss, x, float(GROWTH_STEPS)).records


plain, unit = lambda g: GROWTH_SIZE * g, lambda g: 0.02 * norms.l2.steepest(g)
ascents = {"gates free": (0, plain), "gates fixed": (1, plain), "l2": (0, unit)}
shares, times = np.linspace(0.02, 1, 50), np.arange(GROWTH_STEPS)
figure, axes = figures.panels(2)
for (name, options), color in zip(ascents.items(), figures.PALETTE, strict=False):
    *sizes, right = jax.device_get(jax.jit(jax.vmap(partial(grown, *options)))(*few))
    until = np.argmin(right, axis=1)  # 0 where the image stays right
    reached = np.flatnonzero(right[:, 0] & (until > GROWTH_STEPS // 40))
    for axis, size in zip(axes, sizes, strict=True):
        rows = [np.interp(shares * until[i], times, size[i]) for i in reached]
        rows = np.array(rows) / np.array(rows)[:, -1:]
        low, middle, high = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
        axis.plot(shares, middle, color=color, label=name)
        axis.fill_between(shares, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(xlabel="share of the steps to success", yscale="log")
    print(f"{name}: {len(reached)} of {right[:, 0].sum()} images are reached")
for axis, norm in zip(axes, ("‖δ‖", "‖g‖"), strict=True):
    axis.set_ylabel(f"{norm} over its last value: median, quartiles")
_ = axes[0].legend()

# %% [markdown]
# At half of the steps an l2 attack has half of its length, an ascent along the gradient far
# less. At the end it grows faster than exponentially.
#
# ## Curvature
#
# Lanczos needs products with a Hessian only: of the loss of one input, where a 10×10 matrix
# has the same eigenvalues (`dynamics.logit_eigs`); and of the mean loss as a function of all
# parameters, on clean and on attacked training images. The residuals ‖Hv - λv‖ are measured.

# %%
from advjax import hessians, spectrum


def input_eigs(key, x, y):
    """The largest eigenvalue by Lanczos, its residual, and its exact value."""
    loss = partial(losses.cross_entropy, labels=y)
    matvec = hessians.hvp(lambda x: loss(predict(x)), x)
    top = spectrum.top_eigs(num_matvecs=12, num_eigs=1)(key, matvec, x)
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    exact = dynamics.logit_eigs(jacobian, jax.hessian(loss)(logits)).values
    return top.values[0], top.residuals[0], exact[0]


def param_eigs(params, key):
    """Eigenpairs and density, of clean and of attacked training images."""
    key_attack, key_eigs, key_density = jax.random.split(key, 3)

    def of(batch):
        matvec = hessians.hvp(lambda params: loss_fn(params, *batch).mean(), params)
        top = spectrum.top_eigs(num_matvecs=NUM_MATVECS, num_eigs=NUM_EIGS)(
            key_eigs, matvec, params
        )
        density = spectrum.density(num_matvecs=NUM_MATVECS, num_samples=1)(
            key_density, matvec, params
        )
        return top.values, top.residuals, jax.tree.map(lambda leaf: leaf[0], density)

    return of(training), of(attacked(params, key_attack, training))


found = jax.jit(jax.vmap(input_eigs))(jax.random.split(next(keys), len(few.y)), *few)
value, residual, exact = (np.array(each) / found[2].max() for each in found)
error = np.abs(value - exact).max()
print(f"{len(few.y)} inputs, relative to the largest: Lanczos at most", end=" ")
print(f"{error:.0e} off, residuals at most {residual.max():.0e}")

over_all = jax.jit(jax.vmap(jax.vmap(param_eigs), (0, None)))
found = over_all(last, jax.random.split(next(keys), NUM_SEEDS))
figure, axes = figures.panels(2)
grid = jnp.linspace(-1, 5, 300)
for k, name in enumerate(NAMES):
    values, residuals, density = jax.tree.map(lambda x, k=k: x[k // 2], found[k % 2])
    figures.band(
        axes[0],
        figures.runs(range(1, NUM_EIGS + 1), values.T),
        "x",
        name,
        figures.PALETTE[k],
    )
    curve, _ = spectrum.smoothed(density, grid, 0.05)
    axes[1].plot(grid, curve, color=figures.PALETTE[k])
    print(f"{name}: largest {figures.plus_minus(values[:, 0], 1)},", end=" ")
    print(f"residuals at most {residuals.max():.0e}")
axes[0].set(xlabel="rank", ylabel="eigenvalue", yscale="log", ylim=(1, None))
axes[0].set_xticks(range(1, NUM_EIGS + 1))
axes[1].set(xlabel="eigenvalue", ylabel="density", yscale="log", ylim=(1e-4, 20))
axes[0].legend(fontsize=8)
title = f"{len(training.y)} training images; mean ± sd, mean density, {NUM_SEEDS} seeds"
_ = figure.suptitle(title, fontsize=10)

# %% [markdown]
# Attacked images make for larger eigenvalues than clean ones, after both trainings. Most
# eigenvalues are close to zero.
#
# ## Unstable gradients
#
# How fast the gradient of a layer changes when the layer is trained, on single test images,
# clean and attacked (`influence.instability`, Figure 5).

# %%
from advjax import influence

watched = Batch(test.x[:NUM_WATCHED], test.y[:NUM_WATCHED])


def instability(params, key):
    """Of every layer, the mean over images, clean and attacked."""

    def of(x, y):
        loss = lambda params: loss_fn(params, x[None], y[None])[0]
        return influence.instability(params, loss)

    parts = watched, attacked(params, key, watched)
    return jax.tree.map(jnp.mean, [jax.vmap(of)(*part) for part in parts])


over_epochs = lambda params, key: jax.lax.map(partial(instability, key=key), params)
over_all = jax.jit(jax.vmap(jax.vmap(over_epochs, (0, None)), (0, None)))
found = over_all(epochs, next(keys))
figure, axes = figures.panels(len(found[0]))
figure.set_size_inches(4 * len(axes), 3.8)
for axis, layer in zip(axes, found[0], strict=True):
    for k, name in enumerate(NAMES):
        values, times = found[k % 2][layer][k // 2].T, range(1, NUM_EPOCHS + 1)
        figures.band(
            axis, figures.runs(times, values), "x", name, figures.PALETTE[k], marker=""
        )
    axis.set(xlabel="epoch", title=layer, yscale="log")
    for i, name in enumerate(TRAININGS):
        clean, adversarial = (np.array(each[layer][i, :, -1]) for each in found)
        ratio = intervals.geometric(adversarial, clean)
        print(f"{layer}, {name}: attacked over clean images {ratio:.2f} at the end")
axes[0].set_ylabel(f"instability, mean of {NUM_WATCHED} test images")
axes[-1].legend(fontsize=7)
_ = figure.suptitle(f"mean ± sd over {NUM_SEEDS} seeds", fontsize=10)

# %% [markdown]
# The paper finds the gradients of attacked images less stable. Here they are so after some
# epochs, more after clean training, which the attack hits harder; in the first epochs,
# where the networks know little yet, they are not.
