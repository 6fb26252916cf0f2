"""What a study starts from beside its configuration: files whose digests belong to it.

So another file under the same name does not meet the results of this one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ml_collections import ConfigDict

from experiments import checks, files
from experiments.fields import Field, digest, fill, text
from experiments.training import parameters
from experiments.workdir import complete


class Input(Protocol):
    """A kind of input."""

    def fields(self, name: str) -> dict[str, Field]:
        """The fields of the configuration for it: where it is, and its digest last."""

    def read(self, name: str, config: ConfigDict) -> tuple[Any, Any]:
        """What the study takes, and its digest.

        Raises:
            ConfigError: if something else is there.
            FileError: for a file that is damaged.
        """


class ReleasedFile(NamedTuple):
    """A file of released parameters, or the directory of the run that released it.

    Attributes:
        meaning: of its field.
        taken: ``(released, config) -> input``, what the study takes from it.
        is_optional: whether the field may be empty.
    """

    meaning: str
    taken: Callable[[parameters.Released, ConfigDict], Any] = lambda found, _: found
    is_optional: bool = False

    def fields(self, name: str) -> dict[str, Field]:
        """The path, and the digest of the file."""
        return {name: text("", self.meaning), f"{name}_digest": digest("that file")}

    def read(self, name: str, config: ConfigDict) -> tuple[Any, str]:
        """What the study takes, or None for an optional input that is not given."""
        if not config[name]:
            if self.is_optional:
                return None, ""
            msg = f"config.{name} is missing: give a .safetensors file, or a run's "
            msg += "workdir"
            raise checks.ConfigError(msg)
        path = files.local(config[name], f"config.{name}")
        if path.is_dir():
            if (path / "results.json").exists():
                complete(path)
            path = path / "best.safetensors"
        found = self.taken(parameters.read(path), config)
        return found, files.digest(path)[:12]


def taken(name: str, kind: Input, config: ConfigDict) -> Any:
    """Reads an input, and makes its digest a part of ``config``, which it changes.

    Raises:
        ConfigError: if another digest is given there.
    """
    found, value = kind.read(name, config)
    *_, field = kind.fields(name)
    fill(config, field, value)
    return found
