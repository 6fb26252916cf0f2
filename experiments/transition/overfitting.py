"""How much more a network overfits after the first drop of the rate: Figure 5.

Size: that of the grid. Time: seconds.

    advjax run transition/overfitting --config.grid=runs/GRID

where GRID is a finished ``classifier_grid``, whose curves are read: nothing is trained.
Figure 5 is that of the row ``cifar10``.

Variants: the size, ``paper``, ``gpu`` or ``smoke``, is that of the grid.

The generalisation gap is the adversarial test loss minus the adversarial training loss,
both cross-entropies. Its ratio is to the gap of the first epoch at the lower rate, the
101st of the paper's 200.

Of the MNIST grid at ``cpu`` the gap grows by 2 % at eps = 0 and by 34 % at 0.25.
"""

from collections.abc import Mapping
from typing import Any

import xarray as xr

from experiments import figures, findings, finished, intervals
from experiments.study import Config, Setup, Study
from experiments.training.parts import first_selectable
from experiments.transition import readings
from experiments.transition.readings import GRID
from experiments.writing import Drawn, Report, Table


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Gaps over ``epoch``, ``eps`` and ``seed``; ratios are nan before the drop."""
    del found
    grid = setup.inputs["grid"]
    first = first_selectable(grid.config.select_from, grid.config.num_epochs)
    curves = grid.values[["test_robust_loss", "robust_loss"]].astype(float)
    gap = curves["test_robust_loss"] - curves["robust_loss"]
    ratio = gap_ratio(gap, first)
    values = xr.Dataset({"gap": gap}).assign(ratio=ratio)
    return values.assign(eps_star=grid.reading["eps_star"]).assign_attrs(
        setting=grid.setting, grid=grid.origin, first_epoch=first
    )


def gap_ratio(gap: xr.DataArray, first: int) -> xr.DataArray:
    """Gaps from the epoch ``first`` on over that one, nan where that is not above 0."""
    base = gap.isel(epoch=first, drop=True)
    return gap.isel(epoch=slice(first, None)) / base.where(base > 0)


def _report(config: Config, values: xr.Dataset) -> Report:
    del config
    facts, eps_star = values.attrs, figures.plus_minus(values["eps_star"], 4)
    return Report(
        f"Overfitting of {facts['setting']}",
        "Does the generalisation gap grow more after the first drop of the rate where "
        "the radius is larger?",
        [*_findings(values)],
        [Drawn("overfitting", _figure(values), "gap against epoch")],
        [_table(values)],
        "Gap: adversarial test loss minus adversarial training loss; mean ± sd over "
        f"{values.sizes['seed']} seeds, epochs from 0. ε* = {eps_star}. Curves of "
        f"{facts['grid']}.",
    )


def _findings(values: xr.Dataset):
    """The ratio at both ends of the grid, and its rise from one to the other."""
    ratio = values["ratio"].isel(epoch=-1)
    size = f"{values.sizes['seed']} seeds, {values.sizes['epoch']} epochs"
    first = values.attrs["first_epoch"]
    rise = intervals.student(ratio.isel(eps=-1) - ratio.isel(eps=0))
    low, high = values["eps"].values[[0, -1]]
    yield findings.finding(
        f"the ratio of gaps is larger at ε = {high:.4g} than at {low:.4g}",
        rise,
        printed="rising with ε (curves)",
        size=size,
        verdict=findings.above(rise),
        form=".2f",
    )
    for i in (0, -1):
        yield findings.finding(
            f"gap at the last epoch over that at epoch {first}, "
            f"ε = {float(values['eps'][i]):.4g}",
            intervals.student(ratio.isel(eps=i)),
            size=size,
            form=".2f",
        )


def _figure(values: xr.Dataset) -> Any:
    figure, (left, right) = figures.panels(2)
    first, radii = values.attrs["first_epoch"], values["eps"].values
    # Before, the gap is that of untrained networks.
    gap = values["gap"].isel(epoch=slice(first // 2, None))
    ratio = values["ratio"].isel(epoch=slice(first, None))
    for eps, color in zip(radii, figures.shades(radii.size), strict=True):
        label = f"ε = {eps:.3g}"
        figures.band(left, gap.sel(eps=eps), "epoch", label, color, marker="")
        figures.band(right, ratio.sel(eps=eps), "epoch", label, color, marker="")
    left.axvline(first, color="0.3", linewidth=0.8, linestyle=":")
    left.set(xlabel="epoch", ylabel="adv. test loss - adv. training loss")
    right.set(xlabel="epoch", ylabel=f"gap over that at epoch {first}")
    right.legend(fontsize=8)
    figure.suptitle(f"{values.attrs['setting']}: mean ± sd", fontsize=10)
    return figure


def _table(values: xr.Dataset) -> Table:
    first = values.attrs["first_epoch"]
    gap, last = values["gap"], values.isel(epoch=-1)
    columns = {
        f"gap at epoch {first}": gap.isel(epoch=first),
        "gap at the last epoch": last["gap"],
        "their ratio": last["ratio"],
    }
    return Table("Gaps", ["ε", *columns], readings.rows(columns))


STUDY = Study(
    "transition.overfitting",
    finished.FIELDS,
    _report,
    variants=({"paper": {}, "gpu": {}, "smoke": {}},),
    needs={"grid": GRID},
    values=_values,
)
get_config = STUDY.config
