"""Adversarial training of networks on images, with the engine of all deep studies.

Size: 1437 digits, an MLP; configurations for MNIST and CIFAR-10 have their own. Time: a
quarter of a minute.

    advjax run training/digits
    advjax run training/mnist
    advjax run training/cifar10:gpu

A network is trained for every radius and seed. Every epoch ends with a test: clean,
under PGD, and under FGSM, whose robust accuracy runs away from that under PGD where
single-step training overfits catastrophically. The network of smallest adversarial test
loss and the last one are kept. A killed run resumes at its last checkpoint and ends
with the same numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from ml_collections import ConfigDict

from experiments import arrays, figures, findings, run
from experiments.study import Config, Setup, Study
from experiments.training import recipe, trainer
from experiments.training.parts import Training
from experiments.writing import Drawn, Report, Table


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> xr.Dataset:
    """Trains from a notebook or another program as the command line does.

    Returns:
        Curves and epochs, as ``trainer.train_networks``; a complete directory is not
        trained again.

    Raises:
        WorkdirError: also if the directory holds something else.
        Exception: as ``run.run``.
    """
    content = run.run(config, Path(workdir))
    return arrays.restored(content["results"])


def _trained(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    del inputs
    return {"": recipe.training(config)}


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    del found
    return setup.trained[""]


_COLUMNS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "test_robust_loss": "adv. test loss",
    "test_robust_accuracy": "robust accuracy",
    "test_fgsm_gap": "FGSM gap",
    "test_zero_grad": "zero gradients",
    "test_undefined": "undefined",
}


def _report(config: Config, values: xr.Dataset) -> Report:
    last = xr.full_like(values["best_epoch"], config.num_epochs - 1)
    spread = f"mean ± sd over {config.num_seeds} seeds"
    return Report(
        f"{config.model} on {config.dataset}, {config.objective}, {config.norm}",
        "How accurate are the networks on clean and on attacked test images?",
        [
            finding
            for eps in values["eps"].values
            for finding in _findings(config, values, eps, last)
        ],
        [Drawn("curves", _figure(values), "curves of training")],
        [
            _table("Epoch of smallest adversarial test loss", values, "best_epoch"),
            _table("Last epoch", values.assign(last=last), "last"),
        ],
        f"{config.num_epochs} epochs on {values.attrs['num_train']} examples, tested "
        f"on {values.attrs['num_test']}; {spread}. Robust accuracy is under PGD with "
        f"{config.test_num_steps} steps, out of all examples; the gap is that under "
        "FGSM minus that under PGD.",
    )


def _findings(config: Config, values: xr.Dataset, eps: float, last: xr.DataArray):
    size = f"{values.attrs['num_train']} images, {config.num_seeds} seeds"
    for name, what in (
        ("test_accuracy", "clean accuracy"),
        ("test_robust_accuracy", f"accuracy under PGD-{config.test_num_steps}"),
    ):
        found = 100 * trainer.at(values, name, last).sel(eps=eps)
        yield findings.finding(
            f"{what}, {config.objective} training at ε = {eps:.4g}",
            found,
            size=size,
            form=".2f",
            unit=" %",
        )


def _table(title: str, values: xr.Dataset, epoch: str) -> Table:
    columns = {
        label: trainer.at(values, name, values[epoch])
        for name, label in _COLUMNS.items()
    }
    return Table(title, ["ε", *columns], figures.rows(columns))


def _figure(values: xr.Dataset) -> Any:
    """A line for every seed, a colour for every radius."""
    figure, (left, right) = figures.panels(2)
    epochs, radii = 1 + values["epoch"].values, values["eps"].values
    styles = {
        "loss": (left, "--"),
        "test_robust_loss": (left, "-"),
        "test_accuracy": (right, ":"),
        "test_fgsm_accuracy": (right, "-."),
        "test_robust_accuracy": (right, "-"),
    }
    for eps, color in zip(radii, figures.colors(radii.size), strict=True):
        for name, (axis, style) in styles.items():
            curves = values[name].sel(eps=eps).transpose("epoch", "seed")
            lines = axis.plot(epochs, curves, style, color=color, linewidth=1.2)
            if name == "test_robust_loss":
                lines[0].set_label(f"ε = {eps:.3g}")
    left.set(xlabel="epoch", ylabel="loss", title="training - -   adv. test —")
    left.legend()
    right.set(
        xlabel="epoch",
        ylabel="test accuracy",
        title="clean ···   FGSM -·-   PGD —",
        ylim=(0, 1.02),
    )
    return figure


STUDY = Study(
    "training.classifier",
    recipe.FIELDS,
    _report,
    needs=recipe.NEEDS,
    check=lambda config, _: recipe.check(config),
    trains=_trained,
    values=_values,
)
get_config = STUDY.config
