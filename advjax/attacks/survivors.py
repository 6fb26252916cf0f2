"""Components of an ensemble, each on the points that all before it left robust.

Survivors are packed on the host into batches of a few sizes, so that few programs are
compiled. Every random number depends on the example, the component and the restart
alone: results do not depend on the size of batches, nor on which points others broke.
Draws of random models are of a whole batch, and so depend on it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, criteria, flags, losses, programs, regions
from advjax.arguments import Bounds
from advjax.attacks import gradients, search, targets
from advjax.attacks.search import Search
from advjax.flags import Flags
from advjax.types import Array, Key, Loss, Predict, example_keys

__all__ = ["Component", "Ensemble", "Found", "Row", "Status"]


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
    """

    name: str
    search: Search
    loss: Loss = losses.cross_entropy
    num_repeats: int = 1
    num_draws: int = 0

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


class Row(NamedTuple):
    """What one component did.

    Attributes:
        name: of the component.
        num_attacked: points that were robust before it.
        num_broken: of these.
    """

    name: str
    num_attacked: int
    num_broken: int


class Found(NamedTuple):
    """The result of an ensemble, so far.

    Attributes:
        correct: at the input, ``[n]``.
        robust: correct, and not broken by any component, ``[n]``.
        x_adv: a point that breaks each example, ``[n, ...]``; the input where none was
            found.
        broken_by: the component, ``[n]``; -1 for none.
        flags: of all components, ``[n]`` each.
        probabilities: whether outputs look like probabilities, ``[n]``.
        stuck: no component has raised the margin of the logits, ``[n]``.
        rows: of the components that have run.
    """

    correct: np.ndarray
    robust: np.ndarray
    x_adv: np.ndarray
    broken_by: np.ndarray
    flags: Flags
    probabilities: np.ndarray
    stuck: np.ndarray
    rows: tuple[Row, ...]

    def caveats(self) -> tuple[str, ...]:
        """Reasons to distrust the robust points, a line each; () for none.

        ``flags.of_program`` has those that the model's own program gives.
        """
        seen = self.flags._replace(zero_grad=self.flags.zero_grad & self.robust)
        lines = seen.caveats()
        lines += flags.of_probabilities(self.probabilities, self.flags.undefined)
        n = len(self.robust)
        if self.rows and (number := int((self.stuck & self.robust).sum())):
            line = "points look robust where no attack raised the loss at all"
            lines += (f"{number} of {n} {line}",)
        return lines + tuple(
            f"{row.num_broken} of {n} points were broken by square where gradients had "
            "failed, which may be masked"
            for row in self.rows[-1:]
            if row.name == "square" and row.num_broken > _MOST_BY_SQUARE * n
        )


class Status(NamedTuple):
    """How far a component is.

    Attributes:
        name: of the component.
        done: pairs of a point and a restart, or target, that have been attacked.
        total: of them, if no more points are broken.
        num_robust: points that are still robust.
    """

    name: str
    done: int
    total: int
    num_robust: int


_MOST_BY_SQUARE = 0.002
"""The share of points above which random search should not be needed."""


class _Program(NamedTuple):
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


class _Part(NamedTuple):
    """Rows of a batch, on which a program runs."""

    keys: Key
    x: Array
    y: Array
    eps: Array
    repeat: Array

    def taken(self, rows: np.ndarray) -> "_Part":
        return _Part(*(each[rows] for each in self))


