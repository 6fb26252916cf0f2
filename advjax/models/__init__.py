"""Networks behind ``Model(init, apply)``, and adapters for networks written elsewhere.

    model = models.make("mlp", num_classes=10, hidden=(128,))
    params, batch_stats = model.init(key, x)
    logits, _ = model.apply(params, batch_stats, x, train=False)

Images are ``[n, h, w, c]`` with entries in [0, 1], normalised inside the network:

    model = models.make(
        "preactresnet18", num_classes=10, **models.NORMALISATION["cifar10"]
    )

To attack a trained network no adapter is needed: any ``predict(x)`` makes a loss
``lambda x, y: losses.cross_entropy(predict(x), y)``. The adapters are for training.
"""

import dataclasses
import difflib
from functools import partial

import flax.linen as nn

from advjax.models.adapters import from_function, from_linen, from_nnx
from advjax.models.cnn import (
    VGG11,
    AlexNet,
    ClassicLeNet5,
    LeNet5,
    PlainCNN,
    ResCNN,
    WongCNN,
)
from advjax.models.layers import kaiming_normal, relu_softplus, torch_uniform
from advjax.models.memorizing import Memorizing, levels, memorizing_params
from advjax.models.mlp import MLP
from advjax.models.preact import PreActResNet, WideResNet34
from advjax.models.resnet import Bottleneck, ResNet, ResNet9
from advjax.types import Model

__all__ = [
    "MLP",
    "NORMALISATION",
    "Memorizing",
    "from_function",
    "from_linen",
    "from_nnx",
    "levels",
    "make",
    "memorizing_params",
    "module",
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

_CONSTRUCTORS = {
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
    "wideresnet34": WideResNet34,
}


def make(name: str, *, num_classes: int, **options) -> Model:
    """The network called ``name``; ``options`` are attributes of its linen module.

    Raises:
        ValueError: for an unknown name or option.
    """
    return from_linen(module(name, num_classes=num_classes, **options))


def module(name: str, *, num_classes: int, **options) -> nn.Module:
    """As ``make``, the linen module itself, to be a part of another one."""
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
