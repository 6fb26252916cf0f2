"""From nothing to a robust accuracy, as whole processes: advjax and torchattacks.

    python -m experiments.benchmarks.cold_start

Each process imports its libraries, reads 1000 images, builds a CNN of two convolutions
with fresh weights, and counts the images that PGD-20 leaves as it was classified. Ours
runs as jax does by default, and with jax's cache of compiled programs, which the first
of its runs fills. Prints seconds, medians of five alternating runs. Needs the extra
``benchmarks``.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

OURS = """
import jax, jax.numpy as jnp, numpy as np
from advjax import attacks, evaluate, losses, models, norms

x = np.load("x.npy")
model = models.make("cnn_wong", num_classes=10)
variables = jax.jit(model.init)(jax.random.key(0), x[:1])
attack = attacks.pgd(
    norms.linf, num_steps=20, rel_step_size=0.1, bounds=(0.0, 1.0),
    start=attacks.in_ball(norms.linf),
)

@jax.jit
def robust(variables, x, key):
    predict = lambda x: model.predict(*variables, x)
    y = predict(x).argmax(axis=1)
    loss = losses.cross_entropy
    return evaluate.outcome(key, predict, loss, attack, x, y, 0.1).robust

print(robust(variables, x, jax.random.key(1)).mean())
"""
THEIRS = """
import numpy as np, torch, torchattacks
from torch import nn

x = torch.from_numpy(np.load("x.npy").transpose(0, 3, 1, 2).copy())
model = nn.Sequential(
    nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(),
    nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(32 * 7 * 7, 100), nn.ReLU(), nn.Linear(100, 10),
).eval()
y = model(x).argmax(1)
attack = torchattacks.PGD(model, eps=0.1, alpha=0.01, steps=20)
print((model(attack(x, y)).argmax(1) == y).float().mean().item())
"""


def seconds(program: str, folder: str, **environment: str) -> float:
    """Of a process that runs a program."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begin


def main() -> None:
    """Prints a table."""
    packages = ("jax", "torch", "torchattacks")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"{versions}, python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        x = np.random.default_rng(0).uniform(size=(1000, 28, 28, 1))
        np.save(Path(folder, "x.npy"), x.astype(np.float32))
        kept = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        contestants = {
            "advjax": (OURS, {}),
            "advjax, compiled before": (OURS, kept),
            "torchattacks": (THEIRS, {}),
        }
        found = {name: [] for name in contestants}
        for run in range(6):
            for name, (program, environment) in contestants.items():
                taken = seconds(program, folder, **environment)
                if run:
                    found[name].append(taken)
    for name, values in found.items():
        print(f"{name:24s} {np.median(values):6.2f} s")


if __name__ == "__main__":
    main()
