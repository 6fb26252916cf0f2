"""Per-example losses: unreduced, never sign-flipped, higher means worse for the model.

Classification losses take ``logits[..., k]`` and integer ``labels[...]`` and do not
change when a constant is added to all logits; a logit of minus infinity masks its
class. Losses of a scalar output take ``z[...]`` and a sign ``y[...]`` in {-1, +1};
``squared_error`` takes a prediction and a target.

Shapes that would broadcast raise ``ValueError``, and so do labels that are no integers.
A label that is no class, or no sign, gives nan.
"""

import jax
import jax.numpy as jnp

from advjax import arguments
from advjax.types import Array

__all__ = [
    "cross_entropy",
    "dlr",
    "exponential",
    "kl",
    "logistic",
    "margin",
    "probability_margin",
    "signs",
    "squared_error",
    "targeted_dlr",
    "targeted_margin",
    "targeted_probability_margin",
]


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label], ``[...]``.

    Computed as softplus(u) with u = log Σ over j ≠ y of exp(z_j - z_y). The usual
    log-sum-exp minus z_y rounds to zero in float32 once the label leads by 17, and its
    gradient loses the label's term; an attack then has no direction, or a wrong one,
    and the network looks robust. This form keeps both to a lead of about 87.
    """
    own, others = _split(logits, labels)
    # Without a rival that is not masked the loss is 0, and with the label masked it is
    # infinite; the sum has a gradient in neither case.
    has_rival = jnp.any(others > -jnp.inf, axis=-1) | jnp.isnan(own)
    is_masked = own == -jnp.inf
    lead = others - jnp.where(is_masked, 0, own)[..., None]
    lead = jnp.where((has_rival & ~is_masked)[..., None], lead, 0)
    loss = jax.nn.softplus(jax.nn.logsumexp(lead, axis=-1))
    return jnp.where(is_masked, jnp.inf, jnp.where(has_rival, loss, 0))


def squared_error(pred: Array, y: Array) -> Array:
    """(pred - y)², ``[...]``, without the factor 1/2.

    Raises:
        ValueError: for integers ``y``, which are labels everywhere else.
    """
    _check_shapes("pred", pred, "y", y)
    dtype = jnp.asarray(y).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        msg = f"y has dtype {dtype}: the targets of a regression are floating point"
        raise ValueError(msg)
    return (pred - y) ** 2


def logistic(z: Array, y: Array) -> Array:
    """log(1 + exp(-y z)), ``[...]``.

    Its second derivative σ(z)σ(-z) keeps its digits also where it is small: 1 - σ would
    round to zero in float32 for examples misclassified by 17.
    """
    return _softplus(-_sign(z, y) * z)


@jax.custom_jvp
def _softplus(x):
    return jax.nn.softplus(x)


@jax.custom_jvp
def _sigmoid(x):
    return jax.nn.sigmoid(x)


_softplus.defjvps(lambda tangent, _, x: _sigmoid(x) * tangent)
_sigmoid.defjvps(lambda tangent, _, x: _sigmoid(x) * _sigmoid(-x) * tangent)


def exponential(z: Array, y: Array) -> Array:
    """exp(-y z), ``[...]``."""
    return jnp.exp(-_sign(z, y) * z)


def kl(logits_p: Array, logits_q: Array) -> Array:
    """KL(p ‖ q) = Σ p (log p - log q), ``[...]``, for p, q the softmax of the logits.

    Gradients flow through both arguments; at p = q the gradient is zero, so an attack
    on this loss must not start there. A class that p masks adds nothing; one that q
    alone masks makes the divergence infinite.
    """
    _check_shapes("logits_p", logits_p, "logits_q", logits_q)
    # Differences of close logarithms would be rounding alone in half precision.
    logits_p, logits_q = arguments.single(logits_p), arguments.single(logits_q)
    masked = logits_p == -jnp.inf
    p = jax.nn.softmax(logits_p)
    log_p, log_q = (
        jnp.where(masked, 0, jax.nn.log_softmax(logits))
        for logits in (logits_p, logits_q)
    )
    return jnp.sum(p * (log_p - log_q), axis=-1)


def _split(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The label's logit, ``[...]``, and all logits with that one -inf, ``[..., k]``."""
    num_classes = jnp.shape(logits)[-1]
    if num_classes < 2:
        msg = f"logits have {num_classes} class; classification needs at least 2"
        raise ValueError(msg)
    _check_shapes("logits[..., 0]", logits[..., 0], "labels", labels)
    dtype = jnp.asarray(labels).dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        msg = f"labels have dtype {dtype}: give integers, the numbers of the classes"
        raise ValueError(msg)
    is_label = jax.nn.one_hot(labels, num_classes, dtype=bool)
    own = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
    own = arguments.nan_where(~jnp.any(is_label, axis=-1), own)
    return own, jnp.where(is_label, -jnp.inf, logits)


