"""Networks of RobustBench's definitions, by ``advjax.pytorch``, against torch.

Weights are random, statistics and normalisation too, so that no layer hides another.
Logits for ten images, in float32 and float64, relative to the largest without its bias,
which is chosen so that no class is a favourite; accuracy for the labels that torch
gives, under PGD-5 from the clean input in both, at a radius that breaks some of them;
and the weights back, which must be equal bit by bit.

    JAX_ENABLE_X64=1 python -m experiments.benchmarks.pytorch_weights
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import torch

from advjax import attacks, criteria, losses, models, norms, pytorch
from advjax.weights import Network
from experiments.benchmarks import torch_networks

NUM_STEPS, REL_STEP_SIZE = 5, 0.25
_HEADS = "fc.bias", "linear.bias", "logits.bias"
# Torch's buffers are numbers of single precision.
_NORMALISED = {
    option: tuple(float(np.float32(each)) for each in values)
    for option, values in models.NORMALISATION["cifar10"].items()
}


def _architectures(name: str) -> ModuleType:
    """A file of RobustBench's networks, without the packages of its others."""
    found = importlib.util.find_spec("robustbench")
    if found is None or found.origin is None:
        sys.exit("install advjax[benchmarks]")
    path = Path(found.origin).parent / "model_zoo" / "architectures" / f"{name}.py"
    module = ModuleType(name)
    exec(compile(path.read_text(), path, "exec"), vars(module))  # noqa: S102
    return module


def pairs() -> dict[str, tuple[Callable[[], Any], nn.Module]]:
    """Networks by their names, in torch and here."""
    resnet, wide = _architectures("resnet"), _architectures("wide_resnet")
    deepmind = _architectures("dm_wide_resnet")

    def preact(block, **options):
        return lambda: resnet.PreActResNet(block, [2, 2, 2, 2], **options)

    def dm(kind, activation=torch.nn.SiLU, **options):
        return lambda: kind(activation_fn=activation, **options)

    def ours(name, **options):
        return models.module(name, num_classes=10, **options)

    of_dm = {"form": "deepmind", "activation": nn.silu, **_NORMALISED}
    return {
        "ResNet18": (resnet.ResNet18, ours("resnet18")),
        "ResNet50": (resnet.ResNet50, ours("resnet50")),
        "PreActResNet18, Rice": (
            preact(resnet.PreActBlockV2, bn_before_fc=True),
            ours("preactresnet18"),
        ),
        "PreActResNet18, plain": (
            preact(resnet.PreActBlockV2),
            ours("preactresnet18", form="plain"),
        ),
        "PreActResNet18, Wong": (
            preact(resnet.PreActBlock),
            ours("preactresnet18", form="wong"),
        ),
        "PreActResNet18, Gowal, SiLU": (
            dm(deepmind.DMPreActResNet),
            ours("preactresnet18", **of_dm),
        ),
        "WideResNet-28-10": (
            lambda: wide.WideResNet(28, widen_factor=10, sub_block1=True),
            ours("wideresnet28"),
        ),
        "WideResNet-34-10": (
            lambda: wide.WideResNet(34, widen_factor=10),
            ours("wideresnet34"),
        ),
        "WideResNet-28-10, Gowal, SiLU": (
            dm(deepmind.DMWideResNet, depth=28),
            ours("wideresnet28", **of_dm),
        ),
        "WideResNet-28-10, Gowal, ReLU": (
            dm(deepmind.DMWideResNet, torch.nn.ReLU, depth=28),
            ours("wideresnet28", **of_dm | {"activation": nn.relu}),
        ),
        "WideResNet-70-16, Gowal, SiLU": (
            dm(deepmind.DMWideResNet, depth=70, width=16),
            ours("wideresnet70", **of_dm),
        ),
    }


class Compared(NamedTuple):
    """Differences of logits in both precisions, and accuracies at a radius."""

    double: float
    single: float
    eps: float
    robust_torch: float
    robust_here: float


