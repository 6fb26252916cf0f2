"""Robust accuracy of released networks, as the field reports it.

    advjax evaluate runs/mnist/best.safetensors
    advjax evaluate runs/mnist/best.safetensors --config.num_restarts=1

evaluates with the configuration ``training/configs/evaluation.py``: clean, FGSM, PGD
with restarts, the worst case over all attacks, and a curve over eps. Every proportion
is out of all test images and has Wilson's 95 % interval. What makes a network only look
robust, such as vanished or undefined gradients, is counted and said beside the number.
"""

import itertools
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from advjax import evaluate
from advjax.evaluate import Outcome
from advjax.types import Attack, Batch, Model, Params
from experiments import checks, devices, fields, figures, files, progress
from experiments import run as command_line
from experiments.training import parameters, recipe, testing
from experiments.workdir import Workdir

CONFIG = Path(__file__).parent / "training" / "configs" / "evaluation.py"


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    if not config.checkpoint:
        msg = (
            "config.checkpoint is missing: give a .safetensors file, or a run's workdir"
        )
        raise checks.ConfigError(msg)
    if Path(config.checkpoint).is_dir():
        config.checkpoint = str(Path(config.checkpoint) / "best.safetensors")
    checks.one_of(config, "norm", ("", *recipe.NORMS))
    scalars = ("eps", "num_steps", "num_restarts", "batch_size", "rel_step_size")
    checks.single(config, *scalars, "num_test", "num_devices")
    if config.eps is not None:
        checks.numbers(config, "eps")
    checks.integers(config, "num_steps", "num_restarts", "batch_size")
    checks.integers(config, "num_test", "num_devices", least=0)
    checks.numbers(config, "rel_step_size", above=0)
    checks.seed(config)
    if config.curve:
        checks.increasing(config, "curve")
    parameters.read(config.checkpoint)
    # Part of the configuration, so that other parameters under the same name do not
    # meet the results of these.
    digest = files.digest(Path(config.checkpoint))[:12]
    if config.digest not in ("", digest):
        raise checks.ConfigError(f"config.digest = {config.digest!r}: it is {digest!r}")
    config.digest = digest


