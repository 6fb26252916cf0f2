"""Replicates on several devices give what they give on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import jax, jax.numpy as jnp, numpy as np
from experiments import devices
jax.config.update("jax_num_cpu_devices", 4)
x = jnp.arange(24.0).reshape(3, 8)
assert len(devices.spread(x, 3, 8).sharding.device_set) == 4
assert len(devices.spread(x, 3).sharding.device_set) == 1
keys = devices.spread(jax.random.split(jax.random.key(0), 6), 6)
assert len(keys.sharding.device_set) == 2
draw = jax.vmap(lambda key: jax.random.normal(key, (2,)))
one = draw(jax.random.split(jax.random.key(0), 6))
np.testing.assert_array_equal(jax.jit(draw)(keys), one)
"""


def test_axes_are_divided_over_the_most_devices_that_fit():
    root = Path(__file__).parents[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        cwd=root,
        env=environment,
        check=True,
    )


KEPT = """
import jax
from experiments import devices
devices.keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(1.0)
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("told", ["", "elsewhere"])
def test_programs_are_kept_in_the_cache_unless_jax_is_told_otherwise(tmp_path, told):
    environment = os.environ | {
        "ADVJAX_CACHE": str(tmp_path),
        "JAX_COMPILATION_CACHE_DIR": told and str(tmp_path / told),
    }
    found = subprocess.run(
        [sys.executable, "-c", KEPT],
        cwd=Path(__file__).parents[1],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    place = Path(found.stdout.strip())
    assert place == tmp_path / (told or "programs")
    assert list(place.iterdir())
