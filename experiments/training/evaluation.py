"""PGD-50 with ten restarts, and a curve over eps, on released networks.

Size: 10 000 test images, PGD-50 from ten starts. Time: 2.5 minutes a network of
``mnist.py``.

    advjax evaluate runs/mnist/best.safetensors
    advjax evaluate runs/mnist --config.num_restarts=1

Any field is overridden as everywhere. Variant ``smoke``, for tests.

Networks are evaluated as the field reports it: clean, under FGSM, under PGD with
restarts, at the worst of all attacks, and over a curve of radii. Every proportion is
out of all test images and has Wilson's 95 % interval. What makes a network only look
robust, such as vanished or undefined gradients, is counted and said beside the number.
"""

import itertools
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from ml_collections import ConfigDict

from advjax import evaluate
from advjax.evaluate import Outcome
from advjax.types import Attack, Batch, Model, Params
from experiments import arrays, checks, devices, figures, findings, progress, usage
from experiments import run as command_line
from experiments.fields import count, machine, number, numbers, one_of, some
from experiments.inputs import ReleasedFile
from experiments.intervals import Interval
from experiments.study import Config, Setup, Study
from experiments.training import parameters, recipe, testing
from experiments.training.parameters import Released
from experiments.writing import Drawn, Report, Table


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


