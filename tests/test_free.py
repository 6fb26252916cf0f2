"""Free adversarial training against its algorithm, replay by replay."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import free, losses, norms, train
from advjax.types import Batch, Model

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(6, 4)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, 6))
PARAMS = {"w": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)}
RATE, EPS, M = 0.3, 0.1, 3


def _init(key, x):
    del key, x
    return PARAMS, jnp.float32(0)


def _apply(params, stats, x, *, train, key=None):
    del key
    return jnp.tanh(x @ params["w"]), stats + 1 if train else stats


MODEL = Model(_init, _apply)
TX = optax.sgd(RATE)


def _loss(w, x, y):
    return losses.cross_entropy(jnp.tanh(x @ w), y).mean()


@partial(jax.jit, static_argnames="norm")
def _by_hand(w, delta, x, y, norm):
    for _ in range(M):
        g_w, g = jax.grad(lambda w, d: _loss(w, jnp.clip(x + d, 0, 1), y), (0, 1))(
            w, delta
        )
        w = w - RATE * g_w
        stepped = [d + EPS * norm.steepest(each) for d, each in zip(delta, g, strict=1)]
        delta = jnp.stack([norm.project(each, EPS) for each in stepped])
    return w, delta


def _started():
    state = train.create(jax.random.key(0), MODEL, TX, X[:1])
    return free.begin(state, X[:4])


def _step(norm=norms.linf, **options):
    return free.make_step(
        MODEL, losses.cross_entropy, TX, norm, num_replays=M, bounds=(0, 1), **options
    )


@pytest.mark.parametrize("norm", [norms.linf, norms.l2])
def test_two_batches_are_those_of_the_algorithm(norm):
    state, step = _started(), jax.jit(_step(norm))
    w, delta = PARAMS["w"], jnp.zeros((4, 4))
    state, _ = step(state, Batch(X[:4], Y[:4]), EPS)
    w, delta = _by_hand(w, delta, X[:4], Y[:4], norm)
    assert jnp.abs(delta).max() > 0.05
    # A smaller batch at the end of an epoch moves the first rows alone.
    state, metrics = step(state, Batch(X[4:], Y[4:]), EPS)
    w, first = _by_hand(w, delta[:2], X[4:], Y[4:], norm)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)
    delta = np.concatenate([first, delta[2:]])
    np.testing.assert_allclose(state.opt_state.delta, delta, rtol=1e-5, atol=1e-6)
    assert state.step == 2
    assert state.batch_stats == 2 * M
    assert set(metrics) == {
        *("objective", "loss", "accuracy", "zero_grad", "undefined_grad")
    }


def test_runs_are_scanned_and_mapped_as_others():
    indices = jnp.arange(4).reshape(1, 2, 2)
    one = train.restart(jax.random.key(1), PARAMS, jnp.float32(0), TX)
    one = free.begin(one, X[:2])
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    eps = jnp.array([0.0, 0.2])
    run = jax.vmap(train.scanned(_step()), (0, None, None, 0))
    states, metrics = run(states, Batch(X, Y), indices[0], eps)
    assert metrics["loss"].shape == (2, 2)
    assert jnp.all(states.opt_state.delta[0] == 0)
    alone, _ = train.looped(_step())(one, Batch(X, Y), indices[0], 0.2)
    np.testing.assert_allclose(states.params["w"][1], alone.params["w"], rtol=1e-5)


def test_gradients_that_vanish_are_counted():
    flat = Model(_init, lambda params, stats, x, **_: (0 * x @ params["w"], stats))
    step = free.make_step(flat, losses.cross_entropy, TX, norms.linf, num_replays=2)
    _, metrics = step(_started(), Batch(X[:4], Y[:4]), EPS)
    assert metrics["zero_grad"] == 1


def test_a_state_without_perturbation_is_refused():
    state = train.create(jax.random.key(0), MODEL, TX, X[:1])
    with pytest.raises(ValueError, match=r"start it by free\.begin"):
        _step()(state, Batch(X, Y), EPS)
    with pytest.raises(ValueError, match="num_replays = 0"):
        free.make_step(MODEL, losses.cross_entropy, TX, norms.linf, num_replays=0)
