"""Which parameters are penalised, and LASSO with exact zeros against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Lasso

from advjax import descent, losses, models, norms, objectives, penalties
from advjax.types import Batch

RNG = np.random.default_rng(0)
N, D, PENALTY = 60, 20, 0.1
X = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
Y = X[:, :3] @ jnp.array([2.0, -1.0, 0.5]) + 0.1 * jnp.asarray(RNG.normal(size=N))


def _network():
    model = models.make("preactresnet18", num_classes=3)
    x = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(model.init, jax.random.key(0), x)[0]


def test_weights_are_kernels_and_neither_biases_nor_normalisation():
    params = _network()
    chosen = jax.tree_util.tree_leaves_with_path(penalties.weights(params))
    kinds = {path[-1].key: set() for path, _ in chosen}
    for path, keep in chosen:
        kinds[path[-1].key].add(keep)
    assert kinds == {"kernel": {True}, "bias": {False}, "scale": {False}}
    assert all(jax.tree.leaves(penalties.everything(params)))


def test_a_penalty_takes_what_where_chooses():
    model = models.make("mlp", num_classes=2, hidden=(3,), bias_init=nn_ones)
    params, _ = model.init(jax.random.key(0), X)
    plain = objectives.standard(model, losses.cross_entropy)
    batch = Batch(X, jnp.zeros(N, jnp.int32))

    def value(**options):
        made = objectives.with_penalty(plain, norms.l1.value, **options)
        value, aux = made(params, {}, jax.random.key(0), batch, 0.0)
        return value - aux.losses.mean()

    l1 = jax.tree.map(lambda leaf: float(jnp.abs(leaf).sum()), params)
    kernels = sum(layer["kernel"] for layer in l1.values())
    biases = sum(layer["bias"] for layer in l1.values())
    assert biases == 5
    np.testing.assert_allclose(value(), kernels, rtol=1e-5)
    every = value(where=penalties.everything)
    np.testing.assert_allclose(every, kernels + biases, rtol=1e-5)
    first = value(where=lambda p: jax.tree.map(lambda leaf: leaf.size == 2, p))
    np.testing.assert_allclose(first, 2.0, rtol=1e-5)
    with pytest.raises(ValueError, match="where chooses none"):
        value(where=lambda p: jax.tree.map(lambda _: False, p))


@pytest.mark.parametrize(
    "where",
    [
        lambda p: list(jax.tree.leaves(penalties.weights(p))),
        lambda _: True,
        lambda p: {**penalties.weights(p), "more": True},
    ],
)
def test_a_choice_in_another_structure_is_refused(where):
    params = {"w": jnp.ones((D, 1)), "b": jnp.zeros(())}
    tx = penalties.proximal(optax.sgd(0.1), PENALTY, where=where)
    for function in (
        lambda: penalties.selected(params, where=where),
        lambda: penalties.sparsity(params, where=where),
        lambda: tx.update(params, tx.init(params), params),
    ):
        with pytest.raises(ValueError, match="give a boolean for each array"):
            function()


def nn_ones(key, shape, dtype):
    del key
    return jnp.ones(shape, dtype)


def _loss(params):
    """Scaled as scikit-learn's."""
    return jnp.mean((X @ params["w"][:, 0] + params["b"] - Y) ** 2) / 2


ADAM = optax.adam(optax.linear_schedule(0.02, 0, 4000))


def _lasso_path(tx, num_steps=4000):
    tx = penalties.proximal(tx, PENALTY)
    params = {"w": 0.3 * jnp.ones((D, 1)), "b": jnp.zeros(())}

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(_loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=num_steps)
    return params


