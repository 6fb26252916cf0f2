"""eps* found by choosing radii, against curves whose crossing is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import attacks, critical, fit, losses, models, norms, objectives, solvers
from advjax.transition import Status
from advjax.types import Batch

KEYS = jax.random.split(jax.random.key(0), 40)


class _Curves:
    """Losses (1 + eps / eps*)² against a threshold of 4, eps* by the key."""

    def __init__(self, mean=0.1, sd=0.0, shape=lambda t: (1 + t) ** 2):
        self.num_trained, self.calls = 0, 0
        self.mean, self.sd, self.shape = mean, sd, shape

    def eps_star(self, keys):
        draws = jax.vmap(jax.random.normal)(keys)
        return np.asarray(self.mean + self.sd * draws, float)

    def __call__(self, keys, eps):
        self.num_trained += len(eps)
        self.calls += 1
        loss = self.shape(np.asarray(eps, float) / self.eps_star(keys))
        test = np.full(len(eps), self.shape(1.0))
        return {"best": critical.Losses(loss, test)}


@pytest.mark.parametrize(
    "shape",
    [
        lambda t: (1 + t) ** 2,
        lambda t: np.exp(3 * t),
        lambda t: 1 + t**0.5,
        lambda t: 0.98 + 0.02 * t**3,  # just below the threshold for long
        lambda t: 0.99 + 2 * np.maximum(0, t - 0.995),
    ],
)
def test_a_known_crossing_is_within_the_interval_at_few_radii(shape):
    curves = _Curves(shape=shape)
    found = critical.radius(curves, KEYS, highest=0.4, width=0.02)
    assert found.eps_star.low <= 0.1 <= found.eps_star.high
    assert found.eps_star.high - found.eps_star.low <= 0.02
    assert found.num_seeds == 5
    assert found.num_trained == curves.num_trained <= 10 * 5
    assert found.caveats == ()
    for reading in found.readings["best"]:
        assert reading.status == Status.CROSSES
        low, high = reading.within
        assert low - 1e-8 <= 0.1 <= high  # radii are of single precision


@pytest.mark.parametrize("scale", [0.002, 0.004, 0.008, 0.016])
@pytest.mark.parametrize("middle", [0.08, 0.1, 0.115, 0.13, 0.2])
def test_curves_that_bend_both_ways_cross_within_the_interval(middle, scale):
    """A wide bracket may hold the bend, and no line beside it encloses anything."""

    def sigmoid(keys, eps):
        loss = 1 / (1 + np.exp(-(np.asarray(eps, float) - middle) / scale))
        return {"best": critical.Losses(loss, np.full(len(keys), 0.1))}

    found = critical.radius(sigmoid, KEYS, highest=0.3, width=0.02)
    exact = middle - scale * np.log(9)
    if found.readings["best"][0].status == Status.CROSSES:
        assert found.eps_star.low <= exact <= found.eps_star.high
    else:
        assert exact < 0


def test_seeds_are_added_until_the_interval_is_narrow():
    curves = _Curves(sd=0.01)
    found = critical.radius(curves, KEYS, highest=0.4, width=0.02)
    assert 8 <= found.num_seeds < 40
    assert found.eps_star.high - found.eps_star.low <= 0.02
    assert found.num_trained <= 7 * found.num_seeds
    wide = critical.radius(_Curves(sd=0.01), KEYS[:6], highest=0.4, width=0.002)
    assert wide.num_seeds == 6
    assert any("wide, where 0.002 was wanted" in line for line in wide.caveats)


@pytest.mark.slow
def test_intervals_cover_at_their_rate():
    """Of 200 searches; the binomial standard error at 95 % is 1.5 %."""
    covers = 0
    for i in range(200):
        keys = jax.random.split(jax.random.key(1000 + i), 60)
        found = critical.radius(_Curves(sd=0.01), keys, highest=0.4, width=0.012)
        covers += found.eps_star.low <= 0.1 <= found.eps_star.high
    assert covers >= 0.92 * 200


@pytest.mark.parametrize(
    ("shape", "status"),
    [
        (lambda t: np.where(t == 1, 4.0, 1 + 0.1 * t), Status.NEVER_CROSSES),
        (lambda t: np.where(t == 1, 1.0, 2 + t), Status.BELOW_FIRST_POINT),
        (lambda t: np.where(t == 1, 2.0, t + np.nan), Status.NOT_A_NUMBER),
    ],
)
def test_what_does_not_cross_has_a_status_and_no_interval(shape, status):
    curves = _Curves(mean=0.123, shape=shape)
    found = critical.radius(curves, KEYS, highest=0.4, width=0.02)
    assert np.isnan(found.eps_star).all()
    assert {each.status for each in found.readings["best"]} == {status}
    assert found.caveats[0].startswith(f"5 of 5 seeds: {status.name}, ")
    assert found.num_trained <= 5 * 8


def test_other_rules_cross_further_out():
    class Later(_Curves):
        def __call__(self, keys, eps):
            (best,) = super().__call__(keys, eps).values()
            last = _Curves(mean=0.25)(keys, eps)["best"]
            return {"best": best, "last": last}

    found = critical.radius(Later(), KEYS, highest=0.4, width=0.02)
    assert found.by_rule["best"].low - 1e-7 <= 0.1 <= found.by_rule["best"].high + 1e-7
    rounding = 1e-7
    low, high = found.by_rule["last"][1:]
    assert low - rounding <= 0.25 <= high + rounding
    assert found.caveats == ()
    assert found.num_trained <= 10 * 5
    near = critical.radius(Later(), KEYS, highest=0.2, width=0.02)
    assert np.isfinite(near.eps_star).all()
    assert np.isnan(near.by_rule["last"]).all()
    (line,) = near.caveats
    assert line.startswith("last: 5 of 5 seeds: NEVER_CROSSES, the loss stays below")


def test_one_seed_that_does_not_cross_leaves_no_interval():
    class OneOff(_Curves):
        def __call__(self, keys, eps):
            (losses,) = super().__call__(keys, eps).values()
            is_last = np.array([bool(key == KEYS[3]) for key in keys])
            train = np.where(is_last, 1.0, losses.train)
            return {"best": critical.Losses(train, losses.test)}

    found = critical.radius(OneOff(), KEYS, highest=0.4, width=0.02)
    assert np.isnan(found.eps_star).all()
    (line,) = found.caveats
    assert line.startswith("1 of 5 seeds: NEVER_CROSSES, ")


def test_curves_that_fall_are_said():
    found = critical.radius(
        _Curves(shape=lambda t: 4 * t + np.sin(40 * t)),
        KEYS,
        highest=0.4,
        width=0.01,
    )
    assert any("fall somewhere" in line for line in found.caveats)


@jax.jit
@jax.vmap
def _minimum(key, eps):
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (30, 4))
    y = x @ jnp.ones(4) + 0.5 * jax.random.normal(key_y, (30,))
    found = solvers.adversarial(norms.l2, x, y, eps)
    return found.loss, jnp.sum((found.theta - 1) ** 2) + 0.25


def _regression(keys, eps):
    """Linear regression, 30 examples of 4 features, tested on the population."""
    number = len(eps)
    # Few sizes, each of which is compiled.
    rows = np.arange(2 ** max(4, (number - 1).bit_length())) % number
    found = _minimum(keys[rows], jnp.asarray(eps, jnp.float32)[rows])
    train, test = (np.asarray(each)[:number] for each in found)
    return {"minimum": critical.Losses(train, test)}


def _exact(keys, highest=0.4, num_steps=20):
    """Where least losses of regressions cross, by bisection; nan where they do not."""
    low, high = np.zeros(len(keys)), np.full(len(keys), highest)
    threshold = _regression(keys, low)["minimum"].test
    ends = [_regression(keys, eps)["minimum"].train for eps in (low, high)]
    for _ in range(num_steps):
        middle = (low + high) / 2
        is_low = _regression(keys, middle)["minimum"].train <= threshold
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    crosses = (ends[0] <= threshold) & (ends[1] > threshold)
    return np.where(crosses, low, np.nan)


@pytest.mark.parametrize("number", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_linear_regression_crosses_within_what_encloses_it(number):
    keys = jax.random.split(jax.random.key(1), number)
    found = critical.radius(
        _regression, keys, highest=0.4, width=0.05, num_first=number
    )
    rounding, errors = 2e-5, []
    readings = found.readings["minimum"]
    for expected, reading in zip(_exact(keys), readings, strict=True):
        assert (reading.status == Status.CROSSES) == np.isfinite(expected)
        if reading.status == Status.CROSSES:
            low, high = reading.enclosed
            assert low - rounding <= expected <= high + rounding
            assert high - low <= 0.005 + rounding
            errors.append(reading.eps_star - expected)
    # Least losses are convex in the radius, so that chords cross too early.
    assert np.max(errors) <= rounding
    assert found.num_trained <= 6 * number


@pytest.mark.slow
def test_intervals_of_linear_regressions_cover_at_their_rate():
    """200 searches, against the mean of the 4000 data sets that they draw from."""
    keys = jax.random.split(jax.random.key(2), 4000)
    exact = np.concatenate([_exact(part) for part in np.split(keys, 4)])
    crosses = np.flatnonzero(np.isfinite(exact))
    assert len(crosses) > 2000
    truth, covers, rng = exact[crosses].mean(), 0, np.random.default_rng(0)
    for _ in range(200):
        rows = rng.choice(crosses, 40, replace=False)
        found = critical.radius(_regression, keys[rows], highest=0.4, width=0.04)
        covers += found.eps_star.low <= truth <= found.eps_star.high
    assert covers >= 0.92 * 200, covers


def test_networks_are_read_by_both_rules():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] + 0.3 * rng.normal(size=60) > 0.5).astype(np.int32)
    model = models.make("mlp", num_classes=2, hidden=(16,))
    attack = attacks.pgd(norms.linf, num_steps=3, rel_step_size=0.5)
    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    held = fit.Validation(Batch(x[40:], y[40:]), attack)
    settings = {"num_epochs": 8, "batch_size": 10}
    trained = critical.by_fit(
        *(model, objective, optax.sgd(0.3), Batch(x[:40], y[:40]), held), **settings
    )
    found = trained(KEYS[:2], np.array([0.0, 0.1]))
    fits = fit.runs(
        *(KEYS[:2], model, objective, optax.sgd(0.3), Batch(x[:40], y[:40])),
        [0.0, 0.1],
        validation=held,
        **settings,
    )
    for i, each in enumerate(fits):
        for rule, epoch in {"best": each.best_epoch - 1, "last": 7}.items():
            assert found[rule].train[i] == each.curves["loss"][epoch]
            assert found[rule].test[i] == each.curves["validation_loss"][epoch]
    whole = critical.radius(trained, KEYS[:5], highest=0.4, width=0.2, num_rounds=3)
    assert {*whole.by_rule} == {"best", "last"}
    assert whole.eps_star is whole.by_rule["best"]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 5 seeds"):
        critical.radius(_Curves(), KEYS[:4], highest=0.4, width=0.1)
    for name, value in {"highest": 0.0, "width": -1.0, "start": np.nan}.items():
        with pytest.raises(ValueError, match=name):
            critical.radius(
                _Curves(), KEYS, **{"highest": 1, "width": 1} | {name: value}
            )
    twice = jnp.stack([KEYS[0]] * 6)
    with pytest.raises(ValueError, match="given twice"):
        critical.radius(_Curves(), twice, highest=0.4, width=0.1)
    for wrong, reason in (
        (critical.Losses(np.ones(10), np.ones(10)), "returned a Losses: give"),
        ({}, "returned a dict: give"),
        ({"best": np.ones(10)}, "a ndarray for best: give Losses"),
        ({"best": critical.Losses(np.ones(11), np.ones(11))}, "each of 10 runs"),
    ):
        with pytest.raises(ValueError, match=reason):
            critical.radius(lambda *_, w=wrong: w, KEYS, highest=0.4, width=0.1)
    for name in ("highest", "width"):
        with pytest.raises(ValueError, match=name):
            critical.radius(_Curves(), KEYS, **{"highest": 1, "width": 1, name: "0.3"})
    with pytest.raises(ValueError, match="at least 5 seeds"):
        critical.radius(_Curves(), [*KEYS], highest=0.4, width=0.1)
    hasty = critical.radius(_Curves(), KEYS, highest=0.8, width=0.1, num_rounds=1)
    assert "rounds ran out; radii up to 0.2 were tried" in hasty.caveats
    with pytest.raises(ValueError, match="less than highest"):
        critical.radius(_Curves(), KEYS, highest=0.4, width=0.1, start=0.4)
    with pytest.raises(ValueError, match="num_rounds"):
        critical.radius(_Curves(), KEYS, highest=0.4, width=0.1, num_rounds=0)


def test_caveats_of_the_training_are_passed_on():
    class Doubtful(_Curves):
        def __call__(self, keys, eps):
            (losses,) = super().__call__(keys, eps).values()
            return {"best": losses._replace(caveats=("gradients vanished",))}

    found = critical.radius(Doubtful(), KEYS, highest=0.4, width=0.02)
    assert found.caveats == ("gradients vanished",)


@pytest.mark.parametrize("highest", [0.05, 0.4])
def test_a_figure_shows_every_seed_and_the_interval_that_is_known(highest):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    found = critical.radius(_Curves(sd=0.01), KEYS, highest=highest, width=0.02)
    figure, axes = pyplot.subplots()
    critical.draw(found, axes)
    drawn = [line.get_xydata() for line in axes.lines if line.get_marker() == "."]
    assert len(drawn) == found.num_seeds
    for xy, reading in zip(drawn, found.readings["best"], strict=True):
        np.testing.assert_array_equal(xy[:, 0], reading.eps)
        np.testing.assert_array_equal(xy[:, 1], reading.losses - reading.threshold)
    (label,) = axes.get_legend_handles_labels()[1]
    if highest == 0.05:
        assert label == "best: ε* unknown"
        assert not axes.patches
    else:
        low, high = (
            axes.patches[0]
            .get_extents()
            .transformed(axes.transData.inverted())
            .intervalx
        )
        assert (low, high) == pytest.approx(found.eps_star[1:])
    pyplot.close(figure)
