"""Weights under PyTorch's names, against forward passes in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from advjax import models, pytorch, weights

RNG = np.random.default_rng(0)


# --- PyTorch's networks in NumPy: x[n, c, h, w], kernels [out, in, i, j] ---


def _conv(x, kernel, stride=1, padding=0, bias=0.0, after=False):
    """``after`` pads below and on the right only."""
    before = 0 if after else padding
    x = np.pad(x, [(0, 0), (0, 0), (before, padding), (before, padding)])
    size = kernel.shape[2]
    h, w = ((side - size) // stride + 1 for side in x.shape[2:])
    y = np.zeros((len(x), len(kernel), h, w))
    for i in range(size):
        for j in range(size):
            window = x[:, :, i : i + h * stride : stride, j : j + w * stride : stride]
            y += np.einsum("ncij,oc->noij", window, kernel[:, :, i, j])
    return y + np.reshape(bias, (-1, 1, 1))


def _norm(x, arrays, name):
    weight, bias, mean, var = (
        arrays[f"{name}.{each}"].reshape(-1, 1, 1)
        for each in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def _linear(x, arrays, name):
    return x.reshape(len(x), -1) @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def _relu(x):
    return np.maximum(x, 0)


def _silu(x):
    return x / (1 + np.exp(-x))


class _Names:
    """What the parts of pre-activation networks are called."""

    def __init__(self, top, block, first, convs, norms, shortcut):
        self.stem, self.last, self.head = top.split()
        self.block, self.first, self.shortcut = block, first, shortcut
        self.convs, self.norms = convs.split(), norms.split()

    def blocks(self, num_stages, depth=2):
        """Names, and whether they halve the sides."""
        for stage in range(num_stages):
            for i in range(depth):
                yield self.block.format(stage + self.first, i), stage > 0 and i == 0


PREACT = _Names(
    "conv1 bn linear", "layer{}.{}", 1, "conv1 conv2", "bn1 bn2", "shortcut.0"
)
WIDE = _Names(
    "conv1 bn1 fc", "block{}.layer.{}", 1, "conv1 conv2", "bn1 bn2", "convShortcut"
)
DM_PREACT = _Names(
    *("conv_2d batchnorm logits", "layer_{}.{}", 0, "conv_2d_1 conv_2d_2"),
    *("batchnorm_0 batchnorm_1", "shortcut"),
)
DM_WIDE = _Names(
    *("init_conv batchnorm logits", "layer.{}.block.{}", 0, "conv_0 conv_1"),
    *("batchnorm_0 batchnorm_1", "shortcut"),
)


def _random_conv(arrays, name, width, inputs, side):
    scale = (inputs * side * side) ** -0.5
    shape = (width, inputs, side, side)
    arrays[f"{name}.weight"] = scale * RNG.standard_normal(shape)


def _random_norm(arrays, name, width):
    arrays[f"{name}.weight"] = RNG.uniform(0.5, 1.5, width)
    arrays[f"{name}.bias"] = RNG.uniform(-0.5, 0.5, width)
    arrays[f"{name}.running_mean"] = RNG.uniform(-0.5, 0.5, width)
    arrays[f"{name}.running_var"] = RNG.uniform(0.5, 1.5, width)
    arrays[f"{name}.num_batches_tracked"] = np.array(7)


def _random_linear(arrays, name, width, inputs):
    arrays[f"{name}.weight"] = inputs**-0.5 * RNG.standard_normal((width, inputs))
    arrays[f"{name}.bias"] = RNG.standard_normal(width)


def _preact_arrays(names, stem, widths, shortcut=1, ends=True):
    arrays, inputs = {}, stem
    _random_conv(arrays, names.stem, stem, 3, 3)
    for k, (name, is_strided) in enumerate(names.blocks(len(widths))):
        width = widths[k // 2]
        for norm, conv, size in zip(
            names.norms, names.convs, (inputs, width), strict=True
        ):
            _random_norm(arrays, f"{name}.{norm}", size)
            _random_conv(arrays, f"{name}.{conv}", width, size, 3)
        if is_strided or inputs != width:
            place = f"{name}.{names.shortcut}"
            _random_conv(arrays, place, width, inputs, shortcut)
        inputs = width
    if ends:
        _random_norm(arrays, names.last, inputs)
    _random_linear(arrays, names.head, 5, inputs)
    return arrays


def _preact(names, activation, *, of_input=False, after=False, ends=True):
    def forward(x, arrays):
        x = _conv(x, arrays[f"{names.stem}.weight"], 1, 1)
        for name, is_strided in names.blocks(3):
            stride, pads = 1 + is_strided, after and is_strided
            norm1, norm2 = (f"{name}.{each}" for each in names.norms)
            conv1, conv2 = (arrays[f"{name}.{each}.weight"] for each in names.convs)
            active = activation(_norm(x, arrays, norm1))
            y = _conv(active, conv1, stride, 1, after=pads)
            y = _conv(activation(_norm(y, arrays, norm2)), conv2, 1, 1)
            kernel = arrays.get(f"{name}.{names.shortcut}.weight")
            if kernel is not None:
                seen, side = x if of_input else active, kernel.shape[2]
                x = _conv(seen, kernel, stride, side // 2, after=pads)
            x = x + y
        x = activation(_norm(x, arrays, names.last)) if ends else x
        return _linear(x.mean((2, 3)), arrays, names.head)

    return forward


def _resnet_arrays(head, shortcut, number):
    arrays, inputs = {}, 2
    _random_conv(arrays, "conv1", 2, 3, 3)
    _random_norm(arrays, "bn1", 2)
    for stage, width in ((1, 2), (2, 3)):
        out = width * (1 if number == 2 else 4)
        for i in range(2):
            name = f"layer{stage}.{i}"
            sides = (3, 3) if number == 2 else (1, 3, 1)
            ends = [inputs, *[width] * (number - 1), out]
            for k, side in enumerate(sides):
                _random_conv(arrays, f"{name}.conv{k + 1}", ends[k + 1], ends[k], side)
                _random_norm(arrays, f"{name}.bn{k + 1}", ends[k + 1])
            if inputs != out or (stage > 1 and not i):
                _random_conv(arrays, f"{name}.{shortcut}.0", out, inputs, 1)
                _random_norm(arrays, f"{name}.{shortcut}.1", out)
            inputs = out
    _random_linear(arrays, head, 5, inputs)
    return arrays


def _resnet(head, shortcut, number):
    def forward(x, arrays):
        x = _relu(_norm(_conv(x, arrays["conv1.weight"], 1, 1), arrays, "bn1"))
        for stage in (1, 2):
            for i in range(2):
                name, y = f"layer{stage}.{i}", x
                for k in range(1, number + 1):
                    kernel = arrays[f"{name}.conv{k}.weight"]
                    is_strided = k == (1 if number == 2 else 2)
                    stride = 2 if stage > 1 and not i and is_strided else 1
                    y = _conv(y, kernel, stride, kernel.shape[2] // 2)
                    y = _norm(y, arrays, f"{name}.bn{k}")
                    y = _relu(y) if k < number else y
                if f"{name}.{shortcut}.0.weight" in arrays:
                    kernel = arrays[f"{name}.{shortcut}.0.weight"]
                    x = _conv(x, kernel, 2 if stage > 1 else 1)
                    x = _norm(x, arrays, f"{name}.{shortcut}.1")
                x = _relu(x + y)
        return _linear(x.mean((2, 3)), arrays, head)

    return forward


def _wong_cnn(x, arrays):
    """Of Wong et al. for MNIST, an ``nn.Sequential``."""
    for name in ("0", "2"):
        kernel, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
        x = _relu(_conv(x, kernel, 2, 1, bias))
    return _linear(_relu(_linear(x, arrays, "5")), arrays, "7")


def _mlp(x, arrays):
    """Numbered up to 11: names are not in the order of the alphabet."""
    return _linear(
        _relu(_linear(_relu(_linear(x, arrays, "1")), arrays, "3")), arrays, "11"
    )


def _wong_arrays():
    arrays = {}
    for name, width, inputs in (("0", 16, 3), ("2", 32, 16)):
        _random_conv(arrays, name, width, inputs, 4)
        arrays[f"{name}.bias"] = RNG.standard_normal(width)
    _random_linear(arrays, "5", 100, 32 * 2 * 2)
    _random_linear(arrays, "7", 5, 100)
    return arrays


def _mlp_arrays():
    arrays = {}
    for name, width, inputs in (("1", 6, 192), ("3", 7, 6), ("11", 5, 7)):
        _random_linear(arrays, name, width, inputs)
    return arrays


def _module(name, **options):
    return models.module(name, num_classes=5, **options)


def _preact18(**options):
    return _module("preactresnet18", widths=(2, 3, 4), **options)


def _wide(width=2, **options):
    return _module("wideresnet34", depth=16, width=width, **options)


GOWAL = {"form": "deepmind", "activation": nn.silu}
STAGES = {"widths": (2, 3), "depths": (2, 2)}
WIDTHS = (32, 64, 128)
NETWORKS = {
    "rice": (_preact18(), _preact_arrays(PREACT, 2, (2, 3, 4)), _preact(PREACT, _relu)),
    "plain": (
        _preact18(form="plain"),
        _preact_arrays(PREACT, 2, (2, 3, 4), ends=False),
        _preact(PREACT, _relu, ends=False),
    ),
    "wong": (
        _preact18(form="wong"),
        _preact_arrays(PREACT, 2, (2, 3, 4), ends=False),
        _preact(PREACT, _relu, ends=False, of_input=True),
    ),
    "gowal preact": (
        _preact18(**GOWAL),
        _preact_arrays(DM_PREACT, 2, (2, 3, 4), shortcut=3),
        _preact(DM_PREACT, _silu, of_input=True, after=True),
    ),
    "wide": (_wide(), _preact_arrays(WIDE, 16, WIDTHS), _preact(WIDE, _relu)),
    "thin": (_wide(1), _preact_arrays(WIDE, 16, (16, 32, 64)), _preact(WIDE, _relu)),
    "gowal wide": (
        _wide(**GOWAL),
        _preact_arrays(DM_WIDE, 16, WIDTHS),
        _preact(DM_WIDE, _silu, after=True),
    ),
    "resnet": (
        _module("resnet18", **STAGES),
        _resnet_arrays("linear", "shortcut", 2),
        _resnet("linear", "shortcut", 2),
    ),
    "torchvision": (
        _module("resnet18", **STAGES),
        _resnet_arrays("fc", "downsample", 2),
        _resnet("fc", "downsample", 2),
    ),
    "bottleneck": (
        _module("resnet50", **STAGES),
        _resnet_arrays("linear", "shortcut", 3),
        _resnet("linear", "shortcut", 3),
    ),
    "wong cnn": (_module("cnn_wong"), _wong_arrays(), _wong_cnn),
    "mlp": (_module("mlp", hidden=(6, 7)), _mlp_arrays(), _mlp),
}
X = RNG.random((3, 8, 8, 3)).astype(np.float32)


class _Normed(nn.Module):
    """A network of one's own, with normalisation and without blocks."""

    @nn.compact
    def __call__(self, x, train=False):
        for width in (4, 6):
            x = nn.Conv(width, (3, 3), padding=1)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(5)(x.reshape(len(x), -1))


