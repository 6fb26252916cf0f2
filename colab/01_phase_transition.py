# %% [markdown]
# # From clean to adversarial training: the radius eps\*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/advjax/advjax/blob/main/colab/01_phase_transition.ipynb)
#
# Up to some radius eps\*, adversarial training behaves like clean training: its loss stays
# below the clean test loss of clean training (Xing et al., *Phase transition from clean
# training to adversarial training*, 2022). Here is eps\* of a network on the digits, from
# a grid of radii and seeds and by the cheaper Algorithm A.1; p-values of linear
# regression against log(eps/√(d/n)); and curves of low loss between clean and robust
# networks.
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
RADII = (0.0, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16)  # linf; pixels are in [0, 1]
TUNED_RADII = (0.01, 0.02, 0.04)
CURVE_RADII = (0.0, 0.06, 0.16)  # of the first ones
NUM_STEPS = 7  # of PGD
NUM_SEEDS = 5
NUM_EPOCHS = 80
TUNED_EPOCHS = 16
CURVE_EPOCHS = 40
DIMENSIONS = (2, 5, 10)
NUM_EXAMPLES = 100  # of a simulated data set
NUM_REPLICATES = 500  # data sets of clean and of adversarial training
SEED = 0

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import attacks, data, losses, models, norms, objectives, train, transition
from advjax.types import Batch
from experiments import figures

parts = [
    data.load(DATASET, split=name, data_dir=DATA_DIR) for name in ("train", "test")
]
training, test = (Batch(data.as_float(x), jnp.asarray(y)) for x, y in parts)
keys = iter(jax.random.split(jax.random.key(SEED), 20))
training.x.shape, test.x.shape

# %% [markdown]
# ## A grid of radii and seeds
#
# A run is a pure function of its state and radius, so the grid is two `vmap`s. Losses are
# those of the last epoch's networks, on all training images under the attack of training,
# and on the clean test images.

# %%
model = models.make("mlp", num_classes=int(training.y.max()) + 1, hidden=(128,))
ball = {"start": attacks.in_ball(norms.linf), "bounds": (0.0, 1.0)}
pgd = attacks.pgd(norms.linf, num_steps=NUM_STEPS, rel_step_size=0.25, **ball)
epoch_steps = len(training.y) // 128
weight_decay = optax.add_decayed_weights(5e-4)


def run(objective, tx, num_epochs, state, eps):
    """Trains for some epochs; a pure function, to be vmapped over seeds and radii."""
    step = train.scanned(train.make_step(objective, tx))
    indices = train.epochs(state, num_epochs, len(training.y), 128)
    return step(state, training, indices, eps)[0]


def over_grid(objective, tx, num_epochs, states, radii):
    """Parameters of all radii and seeds, `[k, r]`."""
    runs = jax.vmap(partial(run, objective, tx, num_epochs), (0, None))
    return jax.jit(jax.vmap(runs, (None, 0)))(states, jnp.array(radii)).params


def loss_fn(params, x, y):
    """The loss of a network, per example."""
    return losses.cross_entropy(model.predict(params, {}, x), y)


@jax.jit
def attacked_losses(params, radii):
    """Mean losses of `params[k, r]` on attacked training images, `[k, r]`."""

    def attacked(eps, params, key):
        return pgd(key, partial(loss_fn, params), *training, eps)[1].loss.mean()

    over_seeds = jax.vmap(attacked, (None, 0, 0))
    return jax.vmap(over_seeds, (0, 0, None))(jnp.array(radii), params, attack_keys)


