"""Effects on the weights: the theorems as identities, against plain differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import dynamics, hessians, influence, losses, models

RNG = np.random.default_rng(0)


def _loss(y):
    return partial(losses.logistic, y=jnp.asarray(float(y)))


def _two_layers(seed=0, n=10, width=14):
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.standard_normal((n, width)) / n**0.5)
    b, a = (jnp.asarray(rng.standard_normal(width)) for _ in range(2))

    def z(w, x):
        return jax.nn.relu(x @ w + b) @ a

    return z, w, b, a, jnp.asarray(rng.standard_normal(n))


def _deep(name):
    """A trained-size network with gates fixed, as a function of its first layer."""
    model = models.make(name, num_classes=2)
    x = jnp.asarray(RNG.random((8, 8, 1)))
    params, _ = model.init(jax.random.key(1), x[None])
    params = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
    first = "Conv_0" if "Conv_0" in params else "Dense_0"

    def free(w, x):
        logits = model.predict({**params, first: w}, {}, x[None])
        return logits[0, 1] - logits[0, 0]

    def z(w, x_new):
        return dynamics.frozen(partial(free, w), x)(x_new)

    return z, params[first], x


def _along(z, loss, w, x, length):
    """The quantities at delta = length · g_x/‖g_x‖ of a z that is affine in x."""
    u = jax.grad(z, argnums=1)(w, x)
    g_z = jax.grad(loss)(z(w, x))
    delta = jnp.sign(g_z) * length * u / jnp.linalg.norm(u)
    g_after = jax.grad(loss)(z(w, x + delta))
    return delta, g_z, g_after, jnp.sum(u**2)


# --- Theorems 3 to 5 ---


@pytest.mark.usefixtures("x64")
def test_the_measured_effect_is_that_of_the_papers_formula():
    z, w, b, a, x = _two_layers()
    loss, delta = _loss(1), jnp.asarray(0.1 * RNG.standard_normal(10))
    found = influence.effect(w, z, loss, x, delta)
    u = jax.grad(z, argnums=1)(w, x)
    g_h = jax.grad(lambda h: jax.nn.relu(h) @ a)(x @ w + b)
    gradient = jax.grad(lambda w, x: loss(z(w, x)))
    clean, attacked = gradient(w, x), gradient(w, x + delta)
    np.testing.assert_allclose(found.original, -u @ clean @ g_h, rtol=1e-9)
    np.testing.assert_allclose(found.adversarial, -u @ attacked @ g_h, rtol=1e-9)
    np.testing.assert_allclose(
        found.additional, -u @ (attacked - clean) @ g_h, rtol=1e-9
    )
    np.testing.assert_allclose(found.square, g_h @ g_h, rtol=1e-9)
    np.testing.assert_allclose(found.difference, attacked - clean, rtol=1e-9)
    # It is what a small step does to half the square of the logit's gradient.
    eta = 1e-7

    def half_square(w):
        return jnp.sum(jax.grad(z, argnums=1)(w, x) ** 2) / 2

    change = (half_square(w - eta * attacked) - half_square(w - eta * clean)) / eta
    np.testing.assert_allclose(found.additional, change, rtol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("y", [1, -1])
@pytest.mark.parametrize("name", ["mlp3", "mlp5", "cnn3", "rescnn4", "two layers"])
def test_theorems_are_identities_where_the_second_derivative_is_constant(name, y):
    """With a quadratic loss H_z is constant, and g_z may be anything."""
    if name == "two layers":
        free, w, _, _, x = _two_layers()
        z = lambda w, x_new: dynamics.frozen(partial(free, w), x)(x_new)  # noqa: E731
    else:
        z, w, x = _deep(name)
    second, first = 0.2, -0.4 * y
    at = z(w, x)

    def loss(value):
        return first * (value - at) + second * (value - at) ** 2 / 2

    u = jax.grad(z, argnums=1)(w, x)
    square = jnp.sum(u**2)
    horizon = 0.7 / (second * square)
    strength = horizon * second * square
    hessian = jnp.full((1, 1), second)
    eigs = dynamics.logit_eigs(u[None], hessian)
    delta = dynamics.closed_form(eigs, first * u, horizon).delta
    np.testing.assert_allclose(eigs.values[0] * horizon, strength, rtol=1e-9)

    found = influence.effect(w, z, loss, x, delta)
    ascent = influence.Influence(delta, first, second, square, strength, strength)
    theory = influence.predicted_effect(found, ascent)
    np.testing.assert_allclose(found.additional, theory, rtol=1e-8)
    np.testing.assert_allclose(found.adversarial, found.original + theory, rtol=1e-8)
    found = influence.effect(w, z, loss, x, 0.3 * delta)
    theory = influence.predicted_effect(found, ascent, rel_length=0.3)
    np.testing.assert_allclose(found.additional, theory, rtol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["mlp3", "cnn3", "rescnn4"])
def test_theorems_hold_for_the_logistic_loss_at_its_mean_curvature(name):
    """Where e^A = g_z'/g_z defines the mean, exactly; along a path, to its error."""
    z, w, x = _deep(name)
    loss = _loss(1)
    delta, g_z, g_after, square = _along(z, loss, w, x, 0.05)
    found = influence.effect(w, z, loss, x, delta)
    strength = jnp.log(g_after / g_z)
    mean = (g_after - g_z) * g_z / (jnp.sum(delta * delta) * square) ** 0.5 / abs(g_z)
    ascent = influence.Influence(delta, g_z, abs(mean), square, strength, strength)
    theory = influence.predicted_effect(found, ascent)
    np.testing.assert_allclose(found.additional, theory, rtol=1e-4)

    measure = influence.influence(num_steps=2000)
    path = measure(partial(z, w), loss, x, 1e-3 / square)
    found = influence.effect(w, z, loss, x, path.delta)
    third = influence.predicted_effect(found, path)
    np.testing.assert_allclose(found.additional, third, rtol=1e-4)
    np.testing.assert_allclose(found.adversarial, found.original + third, rtol=1e-6)
    half = influence.effect(w, z, loss, x, path.delta / 2)
    fifth = influence.predicted_effect(half, path, rel_length=0.5)
    np.testing.assert_allclose(half.additional, fifth, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_the_strength_is_horizon_times_curvature_times_square():
    z, w, x = _deep("mlp3")
    loss, horizon = _loss(-1), 0.05
    found = influence.influence(num_steps=20)(partial(z, w), loss, x, horizon)
    u = jax.grad(z, argnums=1)(w, x)
    np.testing.assert_allclose(found.square, jnp.sum(u**2), rtol=1e-9)
    np.testing.assert_allclose(
        found.strength, horizon * found.logit_hessian * found.square, rtol=1e-12
    )
    # With fixed gates the running estimate is the same.
    np.testing.assert_allclose(found.running, found.strength, rtol=1e-9)
    delta = dynamics.ascend(num_steps=20)(lambda x: loss(z(w, x)), x, horizon).delta
    np.testing.assert_allclose(found.delta, delta, rtol=1e-9)
    curvatures = [jax.grad(jax.grad(loss))(z(w, x + t * delta)) for t in (0.0, 1.0)]
    assert min(curvatures) < found.logit_hessian < max(curvatures)


def test_lemma_1_the_curvature_exceeds_the_squared_slope_of_correct_examples():
    logits = jnp.linspace(-8, 8, 33)
    for y in (1.0, -1.0):
        loss = _loss(y)
        g_z, h_z = jax.vmap(jax.grad(loss))(logits), jax.vmap(jax.hessian(loss))(logits)
        larger = np.asarray(h_z >= g_z**2)
        np.testing.assert_array_equal(larger, np.asarray(logits) * y >= 0)


def test_without_curvature_or_gradient_the_effect_is_finite():
    effect = influence.Effect(-0.1, -0.1, 0.0, 2.0, None)
    still = influence.Influence(jnp.zeros(3), -1e-30, 0.0, 2.0, 0.0, 0.0)
    assert influence.predicted_effect(effect, still) == 0.0
    zero = influence.effect(
        jnp.ones(3),
        lambda w, x: 0.0 * jnp.sum(w) * jnp.sum(x),
        _loss(1),
        *(jnp.ones(3),) * 2,
    )
    assert zero.square == zero.additional == 0.0
    flat = influence.influence(num_steps=3)(
        lambda x: 0.0 * jnp.sum(x), _loss(1), jnp.ones(2), 1.0
    )
    assert flat.strength == flat.running == 0.0
    assert np.isfinite(flat.logit_hessian)


# --- Theorem 6 and instability ---


@pytest.mark.usefixtures("x64")
def test_the_terms_of_a_row_are_its_taylor_expansion():
    _, w, b, a, x = _two_layers()
    h, delta = x @ w + b, jnp.asarray(0.1 * RNG.standard_normal(10))

    def loss(h):
        return losses.logistic(jnp.tanh(h) @ a, jnp.asarray(1.0))

    slope, curvature = jax.grad(loss)(h), jax.hessian(loss)(h)
    for i in (0, 7):
        found = influence.row_terms(w, loss, h, delta, i)
        np.testing.assert_allclose(sum(found), loss(h + delta @ w), rtol=1e-12)
        rest = delta @ w - delta[i] * w[i]
        np.testing.assert_allclose(found.linear, delta[i] * slope @ w[i], rtol=1e-9)
        cross = delta[i] * rest @ curvature @ w[i]
        np.testing.assert_allclose(found.cross, cross, rtol=1e-9)
        quadratic = w[i] @ (delta[i] ** 2 / 2 * curvature) @ w[i]
        np.testing.assert_allclose(found.quadratic, quadratic, rtol=1e-9)
        other = influence.row_terms(w.at[i].mul(2.0), loss, h, delta, i)
        np.testing.assert_allclose(other.constant, found.constant, rtol=1e-12)
        small = influence.row_terms(w, loss, h, 1e-2 * delta, i)
        assert abs(small.remainder) < 1.1e-6 * abs(found.remainder) + 1e-15


@pytest.mark.usefixtures("x64")
def test_the_hessian_in_a_row_grows_with_the_square_of_the_input():
    _, w, b, a, x = _two_layers()
    delta, i = jnp.asarray(0.1 * RNG.standard_normal(10)), 3

    def loss(h):
        return losses.logistic(jnp.tanh(h) @ a, jnp.asarray(1.0))

    def of_row(row):
        return loss((x + delta) @ w.at[i].set(row) + b)

    h_h = jax.hessian(loss)((x + delta) @ w + b)
    v = jnp.asarray(RNG.standard_normal(w.shape[1]))
    found = hessians.hvp(of_row, w[i])(v)
    np.testing.assert_allclose(found, (x + delta)[i] ** 2 * h_h @ v, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_instability_is_the_curvature_along_the_gradient():
    params = {
        "Conv_0": {"kernel": jnp.asarray(RNG.standard_normal((3, 3, 1, 2)))},
        "Dense_0": {
            "kernel": jnp.asarray(RNG.standard_normal((18, 1))),
            "bias": jnp.zeros(1),
        },
    }
    x = jnp.asarray(RNG.standard_normal((5, 5, 1)))

    def loss(params):
        h = models.layers.convolution(
            x[None], params["Conv_0"]["kernel"], stride=1, padding=0
        )
        z = jnp.tanh(h).reshape(-1) @ params["Dense_0"]["kernel"][:, 0]
        return losses.logistic(z + params["Dense_0"]["bias"][0], jnp.asarray(1.0))

    found = influence.instability(params, loss, rel_step_size=1e-6)
    assert {*found} == {"Conv_0/kernel", "Dense_0/kernel"}
    for name in ("Conv_0", "Dense_0"):
        layer = params[name]["kernel"]

        def of_layer(layer, name=name):
            return loss({**params, name: {**params[name], "kernel": layer}})

        g = jax.grad(of_layer)(layer)
        curved = hessians.hvp(of_layer, layer)(g)
        expected = jnp.linalg.norm(curved) / jnp.linalg.norm(g) / layer.size**0.5
        np.testing.assert_allclose(found[f"{name}/kernel"], expected, rtol=1e-4)
    # At a finite step it is the definition.
    found = influence.instability(params, loss, rel_step_size=0.1)["Dense_0/kernel"]
    layer = params["Dense_0"]["kernel"]
    g = jax.grad(of_layer)(layer)
    step = -0.1 * jnp.linalg.norm(layer) * g / jnp.linalg.norm(g)
    moved = jnp.linalg.norm(jax.grad(of_layer)(layer + step) - g)
    expected = moved / (18**0.5 * jnp.linalg.norm(step))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_layer_without_gradient_is_stable():
    params = {"a": jnp.ones((2, 2)), "b": jnp.zeros((2, 2))}
    found = influence.instability(params, lambda p: jnp.sum(p["b"]) ** 2)
    assert found["a"] == found["b"] == 0.0


def test_arrays_that_would_broadcast_are_refused():
    w, h, delta = jnp.ones((3, 2)), jnp.ones(2), jnp.ones(3)
    for wrong in (
        (w, h[:1], delta),
        (w, h, delta[:1]),
        (w[:1], h, delta),
        (w[0], h, delta),
        (w, h[None], delta),
    ):
        with pytest.raises(ValueError, match=r"give w\[n, D\], h\[D\]"):
            influence.row_terms(wrong[0], jnp.sum, *wrong[1:], 0)
    for i in (3, -4, np.int64(5)):
        with pytest.raises(ValueError, match="choose a row of w"):
            influence.row_terms(w, jnp.sum, h, delta, i)
    z = lambda w, x: w @ x  # noqa: E731
    for other in (jnp.ones(1), jnp.ones(()), jnp.ones((3, 1))):
        with pytest.raises(ValueError, match="shapes x"):
            influence.effect(jnp.ones(3), z, _loss(1), jnp.ones(3), other)


@pytest.mark.parametrize("count", [0, 2.0, True])
def test_counts_are_integers_of_any_kind(count):
    with pytest.raises(ValueError, match="choose an integer of at least 1"):
        influence.influence(num_steps=count)
    z, loss, x = lambda x: jnp.sum(x**2), _loss(1), jnp.ones(2)
    ours, expected = (
        influence.influence(num_steps=m)(z, loss, x, 0.1) for m in (np.int64(3), 3)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