def _normed_arrays():
    """Layers 0, 1 and 3, 4 and 7 of an ``nn.Sequential``."""
    arrays = {}
    for name, width, inputs in (("0", 4, 3), ("3", 6, 4)):
        _random_conv(arrays, name, width, inputs, 3)
        arrays[f"{name}.bias"] = RNG.standard_normal(width)
        _random_norm(arrays, str(int(name) + 1), width)
    _random_linear(arrays, "7", 5, 6 * 8 * 8)
    return arrays


def _normed(x, arrays):
    for name in ("0", "3"):
        kernel, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
        x = _conv(x, kernel, 1, 1, bias)
        x = _relu(_norm(x, arrays, str(int(name) + 1)))
    return _linear(x, arrays, "7")


NETWORKS["own, with normalisation"] = (_Normed(), _normed_arrays(), _normed)


def _single(arrays):
    return {
        name: array.astype(np.float32) if array.dtype == float else array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_those_of_pytorch_and_go_back(name):
    module, arrays, forward = NETWORKS[name]
    expected = forward(X.transpose(0, 3, 1, 2), arrays)
    network = pytorch.load(_single(arrays), module, X, expected=(X, expected))
    found = jax.jit(network.predict)(X)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    back = pytorch.state_dict(network, module, X, like=arrays)
    assert back.keys() == arrays.keys()
    for key, array in _single(arrays).items():
        np.testing.assert_array_equal(back[key], array)


def test_half_precision_is_read_as_single():
    module, arrays, _ = NETWORKS["mlp"]
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    wide = {name: array.astype(np.float32) for name, array in half.items()}
    found, expected = (pytorch.load(each, module, X) for each in (half, wide))
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))


