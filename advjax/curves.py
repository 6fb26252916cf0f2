"""Mode connectivity: curves of low loss between two networks, and their plane.

    path = curves.straight(a, b)                        # Path(a, bend, b)
    objective = curves.along(objectives.standard(model, loss), curves.bezier)
    step = train.make_step(objective, tx)               # trains path.bend only
    params = curves.bezier(path, 0.5)                   # a network on the curve
    plane = curves.plane(path)                          # through the three points
    params = plane.at(0.5, 0.2)

Networks are pytrees of arrays; ``vmap`` a curve over ``t``, or a plane over its
coordinates. Batch statistics belong to one point of a curve and not to its neighbour:
``train.batch_statistics`` estimates them anew.

Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, 2018.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Objective, Params

__all__ = [
    "Coordinates",
    "Curve",
    "Path",
    "Plane",
    "along",
    "bezier",
    "line",
    "plane",
    "polychain",
    "straight",
]


class Path(NamedTuple):
    """Two ends and the one point between them that is trained.

    Attributes:
        a: parameters of one network.
        bend: parameters of the same structure.
        b: parameters of the other network.
    """

    a: Params
    bend: Params
    b: Params


class Curve(Protocol):
    """A curve between the ends of a path."""

    def __call__(self, path: Path, t: Array | float, /) -> Params:
        """``(path, t[]) -> params``, which are ``path.a`` at 0 and ``path.b`` at 1."""


def bezier(path: Path, t: Array | float) -> Params:
    """(1 - t)² a + 2t(1 - t) bend + t² b: the bend pulls, and is not on the curve."""
    return _sum(path, ((1 - t) ** 2, 2 * t * (1 - t), t**2))


def polychain(path: Path, t: Array | float) -> Params:
    """The line from ``a`` to the bend, reached at t = 1/2, and on to ``b``."""
    to_a, to_b = jnp.maximum(1 - 2 * t, 0), jnp.maximum(2 * t - 1, 0)
    return _sum(path, (to_a, 1 - to_a - to_b, to_b))


def line(path: Path, t: Array | float) -> Params:
    """(1 - t) a + t b, whatever the bend."""
    return _sum(path, (1 - t, 0.0, t))


def straight(a: Params, b: Params) -> Path:
    """The path whose bend is the mean of the ends, so that every curve is a line.

    Raises:
        ValueError: for trees of different structures or shapes.
    """
    _check_alike(a, b)
    return Path(a, jax.tree.map(lambda x, y: (x + y) / 2, a, b), b)


def along(objective: Objective, curve: Curve) -> Objective:
    """The objective's mean along a curve: E over t ~ U(0, 1) of objective(curve(t)).

    Its parameters are a ``Path``, whose ends get a gradient of exactly zero: give the
    optimiser no weight decay, which would move them, but let the objective penalise the
    point on the curve (``objectives.with_penalty``). Each call draws one t from its
    key, as Garipov et al. Batch statistics pass through, and mean nothing after t has
    moved.
    """

    def mean_objective(path, batch_stats, key, batch, eps):
        key_t, key = jax.random.split(key)
        a, b = jax.lax.stop_gradient((path.a, path.b))
        params = curve(Path(a, path.bend, b), jax.random.uniform(key_t))
        return objective(params, batch_stats, key, batch, eps)

    return mean_objective


class Coordinates(NamedTuple):
    """Coordinates ``alpha[]`` and ``beta[]`` in a plane."""

    alpha: Array
    beta: Array


class Plane(NamedTuple):
    """The plane through the three points of a path.

    Attributes:
        origin: ``a``.
        u: unit vector from ``a`` to ``b``; zero if they are equal.
        v: unit vector orthogonal to it, towards the bend; zero if the three points are
            on a line.
        width: ``[]``, the distance of ``a`` and ``b``.
        height: ``[]``, the distance of the bend from the line through ``a`` and ``b``.
    """

    origin: Params
    u: Params
    v: Params
    width: Array
    height: Array

    def at(self, alpha: Array | float, beta: Array | float) -> Params:
        """Origin + alpha · width · u + beta · height · v; ``b`` is at (1, 0)."""
        terms = Path(self.origin, self.u, self.v)
        return _sum(terms, (1.0, alpha * self.width, beta * self.height))

    def coordinates(self, params: Params) -> Coordinates:
        """The coordinates of a network's projection onto the plane.

        An axis without extent gives 0.

        Raises:
            ValueError: for a network of another structure or other shapes.
        """
        _check_alike(self.origin, params)
        delta = jax.tree.map(jnp.subtract, params, self.origin)
        along_u, along_v = _inner(delta, self.u), _inner(delta, self.v)
        return Coordinates(_ratio(along_u, self.width), _ratio(along_v, self.height))


def plane(path: Path) -> Plane:
    """The plane with ``a`` at (0, 0), ``b`` at (1, 0), and the bend at beta = 1.

    Raises:
        ValueError: for trees of different structures or shapes.
    """
    _check_alike(*path)
    to_b = jax.tree.map(jnp.subtract, path.b, path.a)
    width = _norm(to_b)
    u = jax.tree.map(lambda x: _ratio(x, width), to_b)
    to_bend = jax.tree.map(jnp.subtract, path.bend, path.a)
    share = _inner(to_bend, u)
    across = jax.tree.map(lambda x, y: x - share * y, to_bend, u)
    height = _norm(across)
    # The rounding that is left of three points on a line is no direction.
    tiny = 8 * jnp.finfo(height.dtype).eps * _norm(to_bend)
    height = jnp.where(height > tiny, height, 0.0)
    v = jax.tree.map(lambda x: _ratio(x, height), across)
    return Plane(path.a, u, v, width, height)


def _norm(params: Params) -> Array:
    """The Euclidean norm of all parameters, scaled against overflow."""
    largest = jnp.max(
        jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(params)])
    )
    scaled = jax.tree.map(lambda leaf: _ratio(leaf, largest), params)
    return largest * jnp.sqrt(_inner(scaled, scaled))


def _sum(path, weights):
    _check_alike(*path)
    if any(np.ndim(weight) for weight in weights):
        shapes = [np.shape(weight) for weight in weights]
        msg = f"weights of shapes {shapes}: give one place on a curve, and vmap"
        raise ValueError(msg)

    def combine(*leaves):
        return sum(w * x for w, x in zip(weights, leaves, strict=True))

    return jax.tree.map(combine, *path)


def _check_alike(*trees: Params) -> None:
    shapes = [jax.tree.map(jnp.shape, tree) for tree in trees]
    for other in shapes[1:]:
        if other != shapes[0]:
            msg = f"different networks: shapes {shapes[0]} and {other}"
            raise ValueError(msg)


def _inner(x: Params, y: Params) -> Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)
    return jax.tree.reduce(jnp.add, products)


def _ratio(x: Array, y: Array) -> Array:
    """The ratio x / y, and 0 where y is 0."""
    return jnp.where(y == 0, 0.0, x / jnp.where(y == 0, 1.0, y))
