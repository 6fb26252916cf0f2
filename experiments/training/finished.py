"""A finished run as what another study starts from."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import checks
from experiments.training import recipe


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
    try:
        if not path:
            raise FileNotFoundError("no directory is given")
        stored = (Path(path) / "results.json").read_bytes()
        content = json.loads(stored)
        config = {**recipe.defaults().to_dict(), **content["config"]}
        if config["experiment"] != experiment:
            raise KeyError(config["experiment"])
    except (OSError, ValueError, KeyError) as error:
        raise checks.ConfigError(
            f"config.{field} = {path!r}: {error}; give the work directory of {wanted}"
        ) from None
    config = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
    }
    return Finished(
        Path(path),
        ConfigDict(config),
        content["results"],
        content["environment"]["commit"],
        hashlib.sha256(stored).hexdigest()[:12],
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