def test_double_precision_is_kept():
    module, arrays, forward = NETWORKS["gowal wide"]
    x = X.astype(float)
    expected = forward(x.transpose(0, 3, 1, 2), arrays)
    with jax.enable_x64(True):
        network = pytorch.load(arrays, module, x)
        found = np.asarray(network.predict(jnp.asarray(x)))
    assert found.dtype == float
    np.testing.assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max())
    refused = pytest.raises(ValueError, match="is of float64: set jax_enable_x64")
    with jax.enable_x64(False), refused:
        pytorch.load(arrays, module, X)


def test_files_prefixes_and_what_no_layer_has_are_read(tmp_path):
    module, arrays, _ = NETWORKS["wide"]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalised = module.clone(mean=mean, std=std)
    stored = {f"module.model.{k}": v for k, v in _single(arrays).items()}
    copies = {k.replace("block1", "sub_block1"): v for k, v in stored.items()}
    stored |= {k: v for k, v in copies.items() if "sub_block1" in k}
    stored["normalize.mean"] = np.array(mean, np.float32).reshape(1, 3, 1, 1)
    stored["normalize.std"] = np.array(std, np.float32).reshape(1, 3, 1, 1)
    save_file(stored, tmp_path / "net.safetensors")
    network = pytorch.load(tmp_path / "net.safetensors", normalised, X)
    plain = pytorch.load(_single(arrays), module, X)
    scaled = (X - np.array(mean, np.float32)) / np.array(std, np.float32)
    np.testing.assert_allclose(
        network.predict(X), plain.predict(scaled), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"mean is \(0.5, 0.4, 0.3\): give the module"):
        pytorch.load(tmp_path / "net.safetensors", module, X)
    back = pytorch.state_dict(network, normalised, X, like=stored)
    for name, array in load_file(tmp_path / "net.safetensors").items():
        np.testing.assert_array_equal(back[name], array)


