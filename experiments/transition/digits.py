"""eps* on real images: from scratch over a grid of radii, and by fine-tuning.

All radii and seeds train at once (``grid``). The radii of one seed share
initialisation, shuffling and attack starts. Fine-tuning is Algorithm A.1: the selected
clean models train on at a few small radii, and a line through the losses is extended
to the threshold.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import attacks, data, models, train, transition
from advjax.types import Attack
from experiments import checks, figures
from experiments.training.recipe import NORMS
from experiments.transition.grid import Task, train_grid, train_loss
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.one_of(config, "dataset", ("digits",))
    checks.one_of(config, "norm", NORMS)
    checks.seed(config)
    checks.increasing(config, "eps_grid", first=0.0)
    checks.increasing(config, "fine_tune_eps")
    checks.numbers(config, "fine_tune_eps", above=0)
    checks.integers(config, "num_epochs", "fine_tune_epochs", "num_steps", "hidden")
    checks.integers(config, "num_seeds", least=2)  # a spread needs two
    num_examples = data.load(config.dataset, split="train").y.size
    checks.integers(config, "batch_size", most=num_examples)
    checks.numbers(config, "rel_step_size", above=0)
    checks.numbers(config, "learning_rate", above=0)
    checks.numbers(config, "momentum", most=1)
    checks.numbers(config, "weight_decay")
    checks.numbers(config, "fine_tune_multipliers")
    checks.increasing(config, "fine_tune_knots")
    checks.numbers(config, "fine_tune_knots", most=1)
    if len(config.fine_tune_knots) != len(config.fine_tune_multipliers):
        msg = "config.fine_tune_knots and config.fine_tune_multipliers differ in length"
        raise checks.ConfigError(msg)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Trains, fine-tunes, finds the crossings and writes figure and report."""
    task, fgm = _task(config), _fgm(config)
    keys = jax.random.split(jax.random.key(config.seed), (3, config.num_seeds))
    key_scratch, key_tune, key_test = keys

    def scratch():
        tx = _optimiser(config, _decay(config, task.num_batches))
        create = partial(train.create, model=task.model, tx=tx, x=task.train.x[:1])
        grid = train_grid(
            task,
            tx,
            task.test_attack,
            jax.jit(jax.vmap(create))(key_scratch),
            key_test,
            radii=config.eps_grid,
            num_epochs=config.num_epochs,
            workdir=workdir,
            label="from scratch",
        )
        last = train_loss(task, grid["params"], key_test, config.eps_grid)
        return {**grid, "train_loss": last}

    def fine_tune(attack: Attack, label: str):
        tx = _optimiser(config, _up_and_down(config, task.num_batches))
        restart = partial(train.restart, batch_stats={}, tx=tx)
        return train_grid(
            task,
            tx,
            attack,
            jax.jit(jax.vmap(restart))(key_tune, clean),
            key_test,
            radii=config.fine_tune_eps,
            num_epochs=config.fine_tune_epochs,
            workdir=workdir,
            label=label,
        )

    grid = workdir.stage("scratch", scratch)
    clean = jax.tree.map(lambda leaf: leaf[0], grid["params"])
    tuned = {
        name: workdir.stage(name, partial(fine_tune, attack, f"fine-tuning, {name}"))
        for name, attack in (("pgd", task.test_attack), ("fgm", fgm))
    }
    threshold = _selected(grid, "test_loss")[0]
    estimates = _estimates(config, task, grid, tuned, threshold)
    _figure(config, grid, tuned, threshold, estimates[0], workdir)
    return _report(config, grid, threshold, estimates, workdir)


class Estimate(NamedTuple):
    """One way to eps*: ``eps_star[r]``, ``status[r]``, and what it cost.

    ``gradients`` counts per-example gradients, clean training and the tests that select
    the epoch included. Attacks take one a step, updates one.
    """

    name: str
    eps_star: np.ndarray
    status: np.ndarray
    gradients: int


def _task(config: ConfigDict) -> Task:
    parts = [
        jax.tree.map(jnp.asarray, data.load(config.dataset, split=split))
        for split in ("train", "test")
    ]
    norm = NORMS[config.norm]
    pgd = attacks.pgd(
        norm,
        num_steps=config.num_steps,
        rel_step_size=config.rel_step_size,
        start=attacks.in_ball(norm),
        bounds=(0.0, 1.0),
        unroll=1,
    )
    num_classes = int(parts[0].y.max()) + 1
    model = models.make("mlp", num_classes=num_classes, hidden=config.hidden)
    return Task(*parts, model, pgd, config.batch_size)


def _fgm(config: ConfigDict) -> Attack:
    norm = NORMS[config.norm]
    start = attacks.in_ball(norm)
    return attacks.fgsm(norm, rel_step_size=1.25, start=start, bounds=(0.0, 1.0))


def _optimiser(config: ConfigDict, schedule: optax.Schedule):
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )


