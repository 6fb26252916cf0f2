"""Linear regression: closed forms against corners, Monte Carlo and optimisers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import integrate, optimize, stats

from advjax import attacks, data, descent, linear, losses, norms, solvers

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
    x_adv = linear.perturb(theta, norm, x, y, EPS)
    assert (jax.vmap(norm.value)(x_adv - x) <= EPS * (1 + 1e-5)).all()
    np.testing.assert_allclose(
        (x_adv @ theta - y) ** 2,
        linear.adversarial_loss(theta, norm, x, y, EPS),
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
    largest = linear.adversarial_loss(theta, norm, x, y, EPS)
    assert (values.max(axis=0) <= largest * (1 + 1e-5)).all()
    if name == "linf":
        np.testing.assert_allclose(values.max(axis=0), largest, rtol=1e-5)


@each_norm
def test_fgm_is_the_exact_attack(name):
    norm, (theta, x, y) = NORMS[name], _problem()

    def loss(x, y):
        return losses.squared_error(x @ theta, y)

    x_adv, info = attacks.fgsm(norm)(jax.random.key(0), loss, x, y, EPS)
    np.testing.assert_allclose(x_adv, linear.perturb(theta, norm, x, y, EPS), atol=1e-6)
    np.testing.assert_allclose(
        info.loss, linear.adversarial_loss(theta, norm, x, y, EPS), rtol=1e-5
    )


@pytest.mark.usefixtures("x64")
@each_norm
def test_gradient_equals_finite_differences_and_formula_c1(name):
    norm, (theta, x, y) = NORMS[name], (a.astype(float) for a in _problem())
    ours = linear.adversarial_gradient(theta, norm, x, y, EPS)
    numerical = reference.finite_difference(
        lambda t: linear.adversarial_loss(t, norm, x, y, EPS).mean(), np.array(theta)
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
        g = linear.adversarial_gradient(jnp.zeros(4), NORMS[name], x, y, eps)
        np.testing.assert_allclose(g, -2 * y @ x / y.size, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
def test_surrogate_gradient_is_that_of_the_frozen_attack(name):
    norm, xi, (theta, x, y) = NORMS[name], 0.5, (a.astype(float) for a in _problem())
    frozen = linear.perturb(theta, norm, x, y, EPS, xi=xi)
    ours = linear.adversarial_gradient(theta, norm, x, y, EPS, xi=xi)
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
        linear.perturb(theta, norm, x, y, EPS, xi=xi),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        linear.adversarial_gradient(theta, norm, x, y, EPS, xi=0.0),
        linear.adversarial_gradient(theta, norm, x, y, EPS),
        rtol=1e-4,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
@pytest.mark.parametrize("xi", [0.0, 0.5])
def test_surrogate_loss_and_gradient_are_those_at_the_surrogate_attack(name, xi):
    norm, (theta, x, y) = NORMS[name], (a.astype(float) for a in _problem())
    x_adv = linear.perturb(theta, norm, x, y, EPS, xi=xi)
    ours = linear.adversarial_loss(theta, norm, x, y, EPS, xi=xi)
    np.testing.assert_allclose(ours, (x_adv @ theta - y) ** 2, rtol=1e-12)
    gradient = linear.adversarial_gradient(theta, norm, x, y, EPS, xi=xi)
    frozen = 2 * x_adv.T @ (x_adv @ theta - y) / y.size
    np.testing.assert_allclose(gradient, frozen, rtol=1e-12)
    worst = linear.adversarial_loss(theta, norm, x, y, EPS)
    if xi == 0:
        np.testing.assert_allclose(ours, worst, rtol=1e-12)
    else:
        assert (ours < worst).all()


def test_surrogate_is_finite_where_the_attack_is_not_defined():
    _, x, y = _problem()
    for norm in (norms.l2, norms.linf):
        for xi in (0.0, 0.1):
            zero = jnp.zeros(4)
            g = linear.adversarial_gradient(zero, norm, x, y, EPS, xi=xi)
            np.testing.assert_allclose(g, -2 * y @ x / y.size, rtol=1e-5)
    with pytest.raises(ValueError, match=r"norms\.l2 and norms\.linf only"):
        linear.adversarial_gradient(jnp.zeros(4), norms.l1, x, y, EPS, xi=0.1)


def _covariance(d, seed):
    a = np.random.default_rng(seed).normal(size=(d, d))
    return a @ a.T / d + 0.05 * np.eye(d)


@each_norm
def test_population_risk_agrees_with_monte_carlo(name):
    norm, d, sigma = NORMS[name], 5, 0.7
    cov = jnp.asarray(_covariance(d, 0), jnp.float32)
    theta0, theta = jnp.arange(1.0, 6) / 5, jnp.array([0.5, -0.3, 0.8, 0.1, 1.2])
    x, y = data.gaussian(jax.random.key(0), 400_000, theta0, cov, sigma)
    draws = np.asarray(linear.adversarial_loss(theta, norm, x, y, EPS), float)
    risk = linear.population_risk(
        theta, norm, linear.Population(theta0, cov, sigma), EPS
    )
    assert abs(draws.mean() - risk) < 3 * draws.std() / 400_000**0.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l2", "linf"])
@pytest.mark.parametrize("xi", [0.0, 1e-4, 0.01, 0.5, 20.0])
def test_surrogate_risk_equals_quadrature(name, xi):
    theta0, theta = np.arange(1.0, 6) / 5, np.array([0.5, -0.3, 0.8, 0.0, 1.2])
    cov = _covariance(5, 0)
    args = theta, NORMS[name], linear.Population(theta0, cov, 0.7), EPS
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
    ours = linear.population_risk(*args, xi=xi)
    np.testing.assert_allclose(ours, sum(pieces), rtol=1e-8)
    if xi == 0:
        np.testing.assert_allclose(ours, linear.population_risk(*args), rtol=1e-8)


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
        loss = linear.adversarial_loss(theta, norm, x, y, EPS, xi=xi).mean()
        return loss, linear.adversarial_gradient(theta, norm, x, y, EPS, xi=xi)

    drawn = means(jax.random.split(jax.random.key(0), 200))
    population = linear.Population(theta0, cov, sigma)
    gradient = jax.jit(jax.value_and_grad(linear.population_risk))
    exact = gradient(theta, norm, population, EPS, xi=xi)
    loss_error, gradient_error = (
        abs(np.mean(a, axis=0) - b) / (np.std(a, axis=0) / 200**0.5)
        for a, b in zip(drawn, exact, strict=True)
    )
    assert loss_error < 4
    assert gradient_error.max() < 4 if xi == 0 else gradient_error.max() > 20


def test_surrogate_risk_is_differentiable_in_single_precision_at_xi_zero():
    population = linear.Population(jnp.ones(2), jnp.eye(2), 0.7)
    args = jnp.array([0.5, -1.0]), norms.l2, population, EPS
    gradient = jax.jit(jax.grad(linear.population_risk))
    ours, expected = gradient(*args, xi=0.0), gradient(*args)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_no_covariance_is_the_identity_and_an_indefinite_one_gives_nan():
    theta, theta0 = jnp.array([0.5, -1.0]), jnp.array([1.0, 2.0])

    @jax.jit
    def results(cov, eps):
        args = norms.l2, linear.Population(theta0, cov, 0.7), eps
        return (
            linear.population_risk(theta, *args),
            linear.population_risk(theta, *args, xi=0.3),
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
    ours = linear.optimal(
        norms.l2, linear.Population(jnp.ones(10), jnp.eye(10), 1.0), eps
    )
    np.testing.assert_allclose(ours.risk, risk, atol=6e-5)
    np.testing.assert_allclose(ours.theta, ours.theta[0], rtol=1e-5)


@pytest.mark.parametrize("eps", [1.1954, 2.0, 100.0])
def test_beyond_the_threshold_the_optimum_is_exactly_zero(eps):
    ours = linear.optimal(
        norms.l2, linear.Population(jnp.ones(10), jnp.eye(10), 1.0), eps
    )
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
    c0 = np.sqrt(2 / np.pi)
    eps = share * np.linalg.norm(cov @ theta0) / (c0 * v)
    ours = linear.optimal(
        norms.l2, linear.Population(jnp.asarray(theta0), jnp.asarray(cov), sigma), eps
    )

    def risk(theta):
        s = np.sqrt((theta - theta0) @ cov @ (theta - theta0) + sigma**2)
        q = np.linalg.norm(theta)
        return s**2 + (eps * q) ** 2 + 2 * c0 * eps * q * s

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
        return linear.optimal(norms.l2, linear.Population(theta0, cov, 0.5), eps).risk

    theta = linear.optimal(norms.l2, linear.Population(theta0, cov, 0.5), 0.4).theta
    at_optimum = jax.grad(linear.population_risk)(
        theta, norms.l2, linear.Population(theta0, cov, 0.5), 0.4
    )
    np.testing.assert_allclose(at_optimum, 0, atol=1e-9)
    numerical = (risk(0.4 + 1e-5) - risk(0.4 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(risk)(0.4), numerical, rtol=1e-7)


def test_optimum_of_singular_and_empty_problems():
    cov = jnp.diag(jnp.array([1.0, 0.0, 2.0]))
    for eps in (0.0, 0.2):
        ours = linear.optimal(norms.l2, linear.Population(jnp.ones(3), cov, 1.0), eps)
        assert jnp.isfinite(ours.theta).all()
        assert ours.theta[1] == 0
        nothing = linear.optimal(
            norms.l2, linear.Population(jnp.zeros(3), cov, 1.0), eps
        )
        np.testing.assert_array_equal(nothing.theta, 0)
        np.testing.assert_allclose(nothing.risk, 1)
    with pytest.raises(ValueError, match=r"norms\.l2 only"):
        linear.optimal(norms.linf, linear.Population(jnp.ones(3), cov, 1.0), 0.1)


def test_optimum_maps_over_radii_with_one_trace():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def risks(radii):
        return jax.vmap(
            lambda eps: linear.optimal(
                norms.l2, linear.Population(jnp.ones(10), jnp.eye(10), 1.0), eps
            )
        )(radii).risk

    for shift in (0.0, 0.01):
        assert (jnp.diff(risks(jnp.linspace(0, 1.1, 12) + shift)) > 0).all()


def test_descent_converges_to_least_squares_and_maps_over_replicates():
    theta, x, noise = _problem(d=3, n=40)
    y = x @ theta + noise

    def path(eps, xi):
        update = descent.step(
            lambda t: linear.adversarial_gradient(t, norms.l2, x, y, eps, xi=xi), 0.1
        )
        return descent.path(jnp.zeros(3), update, num_steps=200)

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
            loss = linear.adversarial_loss(1e-3 * theta, norm, x, y, eps).mean()
            return loss - (y**2).mean()

        above = jax.vmap(rise, (0, None))(directions, 1.01 * threshold)
        assert (above > -1e-6).all()
        assert jax.vmap(rise, (0, None))(directions, 0.7 * threshold).min() < -1e-6


def test_wrong_shapes_and_radii():
    theta, x, y = _problem()
    for function in (linear.perturb, linear.adversarial_loss):
        with pytest.raises(ValueError, match=r"x \(9, 4\), y \(9, 1\)"):
            function(theta, norms.l2, x, y[:, None], 0.1)
        assert jnp.isnan(function(theta, norms.l2, x, y, -0.1)).all()
    assert jnp.isnan(linear.adversarial_gradient(theta, norms.l2, x, y, -0.1)).all()
    cov = jnp.eye(4)
    assert jnp.isnan(
        linear.population_risk(
            theta, norms.l2, linear.Population(theta, cov, 1.0), -0.1
        )
    )
    assert jnp.isnan(
        linear.optimal(norms.l2, linear.Population(theta, cov, 1.0), -0.1).risk
    )


def test_coordinates_of_the_span_give_the_same_training():
    theta0 = data.sparse_coefficients(40, num_active=3)
    x, y = data.gaussian(jax.random.key(0), 6, theta0, None, 1.0)

    def path(x, d):
        update = descent.step(
            lambda t: linear.adversarial_gradient(t, norms.l2, x, y, EPS), 0.02
        )
        return descent.path(jnp.zeros(d), update, num_steps=30)

    basis = linear.span(x, theta0)
    assert basis.shape == (40, 7)
    np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-5)
    whole, small = path(x, 40), path(x @ basis, 7)
    np.testing.assert_allclose(whole, small @ basis.T, atol=1e-4)
    np.testing.assert_allclose(
        linear.population_risk(
            whole[-1], norms.l2, linear.Population(theta0, None, 1.0), EPS
        ),
        linear.population_risk(
            small[-1], norms.l2, linear.Population(theta0 @ basis, None, 1.0), EPS
        ),
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
        risk = linear.population_risk(
            theta, norms.l2, linear.Population(theta0, None, sigma), 0.0
        )
        return theta, risk - jnp.mean((x @ theta - y) ** 2)

    theta, gap = jax.device_get(draws(jax.random.split(jax.random.key(0), 4000)))
    squares = ((theta - theta.mean(axis=0)) ** 2).sum(axis=1)
    for ours, found in (
        (linear.least_squares_variance, squares),
        (linear.generalization_gap, gap),
    ):
        error = found.std() / 4000**0.5
        assert abs(ours(n, d, signal=signal, sigma=sigma) - found.mean()) < 4 * error


@pytest.mark.parametrize("m", [4, 9])
def test_moments_of_one_example_and_of_one_parameter_are_those_of_chi_squared(m):
    """There (x xᵀ)⁻¹ is one over a chi-squared number."""
    inverse, bias = stats.chi2(m).expect(lambda v: 1 / v), 4 * (1 - 1 / m)
    given = {"signal": 2.0, "sigma": 0.5}
    found = [
        moment(n, d, **given)
        for n, d in ((1, m), (m, 1))
        for moment in (linear.least_squares_variance, linear.generalization_gap)
    ]
    expected = [
        *(0.25 * inverse + bias / m, 0.25 + bias + 0.25 * inverse),
        *(0.25 * inverse, 0.25 * (inverse + 1 / m)),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("d", [9, 10, 11])
def test_moments_of_least_squares_at_their_pole_raise(d):
    for moment in (linear.least_squares_variance, linear.generalization_gap):
        with pytest.raises(ValueError, match=f"d = {d} is within"):
            moment(10, d, signal=1.0, sigma=1.0)


@pytest.mark.parametrize("norm", [norms.l2, norms.linf])
def test_a_negative_xi_gives_nan(norm):
    theta, x, y = _problem()
    assert jnp.isnan(linear.adversarial_loss(theta, norm, x, y, EPS, xi=-0.1)).all()
    assert jnp.isnan(norms.surrogate_factor(norm, theta, -0.1)).all()


# --- plain input, shapes, transformations ---

FUNCTIONS = [linear.perturb, linear.adversarial_loss, linear.adversarial_gradient]
each_function = pytest.mark.parametrize("function", FUNCTIONS)


@each_function
@pytest.mark.parametrize("xi", [None, 0.2])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_norms_are_ordinary_arguments_of_transformations(function, xi, norm):
    if norm is norms.l1 and xi is not None:
        return
    theta, x, y = _problem()
    expected = function(theta, norm, x, y, EPS, xi=xi)
    ours = jax.jit(function)(theta, norm, x, y, EPS, xi=xi)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    over_radii = jax.vmap(function, (None, None, None, None, 0))
    radii = jnp.array([0.1, EPS])
    np.testing.assert_allclose(
        over_radii(theta, norm, x, y, radii)[1],
        function(theta, norm, x, y, EPS),
        rtol=1e-5,
        atol=1e-6,
    )
    total = lambda *args: function(*args, xi=xi).sum()  # noqa: E731
    slope = jax.jit(jax.grad(total))(theta, norm, x, y, EPS)
    assert slope.shape == theta.shape
    assert jnp.isfinite(slope).all()


def test_populations_and_norms_pass_through_transformations():
    theta, _, _ = _problem()
    for cov in (None, jnp.eye(4)):
        population = linear.Population(jnp.ones(4), cov, 0.5)
        expected = linear.population_risk(theta, norms.l2, population, EPS)
        ours = jax.jit(linear.population_risk)(theta, norms.l2, population, EPS)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        optima = jax.jit(jax.vmap(linear.optimal, (None, None, 0)))(
            norms.l2, population, jnp.array([0.1, EPS])
        )
        least = linear.optimal(norms.l2, population, EPS)
        np.testing.assert_allclose(optima.theta[1], least.theta, rtol=1e-5)
        slope = jax.grad(lambda p: linear.optimal(norms.l2, p, EPS).risk)(population)
        assert jnp.isfinite(slope.theta0).all()


@each_function
@pytest.mark.parametrize("xi", [None, 0.2])
def test_arrays_that_would_broadcast_are_refused(function, xi):
    theta, x, y = _problem()
    for wrong in (
        (theta, x, y[:1]),
        (theta, x, y[0]),
        (theta, x, y[:, None]),
        (theta, x[:1], y),
        (theta[:1], x, y),
        (theta[0], x, y),
        (theta, x[0], y),
        (theta[:, None], x, y),
    ):
        theta_, *xy = wrong
        with pytest.raises(ValueError, match=r"shapes theta \(.*, x \(.*, y \("):
            function(theta_, norms.l2, *xy, EPS, xi=xi)
        with pytest.raises(ValueError, match="shapes theta"):
            jax.jit(function)(theta_, norms.l2, *xy, EPS, xi=xi)
    for radii in (jnp.ones(9), np.ones(1), [0.1, 0.2]):
        with pytest.raises(ValueError, match="eps has shape"):
            function(theta, norms.l2, x, y, radii, xi=xi)
        with pytest.raises(ValueError, match="xi has shape"):
            function(theta, norms.l2, x, y, EPS, xi=radii)


def test_populations_that_would_broadcast_are_refused():
    theta = jnp.ones(3)
    good = linear.Population(theta, jnp.eye(3), 1.0)
    for wrong in (
        good._replace(theta0=theta[:1]),
        good._replace(theta0=1.0),
        good._replace(cov=jnp.eye(1)),
        good._replace(cov=jnp.ones(3)),
        good._replace(sigma=jnp.ones(3)),
        good._replace(sigma=[1.0]),
    ):
        with pytest.raises(ValueError, match="shapes theta"):
            linear.population_risk(theta, norms.l2, wrong, EPS)
        with pytest.raises(ValueError, match="shapes theta"):
            linear.population_risk(theta, norms.l2, wrong, EPS, xi=0.1)
    with pytest.raises(ValueError, match="shapes theta"):
        linear.population_risk(theta[:1], norms.l2, good, EPS)
    with pytest.raises(ValueError, match="shapes theta"):
        linear.optimal(norms.l2, good._replace(cov=jnp.eye(2)), EPS)


@each_function
def test_lists_and_arrays_of_numpy_are_plain_input(function):
    theta, x, y = [1, -2], [[1, 0], [2, 3], [0, -1]], [1, 0, -1]
    arrays = [jnp.asarray(array, jnp.float32) for array in (theta, x, y)]
    for norm in (norms.l2, norms.linf):
        for xi in (None, 1):
            expected = function(arrays[0], norm, *arrays[1:], 1.0, xi=xi)
            for convert in (list, np.asarray, np.float64, jnp.asarray):
                ours = function(convert(theta), norm, convert(x), convert(y), 1, xi=xi)
                np.testing.assert_allclose(ours, expected, rtol=1e-6)
    plain = linear.Population([1, 2], [[1, 0], [0, 2]], 1)
    exact = linear.Population(jnp.array([1.0, 2.0]), jnp.diag(jnp.array([1.0, 2])), 1.0)
    for xi in (None, 0.1):
        ours, expected = (
            linear.population_risk(jnp.ones(2), norms.l2, each, 0.5, xi=xi)
            for each in (plain, exact)
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(
        linear.optimal(norms.l2, plain, 0.5).theta,
        linear.optimal(norms.l2, exact, 0.5).theta,
        rtol=1e-6,
    )


@each_function
@pytest.mark.parametrize("jit", [False, True])
def test_negative_numbers_give_nan(function, jit):
    theta, x, y = _problem()
    of = jax.jit(function) if jit else function
    for norm in (norms.l2, norms.linf):
        for eps, xi in ((-0.1, None), (-0.1, 0.2), (0.1, -0.2), (jnp.nan, None)):
            assert jnp.isnan(of(theta, norm, x, y, eps, xi=xi)).all()
        assert jnp.isfinite(of(theta, norm, x, y, 0.0, xi=0.0)).all()
    risk = jax.jit(linear.population_risk) if jit else linear.population_risk
    population = linear.Population(theta, None, 1.0)
    for eps, xi in ((-0.1, None), (-0.1, 0.2), (0.1, -0.2)):
        assert jnp.isnan(risk(2 * theta, norms.l2, population, eps, xi=xi))


def test_the_name_of_a_norm_is_no_norm():
    theta, x, y = _problem()
    population = linear.Population(theta, None, 1.0)
    for norm in ("l2", norms.l2.name, None, np.linalg.norm):
        for function in FUNCTIONS:
            with pytest.raises(ValueError, match=r"norm = .*: choose norms\.l1"):
                function(theta, norm, x, y, EPS)
        with pytest.raises(ValueError, match=r"norm = .*: choose norms\.l1"):
            linear.population_risk(theta, norm, population, EPS)
        with pytest.raises(ValueError, match=r"norm = .*: choose norms\.l1"):
            linear.optimal(norm, population, EPS)
    with pytest.raises(ValueError, match=r"norms\.l2 and norms\.linf only"):
        linear.population_risk(theta, norms.l1, population, EPS, xi=0.1)


@pytest.mark.parametrize("count", [0, -1, 30.0, True])
def test_counts_of_moments_are_integers(count):
    for moment in (linear.least_squares_variance, linear.generalization_gap):
        for counts in ((count, 5), (5, count)):
            with pytest.raises(ValueError, match="choose an integer of at least 1"):
                moment(*counts, signal=1.0, sigma=1.0)
        ours = moment(np.int64(30), np.int32(5), signal=1.0, sigma=1.0)
        assert ours == moment(30, 5, signal=1.0, sigma=1.0)
