"""One network, written in four frameworks, through the library from end to end."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import (
    attacks,
    evaluate,
    hessians,
    losses,
    models,
    norms,
    objectives,
    spectrum,
    train,
)
from advjax.types import Batch

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(24, 3)), jnp.float32)
Y = jnp.asarray(X[:, 0] > 0.5 * X[:, 1], jnp.int32)
EPS = jnp.array([0.05, 0.3])
NAMES = ("kernel_1", "bias_1", "kernel_2", "bias_2")
ATTACK = attacks.pgd(
    norms.linf, num_steps=4, rel_step_size=0.4, start=attacks.in_ball(norms.linf)
)


def _weights(seed):
    """The network itself: tanh(x W1 + b1) W2 + b2."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel_1": (3, 4), "bias_1": (4,), "kernel_2": (4, 2), "bias_2": (2,)}
    draws = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return {name: jnp.asarray(draw, jnp.float32) for name, draw in draws.items()}


# --- the frameworks: a model, variables from weights, and weights from parameters ---


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(4)(x))
        return nn.Dense(2)(x)


def _linen():
    def variables(w):
        layers = ({"kernel": w[f"kernel_{i}"], "bias": w[f"bias_{i}"]} for i in (1, 2))
        return dict(zip(("Dense_0", "Dense_1"), layers, strict=True)), {}

    def weights(params):
        return _named(params["Dense_0"], params["Dense_1"])

    return models.from_linen(_Linen()), variables, weights


def _named(first, second):
    values = (first["kernel"], first["bias"], second["kernel"], second["bias"])
    return dict(zip(NAMES, values, strict=True))


@cache
def _nnx_module():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.second = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.tanh(self.first(x)))

    return Net


def _nnx():
    from flax import nnx

    def variables(w):
        module = _nnx_module()(nnx.Rngs(0))
        for i, layer in enumerate((module.first, module.second), 1):
            layer.kernel[...] = w[f"kernel_{i}"]
            layer.bias[...] = w[f"bias_{i}"]
        return models.nnx_state(module)

    def weights(params):
        pure = nnx.to_pure_dict(params)
        return _named(pure["first"], pure["second"])

    return models.from_nnx(_nnx_module()), variables, weights


