"""Linear regression: closed forms against corners, Monte Carlo and optimisers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import integrate, optimize

from advjax import attacks, data, descent, linear, losses, norms, solvers

pytestmark = pytest.mark.usefixtures("unoptimised")

NORMS = {"l1": norms.l1, "l2": norms.l2, "linf": norms.linf}
each_norm = pytest.mark.parametrize("name", NORMS)
EPS = 0.3


def _problem(d=4, n=9, seed=0):
    rng = np.random.default_rng(seed)
    theta, x, y = rng.normal(size=d), rng.normal(size=(n, d)), rng.normal(size=n)
    return tuple(jnp.asarray(a, jnp.float32) for a in (theta, x, y))


@each_norm
def test_worst_case_attains_the_closed_form_loss_inside_the_ball(name):
    norm, (theta, x, y) = NORMS[name], _problem()
    x_adv = linear.perturb(theta, x, y, EPS, norm)
    assert (jax.vmap(norm.value)(x_adv - x) <= EPS * (1 + 1e-5)).all()
    np.testing.assert_allclose(
        (x_adv @ theta - y) ** 2,
        linear.adversarial_loss(theta, x, y, EPS, norm),
        rtol=1e-5,
    )


@each_norm
def test_no_point_of_the_ball_is_worse(name):
    norm, (theta, x, y) = NORMS[name], _problem()
    keys = jax.random.split(jax.random.key(0), 2000)
    deltas = EPS * jax.vmap(norm.sample, (0, None))(keys, theta)
    if name == "linf":
        deltas = jnp.concatenate([deltas, EPS * reference.corners(4)])
    values = (jnp.dot(x[None] + deltas[:, None], theta) - y[None]) ** 2
    largest = linear.adversarial_loss(theta, x, y, EPS, norm)
    assert (values.max(axis=0) <= largest * (1 + 1e-5)).all()
    if name == "linf":
        np.testing.assert_allclose(values.max(axis=0), largest, rtol=1e-5)


@each_norm
def test_fgm_is_the_exact_attack(name):
    norm, (theta, x, y) = NORMS[name], _problem()

    def loss(x, y):
        return losses.squared_error(x @ theta, y)

    x_adv, info = attacks.fgsm(norm)(jax.random.key(0), loss, x, y, EPS)
    np.testing.assert_allclose(x_adv, linear.perturb(theta, x, y, EPS, norm), atol=1e-6)
    np.testing.assert_allclose(
        info.loss, linear.adversarial_loss(theta, x, y, EPS, norm), rtol=1e-5
    )


@pytest.mark.usefixtures("x64")
@each_norm
def test_gradient_equals_finite_differences_and_formula_c1(name):
    norm, (theta, x, y) = NORMS[name], (a.astype(float) for a in _problem())
    ours = linear.adversarial_gradient(theta, x, y, EPS, norm)
    numerical = reference.finite_difference(
        lambda t: linear.adversarial_loss(t, x, y, EPS, norm).mean(), np.array(theta)
    )
    np.testing.assert_allclose(ours, numerical, rtol=1e-6)
    if name == "l2":
        n, r, length = y.size, x @ theta - y, np.linalg.norm(theta)
        c1 = 2 / n * x.T @ r + 2 * EPS**2 * theta
        c1 += 2 * EPS / n * theta / length * np.abs(r).sum()
        c1 += 2 * EPS * length / n * x.T @ np.sign(r)
        np.testing.assert_allclose(ours, c1, rtol=1e-12)


@each_norm
def test_at_zero_parameters_the_gradient_is_that_of_clean_training(name):
    _, x, y = _problem()
    for eps in (0.0, 1.0):
        g = linear.adversarial_gradient(jnp.zeros(4), x, y, eps, NORMS[name])
        np.testing.assert_allclose(g, -2 * y @ x / y.size, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
def test_surrogate_gradient_is_that_of_the_frozen_attack(name):
    norm, xi, (theta, x, y) = NORMS[name], 0.5, (a.astype(float) for a in _problem())
    frozen = linear.surrogate_perturb(theta, x, y, EPS, norm, xi)
    ours = linear.surrogate_gradient(theta, x, y, EPS, norm, xi)
    numerical = reference.finite_difference(
        lambda t: ((frozen @ t - y) ** 2).mean(), np.array(theta)
    )
    np.testing.assert_allclose(ours, numerical, rtol=1e-6)
    if name == "l2":
        # The formula of the appendix with xi²/(4r²), D = √(‖θ‖² + xi²/(4r²)).
        r, square = (x @ theta - y)[:, None], theta @ theta

        def formula(factor):
            big_d = np.sqrt(square + xi**2 / (factor * r**2))
            terms = 2 * x * r + 2 * EPS * theta[None] * np.abs(r) / big_d
            terms += 2 * EPS * x * square * np.sign(r) / big_d
            terms += 2 * EPS**2 * theta[None] * square / big_d**2
            return terms.mean(axis=0)

        np.testing.assert_allclose(ours, formula(4), rtol=1e-10)
        assert abs(ours - formula(1)).max() > 1e-2


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_surrogate_equals_the_smoothed_attack(name):
    norm, xi, (theta, x, y) = NORMS[name], 0.5, _problem()

    def loss(x, y):
        return losses.squared_error(x @ theta, y)

    smooth = attacks.smooth(attacks.fgsm(norm), norm, xi)
    np.testing.assert_allclose(
        smooth(jax.random.key(0), loss, x, y, EPS)[0],
        linear.surrogate_perturb(theta, x, y, EPS, norm, xi),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        linear.surrogate_gradient(theta, x, y, EPS, norm, 0.0),
        linear.adversarial_gradient(theta, x, y, EPS, norm),
        rtol=1e-4,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
@pytest.mark.parametrize("xi", [0.0, 0.5])
def test_surrogate_loss_and_gradient_are_those_at_the_surrogate_attack(name, xi):
    norm, (theta, x, y) = NORMS[name], (a.astype(float) for a in _problem())
    x_adv = linear.surrogate_perturb(theta, x, y, EPS, norm, xi)
    ours = linear.surrogate_loss(theta, x, y, EPS, norm, xi)
    np.testing.assert_allclose(ours, (x_adv @ theta - y) ** 2, rtol=1e-12)
    gradient = linear.surrogate_gradient(theta, x, y, EPS, norm, xi)
    frozen = 2 * x_adv.T @ (x_adv @ theta - y) / y.size
    np.testing.assert_allclose(gradient, frozen, rtol=1e-12)
    worst = linear.adversarial_loss(theta, x, y, EPS, norm)
    if xi == 0:
        np.testing.assert_allclose(ours, worst, rtol=1e-12)
    else:
        assert (ours < worst).all()


def test_surrogate_is_finite_where_the_attack_is_not_defined():
    _, x, y = _problem()
    for norm in (norms.l2, norms.linf):
        for xi in (0.0, 0.1):
            zero = jnp.zeros(4)
            g = linear.surrogate_gradient(zero, x, y, EPS, norm, xi)
            np.testing.assert_allclose(g, -2 * y @ x / y.size, rtol=1e-5)
    with pytest.raises(ValueError, match=r"norms\.l2 and norms\.linf only"):
        linear.surrogate_gradient(jnp.zeros(4), x, y, EPS, norms.l1, 0.1)


def _covariance(d, seed):
    a = np.random.default_rng(seed).normal(size=(d, d))
    return a @ a.T / d + 0.05 * np.eye(d)


@each_norm
def test_population_risk_agrees_with_monte_carlo(name):
    norm, d, sigma = NORMS[name], 5, 0.7
    cov = jnp.asarray(_covariance(d, 0), jnp.float32)
    theta0, theta = jnp.arange(1.0, 6) / 5, jnp.array([0.5, -0.3, 0.8, 0.1, 1.2])
    x, y = data.gaussian(jax.random.key(0), 400_000, theta0, cov, sigma)
    draws = np.asarray(linear.adversarial_loss(theta, x, y, EPS, norm), float)
    risk = linear.population_risk(theta, theta0, cov, sigma, EPS, norm)
    assert abs(draws.mean() - risk) < 3 * draws.std() / 400_000**0.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
@pytest.mark.parametrize("xi", [0.0, 1e-4, 0.01, 0.5, 20.0])
def test_surrogate_risk_equals_quadrature(name, xi):
    theta0, theta = np.arange(1.0, 6) / 5, np.array([0.5, -0.3, 0.8, 0.0, 1.2])
    cov = _covariance(5, 0)
    args = theta, theta0, cov, 0.7, EPS, NORMS[name]
    s = np.sqrt((theta - theta0) @ cov @ (theta - theta0) + 0.7**2)

    def integrand(log_r):
        r, v = np.exp(log_r), np.abs(theta)
        if name == "l2":
            v = np.array([np.linalg.norm(theta)])
            reach = 2 * r * v**2 / np.sqrt(4 * r**2 * v**2 + xi**2)
        else:
            reach = 2 * r * v**2 / np.where(v == 0, 1, 2 * r * v + xi)
        density = np.sqrt(2 / np.pi) / s * np.exp(-((r / s) ** 2) / 2)
        return r * density * (r + EPS * reach.sum()) ** 2

    pieces = [
        integrate.quad(integrand, a, a + 1, epsabs=0, epsrel=1e-12)[0]
        for a in np.arange(-30, 3)
    ]
    np.testing.assert_allclose(linear.surrogate_risk(*args, xi), sum(pieces), rtol=1e-8)
    if xi == 0:
        risk = linear.population_risk(*args)
        np.testing.assert_allclose(linear.surrogate_risk(*args, xi), risk, rtol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
@pytest.mark.parametrize("xi", [0.0, 0.5])
def test_training_descends_the_surrogate_risk_only_at_xi_zero(name, xi):
    """It holds the attack fixed, which makes no difference to a worst case only."""
    norm, sigma, cov = NORMS[name], 0.7, _covariance(3, 0)
    theta0, theta = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.5, -1.0, 0.8])

    @jax.jit
    @jax.vmap
    def means(key):
        x, y = data.gaussian(key, 4000, theta0, cov, sigma)
        loss = linear.surrogate_loss(theta, x, y, EPS, norm, xi).mean()
        return loss, linear.surrogate_gradient(theta, x, y, EPS, norm, xi)

    drawn = means(jax.random.split(jax.random.key(0), 200))
    args = theta, theta0, cov, sigma, EPS, norm, xi
    gradient = jax.value_and_grad(linear.surrogate_risk)
    exact = jax.jit(gradient, static_argnums=5)(*args)
    loss_error, gradient_error = (
        abs(np.mean(a, axis=0) - b) / (np.std(a, axis=0) / 200**0.5)
        for a, b in zip(drawn, exact, strict=True)
    )
    assert loss_error < 4
    assert gradient_error.max() < 4 if xi == 0 else gradient_error.max() > 20


def test_surrogate_risk_is_differentiable_in_single_precision_at_xi_zero():
    args = jnp.array([0.5, -1.0]), jnp.ones(2), jnp.eye(2), 0.7, EPS, norms.l2
    ours = jax.jit(jax.grad(linear.surrogate_risk), static_argnums=5)(*args, 0.0)
    expected = jax.jit(jax.grad(linear.population_risk), static_argnums=5)(*args)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_no_covariance_is_the_identity_and_an_indefinite_one_gives_nan():
    theta, theta0 = jnp.array([0.5, -1.0]), jnp.array([1.0, 2.0])

    @jax.jit
    def results(cov, eps):
        args = theta0, cov, 0.7, eps, norms.l2
        return (
            linear.population_risk(theta, *args),
            linear.surrogate_risk(theta, *args, 0.3),
            linear.optimal(*args),
        )

    plain, explicit = (jax.tree.leaves(results(c, EPS)) for c in (None, jnp.eye(2)))
    for a, b in zip(plain, explicit, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for eps in (0.0, EPS):
        _, _, optimum = results(jnp.diag(jnp.array([1.0, -0.1])), eps)
        assert jnp.isnan(optimum.theta).any()
        assert jnp.isnan(optimum.risk)


TABLE = [(0.0, 1.0), (0.1, 1.5947), (0.25, 2.7902), (0.5, 5.3852), (1.0, 10.4767)]


@pytest.mark.parametrize(("eps", "risk"), TABLE)
def test_optimal_risk_of_the_isotropic_design(eps, risk):
    ours = linear.optimal(jnp.ones(10), jnp.eye(10), 1.0, eps, norms.l2)
    np.testing.assert_allclose(ours.risk, risk, atol=6e-5)
    np.testing.assert_allclose(ours.theta, ours.theta[0], rtol=1e-5)


@pytest.mark.parametrize("eps", [1.1954, 2.0, 100.0])
def test_beyond_the_threshold_the_optimum_is_exactly_zero(eps):
    ours = linear.optimal(jnp.ones(10), jnp.eye(10), 1.0, eps, norms.l2)
    np.testing.assert_array_equal(ours.theta, 0)
    np.testing.assert_allclose(ours.risk, 11, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999, 1.001])
def test_optimum_for_any_covariance_agrees_with_an_optimiser(seed, share):
    # ``share`` of the threshold ‖Σθ0‖ / (c0 v).
    d, sigma = 6, 0.5
    cov, theta0 = _covariance(d, seed), np.random.default_rng(seed).normal(size=d)
    v = np.sqrt(theta0 @ cov @ theta0 + sigma**2)
    eps = share * np.linalg.norm(cov @ theta0) / (linear.C0 * v)
    ours = linear.optimal(jnp.asarray(theta0), jnp.asarray(cov), sigma, eps, norms.l2)

    def risk(theta):
        s = np.sqrt((theta - theta0) @ cov @ (theta - theta0) + sigma**2)
        q = np.linalg.norm(theta)
        return s**2 + (eps * q) ** 2 + 2 * linear.C0 * eps * q * s

    options = {"xatol": 1e-12, "fatol": 1e-14, "maxiter": 20000, "maxfev": 40000}
    found = min(
        (
            optimize.minimize(risk, start, method="Nelder-Mead", options=options)
            for start in (theta0, 0.1 * theta0, np.asarray(ours.theta))
        ),
        key=lambda result: result.fun,
    )
    np.testing.assert_allclose(ours.risk, min(found.fun, risk(np.zeros(d))), rtol=1e-9)
    np.testing.assert_allclose(ours.theta, found.x, atol=1e-5)
    assert (ours.theta == 0).all() == (share > 1)


@pytest.mark.usefixtures("x64")
def test_optimum_is_stationary_and_its_risk_differentiable():
    cov, theta0 = jnp.asarray(_covariance(4, 1)), jnp.array([1.0, -2.0, 0.5, 0.0])

    def risk(eps):
        return linear.optimal(theta0, cov, 0.5, eps, norms.l2).risk

    theta = linear.optimal(theta0, cov, 0.5, 0.4, norms.l2).theta
    at_optimum = jax.grad(linear.population_risk)(
        theta, theta0, cov, 0.5, 0.4, norms.l2
    )
    np.testing.assert_allclose(at_optimum, 0, atol=1e-9)
    numerical = (risk(0.4 + 1e-5) - risk(0.4 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(risk)(0.4), numerical, rtol=1e-7)


def test_optimum_of_singular_and_empty_problems():
    cov = jnp.diag(jnp.array([1.0, 0.0, 2.0]))
    for eps in (0.0, 0.2):
        ours = linear.optimal(jnp.ones(3), cov, 1.0, eps, norms.l2)
        assert jnp.isfinite(ours.theta).all()
        assert ours.theta[1] == 0
        nothing = linear.optimal(jnp.zeros(3), cov, 1.0, eps, norms.l2)
        np.testing.assert_array_equal(nothing.theta, 0)
        np.testing.assert_allclose(nothing.risk, 1)
    with pytest.raises(ValueError, match=r"norms\.l2 only"):
        linear.optimal(jnp.ones(3), cov, 1.0, 0.1, norms.linf)


def test_optimum_maps_over_radii_with_one_trace():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def risks(radii):
        return jax.vmap(
            lambda eps: linear.optimal(jnp.ones(10), jnp.eye(10), 1.0, eps, norms.l2)
        )(radii).risk

    for shift in (0.0, 0.01):
        assert (jnp.diff(risks(jnp.linspace(0, 1.1, 12) + shift)) > 0).all()


def test_descent_converges_to_least_squares_and_maps_over_replicates():
    theta, x, noise = _problem(d=3, n=40)
    y = x @ theta + noise

    def path(eps, xi):
        update = descent.step(
            lambda t: linear.surrogate_gradient(t, x, y, eps, norms.l2, xi), 0.1
        )
        return descent.path(update, jnp.zeros(3), num_steps=200)

    clean = path(0.0, 0.0)
    assert clean.shape == (201, 3)
    np.testing.assert_array_equal(clean[0], 0)
    np.testing.assert_allclose(clean[-1], np.linalg.lstsq(x, y)[0], atol=1e-4)
    radii = jnp.array([0.0, 0.1, 0.5])
    paths = jax.vmap(path, (0, None))(radii, 0.1)
    for eps, mapped in zip(radii, paths, strict=True):
        np.testing.assert_allclose(path(eps, 0.1), mapped, atol=1e-5)
    # Stronger attacks shrink the parameters.
    lengths = jnp.linalg.norm(paths[:, -1], axis=-1)
    assert (jnp.diff(lengths) < 0).all()


def test_zero_solves_the_problem_beyond_the_known_radius():
    """θ = 0 is optimal iff eps ≥ ‖Xᵀy‖_p / ‖y‖₁, p the norm of the perturbation."""
    _, x, y = _problem(d=4, n=12, seed=3)
    for norm in NORMS.values():
        threshold = norm.value(y @ x) / jnp.abs(y).sum()
        directions = jax.random.normal(jax.random.key(0), (5000, 4))

        def rise(theta, eps, norm=norm):
            loss = linear.adversarial_loss(1e-3 * theta, x, y, eps, norm).mean()
            return loss - (y**2).mean()

        above = jax.vmap(rise, (0, None))(directions, 1.01 * threshold)
        assert (above > -1e-6).all()
        assert jax.vmap(rise, (0, None))(directions, 0.7 * threshold).min() < -1e-6


def test_wrong_shapes_and_radii():
    theta, x, y = _problem()
    for function in (linear.perturb, linear.adversarial_loss):
        with pytest.raises(AssertionError, match="rank"):
            function(theta, x, y[:, None], 0.1, norms.l2)
        assert jnp.isnan(function(theta, x, y, -0.1, norms.l2)).all()
    assert jnp.isnan(linear.adversarial_gradient(theta, x, y, -0.1, norms.l2)).all()
    cov = jnp.eye(4)
    assert jnp.isnan(linear.population_risk(theta, theta, cov, 1.0, -0.1, norms.l2))
    assert jnp.isnan(linear.optimal(theta, cov, 1.0, -0.1, norms.l2).risk)


def test_coordinates_of_the_span_give_the_same_training():
    theta0 = data.sparse(40, 3)
    x, y = data.gaussian(jax.random.key(0), 6, theta0, None, 1.0)

    def path(x, d):
        update = descent.step(
            lambda t: linear.adversarial_gradient(t, x, y, EPS, norms.l2), 0.02
        )
        return descent.path(update, jnp.zeros(d), num_steps=30)

    basis = linear.span(x, theta0)
    assert basis.shape == (40, 7)
    np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-5)
    whole, small = path(x, 40), path(x @ basis, 7)
    np.testing.assert_allclose(whole, small @ basis.T, atol=1e-4)
    np.testing.assert_allclose(
        linear.population_risk(whole[-1], theta0, None, 1.0, EPS, norms.l2),
        linear.population_risk(small[-1], theta0 @ basis, None, 1.0, EPS, norms.l2),
        rtol=1e-4,
    )


@pytest.mark.parametrize(("n", "d"), [(30, 5), (8, 30)])
def test_moments_of_least_squares_agree_with_simulation(n, d):
    theta0, sigma = jnp.full(d, 0.5), 0.8
    signal = float(jnp.linalg.norm(theta0))

    @jax.jit
    @jax.vmap
    def draws(key):
        x, y = data.gaussian(key, n, theta0, None, sigma)
        theta = solvers.min_norm(x, y)
        risk = linear.population_risk(theta, theta0, None, sigma, 0.0, norms.l2)
        return theta, risk - jnp.mean((x @ theta - y) ** 2)

    theta, gap = jax.device_get(draws(jax.random.split(jax.random.key(0), 4000)))
    squares = ((theta - theta.mean(axis=0)) ** 2).sum(axis=1)
    for ours, found in (
        (linear.least_squares_variance, squares),
        (linear.generalization_gap, gap),
    ):
        error = found.std() / 4000**0.5
        assert abs(ours(n, d, signal, sigma) - found.mean()) < 4 * error


@pytest.mark.parametrize("d", [9, 10, 11])
def test_moments_of_least_squares_at_their_pole_raise(d):
    for moment in (linear.least_squares_variance, linear.generalization_gap):
        with pytest.raises(ValueError, match=f"d = {d} is within"):
            moment(10, d, 1.0, 1.0)


@pytest.mark.parametrize("norm", [norms.l2, norms.linf])
def test_a_negative_xi_gives_nan(norm):
    theta, x, y = _problem()
    assert jnp.isnan(linear.surrogate_loss(theta, x, y, EPS, norm, -0.1)).all()
    assert jnp.isnan(norms.surrogate_factor(norm, theta, -0.1)).all()
