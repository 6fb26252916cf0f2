"""Simulated designs, and small real data sets that ship with scikit-learn.

Images are ``[n, height, width, channels]`` float32 in [0, 1], so that ``eps`` is in
units of the full pixel range; labels are int32.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Batch, Key


def gaussian(
    key: Key,
    num_examples: int,
    theta0: Array,
    cov: Array | None,
    sigma: Array | float,
) -> Batch:
    """Linear data: x ~ N(0, Σ), y = θ0ᵀx + N(0, σ²); ``x[n, d]``, ``y[n]``.

    ``cov[d, d]`` is Σ, positive semi-definite, or None for the identity; with an
    eigenvalue below zero by more than rounding, x and y are nan. All but
    ``num_examples`` may be traced, so replicates and parameters can be vmapped.
    """
    chex.assert_rank(theta0, 1)
    key_x, key_noise = jax.random.split(key)
    x = jax.random.normal(key_x, (num_examples, theta0.size), theta0.dtype)
    if cov is not None:
        chex.assert_shape(cov, (theta0.size, theta0.size))
        x = x @ _root(cov).T
    noise = jax.random.normal(key_noise, (num_examples,), theta0.dtype)
    return Batch(x, x @ theta0 + sigma * noise)


def _root(cov: Array) -> Array:
    """R with RRᵀ = Σ."""
    eigvals, basis = jnp.linalg.eigh(cov)
    rounding = eigvals.size * jnp.finfo(eigvals.dtype).eps * jnp.max(jnp.abs(eigvals))
    roots = jnp.sqrt(jnp.where(eigvals < -rounding, jnp.nan, jnp.maximum(eigvals, 0)))
    return basis * roots[None]


def sparse(d: int, num_active: int) -> Array:
    """θ0 of ``num_active`` ones followed by zeros, ``[d]``.

    Raises:
        ValueError: unless 0 ≤ num_active ≤ d.
    """
    if not 0 <= num_active <= d:
        msg = f"num_active = {num_active}: choose from 0 to d = {d}"
        raise ValueError(msg)
    return (jnp.arange(d) < num_active).astype(jnp.float32)


def equicorrelated(d: int, rho: float) -> Array:
    """The covariance with unit variances and every correlation ``rho``, ``[d, d]``.

    Blocks of it are joined by ``jax.scipy.linalg.block_diag``.

    Raises:
        ValueError: unless -1/(d-1) < rho < 1, where it is positive definite.
    """
    if not (rho < 1 and (d == 1 or rho > -1 / (d - 1))):
        msg = f"rho = {rho}: choose above -1/(d-1) and below 1, where d = {d}"
        raise ValueError(msg)
    return (1 - rho) * jnp.eye(d) + rho * jnp.ones((d, d))


def load(name: str, *, split: str) -> Batch:
    """A real data set as NumPy arrays; no network is used.

    ============  ==============================================================
    "digits"      1797 handwritten digits, 8×8×1 in [0, 1], 10 classes; 1437
                  for training and 360 for testing, split stratified by class
    "diabetes"    442 patients, 10 measurements and the disease's progression,
                  353 and 89; each column and the target standardised by the
                  training rows
    ============  ==============================================================

    The test split is every fifth row in order of class, the same on every machine.

    Args:
        name: "digits" or "diabetes".
        split: "train" or "test".

    Raises:
        ValueError: for an unknown name or split.
        ImportError: without scikit-learn, saying how to install it.
    """
    if name not in _LOADERS:
        msg = f"data set = {name!r}: choose one of {', '.join(sorted(_LOADERS))}"
        raise ValueError(msg)
    if split not in ("train", "test"):
        msg = f"split = {split!r}: choose 'train' or 'test'"
        raise ValueError(msg)
    try:
        import sklearn.datasets
    except ImportError as error:
        msg = f"data set {name!r} needs scikit-learn: pip install 'advjax[experiments]'"
        raise ImportError(msg) from error
    train, test = _LOADERS[name](sklearn.datasets)
    return train if split == "train" else test


def _digits(datasets) -> tuple[Batch, Batch]:
    table = datasets.load_digits()
    x = (table.images[..., None] / 16).astype(np.float32)
    y = table.target.astype(np.int32)
    return _divide(x, y, _test_rows(y))


def _diabetes(datasets) -> tuple[Batch, Batch]:
    table = datasets.load_diabetes()
    train, test = _divide(table.data, table.target, _test_rows(np.zeros(442, int)))

    def standardised(part: Batch) -> Batch:
        pairs = ((part.x, train.x), (part.y, train.y))
        columns = [(a - b.mean(axis=0)) / b.std(axis=0) for a, b in pairs]
        return Batch(*(column.astype(np.float32) for column in columns))

    return standardised(train), standardised(test)


_LOADERS: dict[str, Callable] = {"digits": _digits, "diabetes": _diabetes}


def _test_rows(classes: np.ndarray) -> np.ndarray:
    """Every fifth row in order of class, as a mask: no generator to depend on."""
    by_class = np.argsort(classes, kind="stable")
    chosen = np.zeros(classes.size, bool)
    chosen[by_class[::5]] = True
    return chosen


def _divide(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> tuple[Batch, Batch]:
    return Batch(x[~test], y[~test]), Batch(x[test], y[test])
