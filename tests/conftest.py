"""Strict numerics for all tests, and the fixtures that they share."""

import gc
import os
import re
import tempfile
from pathlib import Path

import filelock
import jax
import modes
import pytest

from experiments import devices, run

devices.widen_thread_pool()
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parents[1]
STORED = ROOT / "../shared/data/tfds"
if STORED.is_dir():
    os.environ.setdefault("TFDS_DATA_DIR", str(STORED.resolve()))


# Most of the time of tests goes into compiling many small programs.
# ``OPTIMISED=1 make test`` compiles them as users do.
OPTIMISED = "OPTIMISED" in os.environ
if not OPTIMISED:
    flags = "--xla_cpu_use_fusion_emitters=false", os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

# What one test has compiled, another one loads, and so do the programs that it starts:
# of this worker alone, since files are not written at once.
COMPILED = tempfile.TemporaryDirectory(prefix="advjax-tests-")
SETTINGS = {
    "jax_compilation_cache_dir": COMPILED.name,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_disable_most_optimizations": not OPTIMISED,
}
os.environ["ADVJAX_CACHE"] = f"{COMPILED.name}/images"
for name, value in SETTINGS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(int(value) if isinstance(value, bool) else value)


def pytest_sessionstart():
    """Compiling makes many small objects, which the garbage collector walks."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def pytest_collection_modifyitems(items):
    """Expects the tests to fail that cannot pass under the present mode."""
    listed = modes.reasons()
    for item in items:
        for pattern, reason in listed.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.xfail(reason=reason, run=True))


MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def forget_before_maps_run_out():
    """Each compiled program maps memory, of which a process may map only so much."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 15_000:  # Linux gives 65 530
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def optimised():
    """For tests whose loops run long enough for optimisations to pay."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update(
        "jax_disable_most_optimizations", SETTINGS["jax_disable_most_optimizations"]
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """``(name, config, *arguments) -> directory`` of a run that all workers share."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name, config, *arguments):
        path = root / "finished" / name
        path.parent.mkdir(exist_ok=True)
        with filelock.FileLock(root / f"{name}.lock"):
            if not (path / "results.json").exists():
                given = [f"--config={ROOT}/experiments/{config}", *arguments]
                assert run.main([*given, f"--workdir={path}"]) == 0
        return path

    return make


@pytest.fixture(scope="session")
def grid(finished):
    """The work directory of a finished grid of networks on the digits."""
    return finished("grid", "transition/classifier_grid.py:digits,smoke")


@pytest.fixture(scope="session")
def families(finished):
    """Work directories of networks of the difficulty studies on the digits, by task."""
    return {
        training: finished(training, f"difficulty/networks.py:{training},table,smoke")
        for training in ("clean", "adversarial")
    }


@pytest.fixture(scope="session")
def memorizers(finished):
    """The work directory of networks of the memorization studies on the digits."""
    return finished("memorizers", "memorization/networks.py:smoke")


@pytest.fixture(scope="session")
def learning(finished, memorizers):
    """The work directory of the flatness of these networks over epochs."""
    given = f"--config.networks={memorizers}"
    return finished("learning", "memorization/learning_process.py:smoke", given)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Double precision for the length of one test."""
    with devices.double_precision():
        yield
