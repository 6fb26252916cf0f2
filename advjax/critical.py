"""eps* of a network and data of one's own: which radii to train at, and its interval.

    trained = critical.by_fit(model, objective, tx, data, validation,
                              num_epochs=20, batch_size=128)
    found = critical.radius(trained, jax.random.split(key, 10), highest=0.3, width=0.02)
    found.eps_star, found.caveats              # Interval(mean, low, high)
    critical.draw(found, plt.gca())

``transition`` reads eps* off losses that were measured. This chooses the radii at which
they are measured, seed by seed: radius 0, whose test loss is the threshold, then where
the line through two points reaches it, Algorithm A.1 of the paper at first, until the
points next to the crossing leave little open: of a curve that is convex or concave
there, the chord between them and the lines through the next points on either side
enclose it. The spread of the first seeds says how many it takes for an interval as
narrow as wanted (Stein 1945), which then covers at its rate; a t-interval that is
looked at until it is narrow does not.

Xing et al., Phase transition from clean training to adversarial training, 2022.
Stein, A two-sample test for a linear hypothesis whose power is independent of the
variance, 1945.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from scipy import stats  # type: ignore[import-untyped]

from advjax import arguments, fit, transition
from advjax.transition import Status
from advjax.types import Batch, Key, Model, Objective

__all__ = [
    "Interval",
    "Losses",
    "Radius",
    "Reading",
    "Trained",
    "by_fit",
    "draw",
    "radius",
]


class Losses(NamedTuple):
    """What training leaves, ``[r]`` each.

    Attributes:
        train: adversarial loss on the training data.
        test: clean loss on the test data; read at radius 0 alone.
        caveats: a line for each reason to distrust them.
    """

    train: np.ndarray
    test: np.ndarray
    caveats: tuple[str, ...] = ()


class Trained(Protocol):
    """Trains networks and says their losses."""

    def __call__(self, keys: Key, eps: np.ndarray, /) -> Mapping[str, Losses]:
        """``(keys[r], eps[r]) -> losses`` by rule, such as "best" and "last".

        A rule says at which epoch losses are read. One key at two radii should be the
        same run but for its radius, so that its curve over radii is smooth.
        """


class Interval(NamedTuple):
    """A mean over seeds, and the ends of its 95 % interval, nan where unknown.

    No radius is negative, and so no end is.
    """

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """The curve of one seed by one rule, and where it crosses.

    Attributes:
        eps: ``[k]`` radii, rising from 0.
        losses: ``[k]`` adversarial training losses.
        threshold: the clean test loss at radius 0.
        eps_star: nan where there is no crossing.
        status: why.
        within: the two radii next to the crossing.
        enclosed: where the crossing is between them, if the curve bends one way there.
    """

    eps: np.ndarray
    losses: np.ndarray
    threshold: float
    eps_star: float
    status: Status
    within: tuple[float, float]
    enclosed: tuple[float, float]


class Radius(NamedTuple):
    """eps* over seeds.

    Attributes:
        eps_star: by the first rule, in the mean over all seeds: the interval by the
            spread of the first ones, wider by what the radii leave open. nan unless all
            seeds cross.
        by_rule: the same by each rule, at the radii that the first one chose and those
            beyond, where another one does not cross before.
        readings: by rule, of each seed.
        num_trained: networks that were trained.
        num_seeds: seeds, in the order of the keys.
        caveats: a line for each reason to distrust the interval.
    """

    eps_star: Interval
    by_rule: dict[str, Interval]
    readings: dict[str, list[Reading]]
    num_trained: int
    num_seeds: int
    caveats: tuple[str, ...]


_FEWEST = 5
"""Seeds whose spread says how many it takes, unless more are wanted."""


def radius(
    trained: Trained,
    keys: Key,
    *,
    highest: float,
    width: float,
    start: float | None = None,
    num_first: int = _FEWEST,
    num_rounds: int = 12,
) -> Radius:
    """eps* with an interval, by as few trainings as it takes.

    Args:
        trained: ``(keys[r], eps[r]) -> {rule: Losses}``, such as ``by_fit``; it is
            called with several runs at once.
        keys: ``[s]`` seeds that may be used, at least 5; as many as it takes are.
        highest: the largest radius to try.
        width: wanted between the ends of the interval.
        start: the first radius after 0; a quarter of ``highest`` if None.
        num_first: seeds whose spread says how many it takes, at least 5: with more of
            them fewer are needed, unless these are more than needed already.
        num_rounds: calls of ``trained`` at most.

    Returns:
        The radius. Where curves do not cross below ``highest`` there is no interval,
        and the statuses say why.

    Raises:
        ValueError: for arguments of wrong kinds.
    """
    num_first = arguments.count("num_first", num_first, _FEWEST)
    num_rounds = arguments.count("num_rounds", num_rounds)
    _check(keys, highest, width, start, num_first)
    search = _Search(trained, keys, highest, width, start or highest / 4, num_first)
    for _ in range(num_rounds):
        wanted = search.wanted()
        if not wanted:
            break
        search.train(wanted)
    return search.found()


def draw(found: Radius, axes: Any) -> None:
    """Draws where the curves of all seeds cross, with the interval of each rule shaded.

    Args:
        found: what ``radius`` returned.
        axes: of matplotlib. Drawn on it is the adversarial training loss less the
            threshold of its seed, which crosses 0 at eps*.
    """
    axes.axhline(0.0, color="0.5", linewidth=0.8)
    for i, (rule, readings) in enumerate(found.readings.items()):
        color = f"C{i}"
        for reading in readings:
            above = reading.losses - reading.threshold
            axes.plot(reading.eps, above, ".-", color=color, linewidth=0.8)
        _, low, high = found.by_rule[rule]
        if not np.isnan(low):
            axes.axvspan(low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot([], [], color=color, label=f"{rule}: ε* {_said(found.by_rule[rule])}")
    axes.set(xlabel="radius ε", ylabel="training loss − clean test loss at ε = 0")
    axes.legend(title=f"{found.num_trained} networks of {found.num_seeds} seeds")


def _said(interval: Interval) -> str:
    if np.isnan(interval.mean):
        return "unknown"
    return "{:.3g} [{:.3g}, {:.3g}]".format(*interval)


def _check(
    keys: Key, highest: float, width: float, start: float | None, num_first: int
) -> None:
    for name, value in {"highest": highest, "width": width, "start": start}.items():
        if value is None:
            continue
        if not 0 < arguments.number(name, value) < np.inf:
            msg = f"{name} = {value!r}: give a positive number"
            raise ValueError(msg)
    if start is not None and start >= highest:
        msg = f"start = {start}: give less than highest, {highest}"
        raise ValueError(msg)
    if not hasattr(keys, "dtype") or np.ndim(keys) < 1 or len(keys) < num_first:
        msg = (
            f"keys = {keys}: give at least {num_first} seeds, as jax.random.split does"
        )
        raise ValueError(msg)
    is_new = jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key)
    data = np.asarray(jax.random.key_data(keys) if is_new else keys)
    if len(np.unique(data, axis=0)) < len(data):
        msg = "a key is given twice: its runs would count as two seeds"
        raise ValueError(msg)


_crossing = jax.jit(transition.crossing)


_MEANING = {
    Status.BELOW_FIRST_POINT: "the training loss is above the threshold at radius 0: "
    "train longer",
    Status.NEVER_CROSSES: "the loss stays below the threshold up to the highest radius",
    Status.NOT_A_NUMBER: "a loss is not finite",
    Status.NOT_RISING: "the loss does not rise",
}


class _Search:
    """What was trained, seed by seed."""

    def __init__(
        self,
        trained: Trained,
        keys: Key,
        highest: float,
        width: float,
        start: float,
        num_first: int,
    ) -> None:
        self._trained, self._keys, self._num_first = trained, keys, num_first
        self._highest, self._width, self._start = highest, width, start
        self._runs: list[dict[float, dict[str, tuple[float, float]]]] = [
            {} for _ in range(len(keys))
        ]
        self._rules: tuple[str, ...] = ()
        self._lines: list[str] = []

    @property
    def _num_seeds(self) -> int:
        return sum(map(bool, self._runs))

    def wanted(self) -> list[tuple[int, float]]:
        """Seeds and radii to train at next; none when it is over."""
        number = max(self._num_seeds, self._num_first)
        new = [(i, eps) for i in range(number) for eps in self._next(i)]
        if new or number > self._num_first:
            return new
        more = range(self._num_first, self._needed())
        return [(i, eps) for i in more for eps in self._next(i)]

    def train(self, wanted: list[tuple[int, float]]) -> None:
        """Trains, and keeps the losses."""
        rows, radii = (np.array(each) for each in zip(*wanted, strict=True))
        found = self._trained(self._keys[rows], radii.astype(np.float32))
        losses = _checked(found, len(wanted))
        self._rules = self._rules or tuple(losses)
        self._lines += [line for each in found.values() for line in each.caveats]
        for place, (i, eps) in enumerate(wanted):
            self._runs[i][eps] = {
                rule: (train[place], test[place])
                for rule, (train, test) in losses.items()
            }

    def found(self) -> Radius:
        """What there is to say."""
        seeds = range(self._num_seeds)
        readings = {
            rule: [self._reading(i, rule) for i in seeds] for rule in self._rules
        }
        by_rule = {rule: self._interval(each) for rule, each in readings.items()}
        first = self._rules[0]
        return Radius(
            by_rule[first],
            by_rule,
            readings,
            sum(len(runs) for runs in self._runs),
            self._num_seeds,
            self._caveats(readings, by_rule[first]),
        )

    def _tolerance(self) -> float:
        """What the radii may leave open of one seed's crossing."""
        return self._width / 10

    def _next(self, i: int) -> list[float]:
        """Radii to train a seed at next, as they are trained, in single precision."""
        return [float(np.float32(eps)) for eps in self._wanted(i)]

    def _wanted(self, i: int) -> list[float]:
        """One radius or two at first; none where the crossing is known well enough."""
        runs = self._runs[i]
        if not runs:
            return [0.0, self._guess()]
        reading, *others = (self._reading(i, rule) for rule in self._rules)
        low, high = reading.within
        if self._goes_on(reading):
            return [self._beyond(reading)]
        if reading.status != Status.CROSSES or self._open(reading) <= self._tolerance():
            # The other rules take what there is, but should cross as well.
            return [self._beyond(each) for each in others if self._goes_on(each)][:1]
        # In turn where the chord crosses and in the middle of what is left: of a curve
        # that bends, the chord alone moves one of the two radii for long.
        margin = min(self._tolerance(), (high - low) / 3)
        chosen = sum(reading.enclosed) / 2 if len(runs) % 2 else reading.eps_star
        return [float(np.clip(chosen, low + margin, high - margin))]

    def _goes_on(self, reading: Reading) -> bool:
        """Whether a curve may cross beyond the radii that were tried."""
        is_below = reading.status == Status.NEVER_CROSSES
        return is_below and reading.within[0] < self._highest

    def _guess(self) -> float:
        """Where to begin with a seed: at the mean of those that are known."""
        known = [
            self._reading(i, self._rules[0]).eps_star
            for i in range(len(self._keys))
            if self._runs[i]
        ]
        known = [value for value in known if np.isfinite(value)]
        return float(np.mean(known)) if known else self._start

    def _beyond(self, reading: Reading) -> float:
        """Further out, where the line through the last two points crosses."""
        (before, last), (low, high) = reading.losses[-2:], reading.eps[-2:]
        slope = (last - before) / (high - low)
        reach = 1.1 * (reading.threshold - last) / slope if slope > 0 else np.inf
        # A curve that bends upwards crosses before its line does.
        step = float(np.clip(reach, 0.1 * high, max(high, self._highest / 4)))
        return min(high + step, self._highest)

    def _reading(self, i: int, rule: str) -> Reading:
        runs = self._runs[i]
        eps = np.array(sorted(runs))
        losses = np.array([runs[r][rule][0] for r in eps])
        threshold = runs[0.0][rule][1]
        crossing = _crossing(eps, losses, threshold)
        status = Status(int(crossing.status))
        last = np.flatnonzero(losses <= threshold)
        low = float(eps[last[-1]]) if last.size else 0.0
        above = eps[eps > low]
        high = float(above[0]) if above.size else np.inf
        # In single precision it may be just outside.
        eps_star = float(np.clip(crossing.eps_star, low, high))
        enclosed = _enclosed(eps, losses, threshold, eps_star, (low, high))
        return Reading(eps, losses, threshold, eps_star, status, (low, high), enclosed)

    def _open(self, reading: Reading) -> float:
        """How far the crossing may be from where it is read.

        A curve may bend both ways between radii that are far apart.
        """
        low, high = reading.within
        if high - low <= self._width:
            low, high = reading.enclosed
        return max(reading.eps_star - low, high - reading.eps_star)

    def _interval(self, readings: list[Reading]) -> Interval:
        values = np.array([reading.eps_star for reading in readings])
        if not np.isfinite(values).all():
            return Interval(*(np.nan,) * 3)
        left_open = np.mean([self._open(reading) for reading in readings])
        first = values[: self._num_first]
        half = _half(first, len(values)) + float(left_open)
        mean = float(values.mean())
        return Interval(mean, max(0.0, mean - half), mean + half)

    def _needed(self) -> int:
        """The number of seeds for an interval as narrow as wanted."""
        first = self._num_first
        readings = [self._reading(i, self._rules[0]) for i in range(first)]
        if any(each.status != Status.CROSSES for each in readings):
            return first
        values = np.array([each.eps_star for each in readings])
        left = self._width / 2 - self._tolerance()
        most = len(self._keys)
        return next((n for n in range(first, most) if _half(values, n) <= left), most)

    def _caveats(
        self, by_rule: dict[str, list[Reading]], interval: Interval
    ) -> tuple[str, ...]:
        lines = []
        for rule, readings in by_rule.items():
            name = "" if rule == self._rules[0] else f"{rule}: "
            for status in Status:
                number = sum(each.status == status for each in readings)
                if number and status != Status.CROSSES:
                    of_all = f"{number} of {len(readings)} seeds: {status.name}"
                    lines.append(f"{name}{of_all}, {_MEANING[status]}")
            number = sum(bool((np.diff(each.losses) < 0).any()) for each in readings)
            if number:
                lines.append(f"{name}{number} of {len(readings)} curves fall somewhere")
        if self.wanted():
            most = max(max(runs) for runs in self._runs if runs)
            lines.append(f"rounds ran out; radii up to {most:.3g} were tried")
        if interval.high - interval.low > self._width:
            lines.append(
                f"the interval is {interval.high - interval.low:.2g} wide, where "
                f"{self._width:.2g} was wanted: {self._num_seeds} of "
                f"{len(self._keys)} keys were used; give more of them, or rounds"
            )
        return (*lines, *dict.fromkeys(self._lines))


