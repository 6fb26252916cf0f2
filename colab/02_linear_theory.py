# %% [markdown]
# # Linear regression under attack, in closed form
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/advjax/advjax/blob/main/colab/02_linear_theory.ipynb)
#
# For linear regression the attack, its loss and the best robust parameters theta\*(eps)
# are explicit (Xing et al., *On the generalization properties of adversarial training*,
# 2021). Here they are compared with Monte Carlo and with exact minimisers that carry a
# certificate; then the surrogate attack, LASSO, wide two-layer networks, and the diabetes
# data.
#
# Three quarters of a minute on a CPU, set-up aside.

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
# Real data is in the last figure only, and its target is a number: `"diabetes"`, which
# comes with scikit-learn.

# %% tags=["parameters"]
DATASET = "diabetes"
DATA_DIR = None
NUM_REPLICATES = 20  # simulated data sets
NUM_EXAMPLES = 1000  # of each
NUM_DRAWS = 100_000  # of Monte Carlo
NUM_STEPS = 300  # of descent with LASSO
SAMPLE_SIZES = (25, 50, 100, 200, 400)  # with LASSO
WIDTHS = (10, 50, 250)  # of networks
SEED = 0

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from advjax import data, descent, lazy, linear, norms, replicates, solvers
from experiments import figures

keys = iter(jax.random.split(jax.random.key(SEED), 20))
jax.devices()


# %%
def over_data(function):
    """`function` of the keys of `NUM_REPLICATES` data sets."""
    return replicates.sharded_vmap(function)(
        jax.random.split(next(keys), NUM_REPLICATES)
    )


# %% [markdown]
# ## The best robust parameters
#
# `linear.optimal` minimises the population risk under l2 attack: Proposition 8, with its
# one number found by bisection. Monte Carlo of the same risk; and exact minimisers of the
# attacked training loss, with `gap`, a bound on what is left of it.

# %%
theta0, sigma = jnp.ones(10), 1.0
truth = linear.Population(theta0, data.equicorrelated(10, 0.3), sigma)
risk = lambda theta, eps: linear.population_risk(theta, norms.l2, truth, eps)
optimal = partial(linear.optimal, norms.l2, truth)
eps = jnp.linspace(0, 3, 41)
optimum = jax.jit(jax.vmap(optimal))(eps)
few = slice(None, None, 4)


@jax.jit
def monte_carlo(key, theta, eps):
    """The mean attacked loss of fresh examples, and its standard error."""
    x, y = data.gaussian(key, NUM_DRAWS, *truth)
    loss = linear.adversarial_loss(theta, norms.l2, x, y, eps)
    return loss.mean(), loss.std() / NUM_DRAWS**0.5


def minimum(key):
    """Risks of the minimisers on one data set, and gaps over the mean of y²."""
    x, y = data.gaussian(key, NUM_EXAMPLES, *truth)

    def at(eps):
        found = solvers.adversarial(norms.l2, x, y, eps)
        risks = risk(found.theta, eps), risk(found.theta, 0.0)
        return *risks, found.gap / jnp.mean(y**2)

    return jax.vmap(at)(eps[few])


keys_mc = jax.random.split(next(keys), len(eps[few]))
drawn = jax.vmap(monte_carlo)(keys_mc, optimum.theta[few], eps[few])
*risks, gaps = over_data(minimum)
off = jnp.abs(drawn[0] - optimum.risk[few]) / drawn[1]
print(f"Monte Carlo, {NUM_DRAWS} draws: at most {off.max():.1f} standard errors off")
print(f"gap of {gaps.size} minimisers: at most {gaps.max():.0e} of the mean of y²")
print(f"theta* = 0 beyond eps = {eps[jnp.any(optimum.theta != 0, axis=1)].max():.2f}")

figure, axes = figures.panels(2)
curves = optimum.risk, jax.jit(jax.vmap(risk))(optimum.theta, jnp.zeros_like(eps))
names = ("under", "without")
for axis, curve, values, name in zip(axes, curves, risks, names, strict=True):
    axis.plot(eps, curve, color="0.2", label="theta*(eps), closed form")
    label = f"minimisers, n = {NUM_EXAMPLES}"
    figures.band(axis, figures.runs(eps[few], values.T), "x", label, figures.PALETTE[0])
    axis.set(xlabel="radius of training (l2)", ylabel=f"risk {name} attack")
axes[0].plot(eps[few], drawn[0], "o", color=figures.PALETTE[1], label="Monte Carlo")
axes[0].legend()
_ = figure.suptitle(f"d = 10; mean ± sd over {NUM_REPLICATES} data sets", fontsize=10)

