"""Adversarial training of lazy two-layer networks (Figures 6, 12 and 13).

Sigmoid, linear and ReLU networks with fixed output weights and a vanishing start, and
the surrogate fast gradient attack in training. In low dimension they end near R*(ε), in
high dimension they interpolate. Test losses are under the plain fast gradient attack on
fresh examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, lazy, linear, norms, replicates
from advjax.types import Batch
from experiments import checks, figures
from experiments.workdir import Workdir

NETWORKS = {"linear": lazy.linear, "sigmoid": lazy.sigmoid, "relu": lazy.relu}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", least=2)
    checks.integers(config, "d", "n", "chunk_size", "num_test")
    checks.integers(config, "num_hidden", least=2)
    checks.single(config, "d", "n", "num_hidden", "xi", "sigma", "theta0_norm")
    checks.integers(config, "num_active", most=config.d)
    checks.integers(config, "num_observations", "steps_between")
    checks.increasing(config, "eps")
    checks.numbers(config, "xi")
    checks.numbers(config, "theta0_norm", above=0)
    checks.numbers(config, "sigma", above=0)
    checks.numbers(config, "start_scale", above=0)
    for name in NETWORKS:
        checks.numbers(config, f"step_size_{name}", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Trains the networks and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    curves = {}
    for name in NETWORKS:
        curves[name] = workdir.stage(name, _curves, config, name, keys)
        checks.descended(
            np.moveaxis(curves[name]["train"], -1, 0),
            lambda r, j, name=name: (
                f"{name} network, replicate {r}, eps = {config.eps[j]:g}"
            ),
        )
    least = workdir.stage("optimum", _optimum, config)["risk"]
    _figure(config, curves, least, workdir)
    return _report(config, curves, least, workdir)


def _theta0(config):
    direction = data.sparse_coefficients(config.d, num_active=config.num_active)
    return config.theta0_norm * direction / config.num_active**0.5


def _optimum(config) -> dict:
    def at(eps):
        return linear.optimal(
            norms.l2, linear.Population(_theta0(config), None, config.sigma), eps
        ).risk

    return {"risk": jax.jit(jax.vmap(at))(jnp.asarray(config.eps))}


def _curves(config, name, keys) -> dict:
    """Training and test loss, ``[replicate, radius, observation]``."""
    theta0, phi = _theta0(config), NETWORKS[name]
    step_size = config[f"step_size_{name}"]

    def fit(network, start, train, test, eps):
        def loss(theta, batch, xi):
            return lazy.adversarial_loss(theta, network, norms.l2, *batch, eps, xi=xi)

        def gradient(theta):
            return lazy.adversarial_gradient(
                theta, network, norms.l2, *train, eps, xi=config.xi
            )

        update = descent.step(gradient, step_size)
        return descent.path(
            start,
            lambda theta: descent.last(theta, update, num_steps=config.steps_between),
            num_steps=config.num_observations,
            observe=lambda theta: {
                "train": loss(theta, train, config.xi).mean(),
                "test": loss(theta, test, 0.0).mean(),
            },
        )

    def replicate(key):
        key_data, key_a, key_start, key_test = jax.random.split(key, 4)
        x, y = data.gaussian(key_data, config.n, theta0, None, config.sigma)
        a = lazy.output_weights(key_a, num_hidden=config.num_hidden)
        network = lazy.Network(lazy.balanced(a) if phi is lazy.relu else a, phi)
        start = lazy.init(
            key_start,
            num_hidden=config.num_hidden,
            num_inputs=config.d,
            scale=config.start_scale,
        )
        # Training stays in this span, and predictions see no more of a test example.
        basis = linear.span(start, x, theta0)
        test = data.gaussian(
            key_test, config.num_test, theta0 @ basis, None, config.sigma
        )
        return jax.vmap(
            lambda eps: fit(network, start @ basis, Batch(x @ basis, y), test, eps)
        )(jnp.asarray(config.eps))

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _figure(config, curves, least, workdir) -> None:
    figure, axes = figures.panels(len(NETWORKS), 2)
    steps = config.steps_between * np.arange(config.num_observations + 1)
    labels = [f"ε = {eps:g}" for eps in config.eps]
    for i, name in enumerate(NETWORKS):
        for axis, part in zip(axes[i :: len(NETWORKS)], ("train", "test"), strict=True):
            figures.bands(axis, steps, curves[name][part], labels)
            axis.set_title(f"{name} network: {part}", fontsize=10)
            axis.set_xlabel("gradient descent step t")
            axis.legend()
        for risk, color in zip(least, figures.colors(len(labels)), strict=True):
            axes[i + len(NETWORKS)].axhline(
                risk, color=color, linestyle="--", linewidth=1
            )
    axes[0].set_ylabel("loss under attack")
    figure.suptitle(
        f"d = {config.d}, n = {config.n}, h = {config.num_hidden}, ξ = {config.xi:g}, "
        f"{config.num_replicates} replicates: mean ± sd; dashed: R*(ε)",
        fontsize=10,
    )
    workdir.save_figure(figure, "two_layer")


def _report(config, curves, least, workdir) -> dict:
    rows, summary, results = [], [], {}
    for name in NETWORKS:
        train, test = curves[name]["train"], curves[name]["test"]
        share = train[..., -1] / train[..., 0]
        rows += [
            [
                name,
                f"{eps:g}",
                figures.plus_minus(train[:, j, 0]),
                figures.plus_minus(train[:, j, -1], 4),
                f"{share[:, j].max():.2g}",
                figures.plus_minus(test[:, j, -1]),
                f"{least[j]:.3f}",
            ]
            for j, eps in enumerate(config.eps)
        ]
        final = " / ".join(figures.plus_minus(column) for column in test[..., -1].T)
        radii = " / ".join(f"{eps:g}" for eps in config.eps)
        summary.append(
            f"two-layer {name} network, d = {config.d}, ‖θ0‖ = "
            f"{config.theta0_norm:.3g}: adversarial test loss {final} at eps = {radii}"
            f", training loss at most {share.max():.2g} of its start"
        )
        results[name] = {
            "test": {"mean": test[..., -1].mean(0), "sd": test[..., -1].std(0, ddof=1)},
            "train_share": {"mean": share.mean(0), "largest": share.max(0)},
        }
    steps = config.num_observations * config.steps_between
    header = ["network", "ε", "training loss at the start", f"at step {steps}"]
    header += ["largest share left", "test loss", "R*(ε)"]
    workdir.write_text(
        "report.md",
        "## Lazy two-layer networks (Figures 6, 12 and 13)\n\n"
        "![losses against step](two_layer.png)\n\n"
        f"d = {config.d}, n = {config.n}, ‖θ0‖ = {config.theta0_norm:.3g}, σ² = "
        f"{config.sigma**2:.3g}. Mean ± sd over {config.num_replicates} replicates, "
        f"each tested on {config.num_test} fresh examples.\n\n"
        + figures.table(header, rows),
    )
    return {
        "summary": summary,
        "num_replicates": config.num_replicates,
        "eps": config.eps,
        "optimal_risk": least,
        **results,
    }
