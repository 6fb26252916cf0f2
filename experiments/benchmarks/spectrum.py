"""Top ten eigenpairs of a parameter Hessian: ours, matfree, and torch.

    python -m experiments.benchmarks.spectrum [--num_examples 512] [--num_matvecs 40]

The Hessian is of the mean cross-entropy of Wong et al.'s small CNN on random images, at
the same weights in all. Ours, matfree's Lanczos and hessian-eigenthings' take the same
number of steps, with full reorthogonalisation, and ours ten products more, for measured
residuals; PyHessian finds one eigenpair after the other by power iteration, to its
default tolerance, and is run once. Ours divides the examples over a device per core, or
not; matfree, on our products, and our third entry are one compiled program. Prints
seconds, medians of alternating runs after compilation, multiples of our time, and the
largest relative difference of the ten sizes of eigenvalues from ours; then our seconds
and the memory at other numbers of products and of examples, in batches of 128, each in
a process of its own. Needs the extra ``benchmarks``, and PyHessian if it is to be among
them.
"""

import argparse
import importlib.util
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from hessian_eigenthings.algorithms.lanczos import lanczos
from hessian_eigenthings.operators.hessian import HessianOperator
from jax.flatten_util import ravel_pytree
from matfree import decomp

from advjax import hessians, losses, models, spectrum
from experiments import devices
from experiments.benchmarks import torch_networks
from experiments.benchmarks.training_throughput import alternating

NETWORK, NUM_EIGS = "cnn_wong", 10


def problem(num_examples: int):
    """Parameters, per-example loss, images and labels."""
    model = models.make(NETWORK, num_classes=10)
    rng = np.random.default_rng(0)
    x = rng.random((num_examples, 28, 28, 1), np.float32)
    y = rng.integers(0, 10, num_examples)
    params, _ = model.init(jax.random.key(0), x[:1])

    def loss_fn(params, x, y):
        logits = model.predict(params, {}, x)
        return losses.cross_entropy(logits, y)

    return params, loss_fn, x, y


def ours(params, loss_fn, x, y, num_matvecs: int, **options) -> Callable:
    """Products dispatched from Python; ``options`` of ``dataset_hvp``."""
    matvec = hessians.dataset_hvp(loss_fn, x, y, **options)(params)
    eigs = spectrum.top_eigs(
        num_matvecs=num_matvecs, num_eigs=NUM_EIGS, which="magnitude"
    )
    return lambda: np.asarray(eigs(jax.random.key(1), matvec, params).values)


def _whole(params, loss_fn, x, y):
    x, y = jnp.asarray(x), jnp.asarray(y)
    return hessians.hvp(lambda params: jnp.mean(loss_fn(params, x, y)), params)


def ours_in_one_program(params, loss_fn, x, y, num_matvecs: int) -> Callable:
    """All products in one scan."""
    eigs = spectrum.top_eigs(
        num_matvecs=num_matvecs, num_eigs=NUM_EIGS, which="magnitude"
    )

    @jax.jit
    def program(key):
        return eigs(key, _whole(params, loss_fn, x, y), params)

    return lambda: np.asarray(jax.block_until_ready(program(jax.random.key(1))).values)


def of_matfree(params, loss_fn, x, y, num_matvecs: int) -> Callable:
    """Its Lanczos, and eigenvectors from its basis."""
    flat, unravel = ravel_pytree(params)
    tridiagonalise = decomp.tridiag_sym(num_matvecs, reortho="full")

    @jax.jit
    def program(start):
        matvec = _whole(params, loss_fn, x, y)
        found = tridiagonalise(lambda v: ravel_pytree(matvec(unravel(v)))[0], start)
        values, rotation = jnp.linalg.eigh(found.J_small)
        order = jnp.argsort(-jnp.abs(values))[:NUM_EIGS]
        return values[order], rotation[:, order].T @ found.Q_tall

    start = jax.random.normal(jax.random.key(2), flat.shape)
    return lambda: np.asarray(jax.block_until_ready(program(start))[0])


def _torch_problem(params, x, y):
    network = torch_networks.twin(NETWORK, params, {})
    return network, torch_networks.images(x), torch.from_numpy(y)


