"""Tests that cannot pass under one of jax's own checks, each with its reason.

CONTRIBUTING has the commands. ``conftest`` expects these to fail, and one that passes
fails: then its line is to go.
"""

import jax

_OPTAX = {r"equals_optax_row_by_row\[.*l1\]": "optax's own projection fails"}

# Mode: the value that turns it on, and {pattern of a test's name: reason}.
MODES = {
    "jax_enable_x64": (True, _OPTAX),
    "jax_numpy_dtype_promotion": ("strict", _OPTAX),
    "jax_default_prng_impl": ("rbg", {}),
    "jax_debug_nans": (True, {}),
    "jax_debug_key_reuse": (True, {}),
}


def reasons() -> dict[str, str]:
    """Of the modes that are on, ``{pattern of a test's name: reason}``."""
    found: dict[str, str] = {}
    for option, (value, listed) in MODES.items():
        current = getattr(jax.config, option)
        if getattr(current, "value", current) == value:
            found |= listed
    return found
