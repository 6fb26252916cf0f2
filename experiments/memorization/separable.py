"""Two-stage adversarial training on separable data: Theorems 4.1 and 4.2.

First FGSM with the exponential loss trains the linear part w_0 on the examples of large
margin, from zero, by full-batch gradient descent. Then every example of small margin is
memorised by a neuron. Which margins are small is known from the mixture. Reported are
the angle between w_0 and the target w*, the robust training error, which a certificate
brackets together with PGD, and errors on test data, of large and of small margin.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import (
    attacks,
    data,
    losses,
    memorization,
    models,
    norms,
    objectives,
    replicates,
    train,
)
from advjax.data import Separable
from advjax.memorization import Mixed
from advjax.types import Array, Batch, Key
from experiments import checks, figures
from experiments.workdir import Workdir

ERRORS = (
    "robust training error, certified at most",
    "robust training error, PGD at least",
    "clean test error",
    "clean test error, small margin",
    "robust test error, small margin, at least",
    "robust test error, large margin, at most",
)


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    counts = ("num_inputs", "num_examples", "num_steps", "num_replicates")
    checks.integers(config, *counts, "attack_steps", "num_test")
    sizes = ("large", "small", "eps", "step_size")
    checks.single(config, *counts, *sizes, "small_share")
    for field in sizes:
        checks.numbers(config, field, above=0)
    checks.numbers(config, "small_share", most=1)
    checks.seed(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains on all data sets, and reports."""
    found = workdir.stage("replicates", _replicates, config)
    _figure(config, found, workdir)
    return _report(config, found, workdir)


def _replicates(config: ConfigDict) -> dict[str, Array]:
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    return replicates.sharded_vmap(partial(_replicate, config), chunk_size=4)(keys)


def _replicate(config: ConfigDict, key: Key) -> dict[str, Array]:
    key_target, key_train, key_test, key_attack = jax.random.split(key, 4)
    target = norms.l2.steepest(jax.random.normal(key_target, (config.num_inputs,)))
    mixture = {name: config[name] for name in ("small_share", "large", "small")}
    found = data.separable(key_train, config.num_examples, target, **mixture)
    test = data.separable(key_test, config.num_test, target, **mixture)
    w0, cosines = first_stage(config, found, target)
    params = second_stage(found, w0, config.num_inputs / 2)
    errors = _errors(config, key_attack, params, found, test)
    return errors | {"cosine": cosines}


def first_stage(
    config: ConfigDict, found: Separable, target: Array
) -> tuple[Array, Array]:
    """w_0 by FGSM on the examples of large margin, and its cosine to w* at each step.

    The number of these examples is random, so that under ``vmap`` all of them stay, and
    those of small margin weigh nothing.
    """
    weights = jnp.where(found.is_small, 0, 1 / jnp.sum(~found.is_small))
    model = models.from_function(
        lambda _, x: jnp.zeros(x.shape[1:]), lambda w0, x: x @ w0
    )
    attack = attacks.fgsm(norms.l2)

    def loss(z, y):
        sign, weight = y.T
        return len(z) * weight * losses.exponential(z, sign)

    tx = optax.sgd(config.step_size)
    step = train.make_step(objectives.adversarial(model, loss, attack), tx)
    batch = Batch(found.x, jnp.stack([found.y, weights], axis=1))
    state = train.create(jax.random.key(0), model, tx, found.x[:1])

    def body(state, _):
        state, _ = step(state, batch, config.eps)
        return state, state.params @ target / norms.l2.value(state.params)

    state, cosines = jax.lax.scan(body, state, length=config.num_steps)
    return state.params, cosines


def second_stage(found: Separable, w0: Array, threshold: float) -> Mixed:
    """A neuron for each example; those of the large margin have a_i = 0."""
    return memorization.memorize(
        w0, found.x, jnp.where(found.is_small, found.y, 0), threshold
    )


def _errors(config, key, params: Mixed, found: Separable, test: Separable) -> dict:
    attack = attacks.pgd(
        norms.l2,
        num_steps=config.attack_steps,
        rel_step_size=2.5 / config.attack_steps,
        start=attacks.in_ball(norms.l2),
        keep_best=True,
        unroll=1,
    )

    def score(x, y):
        return y * memorization.mixed(params, x)

    def attacked(part):
        _, info = attack(key, lambda x, y: -score(x, y), part.x, part.y, config.eps)
        return -info.loss

    def certified(part):
        return memorization.certified_margin(
            params, norms.l2, part.x, part.y, config.eps
        )

    def share(is_wrong, among):
        return jnp.sum(is_wrong & among) / jnp.sum(among)

    everyone = jnp.ones(len(found.y), bool)
    clean = score(test.x, test.y) <= 0
    values = (
        share(certified(found) <= 0, everyone),
        share(attacked(found) <= 0, everyone),
        jnp.mean(clean),
        share(clean, test.is_small),
        share(attacked(test) <= 0, test.is_small),
        share(certified(test) <= 0, ~test.is_small),
    )
    return dict(zip(ERRORS, values, strict=True))


def _figure(config: ConfigDict, found: dict, workdir: Workdir) -> None:
    figure, (axis,) = figures.panels()
    steps = 1 + np.arange(config.num_steps)
    for cosines in found["cosine"]:
        axis.plot(steps, 1 - cosines, color=figures.PALETTE[0], linewidth=0.8)
    axis.set(
        xlabel="step of FGSM", ylabel="1 − cos(w₀, w*)", xscale="log", yscale="log"
    )
    workdir.save_figure(figure, "direction")


def _report(config: ConfigDict, found: dict, workdir: Workdir) -> dict[str, Any]:
    last = found["cosine"][:, -1]
    rows = [
        ["cos(w₀, w*) after FGSM", figures.plus_minus(last, 4), f"{last.min():.4f}"]
    ]
    rows += [
        [name, figures.plus_minus(found[name], 4), f"{found[name].max():.4f}"]
        for name in ERRORS
    ]
    setting = (
        f"separable mixture, d = {config.num_inputs}, N = {config.num_examples}, "
        f"μ = {config.small_share:g}, α = {config.large:g}, β = {config.small:g}, "
        f"δ = {config.eps:g}"
    )
    certified, attacked, _, clean, robust, _ = (
        f"{np.mean(found[name]):.4f}" for name in ERRORS
    )
    cosine = f"{figures.plus_minus(last, 4)} after FGSM, at least {last.min():.4f}"
    said = (
        f"robust training error {attacked} (PGD) to {certified} (certified); on small"
    )
    said += f" margins robust test error at least {robust}, clean {clean}"
    lines = [
        f"{setting}: cos(w0, w*) = {cosine}",
        f"{setting}: {said}",
    ]
    workdir.write_text(
        "report.md",
        f"## Two-stage adversarial training: {setting}\n\n"
        "![angle to the target](direction.png)\n\n"
        f"{config.num_replicates} data sets; {config.num_steps} steps of "
        f"{config.step_size:g} by FGSM, threshold d/2; {config.num_test} for tests. "
        "Which margins are small is known from the mixture. Certified: an upper bound "
        "of the error, by bounding each term of the learner; "
        f"PGD-{config.attack_steps}: a lower bound.\n\n"
        + figures.table(["", "mean ± sd over data sets", "worst"], rows),
    )
    return {"summary": lines, "errors": {n: found[n] for n in ERRORS}, "cosine": last}
