# %% [markdown]
# # Attack your own model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/advjax/advjax/blob/main/colab/00_quickstart.ipynb)
#
# An attack of [advjax](https://github.com/advjax/advjax) sees a model only through a
# loss per example. So anything that JAX differentiates can be attacked: here a plain
# function, a linen and an NNX module. Then the same network is trained against the
# attack at six radii and three seeds, in one compiled program.
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
# The digits come with scikit-learn. `DATASET = "mnist"` or `"cifar10"` reads what
# TensorFlow Datasets has prepared in `DATA_DIR`; where it has not, the error has the
# command that does, which a cell runs after an exclamation mark.

# %% tags=["parameters"]
DATASET = "digits"
DATA_DIR = None  # ~/tensorflow_datasets, or the environment's TFDS_DATA_DIR
EPS = 0.1  # in units of the pixel range [0, 1]
NUM_STEPS = 10
NUM_EPOCHS = 30
NUM_SEEDS = 3
RADII = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)
SEED = 0

# %%
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax import (
    attacks,
    criteria,
    data,
    evaluate,
    losses,
    models,
    norms,
    objectives,
    programs,
    train,
)
from advjax.attacks import ensembles
from advjax.types import Batch
from experiments import figures

jax.devices()

# %%
parts = [
    data.load(DATASET, split=name, data_dir=DATA_DIR) for name in ("train", "test")
]
training, test = (Batch(data.as_float(x), jnp.asarray(y)) for x, y in parts)
num_inputs = int(np.prod(training.x.shape[1:]))
training.x.shape, test.x.shape

# %% [markdown]
# ## Three models of your own
#
# Any training loop will do. This one is the library's, to have something to attack.

# %%
keys = iter(jax.random.split(jax.random.key(SEED), 100))
tx = optax.adam(2e-3)


def init(key, x):
    """Parameters of a plain function."""
    key_1, key_2 = jax.random.split(key)
    w_1 = jax.random.normal(key_1, (x[0].size, 128)) * (2 / x[0].size) ** 0.5
    return w_1, jax.random.normal(key_2, (128, 10)) * 0.1


def logits_of(params, x):
    """A plain function."""
    return jax.nn.relu(x.reshape(len(x), -1) @ params[0]) @ params[1]