def _sign(z: Array, y: Array) -> Array:
    """``y`` in the dtype of ``z``; nan where it is neither -1 nor 1."""
    _check_shapes("z", z, "y", y)
    return signs(y, jnp.asarray(z).dtype)


def signs(y: Array, dtype: jnp.dtype) -> Array:
    """``y`` in this dtype; nan where it is neither -1 nor 1."""
    y = jnp.asarray(y).astype(dtype)
    return arguments.nan_where(jnp.abs(y) != 1, y)


def _check_shapes(name_a: str, a: Array, name_b: str, b: Array) -> None:
    # [n, 1] against [n] would broadcast to [n, n] and train on nonsense.
    if jnp.shape(a) != jnp.shape(b):
        msg = f"{name_a} has shape {jnp.shape(a)}, {name_b} {jnp.shape(b)}"
        raise ValueError(f"{msg}; make them equal")


def margin(logits: Array, labels: Array) -> Array:
    """The largest z_j - z_y over j ≠ y, ``[...]``: positive where misclassified."""
    own, others = _split(logits, labels)
    return jnp.max(others, axis=-1) - own


def dlr(logits: Array, labels: Array) -> Array:
    """The difference of logits ratio, ``[...]``.

    margin / (z_(1) - z_(3) + 1e-12), with z_(1) ≥ z_(2) ≥ ...
    the sorted logits: invariant to the scale of the logits as well as to their offset.

    nan where masks leave fewer than three classes.

    Raises:
        ValueError: for fewer than three classes, where z_(3) does not exist; use
            ``margin`` there.

    Croce and Hein, Reliable evaluation of adversarial robustness, 2020, whose guard
    1e-12 is kept.
    """
    num_classes = logits.shape[-1]
    if num_classes < 3:
        msg = f"dlr needs at least 3 classes, got {num_classes}; use losses.margin"
        raise ValueError(msg)
    # In half precision the guard would round to zero.
    logits = arguments.single(logits)
    top = jax.lax.top_k(logits, 3)[0]
    third = arguments.nan_where(top[..., 2] == -jnp.inf, top[..., 2])
    return margin(logits, labels) / (top[..., 0] - third + 1e-12)


def probability_margin(logits: Array, labels: Array) -> Array:
    """The largest p_j - p_y over j ≠ y, ``[...]``, of the probabilities p."""
    return margin(jax.nn.softmax(arguments.single(logits)), labels)


def targeted_margin(logits: Array, labels: Array, targets: Array) -> Array:
    """z_t - z_y, ``[...]``, for targets t; an attack raises it."""
    own, _ = _split(logits, labels)
    target, _ = _split(logits, targets)
    return target - own


def targeted_probability_margin(logits: Array, labels: Array, targets: Array) -> Array:
    """p_t - p_y, ``[...]``, of the probabilities p.

    Proposed, untargeted, by Xie et al. 2024 as the loss of an attack.
    """
    p = jax.nn.softmax(arguments.single(logits))
    return targeted_margin(p, labels, targets)


def targeted_dlr(logits: Array, labels: Array, targets: Array) -> Array:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4))/2 + 1e-12), ``[...]``, for targets t.

    Raises:
        ValueError: for fewer than four classes; use ``targeted_margin`` there.

    Croce and Hein, Reliable evaluation of adversarial robustness, 2020.
    """
    num_classes = logits.shape[-1]
    if num_classes < 4:
        msg = f"targeted_dlr needs at least 4 classes, got {num_classes}"
        raise ValueError(f"{msg}; use losses.targeted_margin")
    logits = arguments.single(logits)
    top = jax.lax.top_k(logits, 4)[0]
    width = top[..., 0] - (top[..., 2] + top[..., 3]) / 2
    return targeted_margin(logits, labels, targets) / (width + 1e-12)
