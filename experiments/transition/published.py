"""The printed eps* of Tables 3 and 4, re-derived from the printed losses.

Size: the printed tables. Time: seconds, on any machine.

    advjax run transition/published

Variants: none, as there is nothing to choose: ``smoke`` is the same.

Nothing is trained: the crossing and the extrapolation of ``advjax.transition`` are
applied to the losses in ``experiments/published``. Radii are in units of 1/255.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import transition
from experiments import arrays, findings, printed
from experiments.findings import AGREES, DIFFERS
from experiments.study import Config, Setup, Study
from experiments.writing import Report, Table

KEY = ("dataset", "architecture", "n", "norm")
"""What tells the rows of Table 3 apart."""
NO_LOSSES = "NO_LOSS_TABLE"


class _Losses(NamedTuple):
    """Where the losses of a row of Table 3 are: a table, and what its columns hold."""

    table: str
    wanted: dict[str, str]


_B2, _B3 = "b2_cifar10_preactresnet18", "b3_cifar100_svhn_preactresnet18"
_B4, _B5 = "b4_cifar10_wideresnet34", "b5_cifar10_adam_mart_trades"
# The two MNIST rows have none.
_LOSSES = {
    ("cifar10", "preactresnet18", "50000", "linf"): _Losses(
        _B2, {"n": "50000", "norm": "linf", "batch_size": "128"}
    ),
    ("cifar10", "preactresnet18", "10000", "linf"): _Losses(
        _B2, {"n": "10000", "norm": "linf"}
    ),
    ("cifar10", "preactresnet18", "50000", "l2"): _Losses(
        _B2, {"n": "50000", "norm": "l2"}
    ),
    ("cifar10", "wideresnet34_1", "50000", "linf"): _Losses(_B4, {"width": "1"}),
    ("cifar10", "wideresnet34_10", "50000", "linf"): _Losses(_B4, {"width": "10"}),
    ("cifar100", "preactresnet18", "25000", "linf"): _Losses(
        _B3, {"dataset": "cifar100", "n": "25000"}
    ),
    ("cifar100", "preactresnet18", "50000", "linf"): _Losses(
        _B3, {"dataset": "cifar100", "n": "50000"}
    ),
    ("svhn_cropped", "preactresnet18", "50000", "linf"): _Losses(
        _B3, {"dataset": "svhn_cropped"}
    ),
    ("cifar10", "preactresnet18_trades", "50000", "linf"): _Losses(
        _B5, {"name": "trades"}
    ),
    ("cifar10", "preactresnet18_mart", "50000", "linf"): _Losses(_B5, {"name": "mart"}),
}

_FITTED_THRESHOLD = 0.1789
"""Of Table 4 for n = 50 000, fitted to its estimates: one number against eight."""


def _rederived(setup: Setup) -> xr.Dataset:
    """Both tables: Table 3 over ``row``, and Table 4 over ``estimate``."""
    del setup
    columns = {}
    for axis, rows in (("row", table_3()), ("estimate", table_4())):
        prefix = "tuned_" if axis == "estimate" else ""
        for name in rows[0]:
            columns[f"{prefix}{name}"] = ((axis,), [row[name] for row in rows])
    return arrays.dataset(columns)


def table_3() -> list[dict[str, Any]]:
    """Rows of Table 3 with ``derived``, ``status``, and whether the rounding agrees."""
    rows = []
    for line in printed.rows("phase_transition_table_3_eps_star"):
        key = tuple(line[name] for name in KEY)
        text = line["eps_star_255"]
        derived, status = np.nan, NO_LOSSES
        if key in _LOSSES:
            points = _points(*_LOSSES[key])
            if line["norm"] == "l2":
                # Clean training has no norm; Table B.2 prints it with linf.
                points = _points(*_LOSSES[*key[:-1], "linf"])[:1] + points
            eps, losses, test_losses = jnp.asarray(points).T
            found = transition.crossing(eps, losses, test_losses[0])
            derived = float(found.eps_star)
            status = transition.Status(int(found.status)).name
        row = {"printed": text, "derived": derived, "status": status}
        row["agrees"] = text == _rounded(derived, text)
        rows.append({name: line[name] for name in KEY} | row)
    return rows


def table_4() -> list[dict[str, Any]]:
    """The estimates of Table 4 with ``derived``, and whether the rounding agrees."""
    rows = []
    for line in printed.rows("phase_transition_table_4_fine_tuning"):
        n, norm = line["n"], line["norm"]
        clean = _points("b7_fine_tuning_losses", {"n": n, "attack": "none"})
        for attack in ("pgd", "fgm"):
            wanted = {"n": n, "norm": norm, "attack": attack}
            tuned = _points("b7_fine_tuning_losses", wanted)
            for number, points in (("1", [tuned[1]]), ("3", tuned)):
                eps, losses = jnp.asarray(clean + points).T
                found = transition.extrapolate(eps, losses, _threshold(n))
                text = line[f"{attack}_{number}"]
                row = {"n": n, "norm": norm, "estimate": f"{attack}, {number}"}
                row |= {"printed": text, "derived": float(found.eps_star)}
                row["agrees"] = text == _rounded(row["derived"], text)
                rows.append(row)
    return rows


def _threshold(n: str) -> float:
    """Of Table 4, which prints none: the clean test loss of Table B.2.

    That loss does not give the printed estimates for n = 50 000.
    """
    if n == "50000":
        return _FITTED_THRESHOLD
    return _points(*_LOSSES["cifar10", "preactresnet18", n, "linf"])[0][-1]


def _rounded(value: float, like: str) -> str:
    """``value`` with as many decimals as the text ``like``."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def _points(table: str, wanted: dict[str, str]) -> list[tuple[float, ...]]:
    """Radius, training loss and, where printed, test loss of the wanted rows."""
    columns = ("eps_255", "adv_train_loss", "adv_test_loss")
    return [
        tuple(float(row[column]) for column in columns if column in row)
        for row in printed.rows(f"phase_transition_table_{table}", **wanted)
    ]