class LinenMLP(nn.Module):
    """A linen module."""

    @nn.compact
    def __call__(self, x):
        """Logits."""
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class NNXMLP(nnx.Module):
    """An NNX module."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(num_inputs, 128, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        """Logits."""
        return self.head(nnx.relu(self.hidden(x.reshape(len(x), -1))))


linen_mlp, nnx_mlp = LinenMLP(), NNXMLP(nnx.Rngs(SEED))
adapted = {
    "plain function": models.from_function(init, logits_of),
    "linen": models.from_linen(linen_mlp),
    "NNX": models.from_nnx(NNXMLP),
}


def run(model, objective, key, eps):
    """Trains for some epochs; a pure function, to be vmapped over keys and radii."""
    step = train.scanned(train.make_step(objective, tx))
    state = train.create(key, model, tx, training.x[:1])
    indices = train.epochs(state, NUM_EPOCHS, len(training.y), 128)
    return step(state, training, indices, eps)[0]


def clean(model, key):
    """Clean training."""
    return run(model, objectives.standard(model, losses.cross_entropy), key, 0.0)


trained = {
    name: jax.jit(partial(clean, model))(next(keys)).params
    for name, model in adapted.items()
}
nnx.update(nnx_mlp, trained["NNX"])

# %% [markdown]
# Trained, they are attacked as they are, without an adapter: any function of a batch.

# %%
predict = {
    "plain function": lambda x: logits_of(trained["plain function"], x),
    "linen": lambda x: linen_mlp.apply({"params": trained["linen"]}, x),
    "NNX": nnx_mlp,
}

# %% [markdown]
# ## AutoAttack
#
# What the field believes: APGD on cross-entropy and on targets, FAB and Square, each on
# the images that those before it left robust. `caveats` are reasons to distrust the
# number, and `programs.caveats` says which operations of a model hide its gradients.

# %%
autoattack = ensembles.compiled(
    predict["NNX"], ensembles.standard(norms.linf, num_classes=10), bounds=(0.0, 1.0)
)
found = autoattack(next(keys), *test, EPS)
print(f"clean {100 * found.correct.mean():.1f} %")
for row in found.rows:
    print(f"{row.name:8} breaks {row.num_broken} of {row.num_attacked}")
print(f"robust at eps = {EPS:g}: {100 * found.robust.mean():.1f} %")
found.caveats() + programs.caveats(predict["NNX"], test.x[:1])

# %% [markdown]
# ## An attack of your own, in ten lines
#
# `eps` is data: another radius compiles nothing. `info.zero_grad` marks examples whose
# gradient vanished, where an attack fails silently and a model only looks robust.

# %%
attack = attacks.best_of(
    attacks.pgd(
        norms.linf,
        num_steps=NUM_STEPS,
        rel_step_size=0.25,
        start=attacks.in_ball(norms.linf),
        bounds=(0.0, 1.0),
    ),
    num_restarts=3,
)
goal = criteria.Goal(predict["NNX"], losses.cross_entropy)
attacked = jax.jit(lambda key, eps: attack(key, goal, *test, eps))
x_adv, info = attacked(next(keys), EPS)
print(f"mean loss {goal(*test).mean():.3f}, attacked {info.loss.mean():.3f}")
print(f"{100 * info.fooled.mean():.1f} % fooled; {info.zero_grad.sum()} zero gradients")

# %% [markdown]
# The same attack on all three. Accuracies are out of all test images, with Wilson's 95 %
# intervals; an image counts as robust if it is classified correctly clean and attacked.


# %%
@partial(jax.jit, static_argnums=0)
def outcome(name, key, eps):
    """Clean and attacked, example by example."""
    return evaluate.outcome(
        key, predict[name], losses.cross_entropy, attack, *test, eps
    )


def percent(estimate):
    """An accuracy and its interval."""
    value, low, high = (100 * end for end in estimate)
    return f"{value:5.1f} % [{low:.1f}, {high:.1f}]"


for name in predict:
    found = evaluate.summary(outcome(name, next(keys), EPS))
    print(f"{name:15} clean {percent(found.accuracy)}", end="   ")
    print(f"at eps = {EPS:g} {percent(found.robust_accuracy)}")

# %% [markdown]
# What the attack does to five images: as they are, their perturbation, and attacked, each
# with the class that the NNX network sees.

# %%
figure, axes = figures.panels(5, 3)
figure.set_size_inches(9, 5.8)
delta = np.asarray(x_adv - test.x)
shown = {"clean": test.x, "perturbation": 0.5 + delta / (2 * EPS), "attacked": x_adv}
for row, (title, images) in zip(axes.reshape(3, 5), shown.items(), strict=True):
    seen = jnp.argmax(nnx_mlp(jnp.asarray(images[:5])), axis=1)
    for i, axis in enumerate(row):
        axis.imshow(np.asarray(images[i]).squeeze(), cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
        axis.set_title(title if title == "perturbation" else f"{title}: {seen[i]}")

# %% [markdown]
# ## Adversarial training
#
# The objective is the loss at attacked inputs. Since the radius is data, all radii and
# seeds are two `vmap`s around the run.

# %%
model = adapted["linen"]
inner = attacks.pgd(
    norms.linf,
    num_steps=7,
    rel_step_size=0.25,
    start=attacks.in_ball(norms.linf),
    bounds=(0.0, 1.0),
)
objective = objectives.adversarial(model, losses.cross_entropy, inner)
runs = jax.vmap(jax.vmap(partial(run, model, objective), (None, 0)), (0, None))
seeds, radii = jax.random.split(next(keys), NUM_SEEDS), jnp.array(RADII)
states = jax.jit(runs)(seeds, radii)


# %%
def accuracies(state, key):
    """Clean accuracy, and accuracy at EPS."""
    found = evaluate.outcome(
        key,
        lambda x: model.predict(state.params, state.batch_stats, x),
        losses.cross_entropy,
        attack,
        *test,
        EPS,
    )
    return found.correct.mean(), found.robust.mean()


over_all = jax.vmap(jax.vmap(accuracies, (0, None)), (0, None))
accuracy, robust_accuracy = jax.jit(over_all)(states, next(keys))

figure, (axis,) = figures.panels()
figures.band(axis, figures.runs(RADII, accuracy.T), "x", "clean", figures.PALETTE[0])
label = f"PGD-{NUM_STEPS} × 3 at eps = {EPS:g}"
figures.band(
    axis, figures.runs(RADII, robust_accuracy.T), "x", label, figures.PALETTE[1]
)
axis.set(xlabel="radius of training", ylabel=f"accuracy on {len(test.y)} test images")
axis.set_title(f"mean ± sd over {NUM_SEEDS} seeds")
_ = axis.legend()

# %% [markdown]
# ## Where to go on
#
# The radius up to which training behaves like clean training is eps\*, and
# `01_phase_transition` finds it. `02_linear_theory` has the closed forms,
# `03_difficulty` curvature and perturbations, `04_robust_memorization` flatness and the
# classifier that memorises.
