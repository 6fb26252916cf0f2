"""AutoAttack, and a stronger ensemble of our own, over a data set.

    attack = ensembles.compiled(predict, ensembles.standard(norms.linf, num_classes=10),
                                bounds=(0.0, 1.0))
    found = attack(key, x, y, eps)
    found.robust.mean(), found.rows, found.caveats()

Components run one after the other, each on the points that all before it left robust;
what they break is looked at once more, in one forward pass, before it counts. Every
random number depends on the example, the component and the restart alone: so results do
not depend on the size of batches, nor on which points others broke.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, criteria, losses, norms, regions
from advjax.arguments import Bounds
from advjax.attacks import auto, boundary, search, squares, targets
from advjax.attacks.projections import Projection
from advjax.attacks.search import Search
from advjax.norms import Norm
from advjax.types import Array, Key, Loss, Predict, example_keys

__all__ = [
    "Component",
    "Found",
    "Row",
    "compiled",
    "plus",
    "standard",
    "strong",
]


@dataclasses.dataclass(frozen=True)
class Component:
    """One attack of an ensemble.

    Attributes:
        name: such as "apgd-ce".
        search: its steps.
        loss: what it raises, unless the search has a loss of its own.
        num_repeats: restarts, or targets.
    """

    name: str
    search: Search
    loss: Loss = losses.cross_entropy
    num_repeats: int = 1


def _apgd(
    name: str,
    norm: Norm,
    loss: Loss,
    num_repeats: int = 1,
    *,
    project: Projection,
) -> Component:
    return Component(name, auto.apgd_search(norm, project=project), loss, num_repeats)


def _apgd_t(
    name: str,
    norm: Norm,
    loss: targets.TargetedLoss,
    num_repeats: int,
    *,
    project: Projection,
) -> Component:
    steps = auto.apgd_search(norm, project=project)
    return Component(name, targets.aimed(steps, loss), num_repeats=num_repeats)


def standard(
    norm: Norm, *, num_classes: int, project: Projection = "exact"
) -> tuple[Component, ...]:
    """AutoAttack: APGD on cross-entropy and, with targets, on the DLR; FAB; Square.

    100 steps each, 9 targets or as many as there are, 5000 queries; for l1 five
    restarts of the first and five targets. Four classes at least have the targeted DLR
    loss; fewer have the margin in its place.

    Args:
        norm: of the ball.
        num_classes: k.
        project: of APGD; "clip" is that of the original code.

    Croce and Hein, Reliable evaluation of adversarial robustness, 2020, and Mind the
    box, 2021.
    """
    num_targets = _num_targets(num_classes)
    is_l1 = norm is norms.l1
    aim = losses.targeted_dlr if num_classes > 3 else losses.targeted_margin
    apgd, apgd_t = partial(_apgd, project=project), partial(_apgd_t, project=project)
    return (
        apgd("apgd-ce", norm, losses.cross_entropy, 5 if is_l1 else 1),
        apgd_t("apgd-t", norm, aim, min(num_targets, 5) if is_l1 else num_targets),
        Component("fab-t", boundary.fab_search(norm), num_repeats=num_targets),
        Component("square", squares.square_search(norm)),
    )


def plus(
    norm: Norm, *, num_classes: int, project: Projection = "exact"
) -> tuple[Component, ...]:
    """The longer ensemble of the same code, with five restarts of APGD.

    Its untargeted FAB is the targeted one here: the first covers what the second does.
    """
    num_targets = _num_targets(num_classes)
    dlr = losses.dlr if num_classes > 2 else losses.margin
    aim = losses.targeted_dlr if num_classes > 3 else losses.targeted_margin
    apgd, apgd_t = partial(_apgd, project=project), partial(_apgd_t, project=project)
    return (
        apgd("apgd-ce", norm, losses.cross_entropy, 5),
        apgd("apgd-dlr", norm, dlr, 5),
        Component("fab-t", boundary.fab_search(norm), num_repeats=num_targets),
        Component("square", squares.square_search(norm)),
        apgd_t("apgd-t", norm, aim, num_targets),
    )


def strong(norm: Norm, *, num_classes: int) -> tuple[Component, ...]:
    """More losses for the survivors, with exact projections, and less of the rest.

    Targets by margin first, which few points survive; the DLR, the margin of
    probabilities and cross-entropy on the survivors; FAB and Square last.
    """
    num_targets = _num_targets(num_classes)
    apgd, apgd_t = partial(_apgd, project="exact"), partial(_apgd_t, project="exact")
    aim = losses.targeted_dlr if num_classes > 3 else losses.targeted_margin
    return (
        apgd("apgd-ce", norm, losses.cross_entropy),
        apgd_t("apgd-t margin", norm, losses.targeted_margin, num_targets),
        apgd_t("apgd-t dlr", norm, aim, num_targets),
        apgd_t("apgd-t p", norm, losses.targeted_probability_margin, num_targets),
        Component("fab-t", boundary.fab_search(norm), num_repeats=min(num_targets, 3)),
        Component("square", squares.square_search(norm)),
    )


def _num_targets(num_classes: int) -> int:
    return min(arguments.count("num_classes", num_classes, least=2) - 1, 9)


class Row(NamedTuple):
    """What one component did.

    Attributes:
        name: of the component.
        num_attacked: points that were robust before it.
        num_broken: of these.
        num_zero_grad: points that it left robust and whose gradient vanished.
        num_undefined: points where a gradient was not a number.
        num_programs: compiled for it.
    """

    name: str
    num_attacked: int
    num_broken: int
    num_zero_grad: int
    num_undefined: int
    num_programs: int


class Found(NamedTuple):
    """The result of an ensemble, so far.

    Attributes:
        correct: at the input, ``[n]``.
        robust: correct, and not broken by any component, ``[n]``.
        x_adv: a point that breaks each example, ``[n, ...]``; the input where none was
            found.
        broken_by: the component, ``[n]``; -1 for none.
        rows: of the components that have run.
    """

    correct: np.ndarray
    robust: np.ndarray
    x_adv: np.ndarray
    broken_by: np.ndarray
    rows: tuple[Row, ...]

    def caveats(self) -> tuple[str, ...]:
        """Reasons to distrust the robust points, a line each; () for none."""
        n, lines = len(self.robust), []
        for row in self.rows:
            if row.num_zero_grad:
                lines.append(
                    f"{row.name}: gradients vanished at {row.num_zero_grad} of {n} "
                    "points that it left robust: the model may only look robust"
                )
            if row.num_undefined:
                lines.append(
                    f"{row.name}: gradients at {row.num_undefined} of {n} points were "
                    "not numbers"
                )
            if row.name == "square" and row.num_broken > _MOST_BY_SQUARE * n:
                lines.append(
                    f"square broke {row.num_broken} of {n} points that no gradient "
                    "led to: gradients may be masked"
                )
        return tuple(lines)


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


_BLOCK = {True: 10, False: 250}
"""Steps of one program, with gradients and without."""


def _program(predict: Predict, component: Component, bounds: Bounds | None) -> _Program:
    steps = component.search
    goal = criteria.Goal(predict, component.loss)
    block = _divisor(steps.num_steps, _BLOCK[steps.has_gradients])

    def problem(part: _Part) -> search.Problem:
        x, y, eps, repeat = part.x, part.y, part.eps, part.repeat
        return search.problem(part.keys, goal, x, y, eps, bounds, repeat)

    def begin(part):
        return steps.begin(problem(part))

    def advance(part, state, first):
        given = problem(part)

        def step(state, k):
            return steps.step(given, state, k), None

        ks = first + jnp.arange(block)
        unroll = block if steps.has_gradients else 1
        state, _ = jax.lax.scan(step, state, ks, unroll=unroll)
        return state, steps.fooled(given, state)

    def end(part, state):
        x_adv, info = steps.end(problem(part), state)
        return x_adv, info, _is_broken(predict, part.y, x_adv)

    compiled = (jax.jit(begin), jax.jit(advance), jax.jit(end))
    return _Program(*compiled, block, steps.num_steps)


def _divisor(number: int, most: int) -> int:
    return max(d for d in range(1, most + 1) if number % d == 0)


def _is_broken(predict: Predict, y: Array, x_adv: Array) -> Array:
    """Whether the model is wrong there, at a point that is one."""
    is_finite = jnp.all(jnp.isfinite(x_adv), axis=tuple(range(1, x_adv.ndim)))
    return criteria.misclassified(predict(x_adv), y) & is_finite


class Ensemble:
    """Components that share a model; programs are compiled once for each size."""

    def __init__(
        self,
        predict: Predict,
        components: Sequence[Component],
        bounds: Bounds | None,
        batch_sizes: Sequence[int],
    ):
        self.components = tuple(components)
        self._sizes = sorted({arguments.count("batch_sizes", b) for b in batch_sizes})
        self._programs = [_program(predict, each, bounds) for each in self.components]
        self._right = jax.jit(lambda x, y: criteria.correct(predict(x), y))

    def __call__(
        self,
        key: Key,
        x: Array,
        y: Array,
        eps: Array | float,
        *,
        start: Found | None = None,
        after: Callable[[Found], None] | None = None,
    ) -> Found:
        """Attacks a data set.

        Args:
            key: one key, or ``[n]`` keys.
            x: ``[n, ...]``.
            y: ``[n]`` labels.
            eps: radius, as of ``types.Attack``.
            start: what an interrupted call had found after some components; it goes on
                with the others.
            after: is given what was found after each component.

        Raises:
            ValueError: for lengths or shapes that do not fit.
        """
        n = arguments.equal_lengths(x=x, y=y)
        keys = example_keys(key, n)
        eps = jnp.asarray(eps, regions.promoted(x[:1]).dtype)
        eps = jnp.broadcast_to(eps, (n,) if eps.ndim == 0 else (n, *eps.shape[1:]))
        data = _Part(keys, jnp.asarray(x), jnp.asarray(y), eps, jnp.zeros(n, jnp.int32))
        found = start or self._clean(data)
        for i in range(len(found.rows), len(self.components)):
            found = self._run(i, found, data)
            if after is not None:
                after(found)
        return found

    def _clean(self, data: _Part) -> Found:
        parts = [
            np.asarray(self._right(data.x[rows], data.y[rows]))[:number]
            for rows, number in self._batches(np.arange(len(data.x)))
        ]
        correct = np.concatenate(parts)
        nothing = np.full(len(correct), -1)
        return Found(correct, correct.copy(), np.array(data.x), nothing, ())

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Rows in batches of the compiled sizes, filled up, and how many are real."""
        while rows.size:
            part = rows[: self._sizes[-1]]
            yield self._filled(part), part.size
            rows = rows[self._sizes[-1] :]

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        size = next(s for s in self._sizes if s >= rows.size)
        return np.concatenate([rows, np.repeat(rows[-1:], size - rows.size)])

    def _run(self, i: int, found: Found, data: _Part) -> Found:
        """One component on what is robust, restart by restart or target by target."""
        component, name = self.components[i], self.components[i].name
        robust, x_adv = found.robust.copy(), found.x_adv.copy()
        broken_by = found.broken_by.copy()
        zero_grad, undefined = np.zeros((2, robust.size), bool)
        keys = jax.vmap(jax.random.fold_in, (0, None))(data.keys, i)
        data = data._replace(keys=keys)
        first = 0
        while first < component.num_repeats and robust.any():
            alive = np.flatnonzero(robust)
            number = max(1, self._sizes[-1] // alive.size)
            repeats = np.arange(first, min(first + number, component.num_repeats))
            first = repeats[-1] + 1
            rows, repeat = np.tile(alive, repeats.size), np.repeat(repeats, alive.size)
            results = self._attacked(self._programs[i], data, rows, repeat)
            is_broken, points, has_zero_grad, is_undefined = results
            # Of several repeats that break an example the first one counts.
            for row in np.flatnonzero(is_broken)[::-1]:
                x_adv[rows[row]] = points[row]
            robust[rows[is_broken]] = False
            broken_by[rows[is_broken]] = i
            np.logical_or.at(zero_grad, rows, has_zero_grad)
            np.logical_or.at(undefined, rows, is_undefined)
        row = Row(
            name,
            int(found.robust.sum()),
            int(found.robust.sum() - robust.sum()),
            int((zero_grad & robust).sum()),
            int(undefined.sum()),
            self._programs[i].number,
        )
        return Found(found.correct, robust, x_adv, broken_by, (*found.rows, row))

    def _attacked(
        self, program: _Program, data: _Part, rows: np.ndarray, repeat: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Whether each row was broken, where, and the flags of its gradients."""
        every = []
        order = np.arange(rows.size)
        for places, number in self._batches(order):
            part = data.taken(rows[places])._replace(repeat=jnp.asarray(repeat[places]))
            every.append(self._searched(program, part, number))
        return tuple(map(np.concatenate, zip(*every, strict=True)))

    def _searched(
        self, program: _Program, part: _Part, number: int
    ) -> tuple[np.ndarray, ...]:
        """One batch, which shrinks as its points are broken."""
        rows = np.arange(number)
        out: list[tuple[np.ndarray, ...]] = []
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
                x_adv, info, is_broken = jax.device_get(program.end(part, state))
                ended = np.arange(rows.size) if is_done else np.flatnonzero(fooled)
                out.append(
                    (
                        rows[ended],
                        is_broken[ended],
                        x_adv[ended],
                        info.zero_grad[ended],
                        _known(info.undefined_grad, x_adv)[ended],
                    )
                )
                kept = self._filled(alive) if alive.size else alive
                rows = rows[alive]
                part = part.taken(kept)
                state = jax.tree.map(lambda leaf, kept=kept: leaf[kept], state)
        joined = [np.concatenate(each) for each in zip(*out, strict=True)]
        back = np.argsort(joined[0])
        return tuple(each[back] for each in joined[1:])


def _known(flag: Any, x: np.ndarray) -> np.ndarray:
    return np.zeros(len(x), bool) if flag is None else np.asarray(flag)


def compiled(
    predict: Predict,
    components: Sequence[Component],
    *,
    bounds: Bounds | None = (0.0, 1.0),
    batch_sizes: Sequence[int] = (32, 256),
) -> Ensemble:
    """An ensemble for a model.

    Args:
        predict: ``x[n, ...] -> logits[n, k]`` in evaluation mode.
        components: such as those of ``standard``.
        bounds: as of ``pgd``.
        batch_sizes: of compiled programs; what is left is packed into the smallest one
            that holds it.

    Raises:
        ValueError: for wrong arguments.
    """
    arguments.functions(predict=predict)
    bounds = arguments.bounds(bounds)
    return Ensemble(predict, components, bounds, batch_sizes)
