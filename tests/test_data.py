"""Simulated designs against their moments, and the embedded data sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data


def test_gaussian_design_has_the_covariance_and_the_noise(key):
    cov = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.4]])
    theta0 = jnp.array([1.0, -2.0, 0.5])
    x, y = data.gaussian(key, 200_000, theta0, cov, 0.7)
    np.testing.assert_allclose(np.cov(x, rowvar=False), cov, atol=0.02)
    np.testing.assert_allclose(np.mean(x, axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.std(y - x @ theta0), 0.7, rtol=0.01)


def test_gaussian_design_without_covariance_is_the_identity(key):
    theta0 = jnp.ones(3)
    plain = data.gaussian(key, 50, theta0, None, 1.0)
    explicit = data.gaussian(key, 50, theta0, jnp.eye(3), 1.0)
    np.testing.assert_allclose(
        plain.x @ plain.x.T, explicit.x @ explicit.x.T, atol=1e-4
    )


def test_gaussian_design_of_a_singular_covariance(key):
    x, _ = data.gaussian(key, 100, jnp.ones(2), jnp.ones((2, 2)), 0.0)
    np.testing.assert_allclose(x[:, 0], x[:, 1], atol=1e-5)


def test_gaussian_design_of_an_indefinite_covariance_is_nan(key):
    for cov in (jnp.diag(jnp.array([1.0, -0.01])), jnp.array([[1.0, 2.0], [2.0, 1.0]])):
        x, y = data.gaussian(key, 10, jnp.ones(2), cov, 1.0)
        assert jnp.isnan(x).any(axis=1).all()
        assert jnp.isnan(y).all()


def test_gaussian_design_checks_the_shape_of_the_covariance(key):
    for cov in (jnp.ones(2), jnp.eye(3), jnp.ones((2, 3)), jnp.ones((1, 1))):
        with pytest.raises(AssertionError, match="shape"):
            data.gaussian(key, 10, jnp.ones(2), cov, 1.0)


def test_equicorrelated_covariances_have_their_entries_and_are_positive_definite():
    for d, rho in ((1, -5.0), (4, 0.0), (4, 0.99), (4, -0.33), (30, 0.5), (2, -0.99)):
        cov = np.asarray(data.equicorrelated(d, rho))
        np.testing.assert_allclose(np.diag(cov), 1, rtol=1e-6)
        np.testing.assert_allclose(cov[~np.eye(d, dtype=bool)], rho, rtol=1e-6)
        assert np.linalg.eigvalsh(cov.astype(float)).min() > 0
    for d, rho in ((4, 1.0), (4, -1 / 3), (4, -0.5), (2, 1.5), (1, 1.0), (3, np.nan)):
        with pytest.raises(ValueError, match="choose above"):
            data.equicorrelated(d, rho)


def test_blocks_of_correlated_inputs_are_joined(key):
    blocks = data.equicorrelated(2, 0.8), data.equicorrelated(3, -0.4), jnp.eye(1)
    cov = jax.scipy.linalg.block_diag(*blocks)
    x, _ = data.gaussian(key, 200_000, jnp.ones(6), cov, 1.0)
    expected = np.zeros((6, 6))
    expected[:2, :2] = [[1, 0.8], [0.8, 1]]
    expected[2:5, 2:5] = [[1, -0.4, -0.4], [-0.4, 1, -0.4], [-0.4, -0.4, 1]]
    expected[5, 5] = 1
    # Five standard errors of a product of two standard normals.
    np.testing.assert_allclose(np.cov(x, rowvar=False), expected, atol=5 * 2**0.5 / 447)


def test_sparse_parameters_are_ones_and_zeros():
    np.testing.assert_array_equal(data.sparse(5, 2), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.sparse(3, 3), [1, 1, 1])
    np.testing.assert_array_equal(data.sparse(3, 0), [0, 0, 0])
    for num_active in (-1, 4):
        with pytest.raises(ValueError, match=f"num_active = {num_active}: choose"):
            data.sparse(3, num_active)


def test_gaussian_designs_map_over_replicates(key):
    keys = jax.random.split(key, 4)
    x, y = jax.vmap(lambda k: data.gaussian(k, 9, jnp.ones(2), None, 1.0))(keys)
    assert x.shape == (4, 9, 2)
    assert y.shape == (4, 9)


def test_digits_are_images_in_the_unit_range_with_a_stratified_split():
    train, test = (data.load("digits", split=split) for split in ("train", "test"))
    assert train.x.shape == (1437, 8, 8, 1)
    assert test.x.shape == (360, 8, 8, 1)
    for part in (train, test):
        assert part.x.dtype == np.float32
        assert part.y.dtype == np.int32
        assert part.x.min() == 0
        assert part.x.max() == 1
    whole = np.bincount(np.concatenate([train.y, test.y]))
    assert np.abs(np.bincount(test.y) - whole / 5).max() <= 1
    both = {row.tobytes() for row in train.x} & {row.tobytes() for row in test.x}
    assert not both


def test_diabetes_is_standardised_by_the_training_rows():
    train, test = (data.load("diabetes", split=split) for split in ("train", "test"))
    assert train.x.shape == (353, 10)
    assert test.y.shape == (89,)
    np.testing.assert_allclose(train.x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.x.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose([train.y.mean(), train.y.std()], [0, 1], atol=1e-6)
    assert abs(test.x.mean(axis=0)).max() > 1e-3


def test_wrong_names_list_the_choices():
    with pytest.raises(ValueError, match="data set = 'digit': choose one of diabetes,"):
        data.load("digit", split="train")
    with pytest.raises(ValueError, match="split = 'val': choose 'train' or 'test'"):
        data.load("digits", split="val")
