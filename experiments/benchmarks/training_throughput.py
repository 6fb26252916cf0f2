"""Steps of adversarial training: images per second, share of the machine, and torch.

    python -m experiments.benchmarks.training_throughput [--network preactresnet18]
        [--batch_size 128] [--dtype float32|bfloat16] [--attack_mode eval|train]

A step is PGD-10 and an update by SGD with momentum and weight decay, on whatever
devices jax has, and on one of them: two steps called from Python on CPU, whose cores
are devices, twenty in one scan elsewhere. Prints medians of five alternating runs.
Where torch is installed its twin starts from the same weights and does the same,
channels-last: on CPU in the same dtype, on CUDA eager with TF32 and compiled with
bfloat16. The losses of the first two steps must agree to 2 %.

The share is of a matrix product of the dtype, timed in the same run. The operations are
XLA's count for the step before optimisation: for the MLP 1.3 % more than its
matrix products alone. It leaves out multiplications by the zeros of padding, which are
13 % of the products in preactresnet18.
"""

import argparse
import contextlib
import math
import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import attacks, losses, models, norms, objectives, train
from advjax.types import Batch, Model
from experiments import devices

NUM_STEPS, REL_STEP_SIZE = 10, 0.25
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


class Case(NamedTuple):
    """A network and what it is measured on.

    Attributes:
        shape: of one image.
        eps: radius, in linf.
        batch_size: by default.
        options: of ``models.make``.
    """

    shape: tuple[int, int, int]
    eps: float
    batch_size: int
    options: dict


_MNIST, _CIFAR = ((28, 28, 1), 0.3, 128), ((32, 32, 3), 8 / 255, 32)
CASES = {
    "mlp": Case(*_MNIST, {"hidden": (256, 256)}),
    "lenet5": Case(*_MNIST, {}),
    "cnn_wong": Case(*_MNIST, {}),
    "preactresnet18": Case(*_CIFAR, {}),
}


def make(name: str, **options) -> Model:
    """The network of a case, for ten classes."""
    return models.make(name, num_classes=10, **CASES[name].options, **options)


def draw(name: str, n: int) -> Batch:
    """Uniform images and labels."""
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(n, *CASES[name].shape)).astype(np.float32)
    return Batch(x, generator.integers(10, size=n))


def alternating(contestants: dict[str, Callable], runs: int) -> dict[str, float]:
    """Median seconds of each, after one run of each to warm up."""
    seconds = {name: [] for name in contestants}
    for run in range(runs + 1):
        for name, contestant in contestants.items():
            time.sleep(0.02)  # the threads of the one before spin for a while
            begin = time.perf_counter()
            contestant()
            if run:
                seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def count_operations(model: Model, tx, attack_mode: str, *arguments) -> float:
    """XLA's count for one step; of a loop it counts one round."""

    def count(num_steps: int) -> float:
        step = step_of(model, tx, attack_mode, num_steps)
        return jax.jit(step).lower(*arguments, 0.1).cost_analysis()["flops"]

    without = count(0)
    return without + NUM_STEPS * (count(NUM_STEPS) - without)


def step_of(model: Model, tx, attack_mode: str, num_steps: int = NUM_STEPS):
    """One step of adversarial training."""
    attack = attacks.pgd(
        norms.linf,
        num_steps=num_steps,
        rel_step_size=REL_STEP_SIZE,
        bounds=(0.0, 1.0),
    )
    objective = objectives.adversarial(
        model, losses.cross_entropy, attack, attack_mode=attack_mode
    )
    return train.make_step(objective, tx)


def ours(step, num_devices: int, *arguments) -> Callable[[], np.ndarray]:
    """Each call goes on from the state of the last one, and returns the losses."""
    mesh = devices.mesh(num_devices)
    step = devices.data_parallel(step, mesh)
    run = train.looped(step)
    if jax.default_backend() != "cpu":
        run = jax.jit(train.scanned(step), donate_argnums=0)
    # Donated buffers must not be those of the other contestants.
    state, data, indices, eps = jax.device_put(
        arguments, devices.whole(mesh), may_alias=False
    )

    def go_on():
        nonlocal state
        state, metrics = run(state, data, indices, eps)
        return np.asarray(metrics["loss"])

    return go_on


