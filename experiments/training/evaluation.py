"""AutoAttack, or PGD-50 with ten restarts, on released networks.

Size: 10 000 test images. Time: 2.5 minutes a network of ``mnist.py`` by PGD, an hour
by AutoAttack.

    advjax evaluate runs/mnist --config.protocol=autoattack
    advjax evaluate runs/mnist/best.safetensors --config.num_test=1000
    advjax evaluate runs/mnist --config.num_restarts=1

Any field is overridden as everywhere. Variant ``smoke``, for tests.

``autoattack`` is the ensemble that the field reports: APGD, FAB and Square, each on
the images that those before it left robust. ``strong`` is an ensemble of our own.
``pgd``, the quick default, is FGSM and PGD with restarts, and the worst of both; with
``curve`` over many radii as well. Every proportion is out of all test images and has
Wilson's 95 % interval. What makes a network only look robust, such as vanished or
undefined gradients, or operations that hide them, is counted and said beside the
number. An ensemble is stored component by component, so that it goes on where it was,
and with the worst points, at which one forward pass verifies the number.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from experiments import checks, finished, usage
from experiments import run as command_line
from experiments.fields import count, machine, number, numbers, one_of, some
from experiments.inputs import ReleasedFile
from experiments.study import Config, Study
from experiments.training import autoattack, pgd, recipe
from experiments.training.subject import subject
from experiments.writing import Report


def _protocol(config: Config) -> Any:
    return pgd if config.protocol == "pgd" else autoattack


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    if config.curve and config.protocol != "pgd":
        msg = f"config.curve = {config.curve}: curves are of config.protocol = 'pgd'"
        raise checks.ConfigError(f"{msg}; run it as well")
    if config.num_devices > 1 and config.protocol != "pgd":
        msg = f"config.num_devices = {config.num_devices}: ensembles run on one device"
        raise checks.ConfigError(f"{msg}; choose 0 or 1")


def _report(config: Config, values: xr.Dataset) -> Report:
    # Runs from before there were protocols say nothing of theirs.
    protocol = autoattack if "component" in values.coords else pgd
    return protocol.report(config, values)


STUDY = Study(
    "training.evaluation",
    {
        "protocol": one_of(
            "pgd",
            "pgd for FGSM and PGD; autoattack or its longer plus; strong for our own",
            ("pgd", *autoattack.PROTOCOLS),
        ),
        **some(recipe.FIELDS, "data_dir", "num_test", "seed", "num_devices"),
        **some(finished.FIELDS, "model"),
        "norm": one_of(
            "",
            "norm of the attacks: linf, l2 or l1; that of training if empty",
            ("", *recipe.NORMS),
        ),
        "eps": number(
            None, "radius of the attacks; the largest one of training if None"
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
    check=_check,
    cases=lambda setup: _protocol(setup.config).cases(setup),
    measure=lambda setup, *case: _protocol(setup.config).measured(setup, *case),
    values=lambda setup, found: _protocol(setup.config).values(setup, found),
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