def of_eigenthings(params, x, y, num_matvecs: int) -> Callable:
    """hessian-eigenthings' Lanczos."""
    network, images, labels = _torch_problem(params, x, y)
    operator = HessianOperator(
        network,
        [(images, labels)],
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
    )

    def run():
        found = lanczos(
            operator, k=NUM_EIGS, max_iter=num_matvecs, reorthogonalize=True, seed=0
        )
        return found.eigenvalues.numpy()

    return run


def of_pyhessian(params, x, y) -> Callable:
    """PyHessian's power iteration with deflation."""
    from pyhessian import hessian

    network, images, labels = _torch_problem(params, x, y)

    def run():
        found = hessian(network, F.cross_entropy, data=(images, labels), cuda=False)
        return np.array(found.eigenvalues(top_n=NUM_EIGS)[0])

    return run


def main(arguments: argparse.Namespace) -> None:
    """Prints the table and the scaling."""
    params, loss_fn, x, y = problem(arguments.num_examples)
    m = arguments.num_matvecs
    mesh = devices.mesh(jax.device_count())
    contestants = {
        "advjax, a device per core": ours(params, loss_fn, x, y, m, mesh=mesh),
        "advjax, one device": ours(params, loss_fn, x, y, m),
        "advjax, one program": ours_in_one_program(params, loss_fn, x, y, m),
        "matfree": of_matfree(params, loss_fn, x, y, m),
        "hessian-eigenthings": of_eigenthings(params, x, y, m),
    }
    values = {name: run() for name, run in contestants.items()}
    seconds = alternating(contestants, arguments.runs)
    if importlib.util.find_spec("pyhessian"):
        run, begin = of_pyhessian(params, x, y), time.perf_counter()
        values["PyHessian"] = run()
        seconds["PyHessian"] = time.perf_counter() - begin
    reference = next(iter(contestants))
    packages = ("jax", "matfree", "torch", "hessian-eigenthings", "PyHessian")
    versions = [
        f"{name} {metadata.version(name)}"
        for name in packages
        if (importlib.util.find_spec(name.replace("-", "_").lower()))
    ]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{platform.processor() or platform.machine()}; {', '.join(versions)}")
    print(f"{NETWORK}, {size} parameters, {len(y)} examples, {m} products\n")
    print("| | seconds | over ours | eigenvalues, relative difference |")
    print("| --- | --- | --- | --- |")
    for name, time_taken in seconds.items():
        ratio = time_taken / seconds[reference]
        difference = np.abs(np.abs(values[name] / values[reference]) - 1).max()
        print(f"| {name} | {time_taken:.2f} | {ratio:.2f} | {difference:.1e} |")
    _scaling(arguments)


def _scaling(arguments: argparse.Namespace) -> None:
    print("\n| products | examples | seconds | peak memory less the data, MiB |")
    print("| --- | --- | --- | --- |")
    m, n = arguments.num_matvecs, arguments.num_examples
    for counts in ((m // 2, n), (m, n), (m, 4 * n), (m, 16 * n)):
        # A process of its own, whose peak is not that of what ran before.
        code = f"from experiments.benchmarks import spectrum as s; s.row{counts}"
        subprocess.run([sys.executable, "-c", code], check=True)


def row(num_matvecs: int, num_examples: int) -> None:
    """Prints the median time of three runs, and the memory of the process."""
    devices.use_all_cores()
    devices.widen_thread_pool()
    params, loss_fn, x, y = problem(num_examples)
    mesh = devices.mesh(jax.device_count())
    run = ours(params, loss_fn, x, y, num_matvecs, batch_size=128, mesh=mesh)
    seconds = alternating({"ours": run}, 3)["ours"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rest = peak - (x.nbytes + y.nbytes) / 2**20
    print(f"| {num_matvecs} | {num_examples} | {seconds:.2f} | {rest:.0f} |")


if __name__ == "__main__":
    devices.use_all_cores()
    devices.widen_thread_pool()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_examples", type=int, default=512)
    parser.add_argument("--num_matvecs", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    main(parser.parse_args())