# %% [markdown]
# Robustness costs standard accuracy: the risk without attack rises with the radius, up to
# that of theta = 0, which is the best from some radius on.
#
# ## The surrogate attack
#
# At theta = 0 the risk has a kink, and descent jumps about it. The surrogate A_{eps,xi}
# multiplies perturbations by a factor that vanishes with the clean gradient. Left: its
# population risk, an integral. Right: descent on one data set (the paper's Figure 1).

# %%
xi = jnp.geomspace(0.01, 100, 25)
theta = optimum.theta[10]
integral = lambda xi: linear.population_risk(theta, norms.l2, truth, 0.5, xi=xi)
integral = jax.jit(jax.vmap(integral))(xi)
x, y = data.gaussian(next(keys), NUM_DRAWS, *truth)
loss = lambda xi: linear.adversarial_loss(theta, norms.l2, x, y, 0.5, xi=xi).mean()
loss = jax.jit(jax.vmap(loss))(xi[few])


def path(xi, key):
    """Risks under attack over the steps of descent."""
    key_data, key_start = jax.random.split(key)
    population = linear.Population(theta0, None, sigma)
    x, y = data.gaussian(key_data, NUM_EXAMPLES, *population)
    risk = lambda theta: linear.population_risk(theta, norms.l2, population, 3.0)
    args = {"norm": norms.l2, "x": x, "y": y, "eps": 3.0, "xi": xi}
    gradient = partial(linear.adversarial_gradient, **args)
    start = 0.22 * norms.l2.steepest(jax.random.normal(key_start, (10,)))
    update = descent.step(gradient, 1e-3)
    return descent.path(start, update, num_steps=100, observe=risk)


paths = over_data(lambda key: jax.vmap(path, (0, None))(jnp.array([0.0, 0.05]), key))
jumps = paths[..., 50:].std(axis=-1)
ratio = jumps[:, 0] / jumps[:, 1]
print(f"xi = 0 over xi = 0.05, sd of the last 50 risks: median {np.median(ratio):.0f},")
print(f"least {ratio.min():.0f} of {NUM_REPLICATES} data sets")

figure, axes = figures.panels(2)
axes[0].plot(xi, integral, color="0.2", label="integral")
axes[0].plot(xi[few], loss, "o", color=figures.PALETTE[1], label="Monte Carlo")
axes[0].axhline(
    risk(theta, 0.5), color="0.5", linestyle="--", label="attack itself, xi = 0"
)
for values, name, color in zip(paths[0], ("0", "0.05"), figures.PALETTE, strict=False):
    axes[1].plot(values, color=color, label=f"xi = {name}")
axes[0].set(xlabel="xi", ylabel="risk under A, eps = 0.5", xscale="log")
axes[1].set(xlabel="step of descent", ylabel="risk under attack, eps = 3")
for axis in axes:
    axis.legend(fontsize=8)

# %% [markdown]
# ## LASSO
#
# With 200 inputs, of which ten count, Theorem 9 says that LASSO is consistent. Descent with
# exact zeros (`descent.lasso`), with and without penalty; `solvers.lower_bound` certifies
# where it stops.

# %%
sparse = data.sparse_coefficients(200, num_active=10)
of_sparse = linear.Population(sparse, None, sigma)
best = linear.optimal(norms.l2, of_sparse, 0.5)


def fits(n, key):
    """Excess risks, relative gaps, shares of zeros, without and with penalty."""
    x, y = data.gaussian(key, n, *of_sparse)
    args = (norms.l2, x, y, 0.5)
    gradient = lambda theta: linear.adversarial_gradient(theta, *args)
    rate = 0.5 / (1 + (200 / n) ** 0.5 + 0.5) ** 2

    def fit(penalty):
        update = descent.step(gradient, rate, prox=descent.lasso(penalty))
        theta = descent.last(jnp.zeros(200), update, num_steps=NUM_STEPS)
        loss = linear.adversarial_loss(theta, *args).mean()
        loss = loss + penalty * norms.l1.value(theta)
        bound = solvers.lower_bound(theta, *args, penalty=penalty)
        risk = linear.population_risk(theta, norms.l2, of_sparse, 0.5)
        return risk - best.risk, (loss - bound) / loss, jnp.mean(theta == 0)

    penalty = 0.4 * (11 * 10 * jnp.log(200) / n) ** 0.5  # c v √(s log d / n)
    return jax.vmap(fit)(jnp.array([0.0, penalty]))


found = [over_data(partial(fits, n)) for n in SAMPLE_SIZES]
excess, gaps, zeros = (np.stack(each) for each in zip(*found, strict=True))
print(f"gap of LASSO: at most {gaps[..., 1].max():.0e} of its objective")
for n, share in zip(SAMPLE_SIZES, zeros[..., 1], strict=True):
    print(f"n = {n}: share of zeros with LASSO {figures.plus_minus(share, 2)}")

figure, (axis,) = figures.panels()
for j, label in enumerate(("no penalty", "LASSO")):
    figures.band(
        axis, figures.runs(SAMPLE_SIZES, excess[..., j]), "x", label, figures.PALETTE[j]
    )
