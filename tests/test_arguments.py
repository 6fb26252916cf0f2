"""Checks of static arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import arguments


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_integers_of_every_kind_are_counts(value):
    assert arguments.count("num_steps", value) == 3
    assert type(arguments.count("num_steps", value)) is int


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", True, np.bool_(True), None, [3]])
def test_what_is_no_count_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"num_steps = .*: choose an integer"):
        arguments.count("num_steps", value)
    assert arguments.count("num_steps", 0, least=0) == 0


def test_bounds_are_a_pair_in_order():
    assert arguments.bounds(None) is None
    assert arguments.bounds([0, 1]) == (0, 1)
    low = np.array([-np.inf, 0.0])
    assert arguments.bounds((low, np.inf)) == (low, np.inf)
    assert arguments.bounds((0.5, 0.5)) == (0.5, 0.5)
    for value in ((1, 0), (0, np.nan), (np.nan, 1), ([0, 2], 1), 1.0, (0, 1, 2), "01"):
        with pytest.raises(ValueError, match="bounds = "):
            arguments.bounds(value)
    # Traced bounds cannot be looked at.
    assert jax.jit(lambda b: arguments.bounds((b, 1.0))[0])(0.25) == 0.25


def test_lengths_are_compared_by_name():
    assert arguments.equal_lengths(x=jnp.ones((3, 2)), y=[1, 2, 3]) == 3
    with pytest.raises(ValueError, match=r"shapes x \(3, 2\), y \(2,\): give one"):
        arguments.equal_lengths(x=jnp.ones((3, 2)), y=[1, 2])
    with pytest.raises(ValueError, match=r"shapes x \(\)"):
        arguments.equal_lengths(x=1.0)


def test_numbers_are_checked_where_they_are_known():
    assert arguments.number("beta", 0.5) == 0.5
    for value in (-1, np.nan):
        with pytest.raises(ValueError, match="beta = "):
            arguments.number("beta", value)
    assert jax.jit(lambda beta: arguments.number("beta", beta))(-1.0) == -1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_half_precision_becomes_single(dtype):
    assert arguments.single(jnp.ones(2, dtype)).dtype == jnp.float32


@pytest.mark.usefixtures("x64")
def test_double_precision_stays():
    assert arguments.single(jnp.ones(2, jnp.float64)).dtype == jnp.float64