@cache
def _equinox_module():
    import equinox as eqx

    class Net(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear

        def __init__(self, key):
            self.first = eqx.nn.Linear(3, 4, key=key)
            self.second = eqx.nn.Linear(4, 2, key=key)

        def __call__(self, x):
            return self.second(jnp.tanh(self.first(x)))

    return Net


def _equinox():
    import equinox as eqx

    def leaves(net):
        return net.first.weight, net.first.bias, net.second.weight, net.second.bias

    def variables(w):
        values = (w["kernel_1"].T, w["bias_1"], w["kernel_2"].T, w["bias_2"])
        module = eqx.tree_at(leaves, _equinox_module()(jax.random.key(0)), values)
        return models.equinox_state(module)

    def weights(params):
        k_1, b_1, k_2, b_2 = leaves(params)
        values = (jnp.swapaxes(k_1, -1, -2), b_1, jnp.swapaxes(k_2, -1, -2), b_2)
        return dict(zip(NAMES, values, strict=True))

    return models.from_equinox(_equinox_module()), variables, weights


def _function():
    def predict(w, x):
        hidden = jnp.tanh(x @ w["kernel_1"] + w["bias_1"][None])
        return hidden @ w["kernel_2"] + w["bias_2"][None]

    def init(key, x):
        del x
        keys = jax.random.split(key, 4)
        draws = zip(_weights(0).items(), keys, strict=True)
        return {name: jax.random.normal(k, w.shape) for (name, w), k in draws}

    return models.from_function(init, predict), lambda w: (w, {}), lambda params: params


FRAMEWORKS = {
    "function": _function,
    "linen": _linen,
    "nnx": _nnx,
    "equinox": _equinox,
}
OTHERS = [name for name in FRAMEWORKS if name != "function"]


# --- what is computed with each of them ---


@cache
def _trained(name):
    """Weights ``[2, 2, ...]`` of two seeds at two radii, and metrics ``[2, 2, t]``."""
    model, variables, weights = FRAMEWORKS[name]()
    tx = optax.sgd(0.3)
    objective = objectives.adversarial(model, losses.cross_entropy, ATTACK)
    run = train.scanned(train.make_step(objective, tx))
    starts = [variables(_weights(seed)) for seed in (1, 2)]
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    indices = jnp.asarray(np.random.default_rng(1).integers(24, size=(20, 6)))

    def one(key, variables, eps):
        state = train.restart(key, *variables, tx)
        return run(state, Batch(X, Y), indices, eps)

    over_radii = jax.vmap(one, (None, None, 0))
    keys = jax.random.split(jax.random.key(0), 2)
    over_seeds = jax.jit(jax.vmap(over_radii, (0, 0, None)))
    state, metrics = over_seeds(keys, starts, EPS)
    return weights(state.params), metrics


def _finished():
    """The first run's weights, the same for all frameworks."""
    return jax.tree.map(lambda leaf: leaf[0, 0], _trained("function")[0])


@cache
def _measured(name):
    """The attacked points, their outcome, and the top of the Hessian's spectrum."""
    model, variables, _ = FRAMEWORKS[name]()
    params, stats = variables(_finished())
    predict, key = partial(model.predict, params, stats), jax.random.key(3)

    def loss_fn(x, y):
        return losses.cross_entropy(predict(x), y)

    x_adv, _ = ATTACK(key, loss_fn, X, Y, 0.2)
    outcome = evaluate.outcome(key, predict, losses.cross_entropy, ATTACK, X, Y, 0.2)

    def mean_loss(params):
        return losses.cross_entropy(model.predict(params, stats, X), Y).mean()

    d = sum(leaf.size for leaf in jax.tree.leaves(params))
    eigs = spectrum.top_eigs(num_matvecs=d, num_eigs=3)
    found = jax.jit(lambda p: eigs(key, hessians.hvp(mean_loss, p), p).values)(params)
    return x_adv, outcome, found


_close = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_predictions_are_those_of_the_formula(name):
    model, variables, weights = FRAMEWORKS[name]()
    w = _weights(1)
    params, stats = variables(w)
    k_1, b_1, k_2, b_2 = (np.asarray(w[name], float) for name in NAMES)
    expected = np.tanh(np.asarray(X, float) @ k_1 + b_1) @ k_2 + b_2
    _close(model.predict(params, stats, X), expected)
    trained, _ = model.apply(params, stats, X, train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(trained, model.predict(params, stats, X))
    jax.tree.map(np.testing.assert_array_equal, weights(params), w)


@pytest.mark.parametrize("name", OTHERS)
def test_training_at_seeds_and_radii_is_the_same_run(name):
    (w, metrics), (expected_w, expected) = _trained(name), _trained("function")
    jax.tree.map(_close, w, expected_w)
    jax.tree.map(_close, metrics, expected)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_training_learns_and_no_two_runs_are_the_same(name):
    w, metrics = _trained(name)
    assert metrics["loss"].shape == (2, 2, 20)
    early, late = (metrics["loss"][..., rows] for rows in (slice(5), slice(-5, None)))
    assert (late.mean(-1) < 0.8 * early.mean(-1)).all()
    final = np.asarray(w["kernel_1"]).reshape(4, -1)
    assert len(np.unique(final.round(4), axis=0)) == 4


@pytest.mark.parametrize("name", OTHERS)
def test_attacks_and_evaluation_are_the_same(name):
    (x_adv, outcome, _), (expected, expected_outcome, _) = (
        _measured(name),
        _measured("function"),
    )
    _close(x_adv, expected)
    jax.tree.map(_close, outcome, expected_outcome)
    summary, expected_summary = map(evaluate.summary, (outcome, expected_outcome))
    assert summary.robust_accuracy == expected_summary.robust_accuracy
    assert 0 < summary.robust_accuracy.value < summary.accuracy.value


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_top_eigenvalues_are_those_of_the_whole_hessian(name):
    model, variables, _ = FRAMEWORKS["function"]()
    params, stats = variables(_finished())
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def mean_loss(flat):
        return losses.cross_entropy(model.predict(unravel(flat), stats, X), Y).mean()

    expected = np.linalg.eigvalsh(jax.hessian(mean_loss)(flat))[::-1][:3]
    np.testing.assert_allclose(_measured(name)[2], expected, rtol=1e-4)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_seeds_make_their_own_networks(name):
    model, _, weights = FRAMEWORKS[name]()
    keys = jax.random.split(jax.random.key(0), 3)
    params, _ = jax.vmap(lambda key: model.init(key, X))(keys)
    first = np.asarray(weights(params)["kernel_1"]).reshape(3, -1)
    assert len(np.unique(first, axis=0)) == 3
    alone = weights(model.init(keys[1], X)[0])
    _close(first[1], np.ravel(alone["kernel_1"]))
