"""Flatness against closed forms, grids and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, flatness, losses, models, norms
from advjax.flags import Flags

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}
RADII = (0.0, 0.05, 0.1, 0.3)


@pytest.fixture
def problem(key):
    keys = jax.random.split(key, 3)
    theta = jax.random.normal(keys[0], (6,))
    x = jax.random.normal(keys[1], (20, 6))
    y = jnp.sign(jax.random.normal(keys[2], (20,)))
    return theta, x, y


@pytest.fixture
def network(key):
    model = models.make("mlp", num_classes=3, hidden=(16, 16))
    x = jax.random.uniform(key, (12, 5), float)
    params, stats = model.init(key, x)
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    y = jnp.arange(12) % 3

    def loss_fn(x, y):
        return losses.cross_entropy(model.predict(params, stats, x), y)

    return loss_fn, x, y


def _search(norm, **options):
    return flatness.largest(norm, num_steps=20, rel_step_size=0.25, **options)


@pytest.mark.parametrize("name", NORMS)
def test_the_gradient_norm_is_the_dual_norm_of_each_gradient(name, network):
    loss_fn, x, y = network
    found = jax.jit(flatness.gradient_norm(loss_fn, NORMS[name]))(x, y)
    order = {"linf": 1, "l2": 2, "l1": np.inf}[name]
    one = jax.jit(jax.grad(lambda x, y: loss_fn(x[None], y[None])[0]))
    for i in range(len(x)):
        g = one(x[i], y[i])
        np.testing.assert_allclose(found[i], np.linalg.norm(g, order), rtol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_peaks_of_logistic_and_linear_models_are_exact(name, problem, key):
    norm, (theta, x, y) = NORMS[name], problem
    search, radii = _search(norm), jnp.array(RADII)
    cases = {
        flatness.logistic: lambda x, y: losses.logistic(x @ theta, y),
        flatness.linear: lambda x, y: losses.squared_error(x @ theta, y),
    }

    for exact, loss_fn in cases.items():
        measure = flatness.gradient_norm(loss_fn, norm)

        @jax.jit
        @jax.vmap
        def found(eps, loss_fn=loss_fn, measure=measure):
            steepest = search(key, measure, x, y, eps).value
            return steepest, search(key, loss_fn, x, y, eps).rise

        steepest, rise = found(radii)
        for i, eps in enumerate(RADII):
            expected = exact(theta, norm, x, y, eps)
            np.testing.assert_allclose(steepest[i], expected.gradient_norm, rtol=1e-4)
            np.testing.assert_allclose(rise[i], expected.rise, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_closed_forms_are_the_maxima_over_a_grid():
    theta, eps = jnp.array([1.0, -0.5]), 0.4
    line = jnp.linspace(-eps, eps, 201)
    delta = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    x, y = jnp.array([[0.3, 0.7]]), jnp.array([-1.0])
    cases = {
        flatness.logistic: lambda x: losses.logistic(x @ theta, jnp.full(len(x), -1.0)),
        flatness.linear: lambda x: losses.squared_error(
            x @ theta, jnp.full(len(x), -1.0)
        ),
    }
    for exact, f in cases.items():
        around = x + delta
        slopes = jax.vmap(jax.grad(lambda x, f=f: f(x[None])[0]))(around)
        expected = exact(theta, norms.linf, x, y, eps)
        np.testing.assert_allclose(
            expected.gradient_norm[0], jnp.abs(slopes).sum(axis=1).max(), rtol=1e-9
        )
        np.testing.assert_allclose(
            expected.rise[0], (f(around) - f(x)).max(), rtol=1e-9
        )


@pytest.mark.parametrize("name", NORMS)
def test_peaks_lie_in_ball_and_box_and_have_their_value(name, network, key):
    (loss_fn, x, y), norm = network, NORMS[name]
    measure = flatness.gradient_norm(loss_fn, norm)
    search = _search(norm, num_starts=2, bounds=(0.0, 1.0))
    found = jax.jit(lambda key, eps: search(key, measure, x, y, eps))(key, 0.2)
    assert (jax.vmap(norm.value)(found.delta) <= 0.2 * (1 + 1e-5)).all()
    assert ((x + found.delta >= 0) & (x + found.delta <= 1)).all()
    np.testing.assert_allclose(measure(x + found.delta, y), found.value, rtol=1e-4)
    assert (found.value >= found.centre).all()
    assert (found.value > found.centre).any()


def test_profiles_do_not_fall_and_start_at_the_centre(network, key):
    loss_fn, x, y = network
    measure = flatness.gradient_norm(loss_fn, norms.linf)

    def jitted(num_starts):
        search = flatness.largest(
            norms.linf, num_steps=3, rel_step_size=0.5, num_starts=num_starts
        )
        return jax.jit(lambda key, *rest: search(key, measure, *rest))

    found = flatness.profile(jitted(1), key, x, y, RADII)
    profile = found.value
    for i, eps in enumerate(RADII):
        assert jnp.abs(found.delta[i]).max() <= eps * (1 + 1e-6)
        at = measure(x + found.delta[i], y)
        np.testing.assert_allclose(at, profile[i], rtol=1e-4)
    assert (jnp.diff(profile, axis=0) >= 0).all()
    np.testing.assert_allclose(profile[0], measure(x, y), rtol=1e-5)
    better = flatness.profile(jitted(8), key, x, y, RADII).value
    assert better[-1].mean() > profile[-1].mean()
    # The end of an attack on the loss as one start more.
    attack = attacks.pgd(norms.linf, num_steps=5, rel_step_size=0.25)
    end = attack(key, loss_fn, x, y, RADII[-1])[0] - x
    still = flatness.largest(norms.linf, num_steps=0, rel_step_size=0.5, num_starts=0)
    guided = still(key, measure, x, y, RADII[-1], end)
    np.testing.assert_allclose(
        guided.value, jnp.maximum(measure(x + end, y), measure(x, y)), rtol=1e-5
    )


def test_profiles_go_on_from_the_last_peak_and_keep_one_that_a_search_misses(key):
    values, starts = iter(jnp.array([[1.0, 2.0], [3.0, 1.0], [2.0, 4.0]])), []

    def search(key, x, y, eps, start):
        del key, y
        starts.append(start[:, 0])
        value = next(values)
        raised = Flags(value > 2, value > 3, None)
        return flatness.Peak(value, jnp.zeros(2), jnp.full_like(x, eps), raised)

    found = flatness.profile(search, key, jnp.zeros((2, 3)), None, (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(found.value, [[1, 2], [3, 2], [3, 4]])
    np.testing.assert_array_equal(found.delta[..., 0], [[1, 1], [2, 1], [2, 3]])
    np.testing.assert_array_equal(starts, [[0, 0], [1, 1], [2, 1]])
    # Flags are of the search at this radius, whichever point is kept.
    np.testing.assert_array_equal(found.flags.zero_grad[1:], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(found.flags.undefined[1:], [[0, 0], [0, 1]])


@pytest.mark.usefixtures("x64")
def test_radii_can_be_mapped_with_one_trace(network, key):
    loss_fn, x, y = network
    measure = flatness.gradient_norm(loss_fn, norms.linf)
    search = _search(norms.linf, num_starts=2)
    traces = []

    @jax.jit
    def peak(eps):
        traces.append(1)
        return search(key, measure, x, y, eps).value

    radii = jnp.array(RADII)
    looped = jnp.stack([peak(eps) for eps in radii])
    assert len(traces) == 1
    mapped = jax.vmap(peak)(radii)
    np.testing.assert_allclose(mapped, looped, rtol=1e-9)


def test_flags_are_of_all_climbs_or_of_any(key):
    def away(x):
        return x[:, 0] - 0.5

    x = jnp.array([[0.5], [1.5]])
    options = {"num_steps": 1, "rel_step_size": 1, "bounds": (0.0, 1.0)}
    search = flatness.largest(norms.linf, num_starts=2, **options)
    search = jax.jit(search, static_argnums=1)
    for measure, has_vanished, is_undefined in (
        (lambda x, _: jnp.where(away(x) == 0, 0, away(x)), False, False),  # there alone
        (lambda x, _: 0 * away(x), True, False),
        (lambda x, _: away(x) + 0 * jnp.sqrt(jnp.abs(away(x))), False, True),
    ):
        flags = search(key, measure, x, None, 0.1).flags
        assert flags.zero_grad[0] == has_vanished
        assert flags.undefined[0] == is_undefined
        np.testing.assert_array_equal(flags.outside, [False, True])


def test_gradient_norms_of_half_precision_do_not_overflow():
    x = jnp.ones((1, 70_000), jnp.float16)
    found = flatness.gradient_norm(lambda x, _: jnp.sum(x, axis=1), norms.linf)(x, None)
    np.testing.assert_allclose(found, 70_000)


def test_examples_do_not_depend_on_the_batch_or_on_the_label_of_others(network, key):
    loss_fn, x, y = network
    search = _search(norms.l2, num_starts=1)
    search = jax.jit(search, static_argnums=1)
    whole = search(key, loss_fn, x, y, 0.2).value
    part = search(key, loss_fn, x[:4], y[:4], 0.2).value
    np.testing.assert_allclose(part, whole[:4], rtol=1e-4)


def test_edge_cases(network, key):
    loss_fn, x, y = network
    search = jax.jit(_search(norms.linf), static_argnums=1)
    assert jnp.isnan(search(key, loss_fn, x, y, -0.1).value).all()
    still = search(key, loss_fn, x, y, 0.0)
    np.testing.assert_array_equal(still.delta, 0)
    np.testing.assert_allclose(still.rise, 0, atol=1e-6)
    flat = search(key, lambda x, _: 0 * x[:, 0], x, y, 0.1)
    np.testing.assert_array_equal(flat.delta, 0)
    with pytest.raises(ValueError, match="num_starts = -1: choose"):
        flatness.largest(norms.linf, num_steps=1, rel_step_size=1, num_starts=-1)
    with pytest.raises(ValueError, match="in increasing order"):
        flatness.profile(_search(norms.linf), key, x, y, (0.1, 0.0))
    with pytest.raises(ValueError, match="num_steps = -1"):
        flatness.largest(norms.linf, num_steps=-1, rel_step_size=1)


def test_a_reduced_loss_is_refused(network):
    loss_fn, x, y = network
    for measure in (
        flatness.gradient_norm(lambda x, y: jnp.mean(loss_fn(x, y)), norms.l2),
        flatness.gradient_norm(lambda x, y: loss_fn(x, y)[:, None], norms.l2),
    ):
        with pytest.raises(ValueError, match="one value per example"):
            measure(x, y)
    with pytest.raises(ValueError, match="there are no radii"):
        flatness.profile(_search(norms.l2), jax.random.key(0), x, y, [])


def test_labels_that_are_no_signs_have_no_flatness():
    x, theta = jnp.ones((3, 2)), jnp.ones(2)
    found = flatness.logistic(theta, norms.l2, x, jnp.array([0.0, 1.0, -1.0]), 0.1)
    np.testing.assert_array_equal(jnp.isnan(found.rise), [True, False, False])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_peaks_of_half_precision_are_where_they_are_said_to_be(dtype, key):
    x = jax.random.uniform(key, (4, 5)).astype(dtype)
    peak = _search(norms.linf)(key, lambda x, _: jnp.sum(x, axis=1), x, None, 0.1)
    assert peak.delta.dtype == jnp.float32
    assert (jnp.abs(peak.delta) <= 0.1).all()
    there = (x.astype(jnp.float32) + peak.delta).astype(dtype)
    np.testing.assert_array_equal(jnp.sum(there, axis=1), peak.value)


def test_the_rise_of_large_losses_keeps_its_digits():
    theta = jnp.array([16.0, 16.0])
    x = jnp.array([[-500.0, -500.0], [-6e4, -2e4], [0.01, 0.02]])
    u, s = np.asarray(-(x @ theta), float), 32.0
    for dtype, eps in ((jnp.float32, 1e-3), (jnp.bfloat16, 0.03), (jnp.float32, 5.0)):
        found = flatness.logistic(
            theta.astype(dtype), norms.linf, x.astype(dtype), jnp.ones(3), eps
        )
        if dtype == jnp.bfloat16:
            u = -np.asarray(x.astype(dtype).astype(jnp.float32) @ theta, float)
        expected = np.logaddexp(0, u + eps * s) - np.logaddexp(0, u)
        np.testing.assert_allclose(found.rise, expected, rtol=1e-4)
