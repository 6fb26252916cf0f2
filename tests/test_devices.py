"""Replicates on several devices give what they give on one."""

import os
import subprocess
import sys
from pathlib import Path

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