def test_networks_trained_here_go_there_and_back(tmp_path):
    """Saved here, loaded here, sent to PyTorch and read again: the same function."""
    module, arrays, forward = NETWORKS["rice"]
    model = models.from_linen(module)
    trained = weights.Network(model, *model.init(jax.random.key(0), X))
    weights.save(tmp_path / "net.safetensors", trained)
    loaded = weights.load(tmp_path / "net.safetensors", model, X)
    there = pytorch.state_dict(loaded, module, X, like=arrays)
    wide = {name: array.astype(float) for name, array in there.items()}
    np.testing.assert_allclose(
        trained.predict(X), forward(X.transpose(0, 3, 1, 2), wide), atol=1e-5
    )
    again = pytorch.load(there, module, X)
    np.testing.assert_array_equal(again.predict(X), trained.predict(X))


def _without(name):
    return lambda arrays: {k: v for k, v in arrays.items() if k != name}


WRONG = {
    "another form": (
        *("rice", {"form": "plain"}, dict),
        "bn.bias has no place in the architecture",
    ),
    "no last norm": (
        "plain",
        {"form": "rice"},
        dict,
        "bn.running_mean is missing, and 3",
    ),
    "deepmind's names": (
        *("gowal wide", {"form": "trades"}, dict),
        "names are those of networks of form deepmind, and the module has",
    ),
    "rice's names": (
        *("wide", {"form": "deepmind"}, dict),
        "names are those of networks of form rice or plain or wong or trades",
    ),
    "another width": (
        *("wide", {"width": 3}, dict),
        "bn1.running_mean has shape (128,), which is (128,) here, and batch",
    ),
    "another depth": (
        *("wide", {"depth": 10}, dict),
        "block1.layer.1.bn1.bias has no place in the architecture",
    ),
    "deeper": ("wide", {"depth": 22}, dict, "block1.layer.2.bn1.running_mean is m"),
    "other classes": (
        "rice",
        {"num_classes": 4},
        dict,
        "linear.bias has shape (5,)",
    ),
    "a bias less": (
        "rice",
        {},
        _without("linear.bias"),
        "linear.bias is missing, and 0",
    ),
    "a layer more": (
        *("rice", {}, lambda a: a | {"aux.weight": np.ones(3)}),
        "aux.weight has no place in the architecture",
    ),
    "another stage": (
        *("wide", {}, lambda a: a | {"sub_block2.layer.0.weight": np.ones(3)}),
        "sub_block2.layer.0.weight has no place",
    ),
    "not finite": (
        *("rice", {}, lambda a: a | {"bn.bias": a["bn.bias"] * np.nan}),
        "bn.bias has entries that are not finite",
    ),
    "quantised": (
        *("rice", {}, lambda a: a | {"bn.bias": a["bn.bias"].astype(np.int8)}),
        "bn.bias is of int8: quantised weights are not read",
    ),
    "nothing": ("rice", {}, lambda _: {}, "is missing, and"),
    "an mlp": ("rice", {}, lambda _: NETWORKS["mlp"][1], "is missing, and"),
    "a layer less": (
        *("mlp", {}, _without("3.weight")),
        "params/Dense_2/bias is missing: there are 2 layers of its kind",
    ),
    "no numbers": (
        *("mlp", {}, lambda a: {k.replace("11", "out"): v for k, v in a.items()}),
        "layers of a kind are called # and out: which is first?",
    ),
    "two places": (
        *("mlp", {}, lambda a: {k.replace("11", "head.0"): v for k, v in a.items()}),
        "layers of a kind are called # and head.#: which is first?",
    ),
    "no names": (
        *("mlp", {"hidden": ()}, lambda a: {"w.weight": a["1.weight"]}),
        "w: the names of layers do not say their order",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_networks_are_refused(name):
    network, options, change, phrase = WRONG[name]
    module, arrays, _ = NETWORKS[network]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        pytorch.load(change(_single(arrays)), module.clone(**options), X)
    assert phrase in str(error.value)


def test_another_activation_or_shortcut_shows_in_the_output():
    module, arrays, forward = NETWORKS["wong"]
    expected = forward(X.transpose(0, 3, 1, 2), arrays)
    for options in ({"form": "plain"}, {"activation": nn.silu}, {"mean": (0.5,) * 3}):
        with pytest.raises(ValueError, match="outputs differ by up to"):
            pytorch.load(
                _single(arrays), module.clone(**options), X, expected=(X, expected)
            )
    with pytest.raises(ValueError, match=r"shape \(3, 5\), and \(3, 4\) was expected"):
        pytorch.load(_single(arrays), module, X, expected=(X, expected[:, :4]))


def test_files_of_other_kinds_are_refused(tmp_path):
    module, *_ = NETWORKS["mlp"]
    with pytest.raises(FileNotFoundError, match="there is no file"):
        pytorch.load(tmp_path / "nothing.safetensors", module, X)
    for content in (b"", b"\x80\x04\x95", b"PK\x03\x04" + bytes(30)):
        (tmp_path / "net.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"write it by safetensors\.torch"):
            pytorch.load(tmp_path / "net.pt", module, X)
    with pytest.raises(ValueError, match="is no linen module: give an instance"):
        pytorch.load({}, models.make("mlp", num_classes=2), X)


def test_forms_and_depths_that_there_are_not_are_refused():
    for name, options in (
        ("preactresnet18", {"form": "trades"}),
        ("wideresnet34", {"form": "rice"}),
        ("wideresnet34", {"depth": 30}),
    ):
        with pytest.raises(ValueError, match="choose"):
            models.make(name, num_classes=2, **options).init(jax.random.key(0), X)
