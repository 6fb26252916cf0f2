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
