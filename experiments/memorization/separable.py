"""Two-stage adversarial training on separable data: Theorems 4.1 and 4.2.

Size: d = N = 1000, 20 data sets. Time: 9 seconds.

    advjax run memorization/separable

Variant ``smoke``: small, for tests. The paper prints no sizes: these, μ = 0.2, α = 10,
β = 0.5 and δ = 1 are ours.

First FGSM with the exponential loss trains the linear part w_0 on the examples of large
margin, from zero, by full-batch gradient descent. Then every example of small margin is
memorised by a neuron. Which margins are small is known from the mixture. Reported are
the angle between w_0 and the target w*, the robust training error, which a certificate
brackets together with PGD, and errors on test data, of large and of small margin.

cos(w_0, w*) reaches 0.994 and the robust training error is 0, by the certificate; on
test data every example of small margin is classified correctly and none robustly.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from advjax import (
    attacks,
    data,
    losses,
    memorization,
    models,
    norms,
    objectives,
    train,
)
from advjax.data import Separable
from advjax.memorization import Mixed
from advjax.types import Array, Batch, Key
from experiments import figures, findings, intervals, simulations
from experiments.fields import count, number, seed
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

ERRORS = {
    "robust_train_most": "robust training error, certified at most",
    "robust_train_least": "robust training error, PGD at least",
    "clean_test": "clean test error",
    "clean_test_small": "clean test error, small margin",
    "robust_test_small_least": "robust test error, small margin, at least",
    "robust_test_large_most": "robust test error, large margin, at most",
}
NUM_SHOWN = 100
"""Steps whose cosines are kept, about evenly on a logarithmic scale."""


def _measured(setup: Setup) -> xr.Dataset:
    """Errors over ``replicate``, and cosines over ``step``, from 1, as well."""
    config = setup.config
    steps = {"step": 1 + np.arange(config.num_steps)}
    replicate = partial(_replicate, config)
    return simulations.replicated(
        config, replicate, axes=("step",), coords=steps, chunk_size=4
    )


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    last = setup.config.num_steps
    shown = np.unique(np.geomspace(1, last, NUM_SHOWN).round().astype(int))
    return found["all"].sel(step=shown)


def _replicate(config: Config, key: Key) -> dict[str, Array]:
    key_target, key_train, key_test, key_attack = jax.random.split(key, 4)
    target = norms.l2.steepest(jax.random.normal(key_target, (config.num_inputs,)))
    mixture = {name: config[name] for name in ("small_share", "large", "small")}
    found = data.separable(key_train, config.num_examples, target, **mixture)
    test = data.separable(key_test, config.num_test, target, **mixture)
    w0, cosines = first_stage(config, found, target)
    params = second_stage(found, w0, config.num_inputs / 2)
    errors = _errors(config, key_attack, params, found, test)
    return errors | {"cosine": cosines}


def first_stage(config: Config, found: Separable, target: Array) -> tuple[Array, Array]:
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
    return {
        "robust_train_most": share(certified(found) <= 0, everyone),
        "robust_train_least": share(attacked(found) <= 0, everyone),
        "clean_test": jnp.mean(clean),
        "clean_test_small": share(clean, test.is_small),
        "robust_test_small_least": share(attacked(test) <= 0, test.is_small),
        "robust_test_large_most": share(certified(test) <= 0, ~test.is_small),
    }


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    setting = (
        f"d = {config.num_inputs}, N = {config.num_examples}, μ = "
        f"{config.small_share:g}, α = {config.large:g}, β = {config.small:g}, δ = "
        f"{config.eps:g}"
    )
    return Report(
        f"Two-stage adversarial training on a separable mixture: {setting}",
        "Does training find the robust direction, and memorise what has a small "
        "margin?",
        _findings(config, values),
        [Drawn("direction", _figure(values), "angle to the target by step")],
        [_table(values)],
        f"{config.num_replicates} data sets; {config.num_steps} steps of "
        f"{config.step_size:g} by FGSM, threshold d/2; {config.num_test} examples for "
        "tests. Which margins are small is known from the mixture. Certified: an upper "
        "bound of the error, by bounding each term of the learner; "
        f"PGD-{config.attack_steps}: a lower bound. Intervals are Student's.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    size = f"{config.num_replicates} data sets"
    train, test = values["robust_train_most"], values["robust_test_small_least"]
    least_gap = test - train
    return [
        findings.finding(
            "cos(w₀, w*) after FGSM (Theorem 4.1)",
            intervals.student(_last(values)),
            printed="tends to 1",
            size=size,
            form=".4f",
            verdict=findings.UNDECIDED,  # one size shows no limit
        ),
        findings.finding(
            "robust training error is 0 in every data set (Theorem 4.2)",
            _most(train),
            printed="0",
            size=size,
            form=".4f",
            interval="largest, by the certificate",
            verdict=findings.proved(
                is_so=_most(train) == 0, is_not=_most(values["robust_train_least"]) > 0
            ),
        ),
        findings.finding(
            "clean test error of small margins",
            intervals.student(values["clean_test_small"]),
            size=size,
            form=".4f",
        ),
        findings.finding(
            "robust test error of small margins is above robust training error in "
            "every data set",
            intervals.student(least_gap),
            printed="larger",
            size=size,
            form=".4f",
            verdict=findings.proved(is_so=bool((least_gap > 0).all())),
        ),
    ]


def _most(values: xr.DataArray) -> float:
    return float(values.max(skipna=False))


def _last(values: xr.Dataset) -> xr.DataArray:
    return values["cosine"].isel(step=-1)


def _table(values: xr.Dataset) -> Table:
    last = _last(values)
    worst = f"{float(last.min(skipna=False)):.4f}"
    rows = [["cos(w₀, w*) after FGSM", figures.plus_minus(last, 4), worst]]
    rows += [
        [label, figures.plus_minus(values[name], 4), f"{_most(values[name]):.4f}"]
        for name, label in ERRORS.items()
    ]
    return Table("Over data sets", ["", "mean ± sd", "worst"], rows)


def _figure(values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    angle = 1 - values["cosine"].transpose("step", "replicate")
    axis.plot(angle["step"], angle, color=figures.PALETTE[0], linewidth=0.8)
    axis.set(xlabel="step of FGSM", ylabel="1 − cos(w₀, w*)", xscale="log")
    axis.set(yscale="log", title=f"one line for each of {angle.shape[1]} data sets")
    return figure


STUDY = Study(
    "memorization.separable",
    {
        "num_inputs": count(1000, "dimension of the inputs"),
        "num_examples": count(1000, "training examples"),
        "num_test": count(1000, "test examples"),
        "small_share": number(
            0.2, "μ, the chance that an example has the small margin", most=1
        ),
        "large": number(10, "α, the large margin", above=0),
        "small": number(0.5, "β, the small margin", above=0),
        "eps": number(1, "radius of the l2 attack", above=0),
        # Descent needs less than 2 over the top eigenvalue, 101.
        "step_size": number(0.01, "step size of gradient descent", above=0),
        "num_steps": count(1000, "steps of gradient descent"),
        "attack_steps": count(20, "steps of the attack in tests"),
        "num_replicates": count(20, "simulated data sets, with a run for each"),
        "seed": seed(),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_inputs": 200,
                "num_examples": 200,
                "num_test": 200,
                "num_steps": 100,
                "num_replicates": 2,
            },
        },
    ),
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
