"""p-values against SciPy, and their uniformity under the null hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from advjax import inference

RNG = np.random.default_rng(0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("r", "d"), [(300, 10), (12, 4)])
def test_p_value_is_hotellings(r, d):
    replicates = RNG.normal(size=(r, d)) @ RNG.normal(size=(d, d))
    observed = 1.5 * RNG.normal(size=d)
    diff = observed - replicates.mean(axis=0)
    cov = np.cov(replicates, rowvar=False)
    squared = diff @ np.linalg.solve(cov, diff)
    f = squared * r / (r + 1) * (r - d) / (d * (r - 1))
    ours = inference.p_value(jnp.asarray(observed), jnp.asarray(replicates))
    np.testing.assert_allclose(ours, stats.f.sf(f, d, r - d), rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_p_value_of_a_scalar_is_the_t_test():
    replicates = RNG.normal(3.0, 2.0, size=50)
    t = (4.2 - replicates.mean()) / (replicates.std(ddof=1) * np.sqrt(1 + 1 / 50))
    ours = inference.p_value(jnp.asarray(4.2), jnp.asarray(replicates))
    np.testing.assert_allclose(ours, 2 * stats.t.sf(abs(t), 49), rtol=1e-8)


@pytest.mark.parametrize(("r", "d"), [(300, 5), (10, 5), (20, 1)])
def test_under_the_null_p_values_are_uniform_at_any_number_of_replicates(r, d):
    keys = jax.random.split(jax.random.key(0), 3000)

    def one(key):
        draws = jax.random.normal(key, (r + 1, d)) * jnp.arange(1.0, d + 1)[None]
        return inference.p_value(draws[0], draws[1:])

    p_values = jax.jit(jax.vmap(one))(keys)
    assert stats.kstest(np.asarray(p_values), "uniform").pvalue > 0.01


def test_rank_p_value():
    replicates = jnp.arange(1.0, 100.0)
    cases = ((0.0, 0.02), (1000.0, 0.02), (50.5, 1.0), (50.0, 1.0), (10.5, 0.22))
    for observed, p in cases:
        ours = inference.rank_p_value(jnp.asarray(observed), replicates)
        np.testing.assert_allclose(ours, p, rtol=1e-6)
    assert jnp.isnan(inference.rank_p_value(jnp.asarray(jnp.nan), replicates))


def test_too_few_replicates_are_refused_and_a_singular_covariance_is_nan():
    with pytest.raises(ValueError, match="5 replicates of dimension 4: at least 6"):
        inference.p_value(jnp.zeros(4), jnp.zeros((5, 4)))
    assert jnp.isnan(inference.p_value(jnp.ones(2), jnp.ones((9, 2))))


@pytest.mark.parametrize(
    ("observed", "replicates"),
    [
        (np.zeros(()), np.zeros((9, 2))),
        (np.zeros(1), np.zeros(9)),
        (np.zeros(9), np.zeros(9)),
        (np.zeros(2), np.zeros((9, 1))),
        (np.zeros(()), np.zeros(())),
    ],
)
def test_arrays_that_would_broadcast_are_refused(observed, replicates):
    for test in (inference.p_value, inference.rank_p_value):
        for convert in (np.asarray, jnp.asarray, lambda array: array.tolist()):
            with pytest.raises(ValueError, match="shapes observed"):
                test(convert(observed), convert(replicates))


def test_the_rank_of_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"observed has shape \(2,\)"):
        inference.rank_p_value(np.zeros(2), np.zeros((9, 2)))


def test_lists_and_arrays_of_numpy_are_as_good_as_those_of_jax():
    numbers = [1, 4, 2, 8, 5, 7]
    for convert in (list, np.asarray, np.float64, jnp.asarray):
        replicates = convert(numbers)
        expected = 2 * stats.t.sf(
            abs(6 - np.mean(numbers)) / (np.std(numbers, ddof=1) * np.sqrt(7 / 6)), 5
        )
        np.testing.assert_allclose(
            inference.p_value(6, replicates), expected, rtol=1e-5
        )
        ours = inference.rank_p_value(6, replicates)
        np.testing.assert_allclose(ours, 2 * 3 / 7, rtol=1e-6)
