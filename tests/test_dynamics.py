"""Ascent and its closed forms, against matrix exponentials, autodiff and each other."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from advjax import dynamics, hessians, losses, models, norms, spectrum

RNG = np.random.default_rng(0)


def _quadratic(d=6, seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((d, d))
    hessian, g = (matrix + matrix.T) / 2, rng.standard_normal(d)

    def f(x):
        return x @ (g + hessian @ x / 2)

    return f, hessian, g


def _pairs(hessian):
    values, vectors = np.linalg.eigh(hessian)
    return dynamics.LogitEigs(jnp.asarray(values), jnp.asarray(vectors.T))


def _relu_network(seed=0, widths=(12, 20, 16, 4)):
    rng = np.random.default_rng(seed)
    kernels = [
        jnp.asarray(rng.standard_normal(shape) * (2 / shape[0]) ** 0.5)
        for shape in itertools.pairwise(widths)
    ]

    def predict(x):
        *hidden, last = kernels
        for kernel in hidden:
            x = jax.nn.relu(x @ kernel)
        return x @ last

    x = jnp.asarray(rng.standard_normal(widths[0]))
    return predict, partial(losses.cross_entropy, labels=jnp.array(1)), x


# --- closed forms ---


@pytest.mark.usefixtures("x64")
def test_on_a_quadratic_the_closed_forms_are_exact():
    f, hessian, g = _quadratic()
    eigs, g = _pairs(hessian), jnp.asarray(g)
    x, horizon = jnp.zeros(6), 0.7
    for num_steps in (1, 2, 7):
        found = dynamics.closed_form(eigs, g, horizon, num_steps=num_steps)
        ascent = dynamics.ascend(num_steps=num_steps)(f, x, horizon)
        np.testing.assert_allclose(found.delta, ascent.delta, rtol=1e-10)
        np.testing.assert_allclose(found.grad, jax.grad(f)(ascent.delta), rtol=1e-10)
    found = dynamics.closed_form(eigs, g, horizon)
    exponential = scipy.linalg.expm(horizon * hessian)
    np.testing.assert_allclose(found.grad, exponential @ g, rtol=1e-10)
    expected = np.linalg.solve(hessian, (exponential - np.eye(6)) @ g)
    np.testing.assert_allclose(found.delta, expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_error_of_finitely_many_steps_halves_when_they_double():
    f, hessian, g = _quadratic()
    limit = dynamics.closed_form(_pairs(hessian), jnp.asarray(g), 0.7).delta
    errors = np.array(
        [
            np.linalg.norm(
                dynamics.ascend(num_steps=m)(f, jnp.zeros(6), 0.7).delta - limit
            )
            for m in (50, 100, 200, 400)
        ]
    )
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2.0, rtol=0.02)


@pytest.mark.usefixtures("x64")
def test_steps_across_the_maximum_alternate():
    f, g = lambda x: jnp.sum(x - 2 * x**2), jnp.ones(1)
    eigs = dynamics.LogitEigs(-4 * jnp.ones(1), jnp.eye(1))
    found = dynamics.closed_form(eigs, g, 4.2, num_steps=6)
    ascent = dynamics.ascend(num_steps=6)(f, jnp.zeros(1), 4.2)
    np.testing.assert_allclose(found.delta, ascent.delta, rtol=1e-12)
    assert found.grad[0] > 1


@pytest.mark.parametrize("num_steps", [None, 10])
def test_small_and_zero_eigenvalues_are_safe(num_steps):
    values = jnp.array([0.0, 1e-30, -1e-30, 1e-9, 1e-4])
    grad = jnp.ones(5)

    def form(values, vectors):
        eigs = dynamics.LogitEigs(values, vectors)
        return dynamics.closed_form(eigs, grad, 2.0, num_steps=num_steps)

    found = form(values, jnp.eye(5))
    np.testing.assert_allclose(found.delta[:4], 2.0, rtol=1e-6)
    expected = 2.0 + 2e-4 * (0.9 if num_steps else 1)
    np.testing.assert_allclose(found.delta[4], expected, rtol=1e-6)
    # Directions without a vector have an eigenvalue of zero.
    part = form(values[4:], jnp.eye(5)[4:])
    np.testing.assert_allclose(part.delta, found.delta, rtol=1e-6)
    np.testing.assert_allclose(part.grad, found.grad, rtol=1e-6)

    def total(values):
        return jnp.sum(form(values, jnp.eye(5)).delta)

    # d/dλ of β + β² λ/2 is β²/2, less α β/2 with steps.
    slope = 2.0 - (0.2 if num_steps else 0.0)
    np.testing.assert_allclose(jax.grad(total)(values), slope, rtol=1e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_steps", [None, 10])
def test_the_series_meets_the_formula(num_steps):
    values = jnp.asarray([-3e-3, -9.9e-4, 1e-3, 9.9e-3, 2e-2, -1.0, 5.0])

    def delta(values):
        eigs = dynamics.LogitEigs(values, jnp.eye(7))
        found = dynamics.closed_form(eigs, jnp.ones(7), 1.0, num_steps=num_steps)
        return found.delta

    for value, found in zip(values, delta(values), strict=True):
        value = np.longdouble(value)
        growth = np.exp(value) if num_steps is None else (1 + value / 10) ** 10
        np.testing.assert_allclose(found, float((growth - 1) / value), rtol=1e-13)


# --- fixed gates ---


@pytest.mark.usefixtures("x64")
def test_fixed_gates_are_those_of_the_input():
    predict, _, x = _relu_network()
    frozen = dynamics.frozen(predict, x)
    np.testing.assert_allclose(frozen(x), predict(x), rtol=1e-12)
    near = x + 1e-9 * jnp.asarray(RNG.standard_normal(x.shape))
    np.testing.assert_allclose(frozen(near), predict(near), rtol=1e-12)
    far = jnp.asarray(RNG.standard_normal(x.shape))
    middle = (x + far) / 2
    np.testing.assert_allclose(
        frozen(middle), (frozen(x) + frozen(far)) / 2, rtol=1e-10
    )
    assert not np.allclose(frozen(far), predict(far), rtol=1e-2)


@pytest.mark.usefixtures("x64")
def test_gates_of_max_pooling_are_fixed_too():
    model = models.make("lenet5", num_classes=3, width=8)
    x = jnp.asarray(RNG.random((8, 8, 1)))
    params, stats = model.init(jax.random.key(0), x[None])

    def predict(x):
        return model.predict(params, stats, x[None])[0]

    frozen = dynamics.frozen(predict, x)
    step = jnp.asarray(RNG.standard_normal(x.shape))
    np.testing.assert_allclose(
        frozen(x + 1e-9 * step), predict(x + 1e-9 * step), rtol=1e-10
    )
    line = [frozen(x + t * step) for t in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(line[2] - line[1], line[1] - line[0], rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_ascent_in_the_logits_is_ascent_in_the_input():
    predict, loss, x = _relu_network()
    frozen = dynamics.frozen(predict, x)
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    np.testing.assert_allclose(logits, predict(x), rtol=1e-12)
    np.testing.assert_allclose(jacobian, jax.jacobian(predict)(x), rtol=1e-12)
    small = dynamics.ascend_logits(num_steps=30)(loss, logits, jacobian, 0.8)
    record = dynamics.logit_hessians(frozen, loss)
    large = dynamics.ascend(num_steps=30, record=record)(
        lambda x: loss(frozen(x)), x, 0.8
    )
    np.testing.assert_allclose(small.delta, large.delta, rtol=1e-9)
    mean = dynamics.path_mean(*large.records[::-1])
    np.testing.assert_allclose(small.logit_hessian, mean, rtol=1e-9, atol=1e-14)
    grad = jax.grad(lambda x: loss(frozen(x)))(x + large.delta)
    np.testing.assert_allclose(small.grad, grad, rtol=1e-9)
    np.testing.assert_allclose(large.effective, large.delta, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [12, 3])
def test_eigenpairs_by_the_logits_are_those_of_the_input_hessian(d):
    predict, loss, x = _relu_network(widths=(d, 20, 4))
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    hessian = jax.hessian(loss)(logits)
    values, vectors = dynamics.logit_eigs(jacobian, hessian)
    dense = jax.hessian(lambda x: loss(predict(x)))(x)
    np.testing.assert_allclose(
        values, np.linalg.eigvalsh(dense)[::-1][: len(values)], atol=1e-12
    )
    np.testing.assert_allclose(
        np.asarray(dense @ vectors.T),
        np.asarray(vectors.T) * np.asarray(values),
        atol=1e-12,
    )
    matvec = hessians.gauss_newton(predict, loss, x)
    pair = spectrum.top_eigs(num_matvecs=d, num_eigs=1)(jax.random.key(0), matvec, x)
    np.testing.assert_allclose(pair.values[0], values[0], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_theorem_holds_at_small_strength():
    predict, loss, x = _relu_network()
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    grad = jax.grad(lambda x: loss(predict(x)))(x)

    def kappa(horizon, num_steps):
        path = dynamics.ascend_logits(num_steps=num_steps)(
            loss, logits, jacobian, horizon
        )
        eigs = dynamics.logit_eigs(jacobian, path.logit_hessian)
        delta = dynamics.closed_form(eigs, grad, horizon).delta
        return np.linalg.norm(path.delta - delta) / np.linalg.norm(path.delta)

    assert kappa(0.001, 1000) < 1e-5
    np.testing.assert_allclose(kappa(0.001, 10) / kappa(0.001, 20), 2, rtol=0.05)
    assert kappa(3.0, 1000) > 1e-3


# --- l2 and linf ---


@pytest.mark.usefixtures("x64")
def test_normalised_ascent_follows_the_same_curve():
    predict, loss, x = _relu_network()
    frozen = dynamics.frozen(predict, x)

    def f(x):
        return loss(frozen(x))

    free = dynamics.ascend(num_steps=2000)(f, x, 0.5)
    path = dynamics.ascend(num_steps=2000, record=lambda _, g: jnp.linalg.norm(g))(
        f, x, 0.5
    )
    length = float(jnp.sum(path.records) * 0.5 / 2000)
    unit = dynamics.ascend(num_steps=2000, direction=norms.l2.steepest)(f, x, length)
    assert dynamics.matching_error(free.delta, unit.delta) < 1e-7
    np.testing.assert_allclose(
        np.linalg.norm(unit.delta), np.linalg.norm(free.delta), rtol=1e-3
    )


@pytest.mark.usefixtures("x64")
def test_the_effective_part_of_linf_steps_is_along_the_gradient():
    g, v = (jnp.asarray(RNG.standard_normal(7)) for _ in range(2))
    o = g / jnp.linalg.norm(g)
    np.testing.assert_allclose(dynamics.project_onto(v, g), (o @ v) * o, rtol=1e-12)
    expected = norms.l1.value(g) / jnp.sum(g**2) * g
    np.testing.assert_allclose(
        dynamics.project_onto(jnp.sign(g), g), expected, rtol=1e-12
    )
    linf = dynamics.ascend(num_steps=3, direction=norms.linf.steepest)
    found = linf(lambda x: g @ x, jnp.zeros(7), 0.3)
    np.testing.assert_allclose(found.delta, 0.3 * jnp.sign(g), rtol=1e-12)
    np.testing.assert_allclose(found.effective, 0.3 * expected, rtol=1e-12)


def test_matching_errors_are_precise_far_below_one():
    a = jnp.array([1.0, 0.0], jnp.float32)
    b = jnp.array([1.0, 1e-5], jnp.float32)
    np.testing.assert_allclose(dynamics.matching_error(a, 3 * b), 5e-11, rtol=1e-3)
    np.testing.assert_allclose(dynamics.matching_error(a, -a), 2.0)
    assert np.isnan(dynamics.matching_error(a, jnp.zeros(2)))


# --- edges ---


def test_at_a_zero_gradient_nothing_moves():
    x = jnp.ones(3)
    for direction in (lambda g: g, norms.l2.steepest, norms.linf.steepest):
        found = dynamics.ascend(num_steps=4, direction=direction)(
            lambda _: 1.0 * 0, x, 1.0
        )
        np.testing.assert_array_equal(found.delta, 0)
        np.testing.assert_array_equal(found.effective, 0)
    loss = partial(losses.cross_entropy, labels=jnp.array(0))
    path = dynamics.ascend_logits(num_steps=4)(
        loss, jnp.zeros(2), jnp.zeros((2, 3)), 1.0
    )
    np.testing.assert_array_equal(path.delta, 0)
    np.testing.assert_allclose(path.logit_hessian, [[0.25, -0.25], [-0.25, 0.25]])
    eigs = dynamics.logit_eigs(jnp.zeros((2, 3)), path.logit_hessian)
    found = dynamics.closed_form(eigs, jnp.zeros(3), 1.0)
    np.testing.assert_array_equal(found.delta, 0)


def test_examples_are_vmapped_with_one_trace():
    predict, _, _ = _relu_network()
    x = jnp.asarray(RNG.standard_normal((5, 12)), jnp.float32)
    y = jnp.arange(5) % 4
    traces = []

    @jax.jit
    def deltas(x, y, horizon):
        traces.append(None)

        def one(x, y):
            return dynamics.ascend(num_steps=3)(
                lambda x: losses.cross_entropy(predict(x), y), x, horizon
            ).delta

        return jax.vmap(one)(x, y)

    together = deltas(x, y, 0.1)
    deltas(x, y, 0.2)
    assert len(traces) == 1
    for i in range(5):
        alone = deltas(x[i : i + 1], y[i : i + 1], 0.1)[0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-7)


def test_wrong_numbers_of_steps_are_refused():
    for count in (0, -1, 2.0, True):
        for make in (
            dynamics.ascend,
            dynamics.ascend_logits,
            partial(dynamics.closed_form, _pairs(np.eye(2)), jnp.ones(2), 1.0),
        ):
            with pytest.raises(ValueError, match=r"num_steps = .*: choose an integer"):
                make(num_steps=count)


@pytest.mark.parametrize("count", [np.int64(3), np.int8(3), np.uint32(3)])
def test_counts_of_numpy_are_plain_input(count):
    f, hessian, g = _quadratic()
    ours = dynamics.ascend(num_steps=count)(f, jnp.zeros(6), 0.7)
    expected = dynamics.ascend(num_steps=3)(f, jnp.zeros(6), 0.7)
    np.testing.assert_array_equal(ours.delta, expected.delta)
    ours, expected = (
        dynamics.closed_form(_pairs(hessian), g, 0.7, num_steps=m) for m in (count, 3)
    )
    np.testing.assert_array_equal(ours.delta, expected.delta)


def test_arrays_that_would_broadcast_are_refused():
    ones = np.ones(3)
    for other in (np.ones(1), np.ones(4), np.ones((3, 1)), np.float32(1)):
        for function in (dynamics.project_onto, dynamics.matching_error):
            with pytest.raises(
                ValueError, match=r"shapes .*: give arrays of one shape"
            ):
                function(ones, other)
    for weights in (np.ones(1), np.ones(2), np.float32(1)):
        with pytest.raises(ValueError, match=r"values \(3, 2\), weights \("):
            dynamics.path_mean(np.ones((3, 2)), weights)
    for hessian in (np.ones((1, 1)), np.ones(2), np.ones((2, 3)), np.float32(1)):
        with pytest.raises(ValueError, match=r"give jacobian\[k, ...\]"):
            dynamics.logit_eigs(jnp.ones((2, 5)), hessian)
    for logits in (jnp.ones(1), jnp.ones(3)):
        with pytest.raises(ValueError, match=r"logits \(.*, jacobian \(2, 5\)"):
            dynamics.ascend_logits(num_steps=2)(jnp.sum, logits, jnp.ones((2, 5)), 0.1)
    for grad in (np.ones(1), np.ones(5), np.ones((2, 1))):
        with pytest.raises(ValueError, match=r"give vectors\[r, ...\] and grad"):
            dynamics.closed_form(_pairs(np.eye(2)), grad, 1.0)
    for values in (jnp.ones(1), jnp.ones(3)):
        eigs = dynamics.LogitEigs(values, jnp.eye(2))
        with pytest.raises(ValueError, match=r"values \(.*, vectors \(2, 2\)"):
            dynamics.closed_form(eigs, jnp.ones(2), 1.0)
