# %% [markdown]
# # Clean generalisation and robust memorisation
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/advjax/advjax/blob/main/colab/04_robust_memorization.ipynb)
#
# Adversarially trained networks are accurate on clean test images and robust on training
# images, but much less robust on test images. *Why clean generalization and robust
# memorization both happen in adversarial training* (2023) explains it by a classifier that
# is the clean one but for memorised balls. Here, on the digits: how flat the loss is around
# images, how far the decision boundary is, that classifier, and a learner of Section 4 whose
# robustness is certified.
#
# A minute and a half on a CPU, set-up aside.

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
EPS = 0.1  # radius of training (linf), in units of the pixel range [0, 1]
NUM_STEPS = 7  # of attacks in training, and of searches
NUM_SEEDS = 3
NUM_EPOCHS = 120
NUM_IMAGES = 100  # of each part, around which the loss is searched
RADII = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of the search, over that of training
NUM_RESTARTS = 3  # of the attack that finds small margins
DIMENSION = 300  # of the separable data, and number of examples
NUM_DATA = 10  # separable data sets
STAGE_STEPS = 300  # of FGSM there
SEED = 0

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import (
    attacks,
    criteria,
    data,
    evaluate,
    losses,
    models,
    norms,
    objectives,
    train,
)
from advjax.types import Batch
from experiments import figures, writing

parts = [
    data.load(DATASET, split=name, data_dir=DATA_DIR) for name in ("train", "test")
]
training, test = (Batch(data.as_float(x), jnp.asarray(y)) for x, y in parts)
keys = iter(jax.random.split(jax.random.key(SEED), 20))
training.x.shape, test.x.shape

# %% [markdown]
# ## Two trainings
#
# Clean and adversarial training, from the same starts. Accuracies are out of all images.

