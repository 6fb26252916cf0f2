"""The networks and their layers, against explicit forward passes in NumPy."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models
from advjax.models import layers

RNG = np.random.default_rng(0)
MNIST, CIFAR, TINY = (28, 28, 1), (32, 32, 3), (8, 8, 3)


def _images(shape, n=3):
    return jnp.asarray(np.random.default_rng(1).random((n, *shape)), jnp.float32)


def _shapes(model, shape):
    x = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    logits, _ = jax.eval_shape(lambda *a: model.apply(*a, train=False), *variables, x)
    return variables, logits


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _apply(model, params, stats, x, *, train):
    return jax.jit(lambda *args: model.apply(*args, train=train))(params, stats, x)


# --- forward passes in NumPy ---


def _conv(x, p, stride=1, padding=0):
    kernel = p["kernel"]
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    size = kernel.shape[0]
    h, w = ((side - size) // stride + 1 for side in x.shape[1:3])
    y = np.zeros((len(x), h, w, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            window = x[:, i : i + h * stride : stride, j : j + w * stride : stride]
            y += window @ kernel[i, j]
    return y + p.get("bias", 0.0)


def _bn(x, p, s):
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def _conv_bn(x, p, s, i, stride=1, padding=1):
    y = _conv(x, p[f"Conv_{i}"], stride, padding)
    return _bn(y, p[f"BatchNorm_{i}"], s[f"BatchNorm_{i}"])


def _pool(x):
    h, w = (side // 2 * 2 for side in x.shape[1:3])
    return np.max([x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)], axis=0)


def _relu(x):
    return np.maximum(x, 0.0)


def _dense(x, p):
    return x.reshape(len(x), -1) @ p["kernel"] + p.get("bias", 0.0)


def _mlp(x, p, _):
    for i in range(len(p) - 1):
        x = _relu(_dense(x, p[f"Dense_{i}"]))
    return _dense(x, p[f"Dense_{len(p) - 1}"])


def _then_mlp(x, p, s):
    return _mlp(x, {name: q for name, q in p.items() if "Dense" in name}, s)


def _cnn(x, p, s):
    for i in range(len(p) - 1):
        x = _relu(_conv(x, p[f"Conv_{i}"], 2 if i < 2 else 1, 1))
    return _then_mlp(x, p, s)


def _rescnn(x, p, s):
    x = _relu(_conv(x, p["Conv_0"], 2, 1))
    for i in range(1, len(p) - 1):
        x = _relu(_conv(x, p[f"Conv_{i}"], 1, 1) + x)
    return _then_mlp(x, p, s)


def _wong(x, p, s):
    x = _relu(_conv(x, p["Conv_0"], 2, 1))
    return _then_mlp(_relu(_conv(x, p["Conv_1"], 2, 1)), p, s)


def _lenet5(x, p, s):
    x = _pool(_relu(_conv(x, p["Conv_0"], 1, 1)))
    return _then_mlp(_pool(_relu(_conv(x, p["Conv_1"], 1, 1))), p, s)


def _classic(x, p, s):
    x = _pool(_relu(_conv(x, p["Conv_0"], 1, 2)))
    return _then_mlp(_pool(_relu(_conv(x, p["Conv_1"]))), p, s)


def _alexnet(x, p, s):
    x = _pool(_relu(_conv(x, p["Conv_0"], 2, 1)))
    x = _pool(_relu(_conv(x, p["Conv_1"], 1, 2)))
    for i in (2, 3, 4):
        x = _relu(_conv(x, p[f"Conv_{i}"], 1, 1))
    return _then_mlp(_pool(x), p, s)


def _vgg11(x, p, s):
    for i in range(8):
        x = _relu(_conv(x, p[f"Conv_{i}"], 1, 1))
        if i in (0, 1, 3, 5, 7):
            x = _pool(x)
    return _then_mlp(x, p, s)


def _preact(depth):
    def forward(x, p, s):
        x = _conv(x, p["Conv_0"], 1, 1)
        for i in range(sum("Block" in name for name in p)):
            q, t = p[f"PreActBlock_{i}"], s[f"PreActBlock_{i}"]
            stride = 2 if i > 0 and i % depth == 0 else 1
            changes = i % depth == 0 and x.shape[-1] != len(q["BatchNorm_1"]["bias"])
            assert ("Conv_2" in q) == changes
            active = _relu(_bn(x, q["BatchNorm_0"], t["BatchNorm_0"]))
            y = _conv(active, q["Conv_0"], stride, 1)
            y = _relu(_bn(y, q["BatchNorm_1"], t["BatchNorm_1"]))
            y = _conv(y, q["Conv_1"], 1, 1)
            x = y + (_conv(active, q["Conv_2"], stride) if changes else x)
        x = _relu(_bn(x, p["BatchNorm_0"], s["BatchNorm_0"]))
        return _dense(x.mean((1, 2)), p["Dense_0"])

    return forward


def _resnet18(x, p, s):
    x = _relu(_conv_bn(x, p, s, 0))
    for i, stride in enumerate((1, 1, 2)):
        q, t = p[f"BasicBlock_{i}"], s[f"BasicBlock_{i}"]
        y = _conv_bn(_relu(_conv_bn(x, q, t, 0, stride)), q, t, 1)
        x = _relu(y + (_conv_bn(x, q, t, 2, 2, 0) if i == 2 else x))
    return _dense(x.mean((1, 2)), p["Dense_0"])


def _resnet50(x, p, s):
    x = _relu(_conv_bn(x, p, s, 0))
    for i, stride in enumerate((1, 1, 2)):
        q, t = p[f"Bottleneck_{i}"], s[f"Bottleneck_{i}"]
        y = _relu(_conv_bn(x, q, t, 0, 1, 0))
        y = _conv_bn(_relu(_conv_bn(y, q, t, 1, stride)), q, t, 2, 1, 0)
        x = _relu(y + (x if i == 1 else _conv_bn(x, q, t, 3, stride, 0)))
    return _dense(x.mean((1, 2)), p["Dense_0"])


def _resnet9(x, p, s):
    def layer(x, i):
        return _relu(_conv_bn(x, p, s, i))

    x = _pool(layer(layer(x, 0), 1))
    x = x + layer(layer(x, 2), 3)
    x = _pool(layer(_pool(layer(x, 4)), 5))
    x = x + layer(layer(x, 6), 7)
    return 0.125 * _dense(x.max((1, 2)), p["Dense_0"])


# --- all networks ---

# The input shape; the number of parameters for it and 10 classes, as published or by
# hand; and, for the forward pass, options and a shape that make it cheap.
_VGG_CONVS = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 768 + 512 * 1536) + 2752
_ALEX_CONVS = (
    28 * 64 + (25 * 64 + 1) * 192 + (9 * 192 + 1) * 384 + (9 * 640 + 2) * 256
)  # fmt: skip
_STAGES = {"depths": (2, 1), "widths": (3, 4)}
NETWORKS = {
    "alexnet": (
        CIFAR,
        _ALEX_CONVS + 1025 * 4096 + 4097 * 4096 + 4097 * 10,
        {"hidden": (8, 7)},
        CIFAR,
        _alexnet,
    ),
    "cnn3": (MNIST, 9 * 16 + 144 * 32 + 49 * 320, {}, MNIST, _cnn),
    "cnn4": (MNIST, 9 * 16 + 144 * 32 + 288 * 64 + 49 * 640, {}, MNIST, _cnn),
    "cnn5": (MNIST, 9 * 16 + 144 * 32 + 864 * 64 + 49 * 640, {}, MNIST, _cnn),
    "cnn_fc": (
        MNIST,
        10 * 32 + 289 * 64 + 3137 * 128 + 129 * 10,
        {"width": 16},
        MNIST,
        _lenet5,
    ),
    "cnn_wong": (MNIST, 17 * 16 + 257 * 32 + 1569 * 100 + 101 * 10, {}, MNIST, _wong),
    "lenet5": (MNIST, 10 * 32 + 289 * 64 + 3137 * 200 + 201 * 10, {}, MNIST, _lenet5),
    "lenet5_classic": (MNIST, 61_706, {}, CIFAR, _classic),
    "mlp": (MNIST, 785 * 128 + 129 * 10, {"hidden": (9, 8)}, MNIST, _mlp),
    "mlp3": (MNIST, 784 * 1024 + 1024 * 256 + 2560, {}, TINY, _mlp),
    "mlp4": (MNIST, 784 * 1024 + 1024 * 256 + 256 * 128 + 1280, {}, TINY, _mlp),
    "mlp5": (
        MNIST,
        784 * 1024 + 1024 * 256 + 256 * 128 + 128 * 64 + 640,
        {},
        TINY,
        _mlp,
    ),
    "mlp_1024": (MNIST, 785 * 1024 + 1025 * 10, {}, MNIST, _mlp),
    "preactresnet18": (CIFAR, 11_172_170, {"widths": (3, 4)}, TINY, _preact(2)),
    "rescnn3": (MNIST, 9 * 32 + 288 * 32 + 14**2 * 320, {}, MNIST, _rescnn),
    "rescnn4": (MNIST, 9 * 32 + 2 * 288 * 32 + 14**2 * 320, {}, MNIST, _rescnn),
    "rescnn5": (MNIST, 9 * 32 + 3 * 288 * 32 + 14**2 * 320, {}, MNIST, _rescnn),
    "rescnn10": (MNIST, 9 * 32 + 8 * 288 * 32 + 14**2 * 320, {}, MNIST, _rescnn),
    "resnet18": (CIFAR, 11_173_962, _STAGES, TINY, _resnet18),
    "resnet50": (CIFAR, 23_520_842, _STAGES, TINY, _resnet50),
    "resnet9": (CIFAR, 6_573_120, {}, (16, 16, 3), _resnet9),
    "vgg11": (
        CIFAR,
        _VGG_CONVS + 513 * 4096 + 4097 * 4096 + 4097 * 10,
        {"hidden": (8, 7)},
        CIFAR,
        _vgg11,
    ),
    "wideresnet28": (CIFAR, 36_479_194, {"width": 2}, TINY, _preact(4)),
    "wideresnet34": (CIFAR, 46_160_474, {"width": 2}, TINY, _preact(5)),
    "wideresnet70": (CIFAR, 266_796_506, {"width": 1}, TINY, _preact(11)),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def test_every_network_is_in_the_table():
    with pytest.raises(ValueError, match="choose from " + ", ".join(sorted(NETWORKS))):
        models.make("", num_classes=10)


@each_network
def test_parameters_and_outputs_have_the_right_shapes(name):
    shape, expected, *_ = NETWORKS[name]
    model = models.make(name, num_classes=10)
    (params, _), _ = _shapes(model, shape)
    assert _count(params) == expected
    for shape in (MNIST, CIFAR):
        _, logits = _shapes(model, shape)
        assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)


def test_width_is_an_option():
    (params, _), _ = _shapes(
        models.make("wideresnet34", num_classes=10, width=1), CIFAR
    )
    assert _count(params) == 466_714
    (params, _), _ = _shapes(models.make("cnn_fc", num_classes=10, width=16), MNIST)
    assert params["Dense_0"]["kernel"].shape == (3136, 16)


def _random(leaf):
    """Values that no initialiser gives: all scales, shifts and statistics differ."""
    if len(leaf.shape) == 1:
        return jnp.asarray(RNG.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    scale = np.sqrt(2 / math.prod(leaf.shape[:-1]))
    return jnp.asarray(scale * RNG.normal(size=leaf.shape), leaf.dtype)


@each_network
def test_logits_are_those_of_an_explicit_forward_pass(name):
    *_, options, shape, forward = NETWORKS[name]
    model, x = models.make(name, num_classes=10, **options), _images(shape)
    variables = jax.tree.map(_random, _shapes(model, shape)[0])

    @jax.jit
    def outputs(x):
        def predict(x):
            return model.predict(*variables, x)

        logits, pullback = jax.vjp(predict, x)
        return logits, pullback(jnp.ones_like(logits).at[:, 1:].set(0.0))[0]

    logits, gradient = outputs(x)
    doubles = jax.tree.map(lambda leaf: np.asarray(leaf, float), (x, *variables))
    expected = forward(*doubles)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=tolerance)
    assert (jnp.abs(gradient).max((1, 2, 3)) > 0).all()
    # In evaluation one example's logits do not depend on the others.
    others, _ = outputs(x.at[1:].set(0.0))
    np.testing.assert_allclose(others[0], logits[0], rtol=1e-5, atol=tolerance)
    assert (others[1] != logits[1]).any()


# --- what all networks share ---


def test_normalisation_inside_is_normalisation_outside():
    constants = models.NORMALISATION["cifar10"]
    assert models.NORMALISATION.keys() == {"cifar10", "cifar100", "svhn_cropped"}
    inside = models.make("cnn3", num_classes=10, **constants)
    plain = models.make("cnn3", num_classes=10)
    x = _images(CIFAR)
    variables = inside.init(jax.random.key(0), x)
    mean, std = (jnp.reshape(jnp.array(v), (1, 1, 1, 3)) for v in constants.values())
    logits = inside.predict(*variables, x)
    expected = plain.predict(*variables, (x - mean) / std)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_constants_for_other_channels_are_refused():
    model = models.make("mlp", num_classes=10, **models.NORMALISATION["svhn_cropped"])
    with pytest.raises(ValueError, match=r"mean = .* the input has 1 channels"):
        model.init(jax.random.key(0), _images(MNIST))


def test_small_images_are_padded_before_the_normalisation():
    options = {"mean": (0.1,), "std": (0.3,), "num_classes": 10}
    padding = models.make("cnn3", min_size=32, **options)
    plain = models.make("cnn3", **options)
    x = _images(MNIST)
    variables = padding.init(jax.random.key(0), x)
    padded = jnp.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    np.testing.assert_array_equal(
        padding.predict(*variables, x),
        plain.predict(*variables, padded),
    )


_SINGLE = {jnp.dtype("float32")}
_ONE_BLOCK = {"depths": (1,), "widths": (8,)}


@pytest.mark.parametrize(
    ("name", "options", "train"),
    [("lenet5", {}, False), ("resnet18", _ONE_BLOCK, True)],
)
def test_bfloat16_is_for_the_computation_only(name, options, train):
    x, rounded = _images(MNIST, 16), jnp.bfloat16
    model = models.make(name, num_classes=10, **options)
    narrow = models.make(name, num_classes=10, dtype=rounded, **options)
    shapes, _ = _shapes(narrow, MNIST)
    variables = jax.tree.map(_random, shapes)
    expected, _ = _apply(model, *variables, x, train=train)
    logits, stats = _apply(narrow, *variables, x, train=train)
    assert {leaf.dtype for leaf in jax.tree.leaves((shapes, stats))} == _SINGLE
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(rounded).astype(jnp.float32)).any()
    error = jnp.abs(logits - expected).max() / jnp.abs(expected).max()
    assert 0 < error < 0.02


@pytest.mark.usefixtures("x64")
def test_double_precision_follows_the_input():
    model = models.make("resnet18", num_classes=10, **_ONE_BLOCK)
    shapes, _ = _shapes(model, TINY)
    x = np.random.default_rng(1).random((4, *TINY))
    variables = jax.tree.map(_random, shapes)
    logits, stats = _apply(model, *variables, x, train=True)
    assert logits.dtype == jnp.float64
    assert {leaf.dtype for leaf in jax.tree.leaves((shapes, stats))} == _SINGLE


def test_statistics_move_only_in_training():
    model, x = models.make("resnet18", num_classes=10, **_ONE_BLOCK), _images(TINY)
    params, stats = jax.tree.map(_random, _shapes(model, TINY)[0])
    _, after = _apply(model, params, stats, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    _, after = _apply(model, params, stats, x, train=True)
    moved = jax.tree.map(lambda a, b: (a != b).all(), after, stats)
    assert all(jax.tree.leaves(moved))


def test_the_activation_is_an_option():
    options = {"num_classes": 10, "widths": (4, 8)}
    plain = models.make("preactresnet18", **options)
    hybrid = models.make("preactresnet18", activation=models.relu_softplus, **options)
    x = _images(TINY)
    variables = jax.tree.map(_random, _shapes(plain, TINY)[0])

    def outputs(model):
        def total(x):
            logits = model.predict(*variables, x)
            return jnp.sum(logits), logits

        return jax.jit(jax.grad(total, has_aux=True))(x)

    gradient, logits = outputs(plain)
    other_gradient, other_logits = outputs(hybrid)
    np.testing.assert_allclose(other_logits, logits, rtol=1e-5)
    assert (jnp.abs(other_gradient - gradient).max((1, 2, 3)) > 0).all()


# --- layers ---


@pytest.mark.parametrize("layer", [layers.Conv(64, 5), layers.Dense(512)])
def test_the_default_initialisation_is_that_of_pytorch(layer):
    x = jnp.zeros((1, 6, 6, 32) if isinstance(layer, layers.Conv) else (1, 800))
    params = layer.init(jax.random.key(0), x)["params"]
    limit = 1 / np.sqrt(800)
    for leaf in params.values():
        assert 0.9 * limit < jnp.abs(leaf).max() <= limit
        deviations = 6 / np.sqrt(leaf.size)
        assert jnp.abs(leaf).mean() == pytest.approx(limit / 2, rel=deviations)
        assert jnp.abs(leaf.mean()) < deviations * limit


@pytest.mark.parametrize(
    ("init", "fan"),
    [(layers.kaiming_normal, 9 * 32), (layers.kaiming_normal_fan_out, 9 * 128)],
)
def test_kaiming_normal_is_normal(init, fan):
    kernel = np.asarray(init(jax.random.key(0), (3, 3, 32, 128))) * np.sqrt(fan / 2)
    assert kernel.std() == pytest.approx(1.0, rel=0.02)
    assert (kernel**4).mean() == pytest.approx(3.0, rel=0.05)
    assert np.abs(kernel).max() > 3


def test_networks_start_as_their_authors_do():
    def init(name, **options):
        model = models.make(name, num_classes=10, **options)
        return model.init(jax.random.key(0, impl="rbg"), _images(TINY))[0]

    params = init("wideresnet34", width=1)
    kernel = params["PreActBlock_14"]["Conv_1"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert not params["Dense_0"]["bias"].any()
    params = init("preactresnet18", widths=(16, 64))
    limit = 1 / np.sqrt(9 * 64)
    kernel = params["PreActBlock_3"]["Conv_1"]["kernel"]
    assert 0.99 * limit < jnp.abs(kernel).max() <= limit
    assert params["Dense_0"]["bias"].any()
    params = init("mlp3")
    kernel = params["Dense_1"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / 1024), rel=0.02)
    params = init("mlp_1024")
    assert jnp.abs(params["Dense_1"]["bias"]).max() <= 1 / np.sqrt(1024)


def _batch_norm():
    norm = layers.BatchNorm()
    x = jnp.asarray(RNG.normal(3.0, 2.0, size=(5, 4, 3, 2)), jnp.float32)
    variables = norm.init(jax.random.key(0), x, train=True)
    assert not variables["batch_stats"]["mean"].any()  # initialising moves nothing
    return norm, x, jax.tree.map(_random, variables)


def test_batch_normalisation_in_training_is_that_of_pytorch():
    norm, x, variables = _batch_norm()
    y, after = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    params, old = (
        jax.tree.map(np.asarray, variables[name]) for name in ("params", "batch_stats")
    )
    entries = np.asarray(x, float).reshape(-1, 2)
    batch = {"mean": entries.mean(0), "var": entries.var(0)}
    expected = _bn(np.asarray(x, float), params, batch)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    batch["var"] = entries.var(0, ddof=1)
    for name, value in after["batch_stats"].items():
        expected = 0.9 * old[name] + 0.1 * batch[name]
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_batch_normalisation_in_evaluation_is_one_multiply_add():
    norm, x, variables = _batch_norm()
    jaxpr = jax.make_jaxpr(lambda x: norm.apply(variables, x, train=False))(x)
    full = [e.primitive.name for e in jaxpr.eqns if e.outvars[0].aval.shape == x.shape]
    assert full == ["mul", "add"]
    params, stats = (
        jax.tree.map(np.asarray, variables[name]) for name in ("params", "batch_stats")
    )
    y = norm.apply(variables, x, train=False)
    np.testing.assert_allclose(y, _bn(np.asarray(x, float), params, stats), rtol=1e-5)
    rounded = x.astype(jnp.bfloat16)
    narrow = norm.apply(variables, rounded, train=False)
    wide = norm.apply(variables, rounded.astype(jnp.float32), train=False)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_one_entry_per_channel_cannot_be_normalised():
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.zeros((1, 3)), train=False)
    with pytest.raises(ValueError, match=r"x.shape = \(1, 3\): .* two entries"):
        norm.apply(variables, jnp.zeros((1, 3)), train=True, mutable=["batch_stats"])


def test_relu_softplus_is_relu_forward_and_softplus_backward():
    x = jnp.asarray([-np.inf, -2.0, -0.1, -0.0, 0.0, 1e-3, 0.2, 5.0, np.inf, np.nan])
    for dtype, bits in ((jnp.float32, np.int32), (jnp.bfloat16, np.int16)):
        expected = np.asarray(nn.relu(x.astype(dtype))).view(bits)
        for forward in (
            layers.relu_softplus,
            jax.jit(layers.relu_softplus),
            jax.vmap(layers.relu_softplus),
            lambda x: jax.vjp(layers.relu_softplus, x)[0],
        ):
            found = np.asarray(forward(x.astype(dtype))).view(bits)
            np.testing.assert_array_equal(found, expected)
    x = x[1:-2]
    slope = 1 / (1 + np.exp(-10 * np.asarray(x, float)))
    cotangent = jnp.arange(1.0, 8.0)
    _, pullback = jax.vjp(jax.jit(layers.relu_softplus), x)
    np.testing.assert_allclose(pullback(cotangent)[0], cotangent * slope, rtol=1e-5)
    _, tangent = jax.jvp(layers.relu_softplus, (x,), (cotangent,))
    np.testing.assert_allclose(tangent, cotangent * slope, rtol=1e-5)
    first = jax.grad(layers.relu_softplus)
    np.testing.assert_allclose(jax.vmap(first)(x), slope, rtol=1e-5)
    curvature = 10 * slope * (1 - slope)
    forward_over_reverse = jax.vmap(lambda x: jax.jvp(first, (x,), (1.0,))[1])
    for second in (jax.vmap(jax.grad(first)), forward_over_reverse):
        np.testing.assert_allclose(jax.jit(second)(x), curvature, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [
        (2, 3, 1, 1),
        (1, 3, 1, 1),
        (2, 1, 1, 0),
        (4, 3, 2, 1),
        (5, 4, 2, 0),
        (2, 1, 2, 0),
    ],
)
def test_convolutions_to_few_positions_are_convolutions(side, size, stride, padding):
    x, kernel = RNG.random((3, side, side, 5)), RNG.random((size, size, 5, 7))
    x, kernel = map(partial(jnp.asarray, dtype=jnp.float32), (x, kernel))
    ours = partial(layers.convolution, stride=stride, padding=padding)
    theirs = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found, pullback = jax.vjp(ours, x, kernel)
    expected, reference = jax.vjp(theirs, x, kernel)
    assert max(found.shape[1:3]) <= 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(pullback(expected), reference(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_max_pooling_and_its_gradient(size):
    x = jnp.asarray(RNG.permutation(2 * 7 * 8 * 3).reshape(2, 7, 8, 3), jnp.float32)
    window = (size, size)
    y, pullback = jax.vjp(lambda x: layers.max_pool(x, size), x)
    expected, reference = jax.vjp(lambda x: nn.max_pool(x, window, window), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pullback(y)[0], reference(y)[0])


def test_the_gradient_of_tied_maxima_is_shared():
    x = jnp.asarray([[1.0, 1.0, 2.0, 0.0], [1.0, 1.0, 2.0, 2.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(x)[0, :, :, 0]
    expected = [[0.25, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.5]]
    np.testing.assert_array_equal(gradient, expected)
