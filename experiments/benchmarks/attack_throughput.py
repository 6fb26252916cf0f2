"""PGD-10 against its peers, on the same weights: a torch loop, and three libraries.

    python -m experiments.benchmarks.attack_throughput [network …] [--device_per_core]
    python -m experiments.benchmarks.attack_throughput --agreement FILE

Needs the extra ``benchmarks``. Prints milliseconds per attack, medians of nine
alternating runs, image·steps per second, and multiples of our time. All do the same
arithmetic: linf, step eps/4, no random start. Ours has the cores as one device, as jax
has by default, or divides the batch over the cores, each a device. The networks of the
peers are in evaluation mode, their parameters need no gradient, and arrays have
whichever of torch's two orders the loop is faster with. What a library does beyond the
loop counts: ART takes and gives NumPy arrays, and predicts twice more.

With ``--agreement`` it attacks the first 1000 test images of MNIST, on the first of the
released networks ``cnn_wong`` of a file, and prints the robust accuracies found.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from advjax import attacks, data, losses, norms
from advjax.types import Batch, Model, Params
from experiments import devices
from experiments.benchmarks import torch_networks
from experiments.benchmarks.training_throughput import CASES, alternating, draw, make
from experiments.training import parameters

REL_STEP_SIZE = 0.25
PACKAGES = ("jax", "torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox")
ORDERS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}

Contestant = Callable[[], object]
"""A finished attack, in whatever array its library makes."""


class Subject(NamedTuple):
    """A network in both forms, and what is attacked.

    Attributes:
        model: ours.
        params: its parameters.
        batch_stats: its statistics.
        twin: torch's.
        batch: images and labels.
        eps: radius.
        num_steps: of the attack.
    """

    model: Model
    params: Params
    batch_stats: Params
    twin: torch.nn.Module
    batch: Batch
    eps: float
    num_steps: int


def transplanted(
    name: str, model: Model, params: Params, batch_stats: Params, x: np.ndarray
) -> torch.nn.Module:
    """The torch twin, with parameters that need no gradient.

    Raises:
        RuntimeError: if its logits are not ours.
    """
    twin = torch_networks.twin(name, params, batch_stats).requires_grad_(False)
    logits = model.predict(params, batch_stats, x)
    theirs = twin(torch_networks.images(x)).numpy()
    error = np.abs(theirs - logits).max() / np.abs(logits).max()
    if not error < 1e-4:
        raise RuntimeError(f"{name}: logits of the torch twin differ by {error:.1e}")
    return twin


def ours(subject: Subject, num_devices: int) -> tuple[Contestant, float]:
    """The compiled attack on the divided batch, and the seconds to compile."""
    attack = attacks.pgd(
        norms.linf,
        num_steps=subject.num_steps,
        rel_step_size=REL_STEP_SIZE,
        bounds=(0.0, 1.0),
    )
    mesh = devices.mesh(num_devices)

    def run(params, batch_stats, batch, eps):
        def loss(x, y):
            logits = subject.model.predict(params, batch_stats, x)
            return losses.cross_entropy(logits, y)

        x, y = devices.divided(batch, mesh)
        return attack(jax.random.key(0), loss, x, y, eps)[0]

    arguments = devices.replicated(
        (subject.params, subject.batch_stats, subject.batch, subject.eps), mesh
    )
    begin = time.perf_counter()
    program = jax.jit(run).lower(*arguments).compile()
    compilation = time.perf_counter() - begin
    return lambda: program(*arguments).block_until_ready(), compilation


def peers(subject: Subject, order: str) -> dict[str, Contestant]:
    """The torch loop and the libraries' attacks, by name."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    eps, num_steps = subject.eps, subject.num_steps
    step = REL_STEP_SIZE * eps
    network = subject.twin.to(memory_format=ORDERS[order])
    x = torch_networks.images(subject.batch.x).to(memory_format=ORDERS[order])
    y = torch.from_numpy(subject.batch.y)
    x_numpy = x.contiguous().numpy()

    of_torchattacks = torchattacks.PGD(
        network, eps=eps, alpha=step, steps=num_steps, random_start=False
    )
    of_foolbox = foolbox.attacks.LinfPGD(
        abs_stepsize=step, steps=num_steps, random_start=False
    )
    foolbox_model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    classifier = PyTorchClassifier(
        network,
        torch.nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    of_art = ProjectedGradientDescentPyTorch(
        classifier,
        eps=eps,
        eps_step=step,
        max_iter=num_steps,
        batch_size=len(x),
        verbose=False,
    )
    return {
        "torch loop": lambda: torch_networks.pgd(
            network, x, y, eps, num_steps, REL_STEP_SIZE
        ),
        "torchattacks": lambda: of_torchattacks(x, y),
        "Foolbox": lambda: of_foolbox(foolbox_model, x, y, epsilons=eps)[1],
        "ART": lambda: of_art.generate(x_numpy, y.numpy()),
    }


def faster_order(subject: Subject) -> str:
    """The order of arrays with which the torch loop is faster."""
    seconds = {}
    for order in ORDERS:
        loop = {order: peers(subject, order)["torch loop"]}
        seconds |= alternating(loop, 3)
    return min(seconds, key=seconds.get)


def check_losses(subject: Subject, contestants: dict[str, Contestant]) -> None:
    """Attacks that do the same arithmetic reach the same loss.

    Raises:
        RuntimeError: if one does not.
    """
    y, reached = torch.from_numpy(subject.batch.y), {}
    for name, contestant in contestants.items():
        logits = subject.twin(as_images(contestant()))
        reached[name] = float(F.cross_entropy(logits, y))
    if not max(reached.values()) < 1.001 * min(reached.values()):
        raise RuntimeError(f"the attacks reach different losses: {reached}")


def as_images(x_adv: object) -> torch.Tensor:
    """What a contestant returned, as torch's images."""
    if isinstance(x_adv, jax.Array):
        return torch_networks.images(x_adv)
    return torch.as_tensor(x_adv)


def measure(name: str) -> None:
    """Prints the table of one network."""
    case, model = CASES[name], make(name)
    batch = draw(name, case.batch_size)
    params, batch_stats = model.init(jax.random.key(0), batch.x)
    if batch_stats:  # those of a fresh network are zeros and ones
        _, batch_stats = model.apply(params, batch_stats, batch.x, train=True)
    twin = transplanted(name, model, params, batch_stats, batch.x)
    subject = Subject(model, params, batch_stats, twin, batch, case.eps, 10)

    num_devices = math.gcd(case.batch_size, jax.device_count())
    own, compilation = ours(subject, num_devices)
    order = faster_order(subject)
    theirs = peers(subject, order)
    contestants = {"advjax": own, **theirs}
    check_losses(subject, contestants)
    seconds = alternating(contestants, 9)
    print(
        f"\n{name}: batch {case.batch_size}, eps {case.eps:.3g}, {subject.num_steps} "
        f"steps; torch {order}; ours compiled in {compilation:.1f} s"
    )
    print("                         ms  image·steps/s  time/ours")
    for contestant, value in seconds.items():
        rate = case.batch_size * subject.num_steps / value
        ratio = value / seconds["advjax"]
        print(f"{contestant:18s} {1000 * value:8.1f} {rate:14.0f} {ratio:10.2f}")
    best = min(seconds[peer] for peer in theirs)
    print(f"the fastest peer takes {best / seconds['advjax']:.2f} × our time")


def agreement(path: str, eps: float, num_steps: int, num_images: int = 1000) -> None:
    """Prints the robust accuracies that ours and the peers find."""
    released = parameters.read(path)
    params, batch_stats = jax.tree.map(lambda leaf: leaf[0], released[:2])
    test = data.load("mnist", split="test")
    x, y = np.asarray(data.as_float(test.x[:num_images])), test.y[:num_images]
    batch, model = Batch(x, np.asarray(y, np.int64)), make("cnn_wong")
    twin = transplanted("cnn_wong", model, params, batch_stats, x)
    subject = Subject(model, params, batch_stats, twin, batch, eps, num_steps)
    contestants = {"advjax": ours(subject, 1)[0], **peers(subject, "NCHW")}

    print(f"\n{path}: {num_images} images, eps {eps:g}, {num_steps} steps of eps/4")
    accuracies = []
    for name, contestant in contestants.items():
        found = twin(as_images(contestant())).argmax(1).numpy()
        accuracies.append(100 * np.mean(found == y))
        print(f"{name:18s} {accuracies[-1]:6.1f} % robust")
    print(f"largest difference {np.ptp(accuracies):.1f} points")


def main() -> None:
    """Prints what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="network", help=", ".join(CASES))
    parser.add_argument("--device_per_core", action="store_true")
    parser.add_argument("--agreement", metavar="FILE", help="released parameters")
    parser.add_argument("--eps", type=float, default=0.3, help="of --agreement")
    parser.add_argument("--num_steps", type=int, default=40, help="of --agreement")
    options = parser.parse_args()
    if unknown := set(options.networks) - set(CASES):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(CASES)}")

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    print(f"{versions}, python {platform.python_version()}")
    if options.device_per_core:
        devices.use_all_cores()
    torch.set_num_threads(devices.num_cores())
    kind = jax.devices()[0].device_kind
    print(f"{jax.device_count()} × {kind}, {torch.get_num_threads()} torch threads")
    if options.agreement:
        agreement(options.agreement, options.eps, options.num_steps)
        return
    for name in options.networks or CASES:
        measure(name)


if __name__ == "__main__":
    main()
