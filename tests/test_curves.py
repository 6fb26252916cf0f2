"""Curves, planes and training along a curve, against plain formulas and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import attacks, curves, losses, models, norms, objectives, train
from advjax.types import Batch

RNG = np.random.default_rng(0)


def _tree():
    return {
        "w": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32),
        "b": jnp.asarray(RNG.normal(size=4), jnp.float32),
    }


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


PATH = curves.Path(_tree(), _tree(), _tree())
A, BEND, B = (_flat(tree).astype(float) for tree in PATH)


@pytest.mark.parametrize("curve", [curves.bezier, curves.polychain, curves.line])
def test_ends_are_exact(curve):
    for t, end in ((0, PATH.a), (1.0, PATH.b), (jnp.array(0.0), PATH.a)):
        jax.tree.map(np.testing.assert_array_equal, curve(PATH, t), end)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_curves_equal_de_casteljau_and_pieces(t):
    def mix(a, b, t):
        return (1 - t) * a + t * b

    casteljau = mix(mix(A, BEND, t), mix(BEND, B, t), t)
    np.testing.assert_allclose(_flat(curves.bezier(PATH, t)), casteljau, rtol=1e-5)
    pieces = mix(A, BEND, 2 * t) if t < 0.5 else mix(BEND, B, 2 * t - 1)
    np.testing.assert_allclose(
        _flat(curves.polychain(PATH, t)), pieces, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(_flat(curves.line(PATH, t)), mix(A, B, t), rtol=1e-5)


def test_a_straight_path_is_the_line():
    path = curves.straight(PATH.a, PATH.b)
    for t in (0.0, 0.3, 0.5, 1.0):
        for curve in (curves.bezier, curves.polychain):
            found, wanted = curve(path, t), curves.line(path, t)
            np.testing.assert_allclose(_flat(found), _flat(wanted), atol=1e-6)
    with pytest.raises(ValueError, match="different networks"):
        curves.straight(PATH.a, {"w": PATH.a["w"]})
    with pytest.raises(ValueError, match="different networks"):
        curves.straight(PATH.a, PATH.a | {"b": jnp.zeros(1)})


def test_curves_vmap_over_t():
    ts = jnp.linspace(0, 1, 5)
    many = jax.vmap(curves.bezier, (None, 0))(PATH, ts)
    np.testing.assert_allclose(
        many["w"][3], curves.bezier(PATH, ts[3])["w"], rtol=1e-6, atol=1e-6
    )


def test_the_plane_holds_the_three_points_and_is_orthonormal():
    plane = curves.plane(PATH)
    u, v = _flat(plane.u).astype(float), _flat(plane.v).astype(float)
    np.testing.assert_allclose([u @ u, v @ v, u @ v], [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(plane.width, np.linalg.norm(B - A), rtol=1e-6)
    share = (BEND - A) @ (B - A) / ((B - A) @ (B - A))
    height = np.linalg.norm(BEND - A - share * (B - A))
    np.testing.assert_allclose(plane.height, height, rtol=1e-5)
    for params, wanted in ((PATH.a, (0, 0)), (PATH.b, (1, 0)), (PATH.bend, (share, 1))):
        found = plane.coordinates(params)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(_flat(plane.at(*found)), _flat(params), atol=1e-5)
    on_curve = curves.bezier(PATH, 0.3)
    back = plane.at(*plane.coordinates(on_curve))
    np.testing.assert_allclose(_flat(back), _flat(on_curve), atol=1e-5)


def test_a_plane_without_extent_has_a_documented_result():
    on_a_line = curves.plane(curves.straight(PATH.a, PATH.b))
    assert on_a_line.height == 0
    assert not _flat(on_a_line.v).any()
    found = on_a_line.coordinates(PATH.b)
    np.testing.assert_allclose(found, (1, 0), atol=1e-6)
    point = curves.plane(curves.Path(PATH.a, PATH.bend, PATH.a))
    assert point.width == 0
    np.testing.assert_allclose(point.coordinates(PATH.bend), (0, 1), atol=1e-6)
    nowhere = curves.plane(curves.Path(PATH.a, PATH.a, PATH.a))
    np.testing.assert_array_equal(_flat(nowhere.at(0.3, 0.7)), _flat(PATH.a))


def test_distances_in_a_plane_do_not_overflow():
    zero = {"w": jnp.zeros((3, 3)), "b": jnp.zeros(2)}
    far = {"w": jnp.full((3, 3), 1e30), "b": jnp.zeros(2)}
    across = {"w": jnp.zeros((3, 3)), "b": jnp.array([3e30, 4e30])}
    plane = curves.plane(curves.Path(zero, across, far))
    np.testing.assert_allclose(plane.width, 3e30, rtol=1e-6)
    np.testing.assert_allclose(plane.height, 5e30, rtol=1e-6)


def test_networks_that_would_broadcast_are_refused():
    other = PATH.b | {"b": PATH.b["b"][:1]}
    for paths in (
        (PATH.a, PATH.bend, other),
        (PATH.a, other, PATH.b),
        (other, *PATH[1:]),
    ):
        path = curves.Path(*paths)
        for function in (curves.plane, lambda path: curves.bezier(path, 0.5)):
            with pytest.raises(ValueError, match="different networks"):
                function(path)
    with pytest.raises(ValueError, match="different networks"):
        curves.plane(PATH).coordinates(other)


@pytest.mark.parametrize("ts", [jnp.ones(1), jnp.linspace(0, 1, 3), np.ones((2, 1))])
def test_several_places_on_a_curve_are_for_vmap(ts):
    for curve in (curves.bezier, curves.polychain, curves.line):
        with pytest.raises(ValueError, match="one place on a curve, and vmap"):
            curve(PATH, ts)
    with pytest.raises(ValueError, match="and vmap"):
        curves.plane(PATH).at(ts, 0.0)


def test_training_along_a_curve_is_the_gradient_at_its_point_times_its_weight():
    """On a quadratic: d/dbend of f(curve(t)) = weight of the bend · f'(curve(t))."""
    target = _flat(_tree())

    def quadratic(params, batch_stats, key, batch, eps):
        del key, batch
        flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
        return eps * jnp.sum((flat - target) ** 2), batch_stats

    key = jax.random.key(3)
    t = float(jax.random.uniform(jax.random.split(key)[0]))
    weights = {
        curves.bezier: 2 * t * (1 - t),
        curves.polychain: 1 - abs(2 * t - 1),
        curves.line: 0.0,
    }
    for curve, weight in weights.items():
        objective = curves.along(quadratic, curve)
        (value, _), grad = jax.value_and_grad(objective, has_aux=True)(
            PATH, {}, key, None, 0.5
        )
        residual = _flat(curve(PATH, t)) - target
        np.testing.assert_allclose(value, 0.5 * residual @ residual, rtol=1e-5)
        np.testing.assert_allclose(_flat(grad.bend), weight * residual, rtol=1e-4)
        assert not _flat(grad.a).any()
        assert not _flat(grad.b).any()


