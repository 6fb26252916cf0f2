"""Repetitions of LASSO on MNIST: one vmapped program, a loop over one, and torch.

    python -m experiments.benchmarks.repetitions [--n 10 50 200]

Trains the LASSO arm of ``generalization.lasso_mnist`` (l2 at eps = 3, PGD-5, Adam,
penalty 1e-3 by subgradient) for some epochs on ten random training sets, and prints
seconds, medians of five alternating runs after compilation, and multiples of the time
of the vmapped program. The loop runs one compiled repetition after the other on all
cores as one device, and so does torch. All three do the same arithmetic; starts and
orders of batches are drawn by each in its way, so that the mean losses of the last
epoch agree but roughly. Needs the extra ``benchmarks``.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import metadata

import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from ml_collections import ConfigDict

from advjax import data, replicates
from advjax.types import Batch
from experiments import devices
from experiments.benchmarks.training_throughput import alternating
from experiments.generalization import lasso_mnist


def configuration(num_epochs: int, num_repetitions: int) -> ConfigDict:
    """That of the study on CPU, but for its length."""
    config = lasso_mnist.get_config()
    config.num_epochs, config.num_repetitions = num_epochs, num_repetitions
    return config


def contestants(config: ConfigDict, n: int) -> dict[str, Callable[[], object]]:
    """Finished trainings of all repetitions, by name."""
    setting = next(
        s for s in lasso_mnist.settings(config) if s.norm == "l2" and not s.xi
    )
    arm = lasso_mnist.arms(config)[1]
    pool = data.of_classes(data.load("mnist", split="train"), config.classes)
    rows = lasso_mnist.training_sets(config, n, pool.y)
    keys = jax.random.split(jax.random.key(0), config.num_repetitions)
    sets = Batch(np.asarray(data.as_float(pool.x[rows])), pool.y[rows])

    def repetition(own):
        key, chosen = own
        _, metrics = lasso_mnist.trained(config, setting, arm, key, chosen)
        return metrics["loss"]

    one = jax.jit(repetition)
    vmapped = replicates.sharded_vmap(repetition, chunk_size=config.chunk_size)
    at_once = replicates.sharded_vmap(repetition)

    def loop():
        return [
            one((key, Batch(*pair))).block_until_ready()
            for key, *pair in zip(keys, *sets, strict=True)
        ]

    return {
        f"vmapped, {config.chunk_size} at once": lambda: vmapped((keys, sets)),
        "vmapped, all at once": lambda: at_once((keys, sets)),
        "loop": loop,
        "torch loop": partial(torch_loop, config, setting, arm, sets),
    }


def torch_loop(config, setting, arm, sets: Batch) -> list[float]:
    """The same, as one writes it in torch."""

    def attack(network, x, y):
        start = torch.randn_like(x)
        shape = start.norm(dim=1, keepdim=True)
        radius = torch.rand(len(x), 1) ** (1 / x.shape[1])
        delta = setting.eps * radius * start / shape
        step = setting.eps * setting.rel_path / config.num_steps
        for _ in range(config.num_steps):
            x_adv = (x + delta).clamp_(0, 1).requires_grad_()
            loss = F.cross_entropy(network(x_adv), y, reduction="sum")
            (g,) = torch.autograd.grad(loss, x_adv)
            delta = x_adv.detach() - x + step * F.normalize(g, dim=1)
            delta = delta.renorm(2, 0, setting.eps)
        return (x + delta).clamp_(0, 1)

    def repetition(x, y):
        network = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], config.hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(config.hidden, len(config.classes)),
        )
        optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
        weights = [p for p in network.parameters() if p.ndim > 1]
        for _ in range(config.num_epochs):
            total = 0.0
            for rows in torch.randperm(len(x)).split(config.batch_size):
                x_adv = attack(network, x[rows], y[rows])
                loss = F.cross_entropy(network(x_adv), y[rows])
                l1 = sum(w.abs().sum() for w in weights)
                optimiser.zero_grad()
                (loss + arm.penalty * l1).backward()
                optimiser.step()
                total += len(rows) * float(loss.detach())
        return total / len(x)

    return [
        repetition(torch.from_numpy(x).flatten(1), torch.from_numpy(y).long())
        for x, y in zip(*sets, strict=True)
    ]


def main() -> None:
    """Prints a table for every n."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--num_epochs", type=int, default=20)
    parser.add_argument("--num_repetitions", type=int, default=10)
    options = parser.parse_args()
    devices.use_all_cores()
    devices.widen_thread_pool()
    config = configuration(options.num_epochs, options.num_repetitions)
    torch.set_num_threads(jax.device_count())
    print(
        f"jax {metadata.version('jax')}, {jax.device_count()} devices; torch "
        f"{metadata.version('torch')}, {torch.get_num_threads()} threads"
    )
    for n in options.n:
        found = contestants(config, n)
        losses = {name: np.mean(run()) for name, run in found.items()}
        seconds = alternating(found, 5)
        ours = next(iter(seconds.values()))
        sizes = f"{config.num_repetitions} repetitions, {config.num_epochs} epochs"
        print(f"\nn = {n}: {sizes}\n{'':22s}  seconds  over ours   last loss")
        for name, value in seconds.items():
            ratio, loss = value / ours, losses[name]
            print(f"{name:22s} {value:8.2f} {ratio:10.2f} {loss:11.4f}")


if __name__ == "__main__":
    main()