# %%
drops = {NUM_EPOCHS * epoch_steps * k // 4: 0.1 for k in (2, 3)}
schedule = optax.piecewise_constant_schedule(0.2, drops)
tx = optax.chain(weight_decay, optax.sgd(schedule, momentum=0.9))
init = lambda key: train.create(key, model, tx, training.x[:1])
states = jax.vmap(init)(jax.random.split(next(keys), NUM_SEEDS))
attack_keys = jax.random.split(next(keys), NUM_SEEDS)

objective = objectives.adversarial(model, losses.cross_entropy, pgd)
params = over_grid(objective, tx, NUM_EPOCHS, states, RADII)
loss = attacked_losses(params, RADII)
clean = jax.tree.map(lambda leaf: leaf[RADII.index(0.0)], params)
threshold = jax.vmap(lambda params: loss_fn(params, *test).mean())(clean)
found = jax.vmap(transition.crossing, (None, 1, 0))(jnp.array(RADII), loss, threshold)
status = [transition.Status(int(each)).name for each in found.status]
print(f"eps* = {figures.plus_minus(found.eps_star, 4)}; {', '.join(status)}")
print(f"threshold {figures.plus_minus(threshold)}; mean ± sd over {NUM_SEEDS} seeds")

# %% [markdown]
# ## Algorithm A.1
#
# Fine-tuning at a few small radii, from the clean networks (`train.restart`), and a line
# through the losses, extended to the threshold. By PGD, and by FGM, a single step. The
# cost is the number of gradients per example, clean training included.

# %%
peak, end = 3 * TUNED_EPOCHS * epoch_steps // 8, TUNED_EPOCHS * epoch_steps
schedule = optax.piecewise_interpolate_schedule("linear", 0.01, {peak: 20, end: 0})
tx = optax.chain(weight_decay, optax.sgd(schedule, momentum=0.9))
restart = lambda key, params: train.restart(key, params, {}, tx)
states = jax.vmap(restart)(jax.random.split(next(keys), NUM_SEEDS), clean)
fgm = attacks.fgsm(norms.linf, rel_step_size=1.25, **ball)
of_grid = NUM_EPOCHS * (1 + (len(RADII) - 1) * (NUM_STEPS + 1))

tuned = {}
for name, attack, cost in (("PGD", pgd, NUM_STEPS + 1), ("FGM", fgm, 2)):
    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    tuned_params = over_grid(objective, tx, TUNED_EPOCHS, states, TUNED_RADII)
    tuned[name] = attacked_losses(tuned_params, TUNED_RADII)
    for rows in (slice(1, 2), slice(None)):
        eps = jnp.array([0.0, *TUNED_RADII[rows]])
        points = jnp.concatenate([loss[:1], tuned[name][rows]])
        line = jax.vmap(transition.extrapolate, (None, 1, 0))(eps, points, threshold)
        error = 100 * np.abs(line.eps_star / found.eps_star - 1)
        share = 100 * (NUM_EPOCHS + (len(eps) - 1) * TUNED_EPOCHS * cost) / of_grid
        estimate = figures.plus_minus(line.eps_star, 4)
        print(f"{name}, radii {TUNED_RADII[rows]}: eps* = {estimate}", end=", ")
        print(f"{figures.plus_minus(error, 0)} % off, {share:.1f} % of the gradients")

figure, (axis,) = figures.panels()
args = (figures.runs(RADII, loss), "x", threshold, found.eps_star)
figures.crossing(axis, *args, "adversarial training from scratch")
for (name, values), color in zip(tuned.items(), figures.PALETTE[2:], strict=False):
    figures.band(
        axis,
        figures.runs(TUNED_RADII, values),
        "x",
        f"fine-tuned, {name}",
        color,
        marker="s",
    )
axis.set(xlabel="radius", ylabel=f"loss, {len(training.y)} attacked training images")
axis.set_title(f"{DATASET}: mean ± sd over {NUM_SEEDS} seeds", fontsize=10)
_ = axis.legend(loc="upper left", fontsize=8)

# %% [markdown]
# So few epochs leave the fine-tuned losses above those from scratch, and the estimates
# are low. Table 4 of the paper has errors of 4 to 48 %.
#
# ## p-values of linear regression
#
# Is an adversarial run one more draw of clean training? Clean training on many data
# sets gives the distribution, and every run on another data set a p-value: of its
# parameters by Hotelling's test, of its training loss by the t-test (Figures 2 and 3).

# %%
from advjax import descent, inference, linear, replicates

logs = np.linspace(-3, 3, 19)


def fit(theta0, key, eps):
    """Descent on one data set: the parameters, and their loss under attack."""
    x, y = data.gaussian(key, NUM_EXAMPLES, theta0, None, 1.0)
    gradient = lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps)
    # The attack adds to the curvature, so that the step must shrink.
    update = descent.step(gradient, 0.1 / (1 + eps**2))
    theta = descent.last(jnp.zeros_like(theta0), update, num_steps=100)
    return theta, linear.adversarial_loss(theta, norms.l2, x, y, eps).mean()


