"""What the solver's certificates and the surrogate risk's quadrature are worth.

    python -m experiments.benchmarks.accuracy

Quantiles of the certified gap of ``solvers.adversarial``, over the mean of y², for
15 120 problems of six shapes, some with d > n or correlated x, in double and single
precision. Then the relative errors of ``linear.population_risk`` with ``xi`` and of
Gauss-Hermite quadrature with 128 nodes, against adaptive quadrature. One minute on 2
CPU cores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

from advjax import linear, norms, solvers

# n, d, number of data sets, correlation of the inputs
SHAPES = (
    (10, 30, 200, 0.9),
    (12, 4, 300, 0.0),
    (10, 10, 300, 0.0),
    (8, 16, 300, 0.0),
    (50, 51, 60, 0.0),
    (100, 10, 100, 0.5),
)
# ‖θ‖, s, eps, xi
RISKS = ((1, 1, 0.5, 0.1), (1, 1, 3, 1e-4), (3, 1, 0.5, 1e-8), (0.01, 3, 3, 0.05))


def gaps(dtype) -> np.ndarray:
    """The gaps of all problems, in one row."""
    generator, found = np.random.default_rng(0), []
    for n, d, num_datasets, rho in SHAPES:
        x = np.sqrt(1 - rho) * generator.normal(size=(num_datasets, n, d))
        x += np.sqrt(rho) * generator.normal(size=(num_datasets, n, 1))
        y = x @ generator.normal(size=d) + generator.normal(size=(num_datasets, n))
        for norm, order in ((norms.l2, 2), (norms.linf, np.inf)):
            # Shares of the radius from which on zero is the minimiser.
            most = np.linalg.norm(np.einsum("rn,rnd->rd", y, x), order, axis=1)
            eps = np.outer(most / np.abs(y).sum(axis=1), (0.1, 0.5, 0.9))
            for penalty in (0.0, 0.2):
                arrays = (np.asarray(a, dtype) for a in (x, y, eps))
                found.append(_relative_gaps(*arrays, norm, penalty).ravel())
    return np.concatenate(found)


def _relative_gaps(x, y, eps, norm, penalty) -> np.ndarray:
    def one(x, y, eps):
        found = solvers.adversarial(norm, x, y, eps, penalty=penalty)
        return found.gap / jnp.mean(y**2)

    over_radii = jax.vmap(one, (None, None, 0))
    return np.asarray(jax.jit(jax.vmap(over_radii))(x, y, eps))


def risk_errors(q, s, eps, xi) -> tuple[float, float]:
    """Relative errors of ours and of Gauss-Hermite, under l2 attack."""

    def loss(r):
        return (r + eps * q * 2 * r * q / np.hypot(2 * r * q, xi)) ** 2

    def integrand(r):
        return loss(r) * np.exp(-((r / s) ** 2) / 2) * np.sqrt(2 / np.pi) / s

    finest = (xi / q * np.array([1e-3, 0.1, 1, 10])).clip(max=s)
    edges = [0, *finest, s, 5 * s]
    exact = sum(
        integrate.quad(integrand, low, high, epsabs=0, epsrel=1e-13, limit=500)[0]
        for low, high in zip(edges, [*edges[1:], 40 * s], strict=True)
        if low < high
    )
    theta = jnp.array([q, 0.0])
    population = linear.Population(theta, None, s)
    nodes, weights = np.polynomial.hermite_e.hermegauss(128)
    hermite = weights @ loss(np.abs(nodes) * s) / np.sqrt(2 * np.pi)
    ours = linear.population_risk(theta, norms.l2, population, eps, xi=xi)
    return float(abs(ours / exact - 1)), float(abs(hermite / exact - 1))


def main() -> None:
    """Prints both tables."""
    for dtype in (np.float64, np.float32):
        found = gaps(dtype)
        levels = np.quantile(found, (0.5, 0.99, 1))
        print(
            f"{found.size} gaps, {np.dtype(dtype)}: median {levels[0]:.0e}, 99 % "
            f"{levels[1]:.0e}, largest {levels[2]:.1e}"
        )
    for case in RISKS:
        ours, hermite = risk_errors(*case)
        print(
            "risk at ‖θ‖ = {:g}, s = {:g}, eps = {:g}, xi = {:g}: ".format(*case)
            + f"ours {ours:.0e}, Gauss-Hermite {hermite:.0e}"
        )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
