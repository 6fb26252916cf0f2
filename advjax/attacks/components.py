"""One attack of an ensemble, and its programs, a few steps at a time.

program = components.program(predict, bounds, component)
state = program.begin(part)
state, fooled = program.advance(part, state, first_step)
end = program.end(part, state)
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, criteria, losses
from advjax.arguments import Bounds
from advjax.attacks import gradients, search, targets
from advjax.attacks.search import Search
from advjax.types import Array, Key, Loss, Predict

__all__ = ["Component", "End", "Part", "Program", "program"]


@dataclasses.dataclass(frozen=True)
class Component:
    """One attack of an ensemble.

    Attributes:
        name: such as "apgd-ce".
        search: its steps.
        loss: what it raises, unless the search has a loss of its own.
        num_repeats: restarts, or targets.
        num_draws: of a random model, ``(key, x) -> logits``, over which each gradient
            is averaged; 0 for a model that is a function of ``x``.
        num_classes: of the models that it is for; 0 for any.
    """

    name: str
    search: Search
    loss: Loss = losses.cross_entropy
    num_repeats: int = 1
    num_draws: int = 0
    num_classes: int = 0

    def drawn(self, predict: Callable, key: Key) -> Predict:
        """The model, or one draw of a random one."""
        return partial(predict, key) if self.num_draws else predict

    def goal(self, predict: Callable, key: Key) -> criteria.Goal:
        """The loss to raise, in the mean of new draws if the model is random."""
        if not self.num_draws:
            return criteria.Goal(_logits(predict), self.loss)
        keys = jax.random.split(key, self.num_draws)

        def draws(x):
            return jax.vmap(lambda key: _logits(partial(predict, key))(x))(keys)

        last = _logits(partial(predict, keys[-1]))
        return criteria.Expected(last, self.loss, draws=draws)


class Program(NamedTuple):
    """A search, compiled: its first state, ``block`` steps at once, and its end."""

    begin: Any
    advance: Any
    end: Any
    block: int
    num_steps: int

    @property
    def number(self) -> int:
        """Of programs that were compiled."""
        return sum(each._cache_size() for each in self[:3])


class Part(NamedTuple):
    """Rows of a batch, on which a program runs."""

    keys: Key
    x: Array
    y: Array
    eps: Array
    repeat: Array

    def taken(self, rows: np.ndarray) -> "Part":
        """Some of the rows."""
        return Part(*(each[rows] for each in self))


_BLOCK = {True: 25, False: 250}
"""Most steps of one program, with gradients and without."""


def _block(steps: Search) -> int:
    """Steps of one program."""
    most = _BLOCK[steps.has_gradients]
    return max(b for b in range(1, most + 1) if steps.num_steps % b == 0)


def program(predict: Callable, bounds: Bounds | None, component: Component) -> Program:
    """The programs of a component."""
    steps = component.search
    block = _block(steps)

    def problem(part: Part, k: Array | int) -> search.Problem:
        # Of the first row, as draws of random models are of a whole batch.
        key = jax.random.fold_in(part.keys[0], k)
        y = _classes(component.drawn(predict, key), part)
        goal = component.goal(predict, key)
        given = (part.x, y, part.eps, bounds, part.repeat)
        return search.problem(part.keys, goal, *given)

    def begin(part):
        return steps.begin(problem(part, 0))

    def is_over(part, state):
        if component.num_draws:  # one draw is no verdict
            return jnp.zeros(len(part.y), bool)
        return steps.fooled(problem(part, 0), state)

    def advance(part, state, first):
        def step(state, k):
            new = steps.step(problem(part, 1 + k), state, k)
            # What a point is does not depend on when its batch shrinks.
            return gradients.where(is_over(part, state), state, new), None

        if block == 1:
            state, _ = step(state, first)
        else:
            state, _ = jax.lax.scan(step, state, first + jnp.arange(block))
        return state, is_over(part, state)

    def end(part, state):
        given = problem(part, 1 + steps.num_steps)
        x_adv, info = steps.end(given, state)
        # No loss that may round to zero, as cross-entropy does.
        before, after = (
            losses.margin(targets.goal(given).predict(x), given.y)
            for x in (part.x, x_adv)
        )
        drawn = component.drawn(predict, part.keys[0])
        return End(
            _is_broken(drawn, part.y, x_adv),
            x_adv,
            info.zero_grad,
            _known(info.undefined_grad, part.x),
            after > before,
        )

    compiled = [_compiled(each) for each in (begin, advance, end)]
    return Program(compiled[0], compiled[1], compiled[2], block, steps.num_steps)


def _compiled(function: Callable) -> Any:
    # On CPU the whole takes as long to compile as to run, for small networks; at this
    # level it compiles in two thirds of the time and is as fast.
    is_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if is_cpu else None
    return jax.jit(function, compiler_options=options)


class End(NamedTuple):
    """How a search ended, row by row, ``[n, ...]``.

    Attributes:
        is_broken: whether the model is wrong at ``x_adv``, in a pass of its own.
        x_adv: the point.
        zero_grad: as of ``types.AttackInfo``.
        undefined: likewise.
        rises: whether the margin of the logits is larger than at the input.
    """

    is_broken: Any
    x_adv: Any
    zero_grad: Any
    undefined: Any
    rises: Any

    @classmethod
    def joined(cls, ends: "Sequence[End]") -> "End":
        """The rows of several batches."""
        return cls(*map(np.concatenate, zip(*ends, strict=True)))


def _logits(predict: Predict) -> Predict:
    """``predict``, with (0, z) for a single logit z, as searches know classes only."""

    def logits(x):
        output = arguments.output(predict(x))
        if output.ndim > 1:
            return output
        return jnp.stack([jnp.zeros_like(output), output], axis=-1)

    return logits


def _classes(predict: Predict, part: Part) -> Array:
    """The labels, as classes of ``_logits`` also where they are signs."""
    is_single = len(jax.eval_shape(predict, part.x).shape) == 1
    return (part.y > 0).astype(jnp.int32) if is_single else part.y


def _is_broken(predict: Predict, y: Array, x_adv: Array) -> Array:
    """Whether the model is wrong there, at a point that is one."""
    is_finite = jnp.all(jnp.isfinite(x_adv), axis=tuple(range(1, x_adv.ndim)))
    return criteria.misclassified(predict(x_adv), y) & is_finite


def _known(flag: Array | None, x: Array) -> Array:
    return jnp.zeros(len(x), bool) if flag is None else flag