def test_training_bends_a_line_around_a_barrier_and_leaves_the_ends():
    """Two minima of an MLP, the second with permuted hidden units.

    The line between them crosses a barrier; a trained Bezier curve goes around it. The
    clean and the adversarial objective are trained alike.
    """
    model = models.make("mlp", num_classes=2, hidden=(8,))
    x = RNG.normal(size=(200, 2)).astype(np.float32)
    batch = Batch(jnp.asarray(x), jnp.asarray((x[:, 0] * x[:, 1] > 0).astype(int)))
    tx = optax.adam(0.05)
    linf = attacks.fgsm(norms.linf)
    for objective in (
        objectives.standard(model, losses.cross_entropy),
        objectives.adversarial(model, losses.cross_entropy, linf),
    ):
        start = train.create(jax.random.key(0), model, tx, batch.x[:1])
        ends = _trained(objective, tx, start, batch, 300)
        swapped = jax.tree.map(lambda leaf: leaf, ends)
        order = np.roll(np.arange(8), 1)
        first, last = (name for name in ("Dense_0", "Dense_1"))
        assert {first, last} == set(swapped)
        swapped[first] = {k: v[..., order] for k, v in ends[first].items()}
        swapped[last] = ends[last] | {"kernel": ends[last]["kernel"][order]}
        path = curves.straight(ends, swapped)
        moving = train.restart(jax.random.key(1), path, {}, tx)
        path = _trained(curves.along(objective, curves.bezier), tx, moving, batch, 800)
        jax.tree.map(np.testing.assert_array_equal, path.a, ends)
        jax.tree.map(np.testing.assert_array_equal, path.b, swapped)

        def highest(curve, path=path, objective=objective):
            points = jax.vmap(curve, (None, 0))(path, jnp.linspace(0, 1, 21))
            value = jax.vmap(lambda p: objective(p, {}, jax.random.key(0), batch, 0.1))
            return float(value(points)[0].max())

        assert highest(curves.bezier) < 0.7 * highest(curves.line)


def _trained(objective, tx, state, batch, num_steps):
    step = train.make_step(objective, tx)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: step(s, batch, 0.1), state, length=num_steps)

    return run(state)[0].params
