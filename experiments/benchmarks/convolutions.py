"""What rewriting convolutions gains on CPU: PGD and training, with and without it.

    python -m experiments.benchmarks.convolutions [network …]

Prints milliseconds per attack of ten steps, and per step of a scan over four plain
training steps, medians of five alternating runs, with the seconds to compile. Without
rewriting, the gradient of a convolution is slow inside a while loop of XLA on CPU (jax
issue 12868).
"""

import argparse
import platform
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import attacks, convolutions, losses, norms, objectives, train
from advjax.types import Batch
from experiments.benchmarks.training_throughput import CASES, alternating, draw, make

NUM_STEPS, NUM_TRAINED = 10, 4
Compiled = tuple[Callable[[], object], float]
"""What to time, and the seconds it took to compile."""


def compiled(function: Callable, *arguments) -> Compiled:
    """A call that waits for its result."""
    begin = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - begin
    return lambda: jax.block_until_ready(program(*arguments)), seconds


def attack_of(name: str) -> Compiled:
    """PGD on a fresh network."""
    case, model = CASES[name], make(name)
    batch = draw(name, case.batch_size)
    variables = model.init(jax.random.key(0), batch.x)
    attack = attacks.pgd(
        norms.linf, num_steps=NUM_STEPS, rel_step_size=0.25, bounds=(0.0, 1.0)
    )

    def attacked(variables, x, y):
        def loss(x, y):
            return losses.cross_entropy(model.predict(*variables, x), y)

        return attack(jax.random.key(0), loss, x, y, case.eps)[0]

    return compiled(attacked, variables, *map(jnp.asarray, batch))


def training_of(name: str) -> Compiled:
    """A scan over plain training steps."""
    case, model = CASES[name], make(name)
    data = draw(name, NUM_TRAINED * case.batch_size)
    step = train.make_step(
        objectives.standard(model, losses.cross_entropy), optax.sgd(0.01)
    )
    state = train.create(jax.random.key(0), model, optax.sgd(0.01), data.x[:1])
    indices = np.arange(len(data.y)).reshape(NUM_TRAINED, -1)
    data = Batch(*map(jnp.asarray, data))
    return compiled(train.scanned(step), state, data, jnp.asarray(indices), 0.0)


def measure(name: str) -> None:
    """Prints the table of one network."""
    found = {
        "attack, rewritten": attack_of(name),
        "training, rewritten": training_of(name),
    }
    with mock.patch.object(convolutions, "rewritten", lambda function: function):
        found |= {
            "attack, as written": attack_of(name),
            "training, as written": training_of(name),
        }
    seconds = alternating({key: call for key, (call, _) in found.items()}, 5)
    print(f"\n{name}, batch {CASES[name].batch_size}")
    for key, (_, compilation) in found.items():
        number = NUM_TRAINED if "training" in key else 1
        print(
            f"{key:26s} {1000 * seconds[key] / number:9.1f} ms  ({compilation:.1f} s)"
        )


def main() -> None:
    """Prints what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="network", help=", ".join(CASES))
    networks = parser.parse_args().networks or ["lenet5", "cnn_wong"]
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, python {platform.python_version()}, {device}")
    for name in networks:
        measure(name)


if __name__ == "__main__":
    main()