def compare(make: Callable[[], Any], module: nn.Module, num_images: int) -> Compared:
    """Compares one network."""
    torch.manual_seed(0)
    network = make().eval()
    x = np.random.default_rng(0).random((num_images, 32, 32, 3))
    _randomise(network, torch_networks.images(x.astype(np.float32)))
    double, _, _ = _loaded(network.to(torch.float64), module, x)
    network = network.to(torch.float32)
    single, found, y = _loaded(network, module, x.astype(np.float32))
    images = torch_networks.images(x.astype(np.float32))
    eps, robust = _radius(network, images, y)
    return Compared(double, single, eps, robust, _robust(found, x, y, eps))


def _loaded(network: Any, module: nn.Module, x: np.ndarray):
    """The difference of logits, the network here, and torch's labels."""
    with torch.no_grad():
        expected = network(torch_networks.images(x)).numpy()
    state = {name: each.numpy() for name, each in network.state_dict().items()}
    found = pytorch.load(state, module, x, expected=(x, expected))
    logits = np.asarray(_predict(found)(x))
    back = pytorch.state_dict(found, module, x, like=state)
    changed = [name for name in state if not np.array_equal(back[name], state[name])]
    if changed or state.keys() != back.keys():
        sys.exit(f"not the same on the way back: {changed}")
    (bias,) = (state[name] for name in state if name in _HEADS)
    off = float(np.abs(logits - expected).max() / np.abs(expected - bias).max())
    return off, found, expected.argmax(1)


def _predict(network: Network) -> Callable:
    """Compiled for weights that are arguments; XLA would fold constants for minutes."""
    compiled = jax.jit(network.model.predict)
    return partial(compiled, network.params, network.batch_stats)


def _radius(network: Any, x: Any, y: np.ndarray) -> tuple[float, float]:
    """A radius at which some labels hold and some do not, and the accuracy there."""
    low, high, eps = 0.0, np.inf, 2 / 255
    for _ in range(12):
        moved = torch_networks.pgd(
            network, x, torch.from_numpy(y), eps, NUM_STEPS, REL_STEP_SIZE
        )
        with torch.no_grad():
            robust = float((network(moved).numpy().argmax(1) == y).mean())
        if 0 < robust < 1:
            break
        low, high = (eps, high) if robust == 1 else (low, eps)
        eps = 2 * low if np.isinf(high) else (low + high) / 2
    return eps, robust


def _robust(network: Network, x: np.ndarray, y: np.ndarray, eps: float) -> float:
    attack = attacks.pgd(
        norms.linf,
        num_steps=NUM_STEPS,
        rel_step_size=REL_STEP_SIZE,
        bounds=(0.0, 1.0),
    )

    @jax.jit
    def attacked(params, batch_stats, x, y):
        predict = partial(network.model.predict, params, batch_stats)
        goal = criteria.Goal(predict, losses.cross_entropy)
        x_adv, _ = attack(jax.random.key(0), goal, x, y, eps)
        return predict(x_adv)

    arrays = network.params, network.batch_stats
    logits = attacked(*arrays, x.astype(np.float32), y.astype(np.int32))
    return float((np.asarray(logits).argmax(1) == y).mean())


@torch.no_grad()
def _randomise(network: Any, x: Any) -> None:
    """Normalisation, which begins as 1 and 0; and an output without a favourite."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.3, 0.3)
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 1.5)
        if isinstance(layer, torch.nn.Linear):
            last = layer
    last.bias -= network(x).mean(0)


def main() -> None:
    """Prints a row for each network."""
    chosen = sys.argv[1:]
    if not jax.config.jax_enable_x64:
        sys.exit("set JAX_ENABLE_X64=1, for the comparison in double precision")
    print(
        "network                         float64  float32  eps, robust in torch, here"
    )
    for name, (make, module) in pairs().items():
        if chosen and not any(word in name for word in chosen):
            continue
        row = compare(make, module, num_images=2 if "70" in name else 10)
        robust = (
            f"{255 * row.eps:.2g}/255  {row.robust_torch:.2f}  {row.robust_here:.2f}"
        )
        print(f"{name:31} {row.double:.1e}  {row.single:.1e}  {robust}", flush=True)


if __name__ == "__main__":
    main()
