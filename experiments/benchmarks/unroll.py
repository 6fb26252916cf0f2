"""Why attacks unroll on CPU: PGD with its loop rolled and unrolled.

    python -m experiments.benchmarks.unroll

Prints milliseconds per attack, medians of seven alternating runs, and seconds to
compile. The gradient of a convolution is slow inside a while loop of XLA on CPU (jax
issue 12868); that of a matrix product is not.
"""

import platform
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, losses, models, norms


class _CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (4, 4), (2, 2))(x))
        x = nn.relu(nn.Conv(32, (4, 4), (2, 2))(x))
        x = nn.relu(nn.Dense(100)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


NETWORKS = {
    "CNN 16-32-100 on 28×28": (models.from_linen(_CNN()), (28, 28, 1)),
    "MLP 256-256 on 28×28": (
        models.make("mlp", num_classes=10, hidden=(256, 256)),
        (28, 28, 1),
    ),
}


def measure(model, shape, num_steps: int, batch_size: int = 128) -> dict:
    """``{unroll: (milliseconds, compilation seconds)}``."""
    x = jax.random.uniform(jax.random.key(0), (batch_size, *shape))
    y = jnp.zeros(batch_size, int)
    params, stats = model.init(jax.random.key(1), x)

    def loss(x, y):
        logits = model.predict(params, stats, x)
        return losses.cross_entropy(logits, y)

    programs, compilation = {}, {}
    for unroll in (1, num_steps):
        attack = attacks.pgd(
            norms.linf, num_steps=num_steps, rel_step_size=0.25, unroll=unroll
        )
        begin = time.perf_counter()
        program = jax.jit(
            lambda x, attack=attack: attack(jax.random.key(0), loss, x, y, 0.1)[0]
        )
        programs[unroll] = program.lower(x).compile()
        compilation[unroll] = time.perf_counter() - begin
    times = {unroll: [] for unroll in programs}
    for _ in range(7):
        for unroll, program in programs.items():
            begin = time.perf_counter()
            program(x).block_until_ready()
            times[unroll].append(time.perf_counter() - begin)
    return {u: (1000 * float(np.median(t)), compilation[u]) for u, t in times.items()}


def main() -> None:
    """Prints a table."""
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, python {platform.python_version()}, {device}")
    print("network                   steps  rolled ms  unrolled ms  ratio  compile s")
    for name, (model, shape) in NETWORKS.items():
        for num_steps in (10, 20, 40):
            result = measure(model, shape, num_steps)
            (rolled, slow), (unrolled, fast) = result[1], result[num_steps]
            print(
                f"{name:24s} {num_steps:6d} {rolled:10.0f} {unrolled:12.0f} "
                f"{rolled / unrolled:6.2f}  {slow:.1f} → {fast:.1f}"
            )


if __name__ == "__main__":
    main()
