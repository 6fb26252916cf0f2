"""Slow and obvious NumPy versions, in float64 and one example at a time."""

import itertools

import numpy as np
import threadpoolctl
from scipy import optimize


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def cross_entropy(z, label):
    return -np.log(softmax(z)[label])


def kl(z_p, z_q):
    p, q = softmax(z_p), softmax(z_q)
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))


def margin(z, label):
    return max(z[j] for j in range(len(z)) if j != label) - z[label]


def dlr(z, label):
    top = sorted(z, reverse=True)
    return margin(z, label) / (top[0] - top[2] + 1e-12)


def trades(z, z_adv, label, beta):
    return cross_entropy(z, label) + beta * kl(z, z_adv)


def mart(z, z_adv, label, beta):
    p, p_adv = softmax(z), softmax(z_adv)
    wrong = max(p_adv[j] for j in range(len(z)) if j != label)
    bce = cross_entropy(z_adv, label) - np.log(1.0001 - wrong + 1e-12)
    guarded = sum(
        a * (np.log(a) - np.log(b + 1e-12)) for a, b in zip(p, p_adv, strict=1)
    )
    return bce + beta * guarded * (1.0000001 - p[label])


def project_l1(delta, eps):
    """Bisection on the threshold, where Duchi's algorithm sorts."""
    if np.abs(delta).sum() <= eps:
        return delta
    low, high = 0.0, np.abs(delta).max()
    for _ in range(200):
        tau = (low + high) / 2
        size = np.maximum(np.abs(delta) - tau, 0).sum()
        low, high = (tau, high) if size > eps else (low, tau)
    return np.sign(delta) * np.maximum(np.abs(delta) - tau, 0)


def corners(d):
    """All corners of the linf ball of radius 1."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=d)))


def finite_difference(f, x, step=1e-6):
    """The gradient of ``f`` by central differences, entry by entry."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = step
        gradient[i] = (f(x + e) - f(x - e)) / (2 * step)
    return gradient


def largest_gain(slopes, room, eps, norm_name):
    """The largest <slopes, v> over 0 ≤ v ≤ room, ‖v‖ ≤ eps, by row, for slopes ≥ 0."""
    gains = []
    for slope, space in zip(
        np.asarray(slopes, float), np.asarray(room, float), strict=1
    ):
        if norm_name == "linf":
            v = np.minimum(eps, space)
        elif norm_name == "l1":  # fill the steepest entries first
            v, left = np.zeros_like(space), eps
            for i in np.argsort(-slope):
                v[i] = min(space[i], left)
                left -= v[i]
        else:  # v = min(t · slope, room), with t such that ‖v‖ = eps
            low, high = 0.0, 1e9
            for _ in range(200):
                t = (low + high) / 2
                v = np.minimum(t * slope, space)
                low, high = (t, high) if np.linalg.norm(v) < eps else (low, t)
        gains.append(slope @ v)
    return np.array(gains)


def attacked_loss(theta, x, y, eps, dual, penalty):
    """(1/n) Σ (|r_i| + eps ‖θ‖_dual)² + penalty ‖θ‖₁, with dual 1 or 2."""
    a = np.abs(x @ theta - y) + eps * np.linalg.norm(theta, dual)
    return np.mean(a**2) + penalty * np.abs(theta).sum()


def smallest_attacked_loss(x, y, eps, dual, penalty):
    """The minimum of ``attacked_loss`` as a smooth problem: θ = u - v and t ≥ |r|.

    SciPy minimises the mean of (t + eps q)², plus penalty Σ(u + v), over u, v ≥ 0.
    """
    n, d = x.shape

    def objective(z):
        uv, t = z[: 2 * d], z[2 * d :]
        theta = uv[:d] - uv[d:]
        q, slope = uv.sum(), np.ones(2 * d)
        if dual == 2:
            q = np.linalg.norm(theta)
            slope = np.concatenate([theta, -theta]) / max(q, 1e-300)
        a = t + eps * q
        gradient = [2 * eps * a.mean() * slope + penalty, 2 * a / n]
        return np.mean(a**2) + penalty * uv.sum(), np.concatenate(gradient)

    lifted = np.hstack([x, -x])
    rows = np.block([[lifted, np.eye(n)], [-lifted, np.eye(n)]])
    start = np.linalg.lstsq(x, y)[0] / 10
    first = [np.maximum(start, 0), np.maximum(-start, 0), np.abs(x @ start - y)]
    # On a busy machine the threads of BLAS would wait for one another.
    with threadpoolctl.threadpool_limits(1):
        found = optimize.minimize(
            objective,
            np.concatenate(first),
            jac=True,
            method="SLSQP",
            bounds=[(0, None)] * (2 * d + n),
            constraints={
                "type": "ineq",
                "fun": lambda z: rows @ z - np.concatenate([y, -y]),
                "jac": lambda z: rows,
            },
            options={"ftol": 1e-16, "maxiter": 2000},
        )
    z = found.x
    return attacked_loss(z[:d] - z[d : 2 * d], x, y, eps, dual, penalty)
