"""eps* on real images: from scratch over a grid of radii, and by fine-tuning.

All radii and seeds train at once (``grid``). The radii of one seed share
initialisation, shuffling and attack starts. Fine-tuning is Algorithm A.1: the selected
clean models train on at a few small radii, and a line through the losses is extended
to the threshold.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import attacks, data, models, norms, train, transition
from advjax.types import Attack
from experiments import checks, figures
from experiments.transition.grid import Task, train_grid, train_loss
from experiments.workdir import Workdir

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.one_of(config, "dataset", ("digits",))
    checks.one_of(config, "norm", NORMS)
    checks.radii(config, "eps_grid", first=0.0)
    checks.radii(config, "fine_tune_eps")
    counts = ("num_seeds", "num_epochs", "fine_tune_epochs", "num_steps", "batch_size")
    checks.positive_integers(config, *counts, "hidden")
    num_examples = data.load(config.dataset, split="train").y.size
    checks.numbers(config, "batch_size", least=1, most=num_examples)
    checks.numbers(config, "rel_step_size", above=0)
    checks.numbers(config, "learning_rate", above=0)
    checks.numbers(config, "momentum", most=1)
    checks.numbers(config, "weight_decay")
    checks.numbers(config, "fine_tune_multipliers")
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
    estimates = _estimates(config, grid, tuned)
    _figure(config, grid, tuned, estimates, workdir)
    return _report(config, task, grid, estimates, workdir)


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


def _estimates(config: ConfigDict, grid: dict, tuned: dict) -> dict:
    """The threshold, and every estimate of eps* as ``eps_star[r], status[r]``."""
    threshold = _selected(grid, "test_loss")[0]
    scratch = _selected(grid, "loss")

    def found(method, radii, losses):
        over_seeds = jax.jit(jax.vmap(method, (None, 1, 0)))
        crossing = over_seeds(jnp.asarray(radii), losses, threshold)
        return {name: np.asarray(value) for name, value in crossing._asdict().items()}

    estimates = {
        "threshold": threshold,
        "scratch": found(transition.crossing, config.eps_grid, scratch),
        "scratch, loss re-evaluated": found(
            transition.crossing, config.eps_grid, grid["train_loss"]
        ),
    }
    radii = (0.0, *config.fine_tune_eps)
    for name, curves in tuned.items():
        points = np.concatenate([scratch[:1], _selected(curves, "loss")])
        middle = [0, len(radii) // 2]
        estimates[f"{name}, 1 radius"] = found(
            transition.extrapolate, np.take(radii, middle), points[middle]
        )
        estimates[f"{name}, {len(radii) - 1} radii"] = found(
            transition.extrapolate, radii, points
        )
    return estimates


def _gradient_evaluations(config: ConfigDict, task: Task) -> dict[str, int]:
    """Per-example gradients that each estimate took, its clean training included.

    Attacks count one for each step, updates one; clean training needs no attack. Tests
    that select the epoch are counted too.
    """
    n, m = task.num_batches * task.batch_size, task.test.x.shape[0]
    pgd, tests = (config.num_steps + 1) * n, config.num_steps * m
    clean = config.num_epochs * n
    scratch = (len(config.eps_grid) - 1) * config.num_epochs * (pgd + tests)
    num_radii = len(config.fine_tune_eps)
    cost = {"scratch": clean + scratch}
    for name, each in (("pgd", pgd), ("fgm", 2 * n)):
        one = config.fine_tune_epochs * (each + tests)
        cost[f"{name}, 1 radius"] = clean + one
        cost[f"{name}, {num_radii} radii"] = clean + num_radii * one
    return cost


def _figure(config, grid, tuned, estimates, workdir) -> None:
    figure, (axis,) = figures.panels()
    figures.band(
        axis,
        config.eps_grid,
        _selected(grid, "loss"),
        "adversarial training, from scratch",
        figures.PALETTE[0],
    )
    figures.band(
        axis,
        config.fine_tune_eps,
        _selected(tuned["pgd"], "loss"),
        "fine-tuned from the clean model (PGD)",
        figures.PALETTE[2],
        marker="s",
    )
    threshold, found = estimates["threshold"], estimates["scratch"]["eps_star"]
    axis.axhline(
        np.mean(threshold),
        color=figures.PALETTE[1],
        linestyle="--",
        label="clean test loss of clean training",
    )
    low, high = np.mean(threshold) + np.std(threshold, ddof=1) * np.array([-1, 1])
    axis.axhspan(low, high, color=figures.PALETTE[1], alpha=0.15, linewidth=0)
    if np.isfinite(found).any():
        axis.axvline(np.nanmean(found), color="0.3", linewidth=0.8, linestyle=":")
        axis.annotate(
            f"ε* = {figures.plus_minus(found)}",
            (np.nanmean(found), np.mean(threshold)),
            xytext=(8, -16),
            textcoords="offset points",
        )
    axis.set_xlabel(f"radius ε of the {config.norm} ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_ylim(bottom=0)
    axis.set_title(
        f"{config.dataset}, MLP {'-'.join(map(str, config.hidden))}, "
        f"{config.num_seeds} seeds: mean ± sd",
        fontsize=10,
    )
    axis.legend(loc="upper left")
    workdir.save_figure(figure, "transition")


def _report(config, task, grid, estimates, workdir) -> dict:
    costs = _gradient_evaluations(config, task)
    truth = estimates["scratch"]["eps_star"]
    rows, results = [], {}
    for name, found in estimates.items():
        if name == "threshold":
            continue
        error = np.abs(found["eps_star"] - truth) / truth
        missing = [transition.Status(s).name for s in found["status"] if s != 0]
        cost = costs.get(name)
        rows.append(
            [
                name,
                figures.plus_minus(found["eps_star"], 4),
                "" if name == "scratch" else figures.plus_minus(100 * error, 1),
                f"{cost:,}" if cost else "",
                f"{cost / costs['scratch']:.3f}" if cost else "",
                ", ".join(missing) or "all seeds cross",
            ]
        )
        results[name] = {**found, "relative_error": error, "gradients": cost}
    statistics = ("loss", "accuracy", "test_accuracy", "test_robust_loss")
    statistics += ("test_robust_accuracy",)
    per_radius = [
        [f"{eps:g}"] + [figures.plus_minus(_selected(grid, s)[i]) for s in statistics]
        for i, eps in enumerate(config.eps_grid)
    ]
    zero_grad = int(_selected(grid, "test_zero_grad").sum())
    setting = f"{config.dataset}, {config.norm}"
    eps_star = figures.plus_minus(truth, 4)
    header = ["estimate", "ε*", "relative error, %", "gradients", "cost", "status"]
    report = (
        f"## ε* on {setting}\n\n![loss against radius](transition.png)\n\n"
        f"ε* = {eps_star} (mean ± sd over {config.num_seeds} seeds); threshold "
        f"{figures.plus_minus(estimates['threshold'], 4)}. Gradients are per-example "
        "gradient evaluations, clean training included; cost is their share of the "
        "training from scratch.\n\n"
        + figures.table(header, rows)
        + "\nAt the epoch of smallest adversarial test loss, mean ± sd over seeds; "
        f"{zero_grad} zero gradients in all test attacks there.\n\n"
        + figures.table(
            [
                "ε",
                *("adv. training loss", "adv. training accuracy", "test accuracy"),
                *("adv. test loss", "adv. test accuracy"),
            ],
            per_radius,
        )
    )
    workdir.write_text("report.md", report)
    return {
        "summary": [f"{setting}: eps* = {eps_star}"],
        "num_seeds": config.num_seeds,
        "threshold": estimates["threshold"],
        "estimates": results,
        "selected": {s: _selected(grid, s) for s in (*statistics, "test_loss")},
        "best_epoch": grid["best_epoch"],
        "zero_grad": zero_grad,
    }
