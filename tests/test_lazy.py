"""Two-layer networks against loops of NumPy, the attacks and the linear model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from advjax import attacks, descent, lazy, linear, losses, norms

NORMS = {"l2": norms.l2, "linf": norms.linf}
PHI = {"sigmoid": lazy.sigmoid, "linear": lazy.linear, "relu": lazy.relu}
FORMULAS = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)) - 1 / 2,
    "linear": lambda z: z / 4,
    "relu": lambda z: max(z, 0) / 4,
}
EPS = 0.3

each_norm = pytest.mark.parametrize("name", NORMS)
each_phi = pytest.mark.parametrize("phi", PHI)
each_xi = pytest.mark.parametrize("xi", [0.0, 0.5])


def _problem(h=5, d=3, n=8, seed=0, dtype=np.float32):
    """Parameters, output weights and data."""
    rng = np.random.default_rng(seed)
    shapes = (h, d), (h,), (n, d), (n,)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


@each_phi
def test_activations_pass_through_zero_with_the_slope_of_both_sides(phi):
    value, slope = PHI[phi].value, PHI[phi].slope
    assert value(jnp.float32(0)) == 0
    both_sides = (value(jnp.float32(1e-6)) - value(jnp.float32(-1e-6))) / 2e-6
    np.testing.assert_allclose(both_sides, slope, rtol=1e-5)


@each_phi
def test_prediction_equals_a_double_loop(phi):
    theta, a, x, _ = _problem()
    ours = lazy.predict(theta, lazy.Network(a, PHI[phi]), x)
    for f, row in zip(ours, x, strict=True):
        terms = [
            w * FORMULAS[phi](np.dot(u, row)) for w, u in zip(a, theta, strict=True)
        ]
        np.testing.assert_allclose(f, sum(terms) / 5**0.5, rtol=1e-5)


@each_norm
@each_phi
@each_xi
def test_perturbation_is_the_smoothed_attack_and_inside_the_ball(name, phi, xi):
    norm, (theta, a, x, y) = NORMS[name], _problem()
    network = lazy.Network(a, PHI[phi])

    def loss(x, y):
        return losses.squared_error(lazy.predict(theta, network, x), y)

    attack = attacks.smooth(attacks.fgsm(norm), norm, xi)
    x_adv, info = attack(jax.random.key(0), loss, x, y, EPS)
    ours = lazy.perturb(theta, network, norm, x, y, EPS, xi=xi)
    np.testing.assert_allclose(ours, x_adv, atol=1e-6)
    ours = lazy.adversarial_loss(theta, network, norm, x, y, EPS, xi=xi)
    np.testing.assert_allclose(ours, info.loss, rtol=1e-4)
    lengths = jax.vmap(norm.value)(x_adv - x)
    assert (lengths <= EPS * (1 + 1e-5)).all()
    assert (lengths > 0.99 * EPS).all() == (xi == 0)


@pytest.mark.usefixtures("x64")
@each_norm
@each_phi
@each_xi
def test_gradient_is_that_of_the_mean_loss_at_the_frozen_attack(name, phi, xi):
    theta, a, x, y = _problem(dtype=np.float64)
    network = lazy.Network(a, PHI[phi])
    frozen = lazy.perturb(theta, network, NORMS[name], x, y, EPS, xi=xi)
    ours = lazy.adversarial_gradient(theta, network, NORMS[name], x, y, EPS, xi=xi)
    numerical = reference.finite_difference(
        lambda theta: jnp.mean((lazy.predict(theta, network, frozen) - y) ** 2),
        np.array(theta),
    )
    np.testing.assert_allclose(ours, numerical, atol=1e-8)


def _paths(network, theta, x, y, norm, xi, start=None):
    """The paths of ``as_linear`` of the network and of the linear model."""
    network_step = descent.step(
        lambda t: lazy.adversarial_gradient(t, network, norm, x, y, 0.2, xi=xi),
        lazy.step_size(network, 0.05),
    )
    linear_step = descent.step(
        lambda t: linear.adversarial_gradient(t, norm, x, y, 0.2, xi=xi), 0.05
    )
    start = lazy.as_linear(theta, network) if start is None else start
    return (
        descent.path(
            theta,
            network_step,
            num_steps=30,
            observe=lambda t: lazy.as_linear(t, network),
        ),
        descent.path(start, linear_step, num_steps=30),
    )


def _linear_data(n, d=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x @ np.linspace(1, -0.5, d) + 0.5 * rng.normal(size=n)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


@each_norm
@each_xi
def test_linear_activation_is_the_linear_model(name, xi):
    norm, (theta, a, x, y) = NORMS[name], _problem()
    network = lazy.Network(a, lazy.linear)
    as_linear = lazy.as_linear(theta, network)
    np.testing.assert_allclose(
        lazy.predict(theta, network, x), x @ as_linear, atol=1e-6
    )
    np.testing.assert_allclose(
        lazy.adversarial_loss(theta, network, norm, x, y, EPS, xi=xi),
        linear.adversarial_loss(as_linear, norm, x, y, EPS, xi=xi),
        rtol=1e-4,
    )
    x, y = _linear_data(20)
    ours, model = _paths(network, jnp.zeros((5, 3)), x, y, norm, xi)
    np.testing.assert_allclose(ours, model, atol=1e-5)
    assert abs(model[-1]).max() > 0.5


def test_wide_sigmoid_networks_train_like_the_linear_model():
    """Units move by 1/√h, so that the cubic term of the sigmoid falls as 1/h."""
    x, y = _linear_data(20)
    distances = []
    for h in (1000, 8000):
        key_a, key_theta = jax.random.split(jax.random.key(0))
        network = lazy.Network(lazy.output_weights(key_a, num_hidden=h), lazy.sigmoid)
        theta = lazy.init(key_theta, num_hidden=h, num_inputs=3, scale=1e8)
        ours, model = _paths(network, theta, x, y, norms.l2, 0.5)
        distances.append(abs(ours - model).max())
    assert distances[1] < 0.01
    np.testing.assert_allclose(distances[0] / distances[1], 8, rtol=0.3)


def test_balanced_relu_networks_train_like_the_linear_model_on_symmetric_data():
    """Units see the half of the data on their side, which is to be like the other half.

    Exactly so for data with their mirror images, at any width: what remains is the
    start. For Gaussian data the halves differ by 1/√n. Without balance the network
    bends at the origin.
    """
    key_a, key_theta = jax.random.split(jax.random.key(0))
    a, theta = (
        lazy.output_weights(key_a, num_hidden=20),
        lazy.init(key_theta, num_hidden=20, num_inputs=3, scale=1e8),
    )
    x, y = _linear_data(20)
    x, y = jnp.concatenate([x, -x]), jnp.concatenate([y, -y])

    def distance(a, x, y, name="l2"):
        network = lazy.Network(a, lazy.relu)
        ours, model = _paths(network, theta, x, y, NORMS[name], 0.5, jnp.zeros(3))
        return abs(ours - model).max()

    for name in NORMS:
        assert distance(lazy.balanced(a), x, y, name) < 2e-5
    assert distance(a, x, y) > 1e-3
    few, many = (distance(lazy.balanced(a), *_linear_data(n)) for n in (40, 4000))
    assert many < 0.01 < few


def test_balanced_weights_have_sides_of_equal_length():
    a = lazy.output_weights(jax.random.key(0), num_hidden=30)
    balanced = lazy.balanced(a)
    negative, positive = (np.linalg.norm(balanced[s]) for s in (a < 0, a >= 0))
    np.testing.assert_allclose(negative, positive, rtol=1e-6)
    np.testing.assert_array_equal(balanced[a >= 0], a[a >= 0])
    ratios = balanced[a < 0] / a[a < 0]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
    for one_sign in (abs(a), -abs(a), jnp.zeros(3)):
        assert jnp.isnan(lazy.balanced(one_sign)).all()


def test_weights_and_starts_have_their_distributions():
    a = np.asarray(lazy.output_weights(jax.random.key(0), num_hidden=5000), float)
    assert stats.kstest(a, "uniform", args=(-1, 2)).pvalue > 0.01
    theta = np.asarray(
        lazy.init(jax.random.key(1), num_hidden=1000, num_inputs=7, scale=1e4), float
    )
    assert theta.shape == (1000, 7)
    scaled = theta.ravel() * (7 * 1000 * 1e4) ** 0.5
    assert stats.kstest(scaled, "norm").pvalue > 0.01


def test_gradients_map_over_replicates_and_radii_with_one_trace():
    chex.clear_trace_counter()
    norm, radii = norms.l2, jnp.array([0.0, 0.2])
    several = [_problem(seed=seed) for seed in range(3)]

    def gradient(theta, a, x, y, eps):
        network = lazy.Network(lazy.balanced(a), lazy.relu)
        return lazy.adversarial_gradient(theta, network, norm, x, y, eps, xi=0.1)

    @jax.jit
    @chex.assert_max_traces(1)
    def mapped(*args):
        over_radii = jax.vmap(gradient, (None, None, None, None, 0))
        return jax.vmap(over_radii, (0, 0, 0, 0, None))(*args)

    stacked = [jnp.stack(parts) for parts in zip(*several, strict=True)]
    for shift in (0.0, 0.1):
        ours = mapped(*stacked, radii + shift)
        for i, j in np.ndindex(3, 2):
            alone = gradient(*several[i], radii[j] + shift)
            np.testing.assert_allclose(ours[i, j], alone, atol=1e-5)


def test_negative_radii_and_wrong_arguments():
    theta, a, x, y = _problem()
    network = lazy.Network(a, lazy.sigmoid)
    for function in (lazy.perturb, lazy.adversarial_loss, lazy.adversarial_gradient):
        assert jnp.isnan(function(theta, network, norms.l2, x, y, -0.1)).all()
        assert jnp.isnan(function(theta, network, norms.l2, x, y, 0.1, xi=-0.1)).all()
        with pytest.raises(ValueError, match=r"y \(\d+, 1\)"):
            function(theta, network, norms.l2, x, y[:, None], 0.1)
        with pytest.raises(ValueError, match=r"norms\.l2 and norms\.linf only"):
            function(theta, network, norms.l1, x, y, 0.1, xi=0.1)


FUNCTIONS = [lazy.perturb, lazy.adversarial_loss, lazy.adversarial_gradient]


@each_norm
@each_phi
@pytest.mark.parametrize("xi", [None, 0.5])
def test_networks_and_norms_are_ordinary_arguments_of_transformations(name, phi, xi):
    norm, (theta, a, x, y) = NORMS[name], _problem()
    network = lazy.Network(a, PHI[phi])
    for function in FUNCTIONS:
        expected = function(theta, network, norm, x, y, EPS, xi=xi)
        ours = jax.jit(function)(theta, network, norm, x, y, EPS, xi=xi)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    several = lazy.Network(jnp.stack([a, -a, 2 * a]), PHI[phi])
    losses_ = jax.vmap(lazy.adversarial_loss, (None, 0, None, None, None, None))
    found = losses_(theta, several, norm, x, y, EPS)
    for i in range(3):
        one = lazy.Network(several.a[i], PHI[phi])
        alone = lazy.adversarial_loss(theta, one, norm, x, y, EPS)
        np.testing.assert_allclose(found[i], alone, rtol=1e-5)

    def total(network):
        return lazy.adversarial_loss(theta, network, norm, x, y, EPS, xi=xi).sum()

    slope = jax.grad(total)(network)
    assert slope.phi is PHI[phi]
    assert jnp.isfinite(slope.a).all()


@each_norm
@each_phi
def test_no_smoothing_is_the_surrogate_at_zero(name, phi):
    norm, (theta, a, x, y) = NORMS[name], _problem()
    network = lazy.Network(a, PHI[phi])
    for function in FUNCTIONS:
        ours = function(theta, network, norm, x, y, EPS)
        surrogate = function(theta, network, norm, x, y, EPS, xi=0.0)
        np.testing.assert_allclose(ours, surrogate, rtol=1e-5, atol=1e-6)


def test_without_smoothing_any_norm_has_its_fast_gradient():
    theta, a, x, y = _problem()
    network = lazy.Network(a, lazy.linear)

    def loss(x, y):
        return losses.squared_error(lazy.predict(theta, network, x), y)

    expected, _ = attacks.fgsm(norms.l1)(jax.random.key(0), loss, x, y, EPS)
    ours = lazy.perturb(theta, network, norms.l1, x, y, EPS)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_shapes_that_would_broadcast_are_refused():
    theta, a, x, y = _problem()
    network = lazy.Network(a, lazy.sigmoid)
    for wrong in (
        (theta, network, x, y[:1]),
        (theta, network, x, y[0]),
        (theta, network, x[:1], y),
        (theta[:, :1], network, x, y),
        (theta[:1], network, x, y),
        (theta[0], network, x, y),
        (theta, lazy.Network(a[:1], lazy.sigmoid), x, y),
        (theta, lazy.Network(a[:, None], lazy.sigmoid), x, y),
    ):
        theta_, network_, *xy = wrong
        for function in FUNCTIONS:
            with pytest.raises(ValueError, match=r"shapes (theta|x) \("):
                function(theta_, network_, norms.l2, *xy, EPS)
    for radii in (jnp.ones(8), np.ones(1)):
        for function in FUNCTIONS:
            with pytest.raises(ValueError, match="eps has shape"):
                function(theta, network, norms.l2, x, y, radii)
            with pytest.raises(ValueError, match="xi has shape"):
                function(theta, network, norms.l2, x, y, EPS, xi=radii)
            with pytest.raises(ValueError, match="norm = 'l2': choose norms"):
                function(theta, network, "l2", x, y, EPS)


@pytest.mark.parametrize("jit", [False, True])
def test_negative_numbers_give_nan_also_through_jit(jit):
    theta, a, x, y = _problem()
    network = lazy.Network(a, lazy.sigmoid)
    for function in FUNCTIONS:
        of = jax.jit(function) if jit else function
        for eps, xi in ((-0.1, None), (-0.1, 0.2), (0.1, -0.2)):
            assert jnp.isnan(of(theta, network, norms.l2, x, y, eps, xi=xi)).all()


def test_data_of_numpy_and_counts_of_numpy_are_plain_input():
    theta, a, x, y = (np.asarray(array, np.float64) for array in _problem())
    network = lazy.Network(a, lazy.sigmoid)
    single = [jnp.asarray(array, jnp.float32) for array in (theta, a, x, y)]
    for function in FUNCTIONS:
        ours = function(theta, network, norms.l2, x.tolist(), y.tolist(), 1)
        expected = function(
            single[0], lazy.Network(single[1], lazy.sigmoid), norms.l2, *single[2:], 1.0
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    key = jax.random.key(0)
    start = lazy.init(key, num_hidden=np.int64(4), num_inputs=np.int32(3), scale=2)
    assert start.shape == (4, 3)
    assert lazy.output_weights(key, num_hidden=np.int64(4)).shape == (4,)
    for count in (0, 2.0, True):
        with pytest.raises(ValueError, match=r"num_hidden = .*: choose an integer"):
            lazy.output_weights(key, num_hidden=count)
        with pytest.raises(ValueError, match=r"num_inputs = .*: choose an integer"):
            lazy.init(key, num_hidden=2, num_inputs=count, scale=1.0)
