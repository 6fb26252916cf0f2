"""A wide lazy network trains like the linear model (Proposition 1).

Root mean square over fresh x of f(x) - xᵀθ, network less linear model, after the same
number of steps from vanishing starts at matched step sizes, as the number of hidden
units h grows. The proposition has it below √(d/n) for large h, at every radius.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, lazy, linear, norms, replicates
from experiments import checks, figures
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", least=2)
    checks.integers(config, "d", "n", "num_steps", "num_test", "chunk_size")
    checks.tuples(config, "num_hidden", least=2)
    checks.single(config, "d", "n", "delta", "linear_step_size", "sigma")
    checks.integers(config, "num_hidden")
    checks.increasing(config, "num_hidden")
    checks.increasing(config, "eps")
    checks.numbers(config, "delta", above=0)
    checks.numbers(config, "linear_step_size", above=0)
    checks.numbers(config, "theta0_norm", above=0)
    checks.numbers(config, "sigma", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Trains networks of every width and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    runs = []
    for h in config.num_hidden:
        found = workdir.stage(f"h{h}", _differences, config, h, keys)
        checks.descended(
            np.moveaxis(found["losses"], -1, 0),
            lambda r, i, h=h: f"h = {h}, replicate {r}, eps = {config.eps[i]:g}",
        )
        checks.finite(
            found["difference"].T[None],
            config.num_steps,
            lambda i, r, h=h: f"h = {h}, eps = {config.eps[i]:g}, replicate {r}",
        )
        runs.append(found["difference"])
    differences = np.stack(runs)
    slopes = _slopes(config, differences)
    _figure(config, differences, workdir)
    return _report(config, differences, slopes, workdir)


def _differences(config, h, keys) -> dict:
    """Root mean square differences, ``[replicate, radius]``."""
    theta0 = jnp.full(config.d, config.theta0_norm / config.d**0.5)

    def fit(network, start, x, y, fresh, eps):
        network_update = descent.step(
            lambda theta: lazy.adversarial_gradient(
                theta, network, norms.l2, x, y, eps
            ),
            lazy.step_size(network, config.linear_step_size),
        )
        linear_update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps),
            config.linear_step_size,
        )
        # The linear model starts where the network is to first order, not at 0: the
        # first attack has full size in whatever direction the start has.
        theta, theta_linear = descent.last(
            (start, lazy.as_linear(start, network)),
            lambda pair: (network_update(pair[0]), linear_update(pair[1])),
            num_steps=config.num_steps,
        )
        difference = lazy.predict(theta, network, fresh) - fresh @ theta_linear

        def loss(theta):
            return lazy.adversarial_loss(theta, network, norms.l2, x, y, eps).mean()

        return {
            "difference": jnp.sqrt(jnp.mean(difference**2)),
            "losses": jnp.stack([loss(start), loss(theta)]),
        }

    def replicate(key):
        key_data, key_a, key_start, key_fresh = jax.random.split(key, 4)
        x, y = data.gaussian(key_data, config.n, theta0, None, config.sigma)
        # Bounded away from 0, as the proposition asks of the output weights.
        a = lazy.output_weights(key_a, num_hidden=h)
        network = lazy.Network(
            jnp.where(a < 0, -1, 1) * (1 + jnp.abs(a)) / 2, lazy.sigmoid
        )
        start = lazy.init(
            key_start, num_hidden=h, num_inputs=config.d, scale=h**config.delta
        )
        fresh = jax.random.normal(key_fresh, (config.num_test, config.d))
        return jax.vmap(lambda eps: fit(network, start, x, y, fresh, eps))(
            jnp.asarray(config.eps)
        )

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _slopes(config, differences) -> np.ndarray:
    """Exponents of the difference in h, ``[replicate, radius]``."""
    x = np.log(config.num_hidden)
    x = x - x.mean()
    return np.einsum("h,hre->re", x, np.log(differences)) / (x @ x)


def _figure(config, differences, workdir) -> None:
    figure, (axis,) = figures.panels(1)
    scale = (config.d / config.n) ** 0.5
    for j, (eps, color) in enumerate(
        zip(config.eps, figures.colors(len(config.eps)), strict=True)
    ):
        runs = differences[..., j]
        figures.band(axis, config.num_hidden, runs, f"ε = {eps:g}", color)
    axis.axhline(scale, color="0.3", linestyle=":", linewidth=1, label="√(d/n)")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("hidden units h")
    axis.set_ylabel("rms of f(x) − xᵀθ")
    axis.set_title(
        f"d = {config.d}, n = {config.n}, {config.num_steps} steps, "
        f"{config.num_replicates} replicates: mean ± sd",
        fontsize=10,
    )
    axis.legend()
    workdir.save_figure(figure, "wide_limit")


def _report(config, differences, slopes, workdir) -> dict:
    scale = (config.d / config.n) ** 0.5
    rows = [
        [f"{h}", *(figures.plus_minus(runs, 4) for runs in differences[i].T)]
        for i, h in enumerate(config.num_hidden)
    ]
    header = ["h", *(f"ε = {eps:g}" for eps in config.eps)]
    exponents = [figures.plus_minus(column, 2) for column in slopes.T]
    workdir.write_text(
        "report.md",
        "## The wide limit of lazy networks (Proposition 1)\n\n"
        "![difference against width](wide_limit.png)\n\n"
        "Root mean square difference between the predictions of network and linear "
        f"model; √(d/n) = {scale:.3f}. Mean ± sd over {config.num_replicates} "
        "replicates.\n\n"
        + figures.table(header, [*rows, ["exponent in h", *exponents]]),
    )
    first, last = (
        " / ".join(f"{mean:.4f}" for mean in differences[i].mean(axis=0))
        for i in (0, -1)
    )
    summary = (
        f"wide limit: the rms difference to the linear model is {first} at h = "
        f"{config.num_hidden[0]} and {last} at h = {config.num_hidden[-1]}, where "
        f"√(d/n) = {scale:.3f}; exponent in h {' / '.join(exponents)}; eps = "
        + " / ".join(f"{eps:g}" for eps in config.eps)
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        "num_hidden": config.num_hidden,
        "eps": config.eps,
        "difference": {"mean": differences.mean(1), "sd": differences.std(1, ddof=1)},
        "exponent": {"mean": slopes.mean(0), "sd": slopes.std(0, ddof=1)},
    }
