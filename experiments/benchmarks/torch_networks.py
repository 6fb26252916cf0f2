"""Torch twins of networks, with the same weights, and PGD as one writes it by hand.

Images are ``[n, c, h, w]`` there, kernels ``[out, in, i, j]``, and flattened entries in
the order c, h, w, where ours are ``[n, h, w, c]``, ``[i, j, in, out]`` and h, w, c.
A twin is made from the arrays of its network alone.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from advjax.types import Params


def twin(name: str, params: Params, batch_stats: Params) -> nn.Module:
    """The same function in torch, in evaluation mode."""
    return _TWINS[name](params, batch_stats).eval()


def images(x: np.ndarray) -> torch.Tensor:
    """``[n, h, w, c]`` as ``[n, c, h, w]``."""
    return _tensor(np.transpose(x, (0, 3, 1, 2)))


def pgd(network, x, y, eps: float, num_steps: int, rel_step_size: float):
    """``attacks.pgd`` in linf and [0, 1], without a random start."""
    x_adv = x
    for _ in range(num_steps):
        x_adv = x_adv.detach().requires_grad_()
        loss = F.cross_entropy(network(x_adv), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, x_adv)
        stepped = torch.add(x_adv.detach(), g.sign_(), alpha=rel_step_size * eps)
        x_adv = stepped.sub_(x).clamp_(-eps, eps).add_(x).clamp_(0, 1)
    return x_adv


class _MLP(nn.Sequential):
    def __init__(self, params, batch_stats):
        del batch_stats  # one channel: the orders of flattened entries are the same
        dense = [_linear(params[f"Dense_{i}"]) for i in range(len(params))]
        hidden = [layer for linear in dense[:-1] for layer in (linear, _relu())]
        super().__init__(nn.Flatten(), *hidden, dense[-1])


class _LeNet5(nn.Sequential):
    def __init__(self, params, batch_stats):
        del batch_stats
        convolutions = []
        for i in range(2):
            conv = _conv(params[f"Conv_{i}"], padding=1)
            convolutions += [conv, _relu(), nn.MaxPool2d(2)]
        super().__init__(*convolutions, *_dense_layers(params, sides=(7, 7)))


class _WongCNN(nn.Sequential):
    def __init__(self, params, batch_stats):
        del batch_stats
        convolutions = []
        for i in range(2):
            conv = _conv(params[f"Conv_{i}"], stride=2, padding=1)
            convolutions += [conv, _relu()]
        super().__init__(*convolutions, *_dense_layers(params, sides=(7, 7)))


class _PreActResNet(nn.Module):
    def __init__(self, params, batch_stats):
        super().__init__()
        self.conv = _conv(params["Conv_0"], padding=1)
        names = [f"PreActBlock_{i}" for i in range(8)]
        self.blocks = nn.Sequential(
            *[_PreActBlock(params[name], batch_stats[name]) for name in names]
        )
        self.norm = _norm(params["BatchNorm_0"], batch_stats["BatchNorm_0"])
        self.dense = _linear(params["Dense_0"])

    def forward(self, x):
        x = F.relu(self.norm(self.blocks(self.conv(x))), inplace=True)
        return self.dense(x.mean((2, 3)))


class _PreActBlock(nn.Module):
    def __init__(self, params, batch_stats):
        super().__init__()
        norms = ("BatchNorm_0", "BatchNorm_1")
        self.norm0, self.norm1 = (_norm(params[n], batch_stats[n]) for n in norms)
        stride = 2 if "Conv_2" in params else 1  # as in PreActResNet18
        self.conv0 = _conv(params["Conv_0"], stride=stride, padding=1)
        self.conv1 = _conv(params["Conv_1"], padding=1)
        self.shortcut = None
        if "Conv_2" in params:
            self.shortcut = _conv(params["Conv_2"], stride=stride)

    def forward(self, x):
        active = F.relu(self.norm0(x), inplace=True)
        y = F.relu(self.norm1(self.conv0(active)), inplace=True)
        return self.conv1(y) + (self.shortcut(active) if self.shortcut else x)


def _relu():
    return nn.ReLU(inplace=True)


def _dense_layers(params, sides):
    """Flattening and two dense layers; ``sides`` are those of the flattened images."""
    hidden, output = _linear(params["Dense_0"]), _linear(params["Dense_1"])
    kernel = np.asarray(params["Dense_0"]["kernel"])
    kernel = kernel.reshape(*sides, -1, kernel.shape[1])
    kernel = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[3], -1)
    _set(hidden.weight, kernel)
    return nn.Flatten(), hidden, _relu(), output


def _linear(params):
    layer = nn.Linear(*params["kernel"].shape)
    _set(layer.weight, params["kernel"].T)
    _set(layer.bias, params["bias"])
    return layer


def _conv(params, **options):
    size, _, channels, features = params["kernel"].shape
    layer = nn.Conv2d(channels, features, size, bias="bias" in params, **options)
    _set(layer.weight, np.asarray(params["kernel"]).transpose(3, 2, 0, 1))
    if "bias" in params:
        _set(layer.bias, params["bias"])
    return layer


def _norm(params, batch_stats):
    layer = nn.BatchNorm2d(params["scale"].size)
    _set(layer.weight, params["scale"])
    _set(layer.bias, params["bias"])
    _set(layer.running_mean, batch_stats["mean"])
    _set(layer.running_var, batch_stats["var"])
    return layer


def _tensor(array):
    return torch.from_numpy(np.array(array))  # a copy, which torch may write to


def _set(tensor, array):
    with torch.no_grad():
        tensor.copy_(_tensor(array))


_TWINS = {
    "mlp": _MLP,
    "lenet5": _LeNet5,
    "cnn_wong": _WongCNN,
    "preactresnet18": _PreActResNet,
}