axis.axhline(11 - best.risk, color="0.3", linestyle=":", label="theta = 0")
axis.set(xlabel="examples n", ylabel="excess risk over R*, eps = 0.5", xscale="log")
axis.set_xticks(SAMPLE_SIZES, map(str, SAMPLE_SIZES))
axis.minorticks_off()
axis.set_title(f"d = 200; mean ± sd over {NUM_REPLICATES} data sets", fontsize=10)
_ = axis.legend()

# %% [markdown]
# The penalty shrinks as √(log d / n), and with it what it costs: the excess risk falls with
# n, and is below that without penalty.
#
# ## Wide two-layer networks
#
# From a vanishing start a network of many hidden units trains like the linear model
# (Proposition 1 of Xing et al., *Phase transition from clean training to adversarial
# training*, 2022). The difference of their predictions after 100 steps falls with h, about
# as 1/h, clean and under attack:

# %%
radii = (0.0, 0.1, 0.5)


def difference(h, key):
    """The root mean square difference on fresh inputs, at every radius."""
    key_data, key_a, key_start, key_fresh = jax.random.split(key, 4)
    x, y = data.gaussian(key_data, 100, jnp.full(5, 5**-0.5), None, sigma)
    # The proposition wants output weights away from 0.
    a = lazy.output_weights(key_a, num_hidden=h)
    network = lazy.Network(jnp.where(a < 0, -1, 1) * (1 + jnp.abs(a)) / 2, lazy.sigmoid)
    start = lazy.init(key_start, num_hidden=h, num_inputs=5, scale=h)
    fresh = jax.random.normal(key_fresh, (1000, 5))

    def at(eps):
        args = {"x": x, "y": y, "eps": eps, "norm": norms.l2}
        wide = partial(lazy.adversarial_gradient, network=network, **args)
        wide = descent.step(wide, lazy.step_size(network, 0.1))
        flat = descent.step(partial(linear.adversarial_gradient, **args), 0.1)
        wide = descent.last(start, wide, num_steps=100)
        flat = descent.last(lazy.as_linear(start, network), flat, num_steps=100)
        apart = lazy.predict(wide, network, fresh) - fresh @ flat
        return jnp.sqrt(jnp.mean(apart**2))

    return jax.vmap(at)(jnp.array(radii))


apart = np.stack([over_data(partial(difference, h)) for h in WIDTHS])
figure, (axis,) = figures.panels()
for j, eps in enumerate(radii):
    figures.band(
        axis,
        figures.runs(WIDTHS, apart[..., j]),
        "x",
        f"eps = {eps:g}",
        figures.PALETTE[j],
    )
axis.axhline(0.05**0.5, color="0.3", linestyle=":", label="√(d/n)")
axis.set(xlabel="hidden units h", ylabel="rms difference to the linear model")
axis.set(xscale="log", yscale="log")
axis.set_title(f"d = 5, n = 100; mean ± sd, {NUM_REPLICATES} data sets", fontsize=10)
_ = axis.legend()

# %% [markdown]
# ## The diabetes data
#
# Ten measurements and the progression of a disease, all standardised, under linf attack:
# exact minimisers against the radius, and their loss on patients that were left out, mean
# ± standard error.

# %%
load = lambda split: data.load(DATASET, split=split, data_dir=DATA_DIR)
training, test = (jax.tree.map(jnp.asarray, load(name)) for name in ("train", "test"))
eps = jnp.linspace(0, 0.5, 26)
solve = lambda eps: solvers.adversarial(norms.linf, *training, eps)
found = jax.jit(jax.vmap(solve))(eps)
print(f"gap at most {found.gap.max():.0e}, where the mean of y² is 1")
attacked = lambda theta, eps: linear.adversarial_loss(theta, norms.linf, *test, eps)
least_squares = jnp.broadcast_to(solvers.min_norm(*training), found.theta.shape)

figure, axes = figures.panels(2)
axes[0].plot(eps, found.theta, color="0.3", linewidth=0.9)
axes[0].set(xlabel="radius (linf)", ylabel="coefficients of the minimiser")
for theta, color in zip((found.theta, least_squares), figures.PALETTE, strict=False):
    loss = jax.jit(jax.vmap(attacked))(theta, eps)
    mean, error = loss.mean(axis=1), loss.std(axis=1) / len(test.y) ** 0.5
    axes[1].errorbar(eps, mean, error, color=color)
axes[1].legend(("minimiser of the radius", "least squares"))
_ = axes[1].set(xlabel="radius (linf)", ylabel=f"attacked loss, {len(test.y)} patients")

# %% [markdown]
# The attack penalises the l1 norm, which makes coefficients exactly zero one after the
# other. Under attack the minimisers of the radius lose less than least squares.
