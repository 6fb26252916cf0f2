"""A finished run as what another study starts from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from advjax import data
from advjax.types import Batch, Model, Params
from experiments import arrays, checks, files
from experiments.fields import Field, digest, machine, some, text, words
from experiments.training import recipe, testing
from experiments.workdir import complete


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run of a study.

    Attributes:
        path: its work directory.
        config: its configuration, as it was written.
        values: what it found.
        commit: the commit that finished it.
        digest: the digest of its results.
    """

    path: Path
    config: ConfigDict
    values: xr.Dataset
    commit: str
    digest: str

    @classmethod
    def read(cls, field: str, path: str, experiment: str) -> "Finished":
        """A finished run of a study.

        Args:
            field: the field of the configuration that names the directory.
            path: the directory.
            experiment: the study that must have run there.

        Raises:
            ConfigError: if the directory holds something else.
        """
        file = Path(path) / "results.json"
        try:
            if not path:
                raise FileNotFoundError("no directory is given")
            if not files.local(file, "path").is_file():
                raise FileNotFoundError("there is no results.json")
            content = complete(Path(path))
            found = content["config"].get("experiment")
            if found != experiment:
                raise ValueError(f"it is a run of {found}")
            values = arrays.restored(content["results"])
            config = ConfigDict(files.tuples(content["config"]))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            command = experiment.replace(".", "/")
            raise checks.ConfigError(
                f"config.{field} = {path!r}: {error}; give the work directory of a "
                f"finished {command}, see advjax list {command}"
            ) from None
        commit = str(content["environment"].get("commit"))
        return cls(Path(path), config, values, commit, files.digest(file)[:12])

    @property
    def origin(self) -> str:
        """Where it is, for reports."""
        return f"{self.path} (results {self.digest}, commit {self.commit})"


FIELDS = {
    "data_dir": machine(
        text("", "directory of the data sets; that of the networks' run if empty")
    ),
    **some(recipe.FIELDS, "num_devices", "hosts"),
    "model": machine(
        text("", "own network of the run, again: no file chooses which code runs")
    ),
}
"""Fields of a study of networks for the machine that it runs on."""


class Need(NamedTuple):
    """Finished runs that a study starts from, as an ``inputs.Input``.

    Attributes:
        experiment: the study that must have run there.
        taken: ``(finished run, config) -> input``, what the study takes from it.
        many: whether there are several.
        holds: names of values and facts that must be there.
    """

    experiment: str
    taken: Callable[[Finished, ConfigDict], Any] = lambda run, _: run
    many: bool = False
    holds: tuple[str, ...] = ()

    def fields(self, name: str) -> dict[str, Field]:
        """Where they are, and their digests."""
        command = self.experiment.replace(".", "/")
        if self.many:
            where = f'directories of finished {command}, as in ("runs/A","runs/B")'
            what = "digests of those runs; filled in, and checked if given"
            digests = f"{name.removesuffix('s')}_digests"
            return {name: words((), where), digests: words((), what, length=0)}
        where = f"work directory of a finished {command}"
        return {name: text("", where), f"{name}_digest": digest("that run")}

    def read(self, name: str, config: ConfigDict) -> tuple[Any, Any]:
        """What the study takes, and the digests.

        Raises:
            ConfigError: if a directory holds something else.
        """
        paths = config[name] if self.many else (config[name],)
        runs = [Finished.read(name, path, self.experiment) for path in paths]
        for run in runs:
            there = {*run.values.variables, *run.values.attrs}
            if missing := {*self.holds} - there:
                raise checks.ConfigError(
                    f"config.{name}: {run.path} has no {', '.join(sorted(missing))} "
                    "among its values; run it again"
                )
        found = [self.taken(run, config) for run in runs]
        digests = tuple(run.digest for run in runs)
        return (found, digests) if self.many else (found[0], digests[0])


@dataclasses.dataclass(frozen=True)
class Networks(Finished):
    """A finished run that released trained networks."""

    @classmethod
    def of(cls, run: Finished, config: ConfigDict) -> "Networks":
        """The networks of a run, with data and devices where ``config`` says."""
        there = recipe.restored(run.config.to_dict(), config.get("model", ""))
        for field in ("data_dir", "num_devices", "hosts"):
            there[field] = config.get(field) or there[field]
        return cls(run.path, there, run.values, run.commit, run.digest)

    def model(self, **options: Any) -> Model:
        """The network; ``options`` come before those of its configuration."""
        return recipe.network(self.config, **options)

    def networks(self, part: str, name: str = "last") -> list[tuple[Params, Params]]:
        """Parameters and batch statistics of each run of a part.

        Args:
            part: of the training.
            name: "last", "best", or "epoch-5" for one that was kept.
        """
        return testing.released(self.path, part, name)

    def images(self, split: str, number: int = 0, seed: int = 0) -> Batch:
        """Images of a part of the data, with pixels in [0, 1].

        Args:
            split: "train", for the images that the networks were trained on, or "test".
            number: a random subset of so many; 0 for all.
            seed: seed of the subset.

        Raises:
            ConfigError: if there are not so many.
            DataError: if they cannot be read.
        """
        part = recipe.read(self.config, split)
        try:
            part = data.subset(part, number, seed=seed) if number else part
        except ValueError as error:
            msg = f"config.num_images = {number}: {error}"
            raise checks.ConfigError(msg) from None
        return Batch(np.asarray(data.as_float(part.x)), part.y)