def _enclosed(
    eps: np.ndarray,
    losses: np.ndarray,
    threshold: float,
    eps_star: float,
    within: tuple[float, float],
) -> tuple[float, float]:
    """Between which radii a curve crosses that bends one way around there.

    A convex one is below its chord between ``within``, where that crosses at
    ``eps_star``, and above the lines through the two points on either side; a concave
    one the other way round. The farther line of two counts, since one may reach to
    where the curve bends the other way. Radii and crossings are of single precision,
    whose rounding is added.
    """
    low, high = within
    last = int(np.searchsorted(eps, low))
    if not np.isfinite(high):
        return within
    lines = [
        _line_crossing(eps[i : i + 2], losses[i : i + 2], threshold, within, side)
        for i, side in ((last - 1, high), (last + 1, low))
        if i >= 0 and i + 2 <= len(eps)
    ]
    above = [each for each in lines if each >= eps_star]
    below = [each for each in lines if each < eps_star]
    if not lines:
        return within
    first, second = min(below, default=eps_star), max(above, default=eps_star)
    rounding = 2 * float(np.spacing(np.float32(high)))
    return first - rounding, second + rounding


def _line_crossing(
    eps: np.ndarray,
    losses: np.ndarray,
    threshold: float,
    within: tuple[float, float],
    else_at: float,
) -> float:
    """Where the line through two points crosses, within bounds."""
    slope = (losses[1] - losses[0]) / (eps[1] - eps[0])
    if not slope > 0:
        return else_at
    return float(np.clip(eps[0] + (threshold - losses[0]) / slope, *within))


