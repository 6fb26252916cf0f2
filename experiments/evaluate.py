"""Robust accuracy of released networks, as the field reports it.

    python -m experiments.evaluate runs/mnist/best.npz
    python -m experiments.evaluate runs/mnist/best.npz --config.num_restarts=1

evaluates with the configuration ``experiments/training/configs/evaluation.py``: clean,
FGSM, PGD with restarts, the worst case over all attacks, and a curve over eps. Every
proportion is out of all test images and has Wilson's 95 % interval; vanished gradients,
which make a network only look robust, are counted.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from advjax import attacks, data, evaluate, losses
from advjax.evaluate import Outcome
from advjax.types import Attack, Batch, Model, Params
from experiments import checks, figures
from experiments import run as command_line
from experiments.training import checkpoints, recipe
from experiments.workdir import Workdir

CONFIG = Path(__file__).parent / "training" / "configs" / "evaluation.py"


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    if not config.checkpoint:
        raise checks.ConfigError("config.checkpoint is missing: give a .npz file")
    checks.one_of(config, "norm", ("", *recipe.NORMS))
    checks.numbers(config, "eps")
    checks.integers(config, "num_steps", "num_restarts", "batch_size")
    checks.integers(config, "num_test", least=0)
    checks.numbers(config, "rel_step_size", above=0)
    checks.seed(config)
    if config.curve:
        checks.increasing(config, "curve")


class Subject(NamedTuple):
    """What is evaluated: ``r`` networks, the threat, and test data."""

    model: Model
    params: Params
    batch_stats: Params
    test: Batch
    about: dict[str, Any]
    norm: str
    eps: float


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Attacks every network of the file, stage by stage, and reports."""
    subject = _subject(config)
    trained = subject.about["config"]
    outcomes = {
        name: workdir.stage(name, partial(_outcomes, config, subject, attack, eps))
        for name, (attack, eps) in _attacks(config, subject).items()
    }
    networks = [
        _network(config, subject, outcomes, i) for i in range(len(subject.about["eps"]))
    ]
    _report(config, subject, networks, workdir)
    setting = f"{trained['model']} on {trained['dataset']}"
    return {
        "summary": [
            f"{setting}, trained at eps = {network['trained_eps']:.4g}, seed "
            f"{network['seed']}: clean {_percent(network['clean'])}, worst case at eps "
            f"= {subject.eps:.4g} ({subject.norm}) {_percent(network['worst_case'])}"
            for network in networks
        ],
        "networks": networks,
    }


