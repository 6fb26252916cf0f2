"""The command line of the experiments.

    advjax run transition/scaling:smoke
    advjax run transition/scaling --config.num_points=9 --workdir=runs/mine
    advjax run transition/scaling --help
    python -m experiments.run --config=experiments/transition/scaling.py:smoke

Any field of the configuration can be overridden; help on an experiment lists them. The
work directory is derived from the configuration when it is not given, and running a
configuration again resumes it, or shows its results. Exit status: 0 done, 1 the loss
diverged, 2 wrong input, 130 and 143 stopped by Ctrl-C and by SIGTERM.
"""

import contextlib
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from jax import dtypes
from jax.errors import KeyReuseError
from ml_collections import ConfigDict, config_flags

from advjax import data
from experiments import checks, devices, interrupts, studies, usage
from experiments.files import DiskError, FileError
from experiments.study import Study
from experiments.workdir import Workdir, identity

# The oldest versions of jax do not export the last one.
_CHECKS = (
    FloatingPointError,
    KeyReuseError,
    getattr(dtypes, "TypePromotionError", FloatingPointError),
)


def main(argv: list[str], *, own_process: bool = False) -> int:
    """Runs one configuration and returns the exit status.

    In a process of its own it first makes the devices that the study wants.
    """
    if usage.HELP & {*argv}:
        return exit_status(lambda: print(usage.help_on(argv) or __doc__))

    def action():
        config, path = parse(["run", *argv])
        if own_process:
            devices.prepare(config)
        run(config, path)

    return exit_status(action, own_process=own_process)


def exit_status(action: Callable[[], Any], *, own_process: bool = False) -> int:
    """0, or the status of a failure that a user can mend, after one line about it."""
    try:
        with interrupts.handled():
            action()
            sys.stdout.flush()
    except DiskError as error:
        status = _failed(2, f"error: {error}")
        if own_process:
            # Threads that wrote would add the tracebacks of their last words.
            interrupts.leave(status)
        return status
    except (checks.ConfigError, FileError, data.DataError) as error:
        return _failed(2, f"error: {error}")
    except BrokenPipeError:
        return interrupts.closed_pipe()
    except _CHECKS as error:
        line = str(error).splitlines()[0]
        return _failed(2, f"error: a check of jax: {type(error).__name__}: {line}")
    except (ImportError, OSError) as error:
        return _failed(2, f"error: {type(error).__name__}: {error}")
    except checks.DivergedError as error:
        return _failed(1, f"stopped: {error}; what was written is kept")
    except interrupts.Interrupted as error:
        after = f" after {error.kept}" if error.kept else ""
        again = "the same command goes on from what is finished"
        status = _failed(error.status, f"stopped by {error.name}{after}: {again}")
        if own_process:
            # An interrupted compilation may crash jaxlib where Python takes it down.
            interrupts.leave(status)
        return status
    return 0


def _failed(status: int, line: str) -> int:
    print(f"advjax: {checks.printable(line)}", file=sys.stderr)
    return status


def run(config: ConfigDict, path: Path | None = None) -> dict:
    """Runs a configuration in a work directory and returns results.json's content.

    Args:
        config: a configuration whose ``experiment`` names a study.
        path: the work directory; derived from the configuration if None.

    Raises:
        ConfigError: for a wrong field.
        FileError: for a directory that holds something else.
        DivergedError: if a loss becomes nan.
    """
    study = studies.of(config)
    config, inputs = study.resolved(config)
    path = path or default_path(study, config)
    with Workdir(path, config, study.machine_fields()) as workdir:
        content = workdir.results()
        if content is None:
            results = study.carried_out(config, inputs, workdir)
            content = workdir.finish(**results)
        else:
            commit = content["environment"]["commit"]
            done = f"{workdir.path} is complete, by commit {commit}"
            print(f"{done}; remove it to run again")
    for line in content["results"]["summary"]:
        print(checks.printable(line))
    print(f"→ {workdir.path}/report.md")
    return content


def default_path(study: Study, config: Mapping[str, Any]) -> Path:
    """``runs/<study>-<digest of the fields that make the run what it is>``."""
    own = identity(config, study.machine_fields())
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    return Path("runs") / f"{study.name}-{digest.hexdigest()[:8]}"


def parse(argv: list[str]) -> tuple[ConfigDict, Path | None]:
    """The configuration with its overrides, and ``--workdir``.

    Raises:
        ConfigError: naming the flag or field that is wrong.
    """
    override = re.compile(r"--?config\.([^=]+)(?:=(.*))?")
    matches = {arg: match for arg in argv if (match := override.fullmatch(arg))}
    for arg, match in matches.items():
        if match[2] is None:
            raise checks.ConfigError(f"{arg}: write it as {arg}=VALUE")
    plain = [arg for arg in argv if arg not in matches]
    config, _ = _parse(plain)
    given = [match.groups() for match in matches.values()]
    checks.known_fields([name for name, _ in given], sorted({*config} - {"experiment"}))
    # The library takes no "None", not even for a field that has it.
    given = [(name, v) for name, v in given if v != "None" or config[name] is not None]
    overrides = [
        f"--config.{name}={usage.divided(config, name, v)}" for name, v in given
    ]
    try:
        return _parse([*plain, *overrides])
    except checks.ConfigError:
        # The library's message does not always name the field: find it.
        for (name, value), override in zip(given, overrides, strict=True):
            with contextlib.suppress(checks.ConfigError):
                _parse([*plain, override])
                continue
            reason = f"config.{name} = {value!r}: {usage.wanted(config, name)}"
            raise checks.ConfigError(reason) from None
        raise


def _parse(argv: list[str]) -> tuple[ConfigDict, Path | None]:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "the study", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "where to write", flag_values=values)
    try:
        with warnings.catch_warnings():
            # ml_collections loads the file by a method that Python is to remove.
            warnings.filterwarnings("ignore", message=r"the load_module\(\)")
            rest = values(argv)
            config = values.config
        if config is not None:
            # With the types of fields that are None.
            config = ConfigDict(config.to_dict(preserve_field_references=True))
    except (flags.Error, OSError, ValueError, TypeError, AttributeError) as error:
        # ml_collections puts a whole traceback into the message; its last line says it.
        line = str(error).strip().splitlines()[-1].strip()
        raise checks.ConfigError(line.removeprefix(_OWN_ERROR)) from error
    if config is None:
        raise checks.ConfigError("--config=FILE.py is missing; --help shows examples")
    if rest[1:]:
        raise checks.ConfigError(f"unknown argument {rest[1]!r}; --help shows examples")
    return config.lock(), Path(values.workdir) if values.workdir else None


_OWN_ERROR = f"{checks.ConfigError.__module__}.{checks.ConfigError.__name__}: "


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], own_process=True))
