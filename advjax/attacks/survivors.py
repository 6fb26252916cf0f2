"""Components of an ensemble, each on the points that all before it left robust.

Survivors are packed on the host into batches of a few sizes, so that few programs are
compiled. Every random number depends on the example, the component and the restart
alone: results do not depend on the size of batches, nor on which points others broke.
Draws of random models are of a whole batch, and so depend on it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, criteria, flags, regions
from advjax.arguments import Bounds
from advjax.attacks import components
from advjax.attacks.components import Component, End, Part, Program
from advjax.flags import Flags
from advjax.types import Array, Key, Predict, example_keys

__all__ = ["Ensemble", "Found", "Row", "Status"]


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


def _sizes(predict: Predict, x: Array) -> list[int]:
    """Batch sizes for a model: another one takes seconds to compile, and may pay."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    cost = jax.jit(predict).lower(shape).cost_analysis() or {}
    return [256] if cost.get("flops", np.inf) < _SMALL else [32, 256]


_SMALL = 1e6
"""Operations for one example, below which filled-up batches are no loss."""

_FEW = 4
"""Batches of a smaller size that are rather made than one larger that is filled up."""


def _clean(
    predict: Callable, bounds: Bounds | None, component: Component, part: Part
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
        self._programs: list[Program] = []
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
                are no numbers of at least 0, and labels or a start that do not fit.
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
        data = Part(keys, jnp.asarray(x), jnp.asarray(y), eps, jnp.zeros(n, jnp.int32))
        drawn = self.components[0].drawn(self._predict, keys[0])
        output = jax.eval_shape(drawn, data.x)
        output = arguments.output(output)
        criteria.correct(jnp.zeros(output.shape, output.dtype), data.y)  # raises
        self._check_classes(output.shape)
        if not self._programs:
            given = self._predict, self._bounds
            self._sizes = self._sizes or _sizes(drawn, data.x[:1])
            self._programs = [
                components.program(*given, each) for each in self.components
            ]
        if num_components is None:
            num_components = len(self.components)
        last = arguments.count("num_components", num_components, least=0)
        self._check(start, last, data)
        found = start or self._first(data)
        for i in range(len(self.components))[len(found.rows) : last]:
            found = self._run(i, found, data, watch)
        return found

    def _check_classes(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for another number of classes than the model's."""
        k = shape[1] if len(shape) == 2 else 2
        for each in self.components:
            if each.num_classes not in (0, k) and (len(shape), each.num_classes) != (
                1,
                1,
            ):
                msg = (
                    f"num_classes = {each.num_classes}, and the model tells {k} apart: "
                )
                raise ValueError(f"{msg}give num_classes={k}")

    def _check(self, start: Found | None, last: int, data: Part) -> None:
        """Refuses a start of other components, data or labels, and a wrong number.

        Raises:
            ValueError: with what to give instead.
        """
        names = [each.name for each in self.components]
        if last > len(names):
            msg = f"num_components = {last}: there are {len(names)}"
            raise ValueError(msg)
        if start is None:
            return
        if not isinstance(start, Found):
            msg = f"start is a {type(start).__name__}: give what this ensemble found"
            raise ValueError(msg)
        done = [row.name for row in start.rows]
        if done != names[: len(done)]:
            msg = f"start has run {done}: give what this ensemble of {names} found"
            raise ValueError(msg)
        if last < len(done):
            msg = f"num_components = {last}: the start has run {len(done)} already"
            raise ValueError(msg)
        kept = start.broken_by < 0
        x, x_adv = np.asarray(data.x), np.asarray(start.x_adv)
        is_same = x_adv.shape == x.shape and np.array_equal(
            x_adv[kept], x[kept], equal_nan=True
        )
        if not is_same or not np.array_equal(start.correct, self._first(data).correct):
            msg = "start is of other inputs, labels or another model: give what this "
            raise ValueError(f"{msg}ensemble found for these")

    def _first(self, data: Part) -> Found:
        """Before any component."""
        parts = [
            jax.tree.map(lambda leaf, m=number: np.asarray(leaf)[:m], self._clean(part))
            for rows, number in self._batches(np.arange(len(data.x)))
            for part in [data.taken(rows)]
        ]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        correct, seen, probabilities = joined
        ascends = any(each.search.shortens is None for each in self.components)
        stuck = np.full(len(correct), ascends)
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
        self, i: int, found: Found, data: Part, watch: Callable[[Status], None]
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
        self, program: Program, data: Part, rows: np.ndarray, repeat: np.ndarray
    ) -> End:
        """One batch, which shrinks as its points are broken."""
        places = self._filled(np.arange(rows.size))
        part = data.taken(rows[places])._replace(repeat=jnp.asarray(repeat[places]))
        rows, order = np.arange(rows.size), []
        ends: list[End] = []
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
                ends.append(End(*(each[ended] for each in end)))
                order.append(rows[ended])
                kept = self._filled(alive) if alive.size else alive
                rows = rows[alive]
                part = part.taken(kept)
                state = jax.tree.map(lambda leaf, kept=kept: leaf[kept], state)
        back = np.argsort(np.concatenate(order))
        return End(*(each[back] for each in End.joined(ends)))