def _checked(found: Any, number: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The losses by rule, one for each of the runs.

    Raises:
        ValueError: for what is none.
    """
    if not isinstance(found, Mapping) or not found:
        msg = f"trained returned a {type(found).__name__}: give {{rule: Losses}}"
        raise ValueError(msg)
    losses = {}
    for rule, each in found.items():
        if not isinstance(each, Losses):
            msg = f"trained returned a {type(each).__name__} for {rule}: give Losses"
            raise ValueError(msg)
        train, test = (np.asarray(values, float) for values in each[:2])
        if not train.shape == test.shape == (number,):
            msg = f"losses {rule} have shapes {train.shape}, {test.shape}"
            raise ValueError(f"{msg}; give one for each of {number} runs")
        losses[rule] = train, test
    return losses


def _half(first: np.ndarray, number: int) -> float:
    """Half of Stein's interval of the mean of so many values, by the first of them."""
    quantile = stats.t.ppf(0.975, len(first) - 1)
    return float(quantile * first.std(ddof=1) / np.sqrt(number))


def by_fit(
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    data: Batch,
    validation: fit.Validation,
    **settings: Any,
) -> Trained:
    """Networks by a ``fit.trainer``, and their losses by two rules.

    "best" reads both losses at the epoch of smallest validation loss, under attack if
    the validation has one, as the paper does; "last" at the last epoch.

    Args:
        model: as of ``fit.trainer``, and so are the others.
        objective: whose loss is that of the curve.
        tx: optimiser.
        data: to train on.
        validation: whose clean loss at radius 0 is the threshold.
        **settings: such as ``num_epochs`` and ``batch_size``.
    """
    if not isinstance(validation, fit.Validation):
        msg = f"validation is a {type(validation).__name__}: give fit.Validation"
        raise ValueError(msg)
    settings |= {"validation": validation}
    trainer = fit.trainer(model, objective, tx, data, **settings)

    def trained(keys: Key, eps: np.ndarray) -> dict[str, Losses]:
        fits = trainer(keys, eps)
        return {
            "best": _losses(fits, [each.best_epoch - 1 for each in fits]),
            "last": _losses(fits, [-1 for _ in fits]),
        }

    return trained


def _losses(fits: list[fit.Fit], epochs: list[int]) -> Losses:
    """At these epochs; those of a run without a best network are not numbers."""

    def at(name: str) -> np.ndarray:
        return np.array(
            [
                each.curves[name][epoch] if each.best else np.nan
                for each, epoch in zip(fits, epochs, strict=True)
            ]
        )

    caveats = dict.fromkeys(line for each in fits for line in each.caveats)
    return Losses(at("loss"), at("validation_loss"), tuple(caveats))
