"""A finished run as what another study starts from."""

from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import checks
from experiments.files import digest
from experiments.training import recipe
from experiments.workdir import complete


class Finished(NamedTuple):
    """A finished run of the engine.

    Attributes:
        path: its work directory.
        config: its configuration.
        results: what ``run`` returned, from JSON.
        commit: that wrote it.
        digest: of its results.
    """

    path: Path
    config: ConfigDict
    results: dict[str, Any]
    commit: str
    digest: str

    @property
    def origin(self) -> str:
        """Where it is, for reports."""
        return f"{self.path} (results {self.digest}, commit {self.commit})"


def read(field: str, path: str, experiment: str, wanted: str) -> Finished:
    """A finished run of ``experiment``.

    Args:
        field: of the configuration, which names the directory.
        path: the directory.
        experiment: what must have run there.
        wanted: what to give, for messages.

    Raises:
        ConfigError: if the directory holds something else.
    """
    file = Path(path) / "results.json"
    try:
        if not path:
            raise FileNotFoundError("no directory is given")
        content = complete(Path(path))
        config = recipe.restored(content["config"])
        if config.experiment != experiment:
            raise ValueError(f"it is a run of {config.experiment}")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise checks.ConfigError(
            f"config.{field} = {path!r}: {error}; give the work directory of {wanted}"
        ) from None
    return Finished(
        Path(path),
        config,
        content["results"],
        str(content["environment"].get("commit")),
        digest(file)[:12],
    )


def set_digest(config: ConfigDict, field: str, digest: str) -> None:
    """Makes the digest of what was found part of the configuration.

    So another run under the same name does not meet the results of this one.

    Raises:
        ConfigError: if the field has another digest already.
    """
    if config[field] not in ("", digest):
        raise checks.ConfigError(
            f"config.{field} = {config[field]!r}: it is {digest!r}"
        )
    config[field] = digest