@pytest.mark.parametrize(
    "tx",
    [
        optax.sgd(0.05),
        optax.sgd(0.02, 0.9),
        ADAM,
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_every_optimiser_ends_at_the_lasso_with_exact_zeros(tx):
    found = jax.jit(lambda: _lasso_path(tx))()
    exact = Lasso(alpha=PENALTY, tol=1e-10).fit(
        np.asarray(X, float), np.asarray(Y, float)
    )
    zero = exact.coef_ == 0
    assert 0 < zero.sum() < D
    np.testing.assert_array_equal(np.asarray(found["w"][:, 0]) == 0, zero)
    np.testing.assert_allclose(found["w"][:, 0], exact.coef_, atol=2e-4)
    np.testing.assert_allclose(found["b"], exact.intercept_, atol=2e-4)
    np.testing.assert_allclose(penalties.sparsity(found), zero.mean())


def test_a_step_of_gradient_descent_is_the_proximal_step_or_stops_at_zero():
    w = jnp.asarray(RNG.choice([-0.3, -0.01, 0.0, 0.01, 0.3], (200, 1)), jnp.float32)
    g = jnp.asarray(RNG.normal(scale=0.2, size=w.shape), jnp.float32)
    tx = penalties.proximal(optax.sgd(0.1), PENALTY)
    updates, _ = tx.update(g, tx.init(w), w)
    stepped = np.asarray(w + updates)
    proximal = np.asarray(
        descent.step(lambda _: g, 0.1, prox=descent.lasso(PENALTY))(w)
    )
    crosses = np.sign(proximal) == -np.sign(w)
    crosses &= np.asarray(w) != 0
    assert crosses.any()
    np.testing.assert_allclose(stepped[~crosses], proximal[~crosses], atol=1e-7)
    np.testing.assert_array_equal(stepped[crosses], 0)
    np.testing.assert_array_equal(stepped[proximal == 0], 0)


def test_unpenalised_parameters_take_the_plain_step():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    plain, lasso = optax.adam(0.1), penalties.proximal(optax.adam(0.1), 10.0)
    expected, _ = plain.update(grads, plain.init(params), params)
    updates, _ = lasso.update(grads, lasso.init(params), params)
    np.testing.assert_array_equal(updates["bias"], expected["bias"])
    with pytest.raises(ValueError, match="params"):
        lasso.update(grads, lasso.init(params))


def test_a_gradient_that_is_not_a_number_stays_visible():
    tx = penalties.proximal(optax.adam(0.1), 0.1)
    w = jnp.array([[0.0, 1.0]])
    updates, _ = tx.update(jnp.full_like(w, jnp.nan), tx.init(w), w)
    assert jnp.isnan(w + updates).all()


def test_the_penalty_may_be_traced_and_mapped():
    def run(penalty):
        tx = penalties.proximal(optax.sgd(0.1), penalty)
        w = jnp.full((3, 1), 0.05)
        updates, _ = tx.update(jnp.zeros_like(w), tx.init(w), w)
        return penalties.sparsity(optax.apply_updates(w, updates))

    shares = jax.jit(jax.vmap(run))(jnp.array([0.0, 0.1, 1.0]))
    np.testing.assert_array_equal(shares, [0, 0, 1])


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(0.5, patience=2)),
        optax.contrib.reduce_on_plateau(0.5, patience=2),
        optax.chain(
            penalties.proximal(optax.sgd(0.1), 0.0),
            optax.contrib.reduce_on_plateau(0.5, patience=2),
        ),
    ],
    ids=["chained", "alone", "nested"],
)
def test_optimisers_with_further_arguments_take_them_inside(tx):
    """The value does not fall, so that steps shrink as they would without a penalty."""
    params, grads = jnp.ones((3, 1)), jnp.full((3, 1), 0.1)
    plain = optax.with_extra_args_support(tx)
    lasso = penalties.proximal(tx, 0.2)
    state, expected_state = lasso.init(params), plain.init(params)
    sizes = []
    for _ in range(8):
        updates, state = jax.jit(lasso.update)(grads, state, params, value=1.0)
        expected, expected_state = plain.update(
            grads + 0.2, expected_state, params, value=1.0
        )
        np.testing.assert_allclose(updates, jnp.maximum(expected, -1), rtol=1e-6)
        sizes.append(float(jnp.abs(expected).max()))
    assert sizes[-1] < 0.6 * sizes[0]


def test_further_arguments_do_not_disturb_optimisers_without():
    w, g = jnp.ones((3, 1)), jnp.full((3, 1), 0.1)
    tx = penalties.proximal(optax.adam(0.1), 0.2)
    with_value, _ = tx.update(g, tx.init(w), w, value=1.0)
    without, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_array_equal(with_value, without)
    chained = optax.chain(tx, optax.contrib.reduce_on_plateau(patience=2))
    updates, _ = chained.update(g, chained.init(w), w, value=1.0)
    np.testing.assert_allclose(updates, without, rtol=1e-6)


@pytest.mark.parametrize("jit", [True, False])
def test_a_negative_penalty_gives_nan_and_several_are_for_vmap(jit):
    def updates(penalty):
        tx = penalties.proximal(optax.sgd(0.1), penalty)
        w = jnp.array([[0.0, 0.5, -0.5]])
        return tx.update(jnp.ones_like(w), tx.init(w), w)[0]

    def prox(penalty):
        return descent.lasso(penalty)(jnp.array([0.0, 0.5, -0.5]), 0.1)

    for function in (updates, prox):
        function = jax.jit(function) if jit else function
        assert jnp.isnan(function(-0.1)).all()
        assert jnp.isnan(function(jnp.nan)).all()
        assert jnp.isfinite(function(0.0)).all()
    with pytest.raises(ValueError, match=r"penalty has shape \(3,\)"):
        updates(jnp.ones(3))