def torch_contestants(name: str, state, data, indices, options) -> dict[str, Callable]:
    """Torch's forms of the same run, by name, or none without torch."""
    try:
        import torch
    except ImportError:
        print("torch is not installed")
        return {}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__} on {device}")
    half = torch.autocast(device, torch.bfloat16)
    forms = {"torch": (False, contextlib.nullcontext())}
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        forms = {"torch TF32": forms["torch"], "torch compiled bfloat16": (True, half)}
    elif options.dtype == "bfloat16":
        forms = {"torch bfloat16": (False, half)}
    return {
        form: _torch_run(name, state, data, indices, options, device, *how)
        for form, how in forms.items()
    }


def _torch_run(name, state, data, indices, options, device, compiled, autocast):
    import torch

    from experiments.benchmarks import torch_networks

    layout = {"device": device, "memory_format": torch.channels_last}
    network = torch_networks.twin(name, state.params, state.batch_stats).to(**layout)
    predict = torch.compile(network) if compiled else network
    optimiser = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    x, y = torch_networks.images(data.x).to(device), torch.from_numpy(data.y).to(device)
    eps = CASES[name].eps

    def step(i):
        x_i, y_i = x[i].to(**layout), y[i]
        with autocast:
            # Compiled, a network computes the gradients of all that requires one.
            network.train(options.attack_mode == "train").requires_grad_(False)
            x_adv = torch_networks.pgd(predict, x_i, y_i, eps, NUM_STEPS, REL_STEP_SIZE)
            network.train().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(predict(x_adv), y_i)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    batches = [torch.from_numpy(i).to(device) for i in indices]
    return lambda: torch.stack([step(i) for i in batches]).cpu().numpy()


def ceiling(dtype, on_cpu: bool) -> float:
    """Operations per second of a large matrix product."""
    n = 2048 if on_cpu else 8192
    a = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    calls = {"matmul": lambda: [product(a) for _ in range(10)][-1].block_until_ready()}
    return 10 * 2 * n**3 / alternating(calls, 5)["matmul"]


def measure(options: argparse.Namespace) -> None:
    """Prints the table."""
    name, on_cpu = options.network, jax.default_backend() == "cpu"
    case, dtype = CASES[name], jnp.dtype(options.dtype)
    model = make(name, dtype=dtype)
    batch_size = options.batch_size or case.batch_size
    tx = optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM)
    )
    num_batches = 2 if on_cpu else 20
    data = draw(name, num_batches * batch_size)
    indices = np.arange(len(data.y)).reshape(num_batches, batch_size)
    state = train.create(jax.random.key(0), model, tx, data.x[:1])

    batch = Batch(data.x[:batch_size], data.y[:batch_size])
    operations = count_operations(model, tx, options.attack_mode, state, batch)

    step = step_of(model, tx, options.attack_mode)
    contestants = {}
    for n in sorted({1, math.gcd(batch_size, jax.device_count())}):
        contestants[f"advjax, devices: {n}"] = ours(
            step, n, state, data, indices, case.eps
        )
    contestants |= torch_contestants(name, state, data, indices, options)

    check_losses(contestants)
    seconds = alternating(contestants, 5)
    peak = ceiling(dtype, on_cpu)
    print(
        f"{name}, {options.dtype}, batch {batch_size}, attack mode "
        f"{options.attack_mode}: {operations / 1e9:.1f} Gflop a step; matrix products "
        f"reach {peak / 1e12:.3g} Tflop/s"
    )
    print("                          ms/step  images/s  of the peak  time/ours")
    best = min(value for key, value in seconds.items() if key.startswith("advjax"))
    for contestant, value in seconds.items():
        rate = num_batches / value
        print(
            f"{contestant:24s} {1000 / rate:8.1f} {batch_size * rate:9.0f} "
            f"{100 * operations * rate / peak:10.1f} % {value / best:10.2f}"
        )


def check_losses(contestants: dict[str, Callable]) -> None:
    """The first run of each.

    Raises:
        RuntimeError: if the losses of its first two steps differ from ours.
    """
    found = {name: contestant()[:2] for name, contestant in contestants.items()}
    for name, values in found.items():
        if not np.allclose(values, found["advjax, devices: 1"], rtol=0.02):
            raise RuntimeError(f"{name} has other losses: {found}")


def main() -> None:
    """Prints what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=CASES, default="preactresnet18")
    parser.add_argument("--batch_size", type=int, help="that of the network if absent")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--attack_mode", choices=("eval", "train"), default="eval")
    options = parser.parse_args()
    # Torch needs a part of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    devices.use_all_cores()
    print(
        f"jax {jax.__version__}, python {platform.python_version()}, "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}, "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    measure(options)


if __name__ == "__main__":
    main()
