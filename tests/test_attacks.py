"""What the tables of contracts do not say about attacks: flags, starts and boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, norms

KEY = jax.random.key(0)
X = jnp.full((4, 2), 0.5)
LINF = attacks.pgd(norms.linf, num_steps=2, rel_step_size=0.5)


def _loss_of(*slopes):
    """A linear loss with these slopes for the entries of each example."""
    slopes = jnp.array(slopes)
    return lambda x, _: jnp.sum(slopes * x, axis=1)


def test_gradients_are_flagged_by_size_whatever_their_sign():
    loss = _loss_of([0.0, -1.0], [0.0, 0.0], [-jnp.inf, 1.0], [jnp.nan, 1.0])
    for attack in (LINF, attacks.smooth(LINF, norms.linf, 0.1)):
        _, info = attack(KEY, loss, X, None, 0.1)
        np.testing.assert_array_equal(info.zero_grad, [False, True, False, False])
        np.testing.assert_array_equal(info.undefined_grad, [False, False, True, True])


def test_starts_of_another_shape_are_refused():
    for shape in ((1,), (3,), (2, 2), ()):
        start = lambda key, like, eps, s=shape: jnp.zeros(s)  # noqa: E731
        with pytest.raises(ValueError, match="start returned shape"):
            attacks.starts(KEY, start, X, 0.1)


def test_an_l1_climb_from_outside_of_the_box_loses_no_radius_there():
    steps = {"num_steps": 4, "rel_step_size": 0.5}
    climb = attacks.climb(norms.l1, **steps, bounds=(0.0, 1.0))
    x, delta = jnp.array([[0.9, 0.5]]), jnp.array([[2.0, 0.0]])
    x_adv, _ = climb(lambda x, _: jnp.sum(x, axis=1), x, None, 0.6, delta)
    np.testing.assert_allclose(x_adv, 1.0, rtol=1e-6)
