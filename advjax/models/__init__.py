"""Networks behind ``Model(init, apply)``, and adapters for networks written elsewhere.

    model = models.make("mlp", num_classes=10, hidden=(128,))
    params, batch_stats = model.init(key, x)
    logits = model.predict(params, batch_stats, x)

Images are ``[n, h, w, c]`` with entries in [0, 1], normalised inside the network:

    model = models.make(
        "preactresnet18", num_classes=10, **models.NORMALISATION["cifar10"]
    )

To attack a trained network no adapter is needed: any ``predict(x)`` makes a loss
``lambda x, y: losses.cross_entropy(predict(x), y)``. The adapters are for training:

    models.from_linen(Net(), mode="is_train")
    models.from_nnx(lambda rngs: Net(rngs))
    models.from_equinox(lambda key: Net(key))
    models.from_function(init, predict)
"""

import dataclasses
import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from advjax import arguments
from advjax.models.cnn import (
    VGG11,
    AlexNet,
    ClassicLeNet5,
    LeNet5,
    PlainCNN,
    ResCNN,
    WongCNN,
)
from advjax.models.equinox import equinox_state, from_equinox
from advjax.models.functions import from_function
from advjax.models.layers import kaiming_normal, relu_softplus, torch_uniform
from advjax.models.linen import from_linen
from advjax.models.memorizing import Memorizing
from advjax.models.mlp import MLP
from advjax.models.nnx import from_nnx, nnx_state
from advjax.models.preact import PreActResNet, WideResNet
from advjax.models.resnet import Bottleneck, ResNet, ResNet9
from advjax.types import Model

__all__ = [
    "MLP",
    "NORMALISATION",
    "Memorizing",
    "equinox_state",
    "from_equinox",
    "from_function",
    "from_linen",
    "from_nnx",
    "make",
    "module",
    "nnx_state",
    "relu_softplus",
]

NORMALISATION = {
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)},
    "cifar100": {
        "mean": (0.50708, 0.48655, 0.44092),
        "std": (0.26733, 0.25644, 0.27615),
    },
    "svhn_cropped": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}
"""Options ``mean`` and ``std`` by data set, as in the code of Rice et al. (2020)."""

_bias_free_mlp = partial(MLP, use_bias=False, kernel_init=kaiming_normal)

_CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "cnn3": partial(PlainCNN, widths=(16, 32)),
    "cnn4": partial(PlainCNN, widths=(16, 32, 64)),
    "cnn5": partial(PlainCNN, widths=(16, 32, 64, 64)),
    "cnn_fc": partial(LeNet5, width=128),
    "cnn_wong": WongCNN,
    "lenet5": LeNet5,
    "lenet5_classic": ClassicLeNet5,
    "mlp": MLP,
    "mlp3": partial(_bias_free_mlp, hidden=(1024, 256)),
    "mlp4": partial(_bias_free_mlp, hidden=(1024, 256, 128)),
    "mlp5": partial(_bias_free_mlp, hidden=(1024, 256, 128, 64)),
    "mlp_1024": partial(MLP, hidden=(1024,), kernel_init=torch_uniform, bias_init=None),
    "preactresnet18": PreActResNet,
    "rescnn3": partial(ResCNN, num_blocks=1),
    "rescnn4": partial(ResCNN, num_blocks=2),
    "rescnn5": partial(ResCNN, num_blocks=3),
    "rescnn10": partial(ResCNN, num_blocks=8),
    "resnet18": ResNet,
    "resnet50": partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3)),
    "resnet9": ResNet9,
    "vgg11": VGG11,
    "wideresnet28": partial(WideResNet, depth=28),
    "wideresnet34": WideResNet,
    "wideresnet70": partial(WideResNet, depth=70, width=16),
}


def make(name: str, *, num_classes: int, **options: Any) -> Model:
    """The network called ``name``; ``options`` are attributes of its linen module.

    Raises:
        ValueError: for an unknown name or option, and for no classes.
    """
    return from_linen(module(name, num_classes=num_classes, **options))


def module(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Like ``make``, but returns the linen module, for use inside another module."""
    num_classes = arguments.count("num_classes", num_classes)
    if name not in _CONSTRUCTORS:
        raise ValueError(f"model = {name!r}: {_choose(name, _CONSTRUCTORS)}")
    constructor = _CONSTRUCTORS[name]
    choices = _options(constructor)
    for option in options:
        if option not in choices:
            msg = f"{option}: no option of the model {name}; {_choose(option, choices)}"
            raise ValueError(msg)
    return constructor(num_classes=num_classes, **options)


def _options(constructor):
    kind = getattr(constructor, "func", constructor)
    fields = {field.name for field in dataclasses.fields(kind)}
    return fields - {"num_classes", "parent", "name"}


def _choose(value, choices):
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choose from {', '.join(sorted(choices))}"
