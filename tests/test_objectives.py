"""What objectives pass on to the attack and to the network, pass by pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, objectives
from advjax.types import AttackInfo, Batch, Model, example_keys

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
X, X_ADV = jnp.asarray(RNG.normal(size=(2, 5, 4)), jnp.float32)
Y = jnp.array([0, 1, 2, 0, 1])

OBJECTIVES = {
    "adversarial": lambda *given: objectives.adversarial(
        given[0], losses.cross_entropy, given[1]
    ),
    "trades": lambda *given: objectives.trades(*given, beta=6.0),
    "mart": lambda *given: objectives.mart(*given, beta=5.0),
}
each = pytest.mark.parametrize("name", OBJECTIVES)


def _called(name):
    """What the attack was given, what the network was, and the statistics after."""
    attacked, keys = [], []

    def attack(key, loss_fn, x, y, eps):
        loss = loss_fn(X_ADV, y)
        attacked.append((key, x, y, eps, loss))
        return X_ADV, AttackInfo(loss, jnp.zeros(len(x), bool))

    def apply(params, stats, x, *, train, key=None):
        if train:
            keys.append(key)
        return x @ params, 2 * stats + x.sum() if train else stats

    objective = OBJECTIVES[name](Model(None, apply), attack)
    _, aux = objective(W, jnp.float32(1), KEY, Batch(X, Y), 0.1)
    return attacked[0], keys, aux.batch_stats


@each
def test_the_attack_is_given_the_loss_that_it_shall_raise(name):
    (key, x, y, eps, loss), _, _ = _called(name)
    assert (key, eps) == (KEY, 0.1)
    np.testing.assert_array_equal(x, X)
    if name == "trades":
        np.testing.assert_allclose(y, X @ W, rtol=1e-6)
        expected = losses.kl(X @ W, X_ADV @ W)
    else:
        np.testing.assert_array_equal(y, Y)
        expected = losses.cross_entropy(X_ADV @ W, Y)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@each
def test_statistics_pass_through_the_clean_inputs_and_then_the_attacked(name):
    *_, found = _called(name)
    after_clean = 1 if name == "adversarial" else 2 + X.sum()
    np.testing.assert_allclose(found, 2 * after_clean + X_ADV.sum(), rtol=1e-5)


@each
def test_masks_have_keys_apart_from_those_of_the_examples(name):
    _, keys, _ = _called(name)
    of_examples = jax.random.key_data(example_keys(KEY, 1000)).tolist()
    of_passes = [jax.random.key_data(key).tolist() for key in keys]
    assert len({str(key) for key in of_passes}) == 1 + (name != "adversarial")
    assert not any(key in of_examples for key in of_passes)


MOVED = {
    "adversarial": lambda *given, **options: objectives.adversarial(
        given[0], losses.cross_entropy, given[1], **options
    ),
    "trades": lambda *given, **options: objectives.trades(*given, beta=6.0, **options),
    "mart": lambda *given, **options: objectives.mart(*given, beta=5.0, **options),
}


def _network(params, x):
    hidden = jnp.tanh(x @ params["kernel"] + params["bias"][None])
    return hidden @ params["out"]


NETWORK = Model(None, lambda params, stats, x, **_: (_network(params, x), stats))
PARAMS = {
    "kernel": jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=6), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32),
}


def _found(key, loss_fn, x, y, eps):
    del key, x, eps
    return X_ADV, AttackInfo(loss_fn(X_ADV, y), jnp.zeros(len(X_ADV), bool))


@pytest.mark.parametrize("name", MOVED)
def test_moved_weights_are_those_of_the_formula(name):
    """Kernels move by eps ‖w‖ g / ‖g‖ and the gradient is the one there."""

    def graded(params, weight_eps):
        objective = MOVED[name](NETWORK, _found, weight_eps=weight_eps)
        grad = jax.value_and_grad(objective, has_aux=True)
        return grad(params, {}, KEY, Batch(X, Y), 0.1)

    _, g = graded(PARAMS, 0.0)
    at = {
        key: w + 0.05 * np.linalg.norm(w) * g[key] / np.linalg.norm(g[key])
        for key, w in PARAMS.items()
    }
    at["bias"] = PARAMS["bias"]
    (value, _), grad = graded(PARAMS, 0.05)
    (expected, _), expected_grad = graded(at, 0.0)
    assert value > graded(PARAMS, 0.0)[0][0]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for key, g in expected_grad.items():
        np.testing.assert_allclose(grad[key], g, rtol=1e-3, atol=1e-6)


def test_alignment_is_one_minus_the_cosine_of_two_gradients():
    plain = objectives.adversarial(NETWORK, losses.cross_entropy, _found)
    aligned = objectives.with_alignment(
        plain, NETWORK, losses.cross_entropy, strength=2.0
    )
    eps = jnp.linspace(0, 0.4, len(X))
    value, aux = aligned(PARAMS, {}, KEY, Batch(X, Y), eps)
    below, _ = plain(PARAMS, {}, KEY, Batch(X, Y), eps)
    seen = []

    def spied(params, stats, x, **_):
        seen.append(x)
        return _network(params, x), stats

    # The two passes of the penalty come last.
    with jax.disable_jit():
        objectives.with_alignment(
            plain, Model(None, spied), losses.cross_entropy, strength=2.0
        )(PARAMS, {}, KEY, Batch(X, Y), eps)
    near = jax.lax.stop_gradient(seen[-1].primal)
    distance = jnp.max(jnp.abs(near - X), axis=1)
    assert distance[0] == 0
    assert jnp.all(distance <= eps)
    assert jnp.all(distance[1:] > eps[1:] / 3)

    def gradients(x):
        return jax.grad(lambda x: losses.cross_entropy(_network(PARAMS, x), Y).sum())(x)

    a, b = np.asarray(gradients(X)), np.asarray(gradients(near))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(value - below, 2 * (1 - cosine.mean()), rtol=1e-4)
    assert cosine.min() < 0.999
    np.testing.assert_allclose(
        aux.losses, losses.cross_entropy(_network(PARAMS, X_ADV), Y), rtol=1e-6
    )


def test_gradients_of_zero_are_not_compared():
    flat = Model(None, lambda params, stats, x, **_: (0 * x @ params["kernel"], stats))
    aligned = objectives.with_alignment(
        objectives.standard(flat, losses.cross_entropy),
        flat,
        losses.cross_entropy,
        strength=1.0,
    )
    grad = jax.value_and_grad(aligned, has_aux=True)
    (value, _), g = grad(PARAMS, {}, KEY, Batch(X, Y), 0.1)
    np.testing.assert_allclose(value, np.log(6), rtol=1e-6)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(g))
