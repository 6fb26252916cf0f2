"""What flags count and say; that searches raise them is tested beside each search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, flags, flatness, margins, norms
from advjax.types import AttackInfo

X = jnp.linspace(0.1, 0.9, 15).reshape(5, 3)
Y = jnp.ones(5)


def _score(x):
    return jnp.sum(x, axis=1)


def test_caveats_count_what_is_raised_and_leave_out_what_is_unknown():
    found = flags.Flags(jnp.array([True, False, True]), None, np.array([False] * 3))
    (line,) = found.caveats()
    assert line.startswith("2 of 3 gradients vanished")
    assert flags.Flags(jnp.zeros((2, 3), bool), None, None).caveats() == ()


def test_reasons_of_attack_and_caller_add_up():
    info = AttackInfo(jnp.zeros(3), jnp.zeros(3, bool), jnp.array([True, False, False]))
    own = jnp.array([False, False, True])
    found = flags.of(info, undefined=own)
    np.testing.assert_array_equal(found.undefined, [True, False, True])
    assert flags.of(info._replace(undefined_grad=None)).undefined is None


SEARCHES = {
    "adversarial margin": lambda measure: margins.adversarial(ATTACK)(
        KEY, lambda x, y: -measure(x, y), X, Y, 0.3
    ),
    "boundary": lambda measure: margins.boundary(ATTACK, norms.linf)(
        KEY, lambda x, y: -measure(x, y), X, Y, 0.3
    ),
    "peak": lambda measure: flatness.largest(
        norms.linf, num_steps=3, rel_step_size=0.5, bounds=(0.2, 0.8)
    )(KEY, measure, X, Y, 0.3),
}
KEY = jax.random.key(0)
ATTACK = attacks.pgd(norms.linf, num_steps=3, rel_step_size=0.5, bounds=(0.2, 0.8))


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_raises_them(name):
    """The contract of whatever rests on an attack: nothing fails silently."""
    search = SEARCHES[name]
    healthy = search(lambda x, y: _score(x) - 5).flags
    assert not healthy.zero_grad.any()
    assert not healthy.undefined.any()
    np.testing.assert_array_equal(healthy.outside, [True, False, False, False, True])
    assert search(lambda x, y: jnp.round(_score(x)) - 5).flags.zero_grad.all()
    broken = search(lambda x, y: jnp.sqrt(_score(x) - 5)).flags
    assert broken.undefined.all()
    sticky = search(lambda x, y: _score(x) * jnp.where(y > 0, jnp.nan, 1)).flags
    assert sticky.undefined.all()
