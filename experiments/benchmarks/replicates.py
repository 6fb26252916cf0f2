"""Adversarial training of thousands of linear models: NumPy loop, NumPy batched, ours.

    python -m experiments.benchmarks.replicates

300 data sets (n = 100, d = 10) at 20 radii, 1000 full-batch steps. NumPy fits one model
after the other, or all at once in preallocated arrays; ours is
``replicates.sharded_vmap``. Seconds are medians of five alternating runs, of one for
the loop. Then time, memory and
compilations as the data sets grow to 100 000 in chunks of 300, at 100 steps. There are
no decompositions in it, so the thread pool stays as narrow as jaxlib makes it.
"""

import platform
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from advjax import data, descent, linear, norms, replicates
from experiments import devices

D, N, STEP_SIZE = 10, 100, 0.05
EPS = np.linspace(0, 1, 20, dtype=np.float32)


def fit_all(x, y, num_steps: int):
    """One data set at every radius, ``[radius, d]``."""

    def fit(eps):
        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps),
            STEP_SIZE,
        )
        return descent.last(jnp.zeros(D), update, num_steps=num_steps)

    return jax.vmap(fit)(jnp.asarray(EPS))


def numpy_loop(x, y, num_steps: int) -> np.ndarray:
    """One model after the other, ``[data set, radius, d]``."""
    found = np.zeros((len(x), EPS.size, D), np.float32)
    for i, (x_i, y_i) in enumerate(zip(x, y, strict=True)):
        for j, eps in enumerate(EPS):
            theta = found[i, j]
            for _ in range(num_steps):
                r = x_i @ theta - y_i
                q = np.sqrt(theta @ theta)
                size = np.copysign(np.abs(r) + eps * q, r)
                gradient = size @ x_i / N
                if q > 0:
                    gradient += eps * np.abs(size).mean() / q * theta
                theta -= 2 * STEP_SIZE * gradient
    return found


def numpy_batched(x, y, num_steps: int) -> np.ndarray:
    """All models at once, without allocating in the loop, ``[data set, radius, d]``."""
    theta = np.zeros((len(x), D, EPS.size), np.float32)
    transposed = np.ascontiguousarray(np.swapaxes(x, 1, 2))
    r = np.empty((len(x), N, EPS.size), np.float32)
    size, gradient = np.empty_like(r), np.empty_like(theta)
    for _ in range(num_steps):
        np.matmul(x, theta, out=r)
        r -= y[:, :, None]
        q = np.sqrt(np.einsum("rde,rde->re", theta, theta))
        np.copysign((EPS * q)[:, None], r, out=size)
        size += r
        np.matmul(transposed, size, out=gradient)
        np.abs(size, out=size)
        pull = EPS * size.mean(axis=1) / np.where(q == 0, 1, q)
        gradient /= N
        gradient += theta * pull[:, None]
        gradient *= 2 * STEP_SIZE
        theta -= gradient
    return np.swapaxes(theta, 1, 2)


def draw(key):
    """One data set."""
    return data.gaussian(key, N, jnp.ones(D), None, 1.0)


def compare(num_datasets: int = 300, num_steps: int = 1000) -> None:
    """Prints seconds and ratios."""
    keys = jax.random.split(jax.random.key(0), num_datasets)
    batch = jax.device_get(jax.jit(jax.vmap(draw))(keys))
    ours = replicates.sharded_vmap(lambda pair: fit_all(*pair, num_steps))
    found = ours(tuple(batch))
    times = {"ours": [], "NumPy batched": []}
    for _ in range(5):
        for name, run in (
            ("ours", lambda: ours(tuple(batch))),
            ("NumPy batched", lambda: numpy_batched(*batch, num_steps)),
        ):
            begin = time.perf_counter()
            result = run()
            times[name].append(time.perf_counter() - begin)
    begin = time.perf_counter()
    looped = numpy_loop(*batch, num_steps)
    times["NumPy loop"] = [time.perf_counter() - begin]
    best = float(np.median(times["ours"]))
    for name, seconds in times.items():
        ratio = np.median(seconds) / best
        print(f"{name:14s} {np.median(seconds):8.2f} s {ratio:8.1f} × ours")
    # Descent jumps about the kinks of the loss, so late iterates agree to its jumps.
    print(
        f"largest differences {abs(found - looped).max():.1g}, "
        f"{abs(result - looped).max():.1g}"
    )


def grow(num_steps: int = 100) -> None:
    """Prints time, memory and compilations for growing numbers of data sets."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: (
            compiled.append(event)
            if event.endswith("backend_compile_duration")
            else None
        )
    )
    fits = replicates.sharded_vmap(
        lambda key: fit_all(*draw(key), num_steps), chunk_size=300
    )
    fits(jax.random.split(jax.random.key(0), 300))
    for number in (1_000, 10_000, 100_000):
        keys = jax.random.split(jax.random.key(1), number)
        compiled.clear()
        begin = time.perf_counter()
        fits(keys)
        seconds = time.perf_counter() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(
            f"{number:7d} data sets {seconds:7.2f} s, {1e6 * seconds / number:6.1f} µs "
            f"each, at most {memory:5.0f} MiB so far, {len(compiled)} new compilations"
        )


def main() -> None:
    """Prints both tables."""
    kind = jax.devices()[0].device_kind
    versions = f"jax {jax.__version__}, numpy {np.__version__}"
    print(
        f"{versions}, python {platform.python_version()}, {jax.device_count()} × {kind}"
    )
    compare()
    grow()


if __name__ == "__main__":
    devices.use_all_cores()
    main()
