"""The memorising classifier, its ReLU network, its learner and its size."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, data, memorization, models, norms
from advjax.models import memorizing
from advjax.models.memorizing import gate, linf_distance, product, square

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}
RADIUS = 0.1


@pytest.fixture
def memory(key):
    """A clean network, and centres on a grid, so that balls are disjoint."""
    module = models.MLP(num_classes=3, hidden=(8,))
    grid = itertools.product((0.2, 0.8), repeat=3)
    centres = jnp.array(list(grid))[:5]
    targets = jax.nn.one_hot(jnp.arange(5) % 3, 3)
    params = module.init(key, centres)["params"]
    params = jax.tree.map(lambda leaf: 5 * leaf, params)
    return module, params, centres, targets


def _reference(clean, x, centres, targets, order):
    inside = np.array(
        [[np.linalg.norm(a - c, order) <= RADIUS for c in centres] for a in x]
    )
    return inside @ targets + clean * ~inside.any(axis=1)[:, None]


@pytest.mark.parametrize("name", NORMS)
def test_the_classifier_is_its_formula(name, memory, key):
    module, params, centres, targets = memory
    x = jnp.concatenate(
        [
            jax.random.uniform(key, (50, 3)),
            centres,
            centres + 0.9 * RADIUS / 3,
            centres - 1.1 * RADIUS,
        ]
    )

    def predict(x):
        return module.apply({"params": params}, x)

    f_adv = memorization.classifier(predict, NORMS[name], centres, targets, RADIUS)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[name]
    expected = _reference(*map(np.asarray, (predict(x), x, centres, targets)), order)
    np.testing.assert_allclose(f_adv(x), expected, atol=1e-6)
    # The same with one output and signs.
    signs = jnp.array([1.0, -1, 1, -1, 1])
    one = memorization.classifier(
        lambda x: predict(x)[:, 0], NORMS[name], centres, signs, RADIUS
    )
    expected = _reference(
        *map(np.asarray, (predict(x)[:, :1], x, centres, signs[:, None])), order
    )
    np.testing.assert_allclose(one(x), expected[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_no_attack_on_what_is_memorised_succeeds(name, memory, key):
    _, _, centres, targets = memory
    norm, labels = NORMS[name], jnp.argmax(targets, axis=1)
    f_adv = memorization.classifier(
        lambda x: 9.0 * jnp.ones((len(x), 3)), norm, centres, targets, RADIUS
    )
    attack = attacks.pgd(
        norm, num_steps=3, rel_step_size=1.0, start=attacks.in_ball(norm)
    )

    @jax.jit
    def attacked(key):
        def loss_fn(x, y):
            return jnp.sum(x, axis=1) * jnp.where(y % 2, -1.0, 1.0)

        return f_adv(attack(key, loss_fn, centres, labels, RADIUS)[0])

    for i in range(20):
        found = attacked(jax.random.fold_in(key, i))
        np.testing.assert_array_equal(jnp.argmax(found, axis=1), labels)


def test_separation_is_the_distance_to_other_classes(key):
    x = jax.random.uniform(key, (30, 4))
    y = jnp.arange(30) % 3
    for name, order in (("linf", np.inf), ("l2", 2)):
        found = memorization.separation(NORMS[name], x, y, x, y)
        every = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(x)[None], order, -1)
        every[np.asarray(y)[:, None] == np.asarray(y)[None]] = np.inf
        np.testing.assert_allclose(found, every.min(axis=1), rtol=1e-5)
    same = jnp.zeros(30, int)
    assert jnp.isinf(memorization.separation(norms.l2, x, same, x, same)).all()


# --- the ReLU network ---


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 13])
def test_the_tournament_is_the_distance(d, key):
    x = jax.random.normal(key, (20, d))
    centre = jax.random.normal(jax.random.key(1), (d,))
    expected = jnp.max(jnp.abs(x - centre[None]), axis=1)
    np.testing.assert_allclose(linf_distance(x, centre), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_levels", [1, 2, 4, 6])
def test_products_are_as_close_as_yarotsky_says(num_levels):
    t = jnp.linspace(0, 1, 1001)
    errors = square(t, num_levels) - t**2
    assert (errors > -1e-12).all()
    np.testing.assert_allclose(errors.max(), 4.0 ** -(num_levels + 1), rtol=1e-2)
    z, g = map(
        jnp.ravel, jnp.meshgrid(jnp.linspace(-1, 1, 101), jnp.linspace(0, 1, 51))
    )
    found = product(z, g, num_levels)
    assert jnp.abs(found - z * g).max() <= 4.0**-num_levels
    assert jnp.abs(found - z * g).max() > 4.0 ** -(num_levels + 2)
    np.testing.assert_array_equal(found[(z == 0) | (g == 0)], 0)


def test_gates_are_exact_at_both_ends():
    z = jnp.linspace(-7, 7, 31)
    np.testing.assert_array_equal(gate(z, jnp.zeros(31), 7.0), 0)
    np.testing.assert_allclose(gate(z, jnp.ones(31), 7.0), z, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_levels", [None, 8])
def test_the_network_is_the_classifier_off_its_shells(num_levels, memory, key):
    module, params, centres, targets = memory
    outer, bound = 0.15, 20.0
    network = models.Memorizing(
        module, 5, 3, RADIUS, outer, bound=bound, num_levels=num_levels
    )
    x = jnp.concatenate(
        [
            jax.random.uniform(key, (400, 3)),
            jnp.repeat(centres, 40, axis=0)
            + 0.2 * jax.random.uniform(key, (200, 3), minval=-1, maxval=1),
        ]
    )
    network_params = memorizing.params(params, centres, targets)
    shapes = jax.tree.map(jnp.shape, network.init(key, x)["params"])
    assert shapes == jax.tree.map(jnp.shape, network_params)

    def predict(x):
        return module.apply({"params": params}, x)

    assert jnp.abs(predict(x)).max() < bound
    f_adv = memorization.classifier(predict, norms.linf, centres, targets, RADIUS)
    least = jnp.min(memorization.distances(norms.linf, x, centres), axis=1)
    on_shell = (least > RADIUS) & (least < outer)
    assert (least <= RADIUS).any()
    assert on_shell.any()
    assert (least >= outer).any()
    found = network.apply({"params": network_params}, x)
    error = jnp.abs(found - f_adv(x)).max(axis=1)
    allowed = 1e-9 if num_levels is None else bound * 4.0**-num_levels
    assert error[~on_shell].max() < allowed
    assert error[on_shell].max() > 0.1


def test_levels_are_enough_for_the_error():
    for bound, error in ((1.0, 0.25), (30.0, 1e-3), (7.0, 0.3)):
        s = memorizing.levels(bound, error)
        assert bound * 4.0**-s <= error < bound * 4.0 ** -(s - 2)


class _Net:
    """A ReLU network unit by unit, which counts its weights and biases."""

    def __init__(self):
        self.count = 0

    def unit(self, terms, bias=None, activation=lambda v: max(v, 0.0)):
        """``terms`` are (weight, value) pairs; a pair of weight 0 is not there."""
        terms = [(w, v) for w, v in terms if w]
        self.count += len(terms) + (bias is not None)
        return activation(sum(w * v for w, v in terms) + (bias or 0.0))

    def output(self, terms, bias=None):
        return self.unit(terms, bias, activation=float)


def _unit_by_unit(x, centres, targets, logits, inner, outer, bound, s):
    """What ``Memorizing`` computes, and how many parameters it takes."""
    net, width = _Net(), outer - inner
    drops = []
    for centre in centres:
        values = [
            (net.unit([(1, a)], -c), net.unit([(-1, a)], c))
            for a, c in zip(x, centre, strict=True)
        ]
        while len(values) > 1:
            half = len(values) // 2
            values = [
                (
                    net.unit([(1, v) for v in a] + [(-1, v) for v in b]),
                    net.unit([(1, v) for v in b]),
                )
                for a, b in zip(values[:half], values[half : 2 * half], strict=True)
            ] + values[2 * half :]
        pair = [(1, v) for v in values[0]]
        pair = [(-v / width, at) for v, at in pair]
        drops.append((net.unit(pair, outer / width), net.unit(pair, inner / width)))
    to_gate = [
        (-sign, v) for pair in drops for sign, v in zip((1, -1), pair, strict=True)
    ]
    free = net.unit(to_gate, 1.0)

    def chain(terms):
        """Teeth of a value given by ``terms``, with its weights in the square."""
        square, units = list(terms), None
        for j in range(1, s + 1):
            read = terms if units is None else [(2, units[0]), (-4, units[1])]
            units = (net.unit(read), net.unit(read, -0.5))
            square += [(-2 / 4**j, units[0]), (4 / 4**j, units[1])]
        return square

    def size(terms):
        units = [net.unit([(c * w, v) for w, v in terms]) for c in (0.5, -0.5)]
        return [(1, v) for v in units]

    of_free = None if s is None else chain([(0.5, free)])
    outputs = []
    for k, z in enumerate(logits):
        terms = [
            (sign * targets[i][k], v)
            for i, pair in enumerate(drops)
            for sign, v in zip((1, -1), pair, strict=True)
        ]
        if s is None:
            terms += [
                (1, net.unit([(1, z), (bound, free)], -bound)),
                (-1, net.unit([(-1, z), (bound, free)], -bound)),
            ]
        else:
            both = chain(size([(1 / bound, z), (1, free)]))
            alone = chain(size([(1 / bound, z)]))
            squares = ((2 * bound, both), (-2 * bound, alone), (-2 * bound, of_free))
            terms += [(c * w, v) for c, square in squares for w, v in square]
        outputs.append(net.output(terms))
    return outputs, net.count


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_levels", [None, 1, 5])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_parameters_are_those_of_the_network_unit_by_unit(num_levels, d, key):
    module = models.MLP(num_classes=3, hidden=(4,))
    centres = jnp.stack([jnp.full(d, 0.1), jnp.full(d, 0.5), jnp.full(d, 0.9)])
    targets = jax.nn.one_hot(jnp.array([2, 0, 0]), 3, dtype=float)
    x = jnp.concatenate([jax.random.uniform(key, (20, d), float), centres + 0.07])
    clean = module.init(key, x)["params"]
    options = {"inner": 0.05, "outer": 0.1, "bound": 20.0}
    network = models.Memorizing(module, 3, 3, **options, num_levels=num_levels)
    params = memorizing.params(clean, centres, targets)
    found = network.apply({"params": params}, x)
    logits = module.apply({"params": clean}, x)
    for i in range(len(x)):
        arguments = [
            np.asarray(a).tolist() for a in (x[i], centres, targets, logits[i])
        ]
        outputs, count = _unit_by_unit(*arguments, *options.values(), num_levels)
        np.testing.assert_allclose(found[i], outputs, atol=1e-9)
    num_own = memorization.num_clean((d, 4, 3))
    assert num_own == sum(leaf.size for leaf in jax.tree.leaves(clean))
    expected = memorization.num_memorizing(
        num_inputs=d, num_centres=3, num_outputs=3, num_levels=num_levels, clean=num_own
    )
    assert count + num_own == expected


def test_the_rounding_of_thousands_of_centres_does_not_add_up(key):
    # In single precision and with logits of 20.
    d, m = 30, 2000
    centres = jax.random.uniform(key, (m, d))
    targets = jax.nn.one_hot(jnp.arange(m) % 3, 3)
    clean = _Constant()
    network = models.Memorizing(clean, m, 3, 0.05, 0.075, bound=32.0)
    params = {"centres": centres, "targets": targets}
    x = jnp.concatenate([1 - centres[:50], centres[:50] + 0.049])
    found = jax.jit(lambda x: network.apply({"params": params}, x))(x)
    np.testing.assert_allclose(found[:50], 20.0, rtol=1e-6)
    np.testing.assert_allclose(found[50:], targets[:50], atol=2e-5)


class _Constant(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        del train
        return jnp.full((len(x), 3), 20.0)


@pytest.mark.parametrize("name", NORMS)
def test_points_on_the_surface_are_inside_whatever_the_batch(name, key):
    norm, radius = NORMS[name], {"linf": 0.1, "l2": 1.0, "l1": 10.0}[name]
    x = jax.random.uniform(key, (300, 784))
    far = jax.random.normal(jax.random.key(1), x.shape)
    delta = jax.vmap(norm.project, (0, None))(100 * far, radius)
    diagonal = jnp.arange(300)
    inside = memorization.is_inside(norm, x + delta, x, radius)
    assert inside[diagonal, diagonal].all()
    beyond = memorization.is_inside(norm, x + 1.0001 * delta, x, radius)
    assert not beyond.any()
    large = jnp.concatenate([x + 1.0001 * delta, jnp.full((1, 784), 1e4)])
    assert not memorization.is_inside(norm, large, x, radius).any()


def test_bad_shells_are_refused(memory, key):
    module, _, centres, _ = memory
    with pytest.raises(ValueError, match="num_levels = 0"):
        models.Memorizing(module, 5, 3, 0.1, 0.2, bound=1.0, num_levels=0).init(
            key, centres
        )
    with pytest.raises(ValueError, match="choose positive"):
        memorizing.levels(1.0, 0.0)
    with pytest.raises(ValueError, match="inner < outer"):
        models.Memorizing(module, 5, 3, 0.2, 0.1, bound=1.0).init(key, centres)


def test_a_robust_classifier_needs_exponentially_many_parameters():
    sizes = [memorization.robust_log10(d, 0.1, depth=5) for d in (50, 100, 200, 784)]
    slopes = np.diff(sizes) / np.diff((50, 100, 200, 784))
    # One digit a dimension of the grid of 6^(d-1) points, but for logarithms.
    np.testing.assert_allclose(slopes, math.log10(6), rtol=0.02)
    # The inequality itself, at the bound: n points are too many for that many.
    d, eps, depth = 6, 0.1, 2
    n = 6 ** (d - 1)
    w = 10 ** memorization.robust_log10(d, eps, depth=depth)
    patterns = depth + depth * w * math.log2(2 * math.e * n * depth * w)
    assert patterns + 2 * w * math.log2(w + d) <= n
    w *= 2
    patterns = depth + depth * w * math.log2(2 * math.e * n * depth * w)
    assert patterns + 2 * w * math.log2(w + d) > n
    assert memorization.robust_log10(2, 0.5, depth=50) == 0
    with pytest.raises(ValueError, match="choose d ≥ 2"):
        memorization.robust_log10(5, 0.6, depth=3)


# --- the learner of Section 4 ---


def test_the_mixed_learner_memorises_what_is_orthogonal(key):
    x = jax.random.normal(key, (4, 30))
    y = jnp.array([1.0, -1, 1, 1])
    w0 = 3 * jax.random.normal(jax.random.key(1), (30,))
    params = memorization.memorize(w0, x, y, 15.0)
    np.testing.assert_allclose(norms.l2.value(params.w0), 1, rtol=1e-6)
    np.testing.assert_allclose(params.w @ params.w0, 0, atol=1e-5)
    own = jnp.sum(params.w**2, axis=1)
    np.testing.assert_allclose(jnp.sum(params.w * x, axis=1), own, rtol=1e-5)
    by_hand = [
        float(params.w0 @ a)
        + sum(
            float(s) * max(float(w @ a) - 15.0, 0.0)
            for s, w in zip(params.a, params.w, strict=True)
        )
        for a in x
    ]
    np.testing.assert_allclose(memorization.mixed(params, x), by_hand, rtol=1e-4)


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_certificates_are_below_every_attack(name, key):
    norm, keys = NORMS[name], jax.random.split(key, 4)
    x, y = jax.random.normal(keys[0], (40, 8)), jnp.sign(jax.random.normal(key, (40,)))
    params = memorization.Mixed(
        jax.random.normal(keys[1], (8,)),
        jax.random.normal(keys[2], (6, 8)),
        jax.random.normal(keys[3], (6,)),
        0.5,
    )
    certified = memorization.certified_margin(params, norm, x, y, 0.2)
    attack = attacks.best_of(
        attacks.pgd(
            norm,
            num_steps=20,
            rel_step_size=0.2,
            start=attacks.in_ball(norm),
        ),
        num_restarts=5,
    )
    _, info = attack(key, lambda x, y: -y * memorization.mixed(params, x), x, y, 0.2)
    gap = -info.loss - certified
    assert (gap >= -1e-4).all()
    assert gap.min() < 0.1
    at_zero = memorization.certified_margin(params, norm, x, y, 0.0)
    np.testing.assert_allclose(at_zero, y * memorization.mixed(params, x), atol=1e-5)
    alone = params._replace(a=jnp.zeros(6))
    exact = y * (x @ params.w0) - 0.2 * norm.dual(params.w0)
    found = memorization.certified_margin(alone, norm, x, y, 0.2)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_the_separable_mixture_has_its_margins(key):
    target = norms.l2.steepest(jnp.arange(1.0, 51))
    x, y, is_small = data.separable(
        key, 4000, target, small_share=0.2, large=10.0, small=0.5
    )
    np.testing.assert_allclose(
        y * (x @ target), jnp.where(is_small, 0.5, 10.0), atol=1e-4
    )
    np.testing.assert_allclose(is_small.mean(), 0.2, atol=0.03)
    np.testing.assert_allclose(y.mean(), 0, atol=0.06)
    noise = x - jnp.outer(x @ target, target)
    cov = noise.T @ noise / 4000
    np.testing.assert_allclose(cov, jnp.eye(50) - jnp.outer(target, target), atol=0.12)
    np.testing.assert_allclose(jnp.trace(cov), 49, rtol=0.01)


# --- plain input, shapes and negative radii ---


def _simple(x):
    return jnp.stack([x[:, 0], -x[:, 0], x[:, 1]], axis=1)


CENTRES = np.array([[0.0, 0.0], [1.0, 1.0]])
TARGETS = np.array([[1, 0, 0], [0, 0, 1]])
POINTS = np.array([[0.05, 0.0], [0.5, 0.5], [1.0, 1.08]])


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, lambda a: a.tolist()])
def test_memorised_lists_and_arrays_of_numpy_are_plain_input(convert):
    centres, targets, x = (convert(array) for array in (CENTRES, TARGETS, POINTS))
    f_adv = memorization.classifier(_simple, norms.linf, centres, targets, 0.1)
    expected = [[1, 0, 0], [0.5, -0.5, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(f_adv(jnp.asarray(x)), expected, atol=1e-6)
    apart = memorization.distances(norms.linf, x, centres)
    np.testing.assert_allclose(apart, [[0.05, 1], [0.5, 0.5], [1.08, 0.08]], atol=1e-6)
    found = memorization.separation(
        norms.linf, x, [0, 0, 1], centres, convert(np.arange(2))
    )
    np.testing.assert_allclose(found, [1, 0.5, 1.08], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int8])
def test_distances_of_integers_do_not_wrap_around(dtype):
    x, centres = np.array([[1, 5]], dtype), np.array([[3, 2], [100, 5]], dtype)
    for convert in (np.asarray, jnp.asarray):
        apart = memorization.distances(norms.l1, convert(x), convert(centres))
        np.testing.assert_allclose(apart, [[5, 99]])
        reach = memorization.reach(norms.l1, convert(x), 99)
        assert 99 < reach[0] < 99.001
        inside = memorization.is_inside(norms.l1, convert(x), convert(centres), 5)
        np.testing.assert_array_equal(inside, [[True, False]])


def test_norms_of_the_memory_pass_through_jit_and_vmap():
    args = jnp.asarray(POINTS), jnp.asarray(CENTRES)
    for norm in NORMS.values():
        apart = jax.jit(memorization.distances)(norm, *args)
        np.testing.assert_allclose(apart, memorization.distances(norm, *args))
        inside = jax.vmap(memorization.is_inside, (None, None, None, 0))(
            norm, *args, jnp.array([0.1, 0.6])
        )
        assert inside.shape == (2, 3, 2)
        labels = jnp.arange(3), jnp.arange(2)
        found = jax.jit(memorization.separation)(
            norm, args[0], labels[0], args[1], labels[1]
        )
        assert found.shape == (3,)
    params = memorization.memorize(jnp.ones(2), args[0], jnp.ones(3), 0.5)
    slope = jax.grad(
        lambda x: memorization.certified_margin(
            params, norms.l2, x, jnp.ones(3), 0.1
        ).sum()
    )(args[0])
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("length", [1, 2, 4])
def test_labels_that_would_broadcast_are_refused(length):
    x, y = jnp.asarray(POINTS), np.ones(length)
    params = memorization.memorize(jnp.ones(2), x, jnp.ones(3), 0.5)
    for function in (
        lambda: memorization.separation(norms.l2, x, y, x, jnp.ones(3)),
        lambda: memorization.separation(norms.l2, x, jnp.ones(3), x, y),
        lambda: memorization.separation(norms.l2, x, jnp.ones((3, 1)), x, jnp.ones(3)),
        lambda: memorization.certified_margin(params, norms.l2, x, y, 0.1),
        lambda: memorization.memorize(jnp.ones(2), x, y, 0.5),
    ):
        with pytest.raises(ValueError, match="give one for each"):
            function()
    with pytest.raises(ValueError, match="one entry of each"):
        memorization.classifier(_simple, norms.l2, x, np.ones((length, 3)), 0.1)


def test_memorised_shapes_that_would_broadcast_are_refused():
    x, centres, targets = map(jnp.asarray, (POINTS, CENTRES, TARGETS))
    for other in (centres[:, :1], centres[0], jnp.ones((2, 2, 1))):
        for function in (
            lambda other=other: memorization.distances(norms.l2, x, other),
            lambda other=other: memorization.is_inside(norms.l2, other, x, 0.1),
            lambda other=other: memorization.separation(
                norms.l2, x, jnp.ones(3), other, jnp.ones(2)
            ),
        ):
            with pytest.raises(ValueError, match=r"shapes x .*, centres "):
                function()
    for wrong in (targets[:, :1], targets[:, 0], targets[:, :, None]):
        f_adv = memorization.classifier(_simple, norms.l2, centres, wrong, 0.1)
        with pytest.raises(ValueError, match="a target like an output"):
            f_adv(x)
    params = memorization.Mixed(jnp.ones(2), jnp.ones((3, 2)), jnp.ones(3), 0.5)
    for wrong in (
        params._replace(a=jnp.ones(1)),
        params._replace(b=jnp.ones(3)),
        params._replace(w=jnp.ones((3, 1))),
        params._replace(w0=jnp.ones(1)),
    ):
        with pytest.raises(ValueError, match=r"give w0\[d\], w\[m, d\]"):
            memorization.mixed(wrong, x)
        with pytest.raises(ValueError, match=r"give w0\[d\], w\[m, d\]"):
            memorization.certified_margin(wrong, norms.l2, x, jnp.ones(3), 0.1)


@pytest.mark.parametrize("jit", [False, True])
def test_negative_radii_of_the_memory_give_nan(jit):
    x, centres, targets = map(jnp.asarray, (POINTS, CENTRES, TARGETS))
    params = memorization.memorize(jnp.ones(2), x, jnp.ones(3), 0.5)

    def everything(eps):
        f_adv = memorization.classifier(_simple, norms.l2, centres, targets, eps)
        return (
            f_adv(x),
            memorization.reach(norms.l2, x, eps),
            memorization.certified_margin(params, norms.l2, x, jnp.ones(3), eps),
        )

    found = (jax.jit(everything) if jit else everything)(-0.1)
    assert all(jnp.isnan(leaf).all() for leaf in found)
    # Also where the radius is smaller than rounding.
    assert all(jnp.isnan(leaf).all() for leaf in everything(-1e-9))
    assert not memorization.is_inside(norms.l2, centres, centres, -1e-9).any()
    assert all(jnp.isfinite(leaf).all() for leaf in everything(0.0))


def test_the_name_of_a_norm_is_no_norm():
    x = jnp.asarray(POINTS)
    for function, *args in (
        (memorization.distances, x, x),
        (memorization.is_inside, x, x, 0.1),
        (memorization.reach, x, 0.1),
        (memorization.separation, x, jnp.ones(3), x, jnp.ones(3)),
    ):
        with pytest.raises(ValueError, match="norm = 'linf': choose norms"):
            function("linf", *args)
    with pytest.raises(ValueError, match="norm = 'linf': choose norms"):
        memorization.classifier(_simple, "linf", x, jnp.ones((3, 3)), 0.1)