p_values = jax.jit(jax.vmap(jax.vmap(inference.p_value, (0, None)), (0, None)))
figure, axes = figures.panels(2, sharey=True)
for d, color in zip(DIMENSIONS, figures.colors(len(DIMENSIONS)), strict=True):
    theta0, ratio = jnp.full(d, d**-0.5), d / NUM_EXAMPLES
    eps = jnp.asarray(ratio**0.5 * np.exp(logs), jnp.float32)
    fits = replicates.sharded_vmap(jax.vmap(partial(fit, theta0), (None, 0)))
    # Clean fits of the first data sets, and of the others at all radii.
    both = fits(jax.random.split(next(keys), 2 * NUM_REPLICATES), jnp.append(0.0, eps))
    draws = [values[:NUM_REPLICATES, 0] for values in both]
    runs = [values[NUM_REPLICATES:, 1:] for values in both]
    args = (norms.l2, linear.Population(theta0, None, 1.0), 0.0)
    risk = jax.vmap(lambda theta, args=args: linear.population_risk(theta, *args))
    star = transition.crossing(eps, runs[1].mean(0), risk(draws[0]).mean())
    print(f"d = {d}: eps* by mean losses {star.eps_star:.3f}", end=", ")
    print(f"√(d/n) = {ratio**0.5:.3f}, d/n = {ratio:.3f}; median p at -2, 0, 2:")
    for axis, i, name in zip(axes, (0, 1), ("parameters", "loss"), strict=True):
        p = p_values(runs[i], draws[i])
        low, middle, high = np.quantile(p, (0.25, 0.5, 0.75), axis=0)
        print(name, *(f"{np.interp(log, logs, middle):.2g}" for log in (-2, 0, 2)))
        axis.plot(logs, middle, color=color, label=f"d = {d}")
        axis.fill_between(logs, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(xlabel="log(eps/√(d/n))", title=f"test of the {name}", ylim=(0, 1))
axes[0].set_ylabel("p-value: median and quartiles")
axes[1].legend()
title = f"n = {NUM_EXAMPLES}, {NUM_REPLICATES} clean and attacked data sets"
_ = figure.suptitle(title, fontsize=10)

# %% [markdown]
# Median p-values are about a half at small radii, and vanish at large ones. Those of the
# parameters fall about √(d/n) for every d. By the losses the transition is earlier: the
# radius at which the means cross is below √(d/n), near d/n.
#
# ## Curves of low loss
#
# As in Figure 4, a curve with one trained bend joins a clean network with a robust one
# (Garipov et al. 2018). The ends are of different seeds, so that at radius 0 they are two
# clean networks.

# %%
from advjax import curves

objective = objectives.standard(model, losses.cross_entropy)
objective = curves.along(objective, curves.bezier)
schedule = optax.linear_schedule(0.2, 0.0, CURVE_EPOCHS * epoch_steps)
tx = optax.sgd(schedule, momentum=0.9)
ts = jnp.linspace(0, 1, 41)


def connected(key, a, b):
    """Trains the bend between two networks; the losses along curve and line."""
    state = train.restart(key, curves.straight(a, b), {}, tx)
    path = run(objective, tx, CURVE_EPOCHS, state, 0.0).params
    at = lambda curve, t: loss_fn(curve(path, t), *training).mean()
    return [jax.vmap(partial(at, curve))(ts) for curve in (curves.bezier, curves.line)]


rows = jnp.array([RADII.index(eps) for eps in CURVE_RADII])
ends = jax.tree.map(lambda leaf: jnp.roll(leaf[rows], 1, axis=1), params)
pairs = jax.vmap(jax.vmap(connected), (None, None, 0))
along = jax.jit(pairs)(jax.random.split(next(keys), NUM_SEEDS), clean, ends)

figure, axes = figures.panels(2, sharey=True)
for axis, name, values in zip(axes, ("curve", "line"), along, strict=True):
    for eps, each, color in zip(CURVE_RADII, values, figures.PALETTE, strict=False):
        figures.band(
            axis, figures.runs(ts, each.T), "x", f"radius {eps:g}", color, marker=""
        )
        barrier = each.max(axis=1) - jnp.maximum(each[:, 0], each[:, -1])
        print(f"{name}, radius {eps:g}: barrier {figures.plus_minus(barrier)}")
    axis.set(xlabel="t: clean (0) to robust (1)", title=f"along the {name}")
    axis.set_yscale("log")
axes[0].set_ylabel(f"clean loss, {len(training.y)} training images")
axes[1].legend()
_ = figure.suptitle(f"{NUM_SEEDS} pairs: mean ± sd", fontsize=10)

# %% [markdown]
# The loss rises along the straight line several times as much as along the curve. Whether
# the low loss of a robust network is that of the clean one's basin shows in the plane
# through the three points, `curves.plane`.