# %%
num_classes = int(training.y.max()) + 1
model = models.make("mlp", num_classes=num_classes, hidden=(256, 256))
tx = optax.adam(optax.linear_schedule(2e-3, 0.0, NUM_EPOCHS * (len(training.y) // 128)))
ball = {"start": attacks.in_ball(norms.linf), "bounds": (0.0, 1.0)}
pgd = partial(attacks.pgd, norms.linf, rel_step_size=0.25, **ball)
strong = attacks.best_of(
    pgd(num_steps=2 * NUM_STEPS, keep_best=True), num_restarts=NUM_RESTARTS
)


def run(objective, key):
    """Trains for some epochs at EPS; a pure function, to be vmapped over seeds."""
    steps = train.scanned(train.make_step(objective, tx))
    state = train.create(key, model, tx, training.x[:1])
    indices = train.epochs(state, NUM_EPOCHS, len(training.y), 128)
    return steps(state, training, indices, EPS)[0].params


def logits(params, x):
    """A network."""
    return model.predict(params, {}, x)


def loss_fn(params, x, y):
    """Its loss, per example."""
    return losses.cross_entropy(logits(params, x), y)


@jax.jit
def outcomes(params, key):
    """Accuracies of one network after another, clean and attacked."""

    def of(params, part):
        predict = partial(logits, params)
        found = evaluate.outcome(key, predict, losses.cross_entropy, strong, *part, EPS)
        return 100 * found.correct.mean(), 100 * found.robust.mean()

    return [jax.vmap(partial(of, part=part))(params) for part in (training, test)]


plain = objectives.standard(model, losses.cross_entropy)
robust = objectives.adversarial(model, losses.cross_entropy, pgd(num_steps=NUM_STEPS))
seeds, key = jax.random.split(next(keys), NUM_SEEDS), next(keys)
networks, rows = {}, []
for name, objective in (("clean training", plain), ("adversarial training", robust)):
    networks[name] = jax.jit(jax.vmap(partial(run, objective)))(seeds)
    of_training, of_test = outcomes(networks[name], key)
    rows.append([name, *(figures.plus_minus(v, 1) for v in (*of_training, *of_test))])
header = ["accuracy, %", "training", "training, attacked", "test", "test, attacked"]
print(writing.table(header, rows))
print(f"mean ± sd, {NUM_SEEDS} seeds; PGD-{2 * NUM_STEPS} × {NUM_RESTARTS} at {EPS}")

# %% [markdown]
# After adversarial training attacked training images are right far more often than attacked
# test images: robust memorisation, which Table 1 of the paper has on CIFAR-10 (100 and
# 45.8 %).
#
# ## Flatness
#
# The largest l1 norm of the input gradient in balls about an image, and how far the loss
# rises there (Figure 1). What a search finds are lower bounds. The paper finds the loss
# flat within the radius of training and sharp beyond.

# %%
from advjax import flatness

box = {"bounds": (0.0, 1.0)}
search = flatness.largest(norms.linf, num_steps=NUM_STEPS, rel_step_size=0.25, **box)


@partial(jax.jit, static_argnums=0)
def peak(kind, params, key, x, y, eps, delta):
    """The largest gradient norm or loss of a network within one radius."""
    measure = partial(loss_fn, params)
    if kind == "gradient":
        measure = flatness.gradient_norm(measure, norms.linf)
    return search(key, measure, x, y, eps, delta)


def profile(kind, params, key, part):
    """Means over images of the values and of their rise, at every radius."""
    x, y = part.x[:NUM_IMAGES], part.y[:NUM_IMAGES]
    radii = [EPS * radius for radius in RADII]
    peaks = flatness.profile(partial(peak, kind, params), key, x, y, radii)
    return (peaks.value if kind == "gradient" else peaks.rise).mean(axis=1)


NAMES = [f"{name}, {part} images" for name in networks for part in ("training", "test")]
each = [
    [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(NUM_SEEDS)]
    for params in networks.values()
]
figure, axes = figures.panels(2)
for axis, kind in zip(axes, ("gradient", "loss"), strict=True):
    for k, name in enumerate(NAMES):
        part = (training, test)[k % 2]
        values = np.array([profile(kind, params, key, part) for params in each[k // 2]])
        figures.span(
            axis,
            figures.runs(EPS * np.array(RADII), values.T),
            "x",
            name,
            figures.PALETTE[k],
        )
    axis.axvline(EPS, color="0.3", linewidth=0.8, linestyle=":")
    axis.set_xlabel("radius of the ball (linf)")
axes[0].set(ylabel="largest ‖∇L‖₁", yscale="log")
axes[1].set_yscale("symlog", linthresh=0.01)
axes[1].set(ylabel="largest rise of the loss", ylim=(0, None))
axes[0].legend(fontsize=8)
title = f"{NUM_IMAGES} images of each part; mean, least to largest of {NUM_SEEDS} seeds"
_ = figure.suptitle(title, fontsize=10)

# %% [markdown]
# At the radius of training, dotted, the largest gradients on training images are smaller
# after adversarial training than those on test images, and many times smaller than after
# clean training. Beyond it they rise, and the two parts meet.
#
# ## Distance to the decision boundary
#
# By bisecting the radius of an attack. The point that is found is across the boundary, so
# that the true distance is at most this one; misclassified images have distance 0. In
# brackets Wilson's 95 % intervals.

# %%
from advjax import margins

nearest = margins.boundary(pgd(num_steps=2 * NUM_STEPS), norms.linf, num_halvings=7)
figure, (axis,) = figures.panels()
for k, name in enumerate(NAMES):
    margin = margins.logit_margin(partial(logits, each[k // 2][0]))
    part = (training, test)[k % 2]
    distance, _, flags = nearest(next(keys), margin, *part, 5 * EPS)
    print(*flags.caveats(), sep="\n", end="")
    axis.ecdf(np.minimum(distance, 1), color=figures.PALETTE[k], label=name)
    share = evaluate.wilson(int((distance < EPS).sum()), len(distance))
    value, low, high = (100 * end for end in share)
    print(f"{name}: {value:.1f} [{low:.1f}, {high:.1f}] % are below {EPS}")
axis.axvline(EPS, color="0.3", linewidth=0.8, linestyle=":")
axis.set(xlabel="distance to the boundary (linf), at most", ylabel="share of images")
axis.set(xlim=(0, 5 * EPS), title="the first seed")
_ = axis.legend(fontsize=8, loc="lower right")

# %% [markdown]
# ## The classifier that memorises
#
# f_adv answers with the label within EPS of the training images of small margin, and is the
# clean network elsewhere (Proposition 3.2). An attack on the margin finds which they are.
# The same attack with other starts, one on the loss, and random points then try to break
# f_adv; they are aimed at the clean network, since within balls f_adv has no gradient.

# %%
from advjax import memorization


@partial(jax.jit, static_argnums=0)
def moved(kind, params, key, x, y):
    """A batch attacked through the margin or the loss, moved at random, or as it is."""
    if kind in ("as they are", "moved at random"):
        noise = jax.random.uniform(key, x.shape, minval=-EPS, maxval=EPS)
        return x if kind == "as they are" else jnp.clip(x + noise, 0, 1)
    loss = losses.cross_entropy if "loss" in kind else losses.margin
    goal = criteria.Goal(partial(logits, params), loss)
    return strong(key, goal, x, y, EPS)[0]


KINDS = ("attacked through the margin", "attacked through the loss")
CHECKS = [("training", kind) for kind in (*KINDS, "moved at random")]
CHECKS += [("test", kind) for kind in ("as they are", KINDS[0])]


def memorised(params, key):
    """Errors of f_clean and f_adv, the share of small margins, and their separation."""
    key, *check_keys = jax.random.split(key, 1 + len(CHECKS))
    error = lambda f, x, y: 100 * jnp.mean(margins.logit_margin(f)(x, y) <= 0)
    f_clean = partial(logits, params)
    x_adv = moved(KINDS[0], params, key, *training)
    is_small = margins.logit_margin(f_clean)(x_adv, training.y) <= 0
    small = jax.tree.map(lambda leaf: leaf[is_small], training)
    targets = jax.nn.one_hot(small.y, num_classes)
    f_adv = memorization.classifier(f_clean, norms.linf, small.x, targets, EPS)
    errors = []
    for (part, kind), check_key in zip(CHECKS, check_keys, strict=True):
        x, y = {"training": training, "test": test}[part]
        x = moved(kind, params, check_key, x, y)
        errors.append([error(f, x, y) for f in (f_clean, f_adv)])
    apart = memorization.separation(norms.linf, *training, *small).min()
    return np.array(errors), 100 * is_small.mean(), apart


found = [memorised(params, next(keys)) for params in each[0]]
errors, shares, apart = (np.stack(row, axis=-1) for row in zip(*found, strict=True))
rows = [
    [f"{part} images, {kind}", *(figures.plus_minus(v, 2) for v in row)]
    for (part, kind), row in zip(CHECKS, errors, strict=True)
]
print(writing.table(["errors, %", "f_clean", "f_adv"], rows))
print(f"memorised: {figures.plus_minus(shares, 1)} % of the training images, at least")
print(f"{apart.min():.2f} from those of other classes (needed: more than {2 * EPS:g})")

# %% [markdown]
# f_adv has the clean test error of f_clean, and attacked test images break it as they break
# f_clean. On training images other attacks find few errors: images whose small margin the
# first attack had missed. `models.Memorizing` is the ReLU network of f_adv.
#
# ## A learner with a certificate
#
# Section 4: examples are separable with a large margin or, some of them, with a small one,
# below the radius of an l2 attack. FGSM trains a linear function w0 on those of large margin
# (Theorem 4.1); then a neuron memorises each one of small margin (Theorem 4.2).
# `certified_margin` bounds the margin under any attack.

# %%
from advjax import descent, replicates

model = models.from_function(lambda _, x: jnp.zeros(x.shape[1:]), lambda w0, x: x @ w0)
objective = objectives.adversarial(model, losses.exponential, attacks.fgsm(norms.l2))
climb = attacks.pgd(norms.l2, num_steps=20, rel_step_size=0.125)


def learned(key):
    """cos(w0, w*) after the first and the last step, and errors after both stages."""
    key_target, key_attack, *others = jax.random.split(key, 5)
    target = norms.l2.steepest(jax.random.normal(key_target, (DIMENSION,)))
    draw = lambda key, n, share: data.separable(
        key, n, target, small_share=share, large=10.0, small=0.5
    )
    num_small = DIMENSION // 5
    large = draw(others[0], DIMENSION - num_small, 0.0)
    small, fresh = (draw(key, num_small, 1.0) for key in others[1:])
    loss = lambda w0: objective(w0, {}, key_attack, Batch(large.x, large.y), 1.0)[0]
    update, start = descent.step(jax.grad(loss), 0.01), jnp.zeros(DIMENSION)
    path = descent.path(start, update, num_steps=STAGE_STEPS)[jnp.array([1, -1])]
    learner = memorization.memorize(path[-1], small.x, small.y, DIMENSION / 2)
    certified = [
        memorization.certified_margin(learner, norms.l2, part.x, part.y, 1.0)
        for part in (large, small)
    ]
    margin = margins.logit_margin(partial(memorization.mixed, learner))
    search = margins.adversarial(climb)
    attacked = search(key_attack, margin, fresh.x, fresh.y, 1.0).value
    shown = jnp.concatenate(certified), margin(fresh.x, fresh.y), attacked
    cosines = path @ target / jnp.linalg.norm(path, axis=1)
    return *cosines, *(100 * jnp.mean(margin <= 0) for margin in shown)


found = replicates.sharded_vmap(learned)(jax.random.split(next(keys), NUM_DATA))
first, last = (figures.plus_minus(values, 4) for values in found[:2])
certified, clean, attacked = (figures.plus_minus(values, 1) for values in found[2:])
print(f"mean ± sd over {NUM_DATA} data sets, d = {DIMENSION}")
print(f"cos(w0, w*) {first} after one step of FGSM, {last} after {STAGE_STEPS}")
print(f"robust training error: certified to be at most {certified} %")
print(f"fresh examples of small margin: clean error {clean} %, by PGD-20 {attacked} %")

# %% [markdown]
# No attack within the radius breaks the learner on a training example. On fresh examples of
# small margin it is right, by its linear part, but not robust: no neuron knows them. The
# first step of FGSM is the mean of the data, and almost w\* already; more add little.