def _sizes(predict: Predict, x: Array) -> list[int]:
    """Batch sizes for a model: another one takes seconds to compile, and may pay."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    cost = jax.jit(predict).lower(shape).cost_analysis() or {}
    return [256] if cost.get("flops", np.inf) < _SMALL else [32, 256]


_SMALL = 1e6
"""Operations for one example, below which filled-up batches are no loss."""

_FEW = 4
"""Batches of a smaller size that are rather made than one larger that is filled up."""

_BLOCK = {True: 25, False: 250}
"""Most steps of one program, with gradients and without."""


def _block(steps: Search, predict: Predict, x: Array) -> int:
    """Steps of one program."""
    # XLA on CPU takes gradients of convolutions several times faster outside of its
    # loops (jax issue 12868), and compiles one step in a tenth of the time of ten.
    is_slow = jax.default_backend() == "cpu" and steps.has_gradients
    if is_slow and programs.has(predict, x, "conv_general_dilated"):
        return 1
    most = _BLOCK[steps.has_gradients]
    return max(b for b in range(1, most + 1) if steps.num_steps % b == 0)


def _program(
    predict: Callable, bounds: Bounds | None, component: Component, x: Array
) -> _Program:
    steps = component.search
    block = _block(steps, component.drawn(predict, jax.random.key(0)), x)

    def problem(part: _Part, k: Array | int) -> search.Problem:
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
        return _End(
            _is_broken(drawn, part.y, x_adv),
            x_adv,
            info.zero_grad,
            _known(info.undefined_grad, part.x),
            after > before,
        )

    compiled = [_compiled(each) for each in (begin, advance, end)]
    return _Program(compiled[0], compiled[1], compiled[2], block, steps.num_steps)


def _compiled(function: Callable) -> Any:
    # On CPU the whole takes as long to compile as to run, for small networks; at this
    # level it compiles in two thirds of the time and is as fast.
    is_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if is_cpu else None
    return jax.jit(function, compiler_options=options)


class _End(NamedTuple):
    """How a search ended, row by row."""

    is_broken: Any
    x_adv: Any
    zero_grad: Any
    undefined: Any
    rises: Any


def _logits(predict: Predict) -> Predict:
    """``predict``, with (0, z) for a single logit z, as searches know classes only."""

    def logits(x):
        output = arguments.output(predict(x))
        if output.ndim > 1:
            return output
        return jnp.stack([jnp.zeros_like(output), output], axis=-1)

    return logits


def _classes(predict: Predict, part: _Part) -> Array:
    """The labels, as classes of ``_logits`` also where they are signs."""
    is_single = len(jax.eval_shape(predict, part.x).shape) == 1
    return (part.y > 0).astype(jnp.int32) if is_single else part.y


def _is_broken(predict: Predict, y: Array, x_adv: Array) -> Array:
    """Whether the model is wrong there, at a point that is one."""
    is_finite = jnp.all(jnp.isfinite(x_adv), axis=tuple(range(1, x_adv.ndim)))
    return criteria.misclassified(predict(x_adv), y) & is_finite


def _clean(
    predict: Callable, bounds: Bounds | None, component: Component, part: _Part
) -> tuple[Array, Flags, Array]:
    """Which inputs are classified rightly, and what is wrong with them, ``[n]``."""
    output = component.drawn(predict, part.keys[0])(part.x)
    _, outside = regions.region(part.x, part.eps, bounds)
    nowhere = jnp.zeros(len(part.x), bool)
    undefined = ~criteria.defined(output, part.y)
    seen = Flags(nowhere, undefined, nowhere if outside is None else outside)
    return criteria.correct(output, part.y), seen, criteria.probabilities(output)


class Ensemble:
    """Components that share a model; programs are compiled once for each size.

    See ``ensembles.compiled``, which makes one.
    """

    def __init__(
        self,
        predict: Callable,
        components: Sequence[Component],
        bounds: Bounds | None,
        batch_sizes: Sequence[int] | None,
    ):
        """Compiles nothing yet."""
        self.components = tuple(components)
        self._predict, self._bounds = predict, bounds
        counted = [arguments.count("batch_sizes", each) for each in batch_sizes or ()]
        self._sizes = sorted(counted)
        self._programs: list[_Program] = []
        self._clean = jax.jit(partial(_clean, predict, bounds, self.components[0]))

    @property
    def num_programs(self) -> int:
        """Programs that have been compiled so far, of all components."""
        return sum(each.number for each in self._programs)

    def __call__(
        self,
        key: Key,
        x: Array,
        y: Array,
        eps: Array | float,
        *,
        start: Found | None = None,
        num_components: int | None = None,
        watch: Callable[[Status], None] = lambda _: None,
    ) -> Found:
        """Attacks a data set.

        Args:
            key: one key, or ``[n]`` keys.
            x: ``[n, ...]``.
            y: ``[n]`` labels.
            eps: radius, as of ``types.Attack``.
            start: what an earlier call with the same arguments has found; this one goes
                on with the components that had not run.
            num_components: how many of all components have run at the end; all for
                None.
            watch: is told after each batch how far it is.

        Raises:
            ValueError: for no examples, lengths or shapes that do not fit, radii that
                are no numbers of at least 0, and labels that do not fit the outputs.
        """
        n = arguments.equal_lengths(x=x, y=y)
        if n < 1:
            msg = "x has no examples: give at least 1"
            raise ValueError(msg)
        keys = example_keys(key, n)
        if not np.all(np.asarray(eps) >= 0):
            msg = f"eps = {eps}: give numbers of at least 0"
            raise ValueError(msg)
        eps = jnp.asarray(eps, regions.promoted(x[:1]).dtype)
        eps = jnp.broadcast_to(eps, (n,) if eps.ndim == 0 else (n, *eps.shape[1:]))
        data = _Part(keys, jnp.asarray(x), jnp.asarray(y), eps, jnp.zeros(n, jnp.int32))
        drawn = self.components[0].drawn(self._predict, keys[0])
        output = jax.eval_shape(drawn, data.x)
        criteria.correct(jnp.zeros(output.shape, output.dtype), data.y)  # raises
        if not self._programs:
            x, given = data.x[:1], (self._predict, self._bounds)
            self._sizes = self._sizes or _sizes(drawn, x)
            self._programs = [_program(*given, each, x) for each in self.components]
        found = start or self._first(data)
        for i in range(len(self.components))[len(found.rows) : num_components]:
            found = self._run(i, found, data, watch)
        return found

    def _first(self, data: _Part) -> Found:
        """Before any component."""
        parts = [
            jax.tree.map(lambda leaf, m=number: np.asarray(leaf)[:m], self._clean(part))
            for rows, number in self._batches(np.arange(len(data.x)))
            for part in [data.taken(rows)]
        ]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        correct, seen, probabilities = joined
        stuck = np.full(len(correct), any(c.search.ascends for c in self.components))
        stuck &= np.asarray(data.eps).reshape(len(stuck), -1).max(axis=1) > 0
        nothing = np.full(len(correct), -1)
        points = (np.array(data.x), nothing, seen, probabilities, stuck)
        return Found(correct, correct.copy(), *points, ())

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Rows in batches of the compiled sizes, filled up, and how many are real."""
        while rows.size:
            part, rows = np.split(rows, [self._size(rows.size)])
            yield self._filled(part), part.size

    def _size(self, number: int) -> int:
        """The smallest size of which a few batches hold so many, or the largest."""
        fits = (size for size in self._sizes if -(-number // size) <= _FEW)
        return next(fits, self._sizes[-1])

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        size = next(s for s in self._sizes if s >= rows.size)
        return np.concatenate([rows, np.repeat(rows[-1:], size - rows.size)])

    def _run(
        self, i: int, found: Found, data: _Part, watch: Callable[[Status], None]
    ) -> Found:
        """One component on what is robust, restart by restart or target by target."""
        component = self.components[i]
        robust, x_adv = found.robust.copy(), found.x_adv.copy()
        broken_by, seen = found.broken_by.copy(), jax.tree.map(np.copy, found.flags)
        stuck = found.stuck.copy()
        keys = jax.vmap(jax.random.fold_in, (0, None))(data.keys, i)
        data = data._replace(keys=keys)
        # Pairs of an example and a restart or target, the first ones of all first.
        alive, repeats = np.flatnonzero(robust), np.arange(component.num_repeats)
        rows, repeat = np.tile(alive, repeats.size), np.repeat(repeats, alive.size)
        done = 0
        while rows.size:
            size = self._size(rows.size)
            now, then = np.split(rows, [size])
            end = self._searched(self._programs[i], data, now, repeat[:size])
            done += now.size
            # Of several repeats that break an example the first one counts.
            broken, first = np.unique(now[end.is_broken], return_index=True)
            places = np.flatnonzero(end.is_broken)[first]
            x_adv[broken] = end.x_adv[places]
            robust[broken], broken_by[broken] = False, i
            counts = np.full(robust.size, now.size)
            counts[broken] = places
            counts = np.arange(now.size) <= counts[now]
            np.logical_or.at(seen.zero_grad, now, end.zero_grad & counts)
            np.logical_or.at(seen.undefined, now, end.undefined & counts)
            stuck[now[end.rises & counts]] = False
            kept = robust[then]
            rows, repeat = then[kept], repeat[size:][kept]
            watch(Status(component.name, done, done + rows.size, int(robust.sum())))
        number = int(found.robust.sum())
        row = Row(component.name, number, number - int(robust.sum()))
        return found._replace(
            robust=robust,
            x_adv=x_adv,
            broken_by=broken_by,
            flags=seen,
            stuck=stuck,
            rows=(*found.rows, row),
        )

    def _searched(
        self, program: _Program, data: _Part, rows: np.ndarray, repeat: np.ndarray
    ) -> _End:
        """One batch, which shrinks as its points are broken."""
        places = self._filled(np.arange(rows.size))
        part = data.taken(rows[places])._replace(repeat=jnp.asarray(repeat[places]))
        rows, order = np.arange(rows.size), []
        ends: list[_End] = []
        state = program.begin(part)
        first, is_done = 0, False
        while not is_done:
            state, fooled = program.advance(part, state, first)
            first += program.block
            is_done = first >= program.num_steps
            fooled = np.asarray(fooled)[: rows.size]
            alive = np.flatnonzero(~fooled)
            is_done |= alive.size == 0
            if is_done or self._filled(alive).size < len(part.y):
                end = jax.device_get(program.end(part, state))
                ended = np.arange(rows.size) if is_done else np.flatnonzero(fooled)
                ends.append(_End(*(each[ended] for each in end)))
                order.append(rows[ended])
                kept = self._filled(alive) if alive.size else alive
                rows = rows[alive]
                part = part.taken(kept)
                state = jax.tree.map(lambda leaf, kept=kept: leaf[kept], state)
        back = np.argsort(np.concatenate(order))
        return _End(*(each[back] for each in _joined(ends)))


def _joined(ends: list[_End]) -> _End:
    return _End(*map(np.concatenate, zip(*ends, strict=True)))


def _known(flag: Array | None, x: Array) -> Array:
    return jnp.zeros(len(x), bool) if flag is None else flag
