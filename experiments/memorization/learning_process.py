"""The learning process: flatness through adversarial training. Figure 2.

Size: 200 images of each part; the stored results have 50 or 40. Time: 5 to 7 minutes
with those, on one core.

    advjax run memorization/learning_process --config.networks=runs/NETWORKS

where NETWORKS is a finished ``networks``.

Variants: ``paper``, 1000 images of each part; ``cpu``, the default, 200; ``smoke``,
small, for tests.

The mean of the largest gradient norm in linf balls against the radius, one curve for
each of some epochs of adversarial training, on training and on test images. The paper's
claim is that the training curves fall inside the radius of training, and that the test
curves fall on MNIST and rise on CIFAR-10. Losses and errors are kept as well, for
``generalization_gap``.

Within the radius the largest gradient on training images falls 170 times on MNIST, and
1.3 times on 1000 images of CIFAR-10, where it rises 4 times on test images.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import xarray as xr

from experiments import arrays, figures, findings, intervals
from experiments.fields import count
from experiments.memorization import networks, profiles
from experiments.memorization.networks import NETWORKS, SPLITS
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

CLAIMED = {
    "mnist": {"train": "falls", "test": "falls"},
    "cifar10": {"train": "falls", "test": "rises"},
}
"""How the largest gradient within the radius changes in the paper."""
VERDICTS = {"falls": findings.below, "rises": findings.above}


def _cases(setup: Setup) -> dict[str, tuple]:
    config, run = setup.config, setup.inputs["networks"]
    images = {
        split: run.images(split, config.num_images, config.subset_seed)
        for split in SPLITS
    }
    profile = profiles.measurer(config, run)
    return {
        f"{split}-{epoch}": (profile, images[split], "adversarial", f"epoch-{epoch}")
        for split, epoch in itertools.product(SPLITS, run.config.kept_epochs)
    }


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves over ``split``, ``epoch``, ``seed`` and ``radius``, and their change."""
    config, run = setup.config, setup.inputs["networks"]
    epochs = run.config.kept_epochs
    curves = {
        split: arrays.stacked({e: found[f"{split}-{e}"] for e in epochs}, "epoch")
        for split in SPLITS
    }
    values = arrays.stacked(curves, "split")
    sizes = {split: run.images(split).y.size for split in SPLITS}
    num_images = [config.num_images or size for size in sizes.values()]
    return values.assign(
        change=change(values["gradient"]), num_images=("split", num_images)
    ).assign_attrs(
        num_train=sizes["train"],
        num_inputs=run.images("test", 1).x.size,
        **networks.facts(run),
    )


def change(gradient: xr.DataArray) -> xr.DataArray:
    """The last epoch over the first, over ``split``, ``radius`` and ``bound``."""
    last, first = (gradient.isel(epoch=i, drop=True) for i in (-1, 0))
    return intervals.along("seed", intervals.geometric, last, first)


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    del config
    facts, numbers = values.attrs, values["num_images"]
    train, test = (int(numbers.sel(split=split)) for split in SPLITS)
    return Report(
        f"Flatness through adversarial training: {facts['setting']}",
        "Does the loss become flatter around training and around test images?",
        [finding(values, split) for split in SPLITS],
        [Drawn("learning", _figure(values), "gradient against the radius, by epoch")],
        [_table(values, split) for split in SPLITS],
        f"Largest ‖∇ₓL‖₁, means over {train} training and {test} test images and "
        f"{values.sizes['seed']} seeds; bands from the least to the largest seed. "
        "Radii are in units of that of training, the dotted line. Changes are "
        "geometric means over seeds, in brackets Student's 95 % interval of the "
        "logarithms. Claims are judged where robust training accuracy is at least "
        f"{networks.MEMORISED:g} %; here it is {facts['memorised']:.1f} %. Networks: "
        f"{facts['networks']}.",
    )


def _ends(values: xr.Dataset) -> str:
    first, last = values["epoch"].values[[0, -1]]
    return f"epoch {last} over {first}"


def finding(values: xr.Dataset, split: str) -> findings.Finding:
    """How the gradient within the radius changes, beside the paper's curves."""
    found = intervals.at(values["change"], split=split, radius=1)
    claimed = CLAIMED.get(values.attrs["dataset"], {}).get(split)
    verdict = findings.NO_CLAIM
    if claimed:
        decided = VERDICTS[claimed](found, 1.0)
        verdict = networks.judged(decided, values.attrs["memorised"])
    what = "largest gradient within the radius" + (f" {claimed}" if claimed else "")
    return findings.finding(
        f"{what}, {SPLITS[split]}, {_ends(values)}",
        found,
        printed=f"{claimed} (curves)" if claimed else "",
        size=f"{int(values['num_images'].sel(split=split))} images, "
        f"{values.sizes['seed']} seeds",
        verdict=verdict,
    )


def _table(values: xr.Dataset, split: str) -> Table:
    means = values["gradient"].sel(split=split).mean("seed", skipna=False)
    rows = [
        [
            f"{radius:g}",
            *(f"{float(mean):.3g}" for mean in means.sel(radius=radius)),
            f"{intervals.at(values['change'], split=split, radius=radius):.3g}",
        ]
        for radius in values["radius"].values
    ]
    header = ["radius", *(f"epoch {epoch}" for epoch in values["epoch"].values)]
    return Table(f"On {SPLITS[split]}", [*header, _ends(values)], rows)


def _figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2, sharey=True)
    eps, epochs = values.attrs["eps"], values["epoch"].values
    for axis, (split, title) in zip(axes, SPLITS.items(), strict=True):
        for epoch, color in zip(epochs, figures.shades(len(epochs)), strict=True):
            runs = values["gradient"].sel(split=split, epoch=epoch)
            profiles.curve(axis, runs, eps, f"epoch {epoch}", color)
        profiles.mark_training(axis, eps)
        axis.set(yscale="log", title=title)
    axes[0].set_ylabel("largest ‖∇ₓL‖₁, mean")
    figures.legend_below(figure, axes[0])
    return figure


STUDY = Study(
    "memorization.learning_process",
    {
        **profiles.FIELDS,
        "num_images": count(
            200, "images of each part, a random subset; 0 for all", least=0
        ),
    },
    _report,
    variants=profiles.VARIANTS,
    needs={"networks": NETWORKS},
    check=profiles.check,
    cases=_cases,
    measure=profiles.measured,
    values=_values,
)
get_config = STUDY.config