def _subject(config: ConfigDict) -> Subject:
    found = checkpoints.released(config.checkpoint)
    trained = ConfigDict({**recipe.defaults().to_dict(), **found.about["config"]})
    if config.data_dir:
        trained.data_dir = config.data_dir
    trained.num_test = config.num_test
    read = recipe.read(trained)
    model = recipe.network(trained, read.num_classes)
    x = jax.ShapeDtypeStruct((1, *read.test.x.shape[1:]), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    checkpoints.check_network(found[:2], shapes)
    eps = config.eps or max(found.about["eps"])
    norm = config.norm or trained.norm
    return Subject(model, *found[:2], read.test, found.about, norm, eps)


def _attacks(config: ConfigDict, subject: Subject) -> dict[str, tuple[Attack, float]]:
    """Every attack and its radius, by the name of its stage."""
    norm = recipe.NORMS[subject.norm]
    pgd = partial(
        attacks.pgd,
        norm,
        num_steps=config.num_steps,
        rel_step_size=config.rel_step_size,
        start=attacks.in_ball(norm),
        bounds=(0.0, 1.0),
    )
    restarted = attacks.best_of(pgd(), config.num_restarts)
    found = {
        "fgsm": (attacks.fgsm(norm, bounds=(0.0, 1.0)), subject.eps),
        "pgd": (restarted, subject.eps),
    }
    curve = {f"pgd-{eps:g}": (pgd(), eps) for eps in config.curve}
    return found | curve


def _outcomes(
    config: ConfigDict, subject: Subject, attack: Attack, eps: float
) -> dict[str, np.ndarray]:
    """The outcomes of one attack on every network, ``[r, n]`` each."""

    @jax.jit
    def outcome(network, key, x, y):
        def predict(x):
            return subject.model.apply(*network, x, train=False)[0]

        loss = losses.cross_entropy
        return evaluate.outcome(key, predict, loss, attack, data.as_float(x), y, eps)

    networks = (subject.params, subject.batch_stats)
    found = [
        evaluate.in_batches(
            partial(outcome, jax.tree.map(lambda leaf, i=i: leaf[i], networks)),
            jax.random.key(config.seed),
            *subject.test,
            batch_size=config.batch_size,
        )
        for i in range(len(subject.about["eps"]))
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)._asdict()


def _network(config, subject, outcomes, i) -> dict[str, Any]:
    """One network's numbers, under RobustBench's names where those exist."""
    single = {
        name: Outcome(**{field: values[i] for field, values in found.items()})
        for name, found in outcomes.items()
    }
    worst = evaluate.worst_case(single["fgsm"], single["pgd"])
    summaries = {name: evaluate.summary(found) for name, found in single.items()}
    total, trained = evaluate.summary(worst), subject.about["config"]
    return {
        "name": f"{trained['objective']}-{trained['model']}",
        "dataset": trained["dataset"],
        "architecture": trained["model"],
        "eps": subject.eps,
        "clean_acc": 100 * total.accuracy.value,
        "reported": 100 * total.robust_accuracy.value,
        "additional_data": False,
        "number_forward_passes": 1,
        "unreliable": total.num_zero_grad > 0,
        "norm": subject.norm,
        "trained_eps": subject.about["eps"][i],
        "seed": subject.about["seed"][i],
        "epoch": subject.about["epoch"][i],
        "num_examples": total.num_examples,
        "clean": total.accuracy,
        "fgsm": summaries["fgsm"].robust_accuracy,
        "pgd": summaries["pgd"].robust_accuracy,
        "worst_case": total.robust_accuracy,
        "robust_loss": total.robust_loss,
        "num_zero_grad": total.num_zero_grad,
        "curve": [summaries[f"pgd-{eps:g}"].robust_accuracy for eps in config.curve],
    }


def _percent(estimate: evaluate.Estimate) -> str:
    value, low, high = (100 * end for end in estimate)
    return f"{value:.2f} % [{low:.2f}, {high:.2f}]"


def _report(config, subject, networks, workdir) -> None:
    about, n = subject.about, networks[0]["num_examples"]
    columns = ("clean", "fgsm", "pgd", "worst_case")
    rows = [
        [
            f"{network['trained_eps']:.4g}",
            str(network["seed"]),
            *(_percent(network[name]) for name in columns),
            str(network["num_zero_grad"]),
        ]
        for network in networks
    ]
    pgd = f"PGD-{config.num_steps} × {config.num_restarts}"
    header = ["trained ε", "seed", "clean", "FGSM", pgd, "worst case", "zero gradients"]
    curve = ""
    if config.curve:
        _figure(config, networks, workdir)
        curve = "\n![robust accuracy against radius](curve.png)\n"
    workdir.write_text(
        "report.md",
        f"## {about['config']['model']} on {about['config']['dataset']}, attacked at "
        f"ε = {subject.eps:.4g} ({subject.norm})\n\n{n} test images; Wilson's 95 % "
        f"intervals; steps of {config.rel_step_size:.4g} ε; parameters of commit "
        f"{about['commit']}.\n\n{figures.table(header, rows)}{curve}",
    )


def _figure(config, networks, workdir) -> None:
    figure, (axis,) = figures.panels()
    for color, network in zip(figures.colors(len(networks)), networks, strict=True):
        values, low, high = np.array(network["curve"]).T
        label = f"trained at ε = {network['trained_eps']:.3g}, seed {network['seed']}"
        axis.plot(
            config.curve, values, marker="o", markersize=4, color=color, label=label
        )
        axis.fill_between(config.curve, low, high, color=color, alpha=0.2, linewidth=0)
    axis.set(xlabel="radius ε", ylabel=f"accuracy under PGD-{config.num_steps}")
    axis.set_ylim(0, 1.02)
    axis.legend()
    workdir.save_figure(figure, "curve")


def main(argv: list[str]) -> int:
    """``evaluate FILE [--config.field=value …] [--workdir=…]``."""
    if not argv or argv[0].startswith("-"):
        print(__doc__)
        return 0 if {"-h", "--help"} & {*argv} else 2
    fixed = [f"--config={CONFIG}", f"--config.checkpoint={argv[0]}"]
    return command_line.main([*fixed, *argv[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