class Subject(NamedTuple):
    """What is evaluated.

    Attributes:
        model: the architecture.
        networks: parameters and batch statistics of each.
        about: what they are, as ``parameters.Released``.
        test: data, on the host.
        mesh: devices that share a batch.
        norm: of the attack, by name.
        eps: its radius.
    """

    model: Model
    networks: list[tuple[Params, Params]]
    about: dict[str, Any]
    test: Batch
    mesh: Mesh
    norm: str
    eps: float


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Attacks every network of the file, stage by stage, and reports."""
    subject = _subject(config)
    trained = subject.about["config"]
    outcomes = {
        name: workdir.stage(name, partial(_outcomes, config, subject, name, *rest))
        for name, *rest in _attacks(config, subject)
    }
    rows = [_row(config, subject, outcomes, i) for i in range(len(subject.networks))]
    _report(config, subject, rows, workdir)
    setting = f"{trained['model']} on {trained['dataset']}, {trained['objective']}"
    return {
        "summary": [
            f"{setting}, trained at eps = {row['trained_eps']:.4g}, seed "
            f"{row['seed']}: clean {_percent(row['clean'])}, worst case at eps = "
            f"{subject.eps:.4g} ({subject.norm}) {_percent(row['worst_case'])}"
            + "".join(f"; CAUTION: {line}" for line in row["caveats"])
            for row in rows
        ],
        "networks": rows,
    }


def _subject(config: ConfigDict) -> Subject:
    found = parameters.read(config.checkpoint)
    trained = recipe.restored(found.about["config"])
    recipe.validate(trained)
    # Never the file's own: no file chooses what is read.
    trained.data_dir, trained.init_from = config.data_dir, ""
    trained.num_test = config.num_test
    test, model = recipe.read(trained, "test"), recipe.network(trained)
    x = jax.ShapeDtypeStruct((1, *test.x.shape[1:]), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    parameters.check_network(found[:2], shapes)
    available = 1 if jax.default_backend() == "cpu" else jax.device_count()
    checks.integers(config, "num_devices", least=0, most=jax.device_count())
    return Subject(
        model,
        testing.networks(found.params, found.batch_stats),
        found.about | {"config": trained.to_dict()},
        test,
        devices.mesh(config.num_devices or available),
        config.norm or trained.norm,
        max(found.about["eps"]) if config.eps is None else config.eps,
    )


def _attacks(config: ConfigDict, subject: Subject) -> list[tuple]:
    """Name of the stage, attack, radius and number of starts."""
    steps, size = config.num_steps, config.rel_step_size
    pgd = recipe.pgd(subject.norm, steps, size, "in_ball")
    return [
        ("fgsm", recipe.pgd(subject.norm, 1, 1.0, "none"), subject.eps, 1),
        ("pgd", pgd, subject.eps, config.num_restarts),
        *((f"pgd-{eps:g}", pgd, eps, 1) for eps in config.curve),
    ]


def _outcomes(
    config: ConfigDict,
    subject: Subject,
    name: str,
    attack: Attack,
    eps: float,
    num_starts: int,
) -> dict[str, np.ndarray]:
    """The worst outcomes over the starts of an attack on every network, ``[r, n]``."""
    test = testing.tester(
        subject.model, attack, subject.test, subject.mesh, config.batch_size
    )
    # One start after the other: at once they would need as many times the memory, and
    # on CPU a batch that leaves the cache takes twice the time per image.
    runs = list(itertools.product(subject.networks, range(num_starts)))
    found = []
    for i in progress.steps(len(runs), name):
        network, start = runs[i]
        key = jax.random.fold_in(jax.random.key(config.seed), start)
        found.append(test(network, key, eps))
    by_network = [found[i : i + num_starts] for i in range(0, len(found), num_starts)]
    found = [evaluate.worst_case(*outcomes) for outcomes in by_network]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)._asdict()


def _row(config, subject, outcomes, i) -> dict[str, Any]:
    """One network's numbers, under RobustBench's names where those exist."""
    single = {
        name: Outcome(**{field: values[i] for field, values in found.items()})
        for name, found in outcomes.items()
    }
    summaries = {name: evaluate.summary(found) for name, found in single.items()}
    total = evaluate.summary(evaluate.worst_case(single["fgsm"], single["pgd"]))
    about = subject.about
    return {
        "name": f"{about['config']['objective']} {about['config']['model']}",
        "dataset": about["config"]["dataset"],
        "architecture": about["config"]["model"],
        "eps": subject.eps,
        "clean_acc": 100 * total.accuracy.value,
        "reported": 100 * total.robust_accuracy.value,
        "autoattack_acc": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "unreliable": bool(total.caveats),
        "caveats": total.caveats,
        "norm": subject.norm,
        "trained_eps": about["eps"][i] * (about["config"]["objective"] != "standard"),
        "seed": about["seed"][i],
        "epoch": about["epoch"][i],
        "num_examples": total.num_examples,
        "clean": total.accuracy,
        "fgsm": summaries["fgsm"].robust_accuracy,
        "pgd": summaries["pgd"].robust_accuracy,
        "worst_case": total.robust_accuracy,
        "robust_loss": total.robust_loss,
        "num_zero_grad": total.num_zero_gradients,
        "num_undefined": total.num_undefined,
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
        f"{about.get('commit', 'unknown')}.\n\n{figures.table(header, rows)}"
        f"{_cautions(networks)}{curve}",
    )


def _cautions(networks) -> str:
    """What speaks against a network's numbers, a line each."""
    lines = [
        f"- ε = {network['trained_eps']:.4g}, seed {network['seed']}: {line}"
        for network in networks
        for line in network["caveats"]
    ]
    return "\n".join(["\n**Caution:**\n", *lines, ""]) if lines else ""


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


def main(argv: list[str], *, own_process: bool = False) -> int:
    """``evaluate FILE [--config.field=value …] [--workdir=…]``."""
    if fields.HELP & {*argv}:
        page = fields.page(CONFIG, text=__doc__)
        return command_line.exit_status(lambda: print(page))
    status = command_line.exit_status(lambda: _check_given(argv))
    if status:
        return status
    fixed = [f"--config={CONFIG}", f"--config.checkpoint={argv[0]}"]
    return command_line.main([*fixed, *argv[1:]], own_process=own_process)


def _check_given(argv: list[str]) -> None:
    """Raises ConfigError, with what to give, for what holds no parameters at all."""
    if not argv or argv[0].startswith("-"):
        raise checks.ConfigError(f"evaluate what? {_GIVE}")
    path = Path(argv[0])
    if path.is_dir() and not (path / "best.safetensors").exists():
        raise checks.ConfigError(f"{path} has no best.safetensors: {_instead(path)}")
    if path.is_file() and path.suffix != ".safetensors":
        with path.open("rb") as file:
            has_header = file.read(9)[8:] == b"{"
        if not has_header:
            msg = f"{path} is no .safetensors file: {_instead(path.parent)}"
            raise checks.ConfigError(msg)


_GIVE = (
    "give a .safetensors file of parameters, or the work directory of a training run"
)


def _instead(directory: Path) -> str:
    found = sorted(map(str, directory.glob("*.safetensors")))
    more = ", …" if len(found) > _SHOWN else ""
    return f"give {', '.join(found[:_SHOWN])}{more}" if found else _GIVE


_SHOWN = 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], own_process=True))