def _decay(config: ConfigDict, num_batches: int) -> optax.Schedule:
    steps = config.num_epochs * num_batches
    return optax.piecewise_constant_schedule(
        config.learning_rate, {steps // 2: 0.1, 3 * steps // 4: 0.1}
    )


def _up_and_down(config: ConfigDict, num_batches: int) -> optax.Schedule:
    knots = jnp.asarray(config.fine_tune_knots)
    rates = config.learning_rate * jnp.asarray(config.fine_tune_multipliers)
    steps = config.fine_tune_epochs * num_batches
    return lambda step: jnp.interp(step / steps, knots, rates)


def _selected(curves: dict, name: str) -> np.ndarray:
    """The curve's value at the selected epoch, ``[k, r]``."""
    return np.take_along_axis(curves[name], curves["best_epoch"][None], axis=0)[0]


def _estimates(config, task, grid, tuned, threshold) -> list[Estimate]:
    """From scratch first, then every variant of Algorithm A.1."""
    n, m = task.num_batches * task.batch_size, task.test.x.shape[0]
    gradients_of = {"pgd": (config.num_steps + 1) * n, "fgm": 2 * n}
    test = config.num_steps * m
    clean = config.num_epochs * n
    num_attacked = len(config.eps_grid) - 1
    scratch = clean + num_attacked * config.num_epochs * (gradients_of["pgd"] + test)

    def estimate(name, method, radii, losses, gradients):
        over_seeds = jax.jit(jax.vmap(method, (None, 1, 0)))
        found = over_seeds(jnp.asarray(radii), losses, threshold)
        return Estimate(name, *map(np.asarray, found), gradients)

    losses = _selected(grid, "loss")
    cross, extend = transition.crossing, transition.extrapolate
    estimates = [
        estimate("from scratch", cross, config.eps_grid, losses, scratch),
        # The loss of the definition, of one model, instead of an epoch's running mean.
        estimate(
            *("from scratch, loss re-evaluated", cross, config.eps_grid),
            *(
                grid["train_loss"],
                scratch + len(config.eps_grid) * config.num_steps * n,
            ),
        ),
    ]
    for attack, curves in tuned.items():
        points = np.concatenate([losses[:1], _selected(curves, "loss")])
        radii = np.array([0.0, *config.fine_tune_eps])
        one_radius = config.fine_tune_epochs * (gradients_of[attack] + test)
        for chosen in ([0, len(radii) // 2], list(range(len(radii)))):
            num_radii = len(chosen) - 1
            name = (
                f"fine-tuned by {attack.upper()}, {num_radii} of {len(radii) - 1} radii"
            )
            gradients = clean + num_radii * one_radius
            new = estimate(name, extend, radii[chosen], points[chosen], gradients)
            estimates.append(new)
    return estimates


def _figure(config, grid, tuned, threshold, scratch, workdir) -> None:
    figure, (axis,) = figures.panels()
    figures.crossing(
        axis,
        config.eps_grid,
        _selected(grid, "loss"),
        threshold,
        scratch.eps_star,
        "adversarial training, from scratch",
    )
    figures.band(
        axis,
        config.fine_tune_eps,
        _selected(tuned["pgd"], "loss"),
        "fine-tuned from the clean model (PGD)",
        figures.PALETTE[2],
        marker="s",
    )
    axis.set_xlabel(f"radius ε of the {config.norm} ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title(
        f"{config.dataset}, MLP {'-'.join(map(str, config.hidden))}, "
        f"{config.num_seeds} seeds: mean ± sd",
        fontsize=10,
    )
    axis.legend(loc="upper left")
    workdir.save_figure(figure, "transition")


def _report(config, grid, threshold, estimates, workdir) -> dict:
    scratch = estimates[0]
    rows, results = [], []
    for estimate in estimates:
        error = np.abs(estimate.eps_star - scratch.eps_star) / scratch.eps_star
        statuses = {transition.Status(int(status)).name for status in estimate.status}
        row = [
            estimate.name,
            figures.plus_minus(estimate.eps_star, 4),
            "" if estimate is scratch else figures.plus_minus(100 * error, 1),
            f"{estimate.gradients:,}",
            f"{estimate.gradients / scratch.gradients:.3f}",
            ", ".join(sorted(statuses)),
        ]
        rows.append(row)
        results.append({**estimate._asdict(), "relative_error": error})
    statistics = {
        "loss": "adv. training loss",
        "accuracy": "adv. training accuracy",
        "test_loss": "test loss",
        "test_accuracy": "test accuracy",
        "test_robust_loss": "adv. test loss",
        "test_robust_accuracy": "adv. test accuracy",
    }
    selected = {name: _selected(grid, name) for name in statistics}
    per_radius = [
        [f"{eps:g}", *(figures.plus_minus(values[i]) for values in selected.values())]
        for i, eps in enumerate(config.eps_grid)
    ]
    zero_grad, undefined = (
        int(_selected(grid, name).sum())
        for name in ("test_zero_grad", "test_undefined")
    )
    setting = f"{config.dataset}, {config.norm}"
    eps_star = figures.plus_minus(scratch.eps_star, 4)
    spread = f"mean ± sd over {config.num_seeds} seeds"
    header = ["estimate", "ε*", "relative error, %", "gradients", "cost", "status"]
    workdir.write_text(
        "report.md",
        f"## ε* on {setting}\n\n![loss against radius](transition.png)\n\n"
        f"ε* = {eps_star}, {spread}; threshold {figures.plus_minus(threshold, 4)}. "
        "Gradients are per-example gradient evaluations, clean training included; cost "
        "is their share of the training from scratch.\n\n"
        + figures.table(header, rows)
        + f"\nAt the epoch of smallest adversarial test loss, {spread}; zero gradients "
        f"in all the test attacks there: {zero_grad}, undefined: {undefined}.\n\n"
        + figures.table(["ε", *statistics.values()], per_radius),
    )
    return {
        "summary": [f"{setting}: eps* = {eps_star} (sd over {config.num_seeds} seeds)"],
        "threshold": threshold,
        "estimates": results,
        "selected": selected,
        "best_epoch": grid["best_epoch"],
        "zero_grad": zero_grad,
        "undefined": undefined,
    }