def _report(config: Config, values: xr.Dataset) -> Report:
    del config
    return Report(
        "Published ε*, re-derived from the published losses",
        "Do the printed ε* follow from the printed losses?",
        [*_findings(values)],
        (),
        [_table_3(values), _table_4(values)],
        "In units of 1/255. Table 3 by interpolation at the clean test loss; its MNIST "
        "rows have no printed losses. Table 4, fine-tuning, by a line through the "
        "clean loss and the middle radius (1), or by least squares through the clean "
        "loss and all three (3); its threshold for n = 50 000 is not printed, and one "
        "number is fitted to these eight estimates.",
    )


def _findings(values: xr.Dataset):
    """What agrees, counted, and each row of Table 3 that does not."""
    agrees = values["agrees"].values
    has_losses = values["status"].values != NO_LOSSES
    yield findings.finding(
        "rows of Table 3 that follow to the last digit",
        f"{agrees.sum()} of {has_losses.sum()}",
        size=f"{has_losses.sum()} of {agrees.size} rows have printed losses",
        verdict=AGREES if agrees[has_losses].all() else DIFFERS,
    )
    for i in np.flatnonzero(has_losses & ~agrees):
        row = values.isel(row=i)
        status = str(row["status"].values)
        derived = f"{float(row['derived']):.3f}" if status == "CROSSES" else status
        key = ", ".join(str(row[name].values) for name in KEY)
        yield findings.finding(
            f"255 ε* of {key}",
            derived,
            printed=str(row["printed"].values),
            size="the printed losses",
            verdict=DIFFERS,
        )
    for n, size in (("10000", ""), ("50000", ", to which one threshold is fitted")):
        tuned = values["tuned_agrees"].values[values["tuned_n"].values == n]
        yield findings.finding(
            f"estimates of Table 4 that follow to the last digit, n = {n}",
            f"{tuned.sum()} of {tuned.size}",
            size=f"{tuned.size} estimates{size}",
            verdict=findings.UNDECIDED if size else findings.follows(is_so=tuned.all()),
        )


def _texts(values: xr.Dataset, names) -> list[list[str]]:
    """Rows of what is text."""
    columns = [values[name].values for name in names]
    return [[str(cell) for cell in row] for row in zip(*columns, strict=True)]


def _table_3(values: xr.Dataset) -> Table:
    header = ["data set", "architecture", "n", "norm", "printed", "re-derived", ""]
    rows = _texts(values, (*KEY, "printed"))
    for i, row in enumerate(rows):
        at = values.isel(row=i)
        status, agrees = str(at["status"].values), bool(at["agrees"])
        row.append(f"{float(at['derived']):.3f}" if status == "CROSSES" else status)
        row.append("" if agrees or status == NO_LOSSES else "differs")
    return Table("Table 3: from scratch", header, rows)


def _table_4(values: xr.Dataset) -> Table:
    columns = ("n", "norm", "estimate", "printed")
    rows = _texts(values, [f"tuned_{column}" for column in columns])
    for row, derived in zip(rows, values["tuned_derived"].values, strict=True):
        row.append(f"{derived:.3f}")
    return Table("Table 4: fine-tuning", [*columns, "re-derived"], rows)


STUDY = Study(
    "transition.published",
    {},
    _report,
    variants=({"full": {}, "smoke": {}},),
    measure=_rederived,
)
get_config = STUDY.config