def subject(found: Released, config: ConfigDict) -> Subject:
    """The networks of a file, and what they are attacked on.

    Raises:
        ConfigError: if they are not of the network that the file says.
        DataError: if the test data cannot be read.
    """
    trained = recipe.restored(found.about["config"])
    # Never the file's own: no file chooses what is read.
    trained.data_dir, trained.init_from = config.data_dir, ""
    trained.num_test = config.num_test
    recipe.validate(trained)
    test, model = recipe.read(trained, "test"), recipe.network(trained)
    x = jax.ShapeDtypeStruct((1, *test.x.shape[1:]), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    parameters.check_network(found[:2], shapes)
    available = 1 if jax.default_backend() == "cpu" else jax.device_count()
    if config.num_devices > jax.device_count():
        msg = f"choose numbers at least 0 and at most {jax.device_count()}"
        raise checks.ConfigError(f"config.num_devices = {config.num_devices}: {msg}")
    return Subject(
        model,
        testing.networks(found.params, found.batch_stats),
        found.about | {"config": trained.to_dict()},
        test,
        devices.mesh(config.num_devices or available),
        config.norm or trained.norm,
        max(found.about["eps"]) if config.eps is None else config.eps,
    )


class Run(NamedTuple):
    """An attack of every network: the attack, its radius and its number of starts."""

    attack: Attack
    eps: float
    num_starts: int


def _attacks(setup: Setup) -> dict[str, tuple[Subject, Run]]:
    config, subject = setup.config, setup.inputs["checkpoint"]
    steps, size = config.num_steps, config.rel_step_size
    pgd = recipe.pgd(subject.norm, steps, size, "in_ball")
    fgsm = recipe.pgd(subject.norm, 1, 1.0, "none")
    runs = {
        "fgsm": Run(fgsm, subject.eps, 1),
        "pgd": Run(pgd, subject.eps, config.num_restarts),
        **{f"curve-{i}": Run(pgd, eps, 1) for i, eps in enumerate(config.curve)},
    }
    return {name: (subject, run) for name, run in runs.items()}


def _measured(setup: Setup, subject: Subject, run: Run) -> xr.Dataset:
    """The worst outcomes over the starts of an attack, over networks and images."""
    test = testing.tester(
        subject.model, run.attack, subject.test, subject.mesh, setup.config.batch_size
    )
    # One start after the other: at once they would need as many times the memory, and
    # on CPU a batch that leaves the cache takes twice the time per image.
    runs = list(itertools.product(subject.networks, range(run.num_starts)))
    found = []
    for i in progress.steps(len(runs), f"ε = {run.eps:.4g}"):
        network, start = runs[i]
        key = jax.random.fold_in(jax.random.key(setup.config.seed), start)
        found.append(test(network, key, run.eps))
    by_network = [
        found[i : i + run.num_starts] for i in range(0, len(found), run.num_starts)
    ]
    worst = [evaluate.worst_case(*outcomes) for outcomes in by_network]
    outcome = jax.tree.map(lambda *leaves: np.stack(leaves), *worst)
    axes = ("network", "image")
    return arrays.dataset({k: (axes, v) for k, v in outcome._asdict().items()})


SHOWN = ("clean", "fgsm", "pgd", "worst_case")


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The numbers of every network, under RobustBench's names where those exist."""
    config, subject = setup.config, setup.inputs["checkpoint"]
    about, trained = subject.about, subject.about["config"]
    is_attacked = trained["objective"] != "standard"
    rows = [
        _numbers({name: _outcome(each, i) for name, each in found.items()})
        for i in range(len(subject.networks))
    ]
    numbers = {
        name: (("network", "end")[: np.ndim(value) + 1], [row[name] for row in rows])
        for name, value in rows[0].items()
        if name != "curve"
    }
    return arrays.dataset(
        {
            **numbers,
            "curve": (("network", "curve_eps", "end"), [r["curve"] for r in rows]),
            "trained_eps": (("network",), np.array(about["eps"]) * is_attacked),
            "seed": (("network",), about["seed"]),
            "epoch": (("network",), about["epoch"]),
        },
        {"end": ["value", "low", "high"], "curve_eps": np.array(config.curve, float)},
        dataset=trained["dataset"],
        architecture=trained["model"],
        objective=trained["objective"],
        norm=subject.norm,
        eps=float(subject.eps),
        num_examples=len(subject.test.y),
        additional_data=False,
        number_forward_passes=1,
        trained_by=str(about.get("commit", "unknown")),
    )


def _outcome(found: xr.Dataset, i: int) -> Outcome:
    return Outcome(**{field: found[field].values[i] for field in Outcome._fields})


def _numbers(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """One network's numbers; proportions are ``(value, low, high)``."""
    summaries = {name: evaluate.summary(found) for name, found in outcomes.items()}
    total = evaluate.summary(evaluate.worst_case(outcomes["fgsm"], outcomes["pgd"]))
    robust = {name: each.robust_accuracy for name, each in summaries.items()}
    curve = [tuple(robust[name]) for name in summaries if name.startswith("curve")]
    return {
        "clean_acc": 100 * total.accuracy.value,
        "reported": 100 * total.robust_accuracy.value,
        "autoattack_acc": np.nan,
        "unreliable": bool(total.caveats),
        "caveats": "\n".join(total.caveats),
        "clean": tuple(total.accuracy),
        "fgsm": tuple(robust["fgsm"]),
        "pgd": tuple(robust["pgd"]),
        "worst_case": tuple(total.robust_accuracy),
        "robust_loss": total.robust_loss,
        "num_zero_grad": total.num_zero_gradients,
        "num_undefined": total.num_undefined,
        "curve": np.reshape(curve, (-1, 3)),
    }


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    facts = values.attrs
    attacked = f"ε = {facts['eps']:.4g} ({facts['norm']})"
    networks = [values.isel(network=i) for i in range(values.sizes["network"])]
    drawn = []
    if values.sizes["curve_eps"]:
        figure = _figure(config, networks)
        drawn.append(Drawn("curve", figure, "robust accuracy over the radius"))
    pgd = f"PGD-{config.num_steps} × {config.num_restarts}"
    header = ["trained ε", "seed", "clean", "FGSM", pgd, "worst case", "zero gradients"]
    rows = [
        [
            f"{float(network['trained_eps']):.4g}",
            str(int(network["seed"])),
            *(f"{_percent(network[name]):.2f}" for name in SHOWN),
            str(int(network["num_zero_grad"])),
        ]
        for network in networks
    ]
    return Report(
        f"{facts['architecture']} on {facts['dataset']}, attacked at {attacked}",
        f"How many test images are classified rightly at {attacked}, whatever the "
        "attack?",
        [_finding(config, facts, network) for network in networks],
        drawn,
        [Table("Accuracies in %", header, rows)],
        f"{facts['num_examples']} test images; Wilson's 95 % intervals; steps of "
        f"{config.rel_step_size:.4g} ε; parameters of commit {facts['trained_by']}.",
        _cautions(networks),
    )


def _percent(proportion: xr.DataArray) -> Interval:
    return Interval(*(100 * float(value) for value in proportion))


def _finding(
    config: Config, facts: Mapping[str, Any], network: xr.Dataset
) -> findings.Finding:
    caution = ", see CAUTION" if bool(network["unreliable"]) else ""
    return findings.finding(
        f"robust accuracy, {facts['objective']} training at ε = "
        f"{float(network['trained_eps']):.4g}, seed {int(network['seed'])}{caution}",
        _percent(network["worst_case"]),
        size=f"{facts['num_examples']} images, PGD-{config.num_steps} × "
        f"{config.num_restarts}, FGSM",
        form=".2f",
        unit=" %",
    )


def _cautions(networks: list[xr.Dataset]) -> list[str]:
    """What speaks against a network's numbers, a line each."""
    return [
        f"trained at ε = {float(network['trained_eps']):.4g}, seed "
        f"{int(network['seed'])}: {line}"
        for network in networks
        for line in str(network["caveats"].values).splitlines()
    ]


def _figure(config: Config, networks: list[xr.Dataset]) -> Any:
    figure, (axis,) = figures.panels()
    for color, network in zip(figures.colors(len(networks)), networks, strict=True):
        x, curve = network["curve_eps"], network["curve"]
        label = f"trained at ε = {float(network['trained_eps']):.3g}, "
        label += f"seed {int(network['seed'])}"
        axis.plot(x, curve.sel(end="value"), color=color, label=label, marker="o")
        ends = curve.sel(end="low"), curve.sel(end="high")
        axis.fill_between(x, *ends, color=color, alpha=0.2, linewidth=0)
    axis.set(xlabel="radius ε", ylabel=f"accuracy under PGD-{config.num_steps}")
    axis.set_ylim(0, 1.02)
    axis.legend()
    return figure


STUDY = Study(
    "training.evaluation",
    {
        **some(recipe.FIELDS, "data_dir", "num_test", "seed", "num_devices"),
        "norm": one_of(
            "",
            "norm of the attacks: linf, l2 or l1; that of training if empty",
            ("", *recipe.NORMS),
        ),
        "eps": number(
            None, "radius of FGSM and PGD; the largest one of training if None"
        ),
        "num_steps": count(50, "steps of PGD"),
        "num_restarts": count(10, "random starts of PGD"),
        # 0.01 at eps = 0.3, as Wong et al. 2020.
        "rel_step_size": number(1 / 30, "step of PGD, over the radius", above=0),
        "batch_size": machine(count(100, "test images at once")),
        "curve": numbers(
            (),
            "radii for a curve, attacked by PGD from one start; none if ()",
            length=0,
            increasing=True,
        ),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_test": 50,
                "batch_size": 50,
                "num_steps": 2,
                "num_restarts": 2,
                "curve": (0.0, 0.1),
            },
        },
    ),
    needs={
        "checkpoint": ReleasedFile(
            "file of released parameters, or the work directory of a training run",
            subject,
        )
    },
    cases=_attacks,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config


# --- the command ---


def main(argv: list[str], *, own_process: bool = False) -> int:
    """``evaluate FILE [--config.field=value …] [--workdir=…]``."""
    if usage.HELP & {*argv}:
        page = partial(usage.page, Path(__file__))
        return command_line.exit_status(lambda: print(page()))
    status = command_line.exit_status(lambda: _check_given(argv))
    if status:
        return status
    fixed = [f"--config={__file__}", f"--config.checkpoint={argv[0]}"]
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
