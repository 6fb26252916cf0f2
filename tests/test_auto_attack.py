"""APGD, FAB, Square and their ensembles: on linear models, where the truth is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from contracts import BOX, NORMS

from advjax import attacks, criteria, losses, norms
from advjax.attacks import auto, components, ensembles, sparse, squares, targets
from advjax.attacks.components import Component

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, D, K = 40, 16, 5
W = jnp.asarray(RNG.normal(size=(K, D)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.1, 0.9, size=(N, 4, 4, 1)), jnp.float32)
EPS = {"l1": 0.7, "l2": 0.25, "linf": 0.08}
each_norm = pytest.mark.parametrize("norm_name", NORMS)


def _linear(x, w=W):
    return x.reshape(len(x), -1) @ w.T


Y = jnp.argmax(_linear(X), axis=1)


def _gap(x, y, w):
    """How far the label leads each other class, ``[n, k]``, and the directions."""
    z = np.asarray(_linear(x, w), float)
    lead = z[np.arange(len(x)), y][:, None] - z
    w = np.asarray(w, float)
    return lead, w[None] - w[np.asarray(y)][:, None]


def _largest_margin(norm_name, eps, bounds=None):
    """The largest z_j - z_y over classes and perturbations, ``[n]``, in float64."""
    lead, directions = _gap(X, Y, W)
    flat = np.asarray(X, float).reshape(N, D)
    best = np.full(N, -np.inf)
    for j in range(K):
        theta = directions[:, j]
        rooms = np.full((N, D), np.inf)
        if bounds is not None:
            rooms = np.where(theta > 0, 1 - flat, flat)
        gains = reference.largest_gain(np.abs(theta), rooms, eps, norm_name)
        best = np.where(np.asarray(Y) == j, best, np.maximum(best, gains - lead[:, j]))
    return best


def _goal(loss=losses.margin, predict=_linear):
    return criteria.Goal(predict, loss)


def _called(search, goal, eps, num_repeats=1, bounds=BOX, key=KEY, x=X, y=Y):
    attack = attacks.search.as_attack(search, bounds, num_repeats=num_repeats)
    return jax.jit(lambda key, eps: attack(key, goal, x, y, eps))(key, eps)


# --- APGD ---


def test_checks_come_when_the_original_has_them():
    is_check, windows = auto.checks(100)
    after = np.flatnonzero(is_check) + 1
    np.testing.assert_array_equal(after, [22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(windows[is_check], [22, 19, 16, 13, 10, 7, 6, 6])
    for number in range(1, 11):
        is_check, windows = auto.checks(number)
        assert windows[is_check].sum() <= number
        assert (windows[is_check] >= 1).all()


def test_balls_in_l1_shrink_and_are_checked_at_every_step():
    factors, is_start, is_check = sparse.schedule(100)
    np.testing.assert_array_equal(factors, [3] * 30 + [2] * 31 + [1] * 41)
    np.testing.assert_array_equal(np.flatnonzero(is_start), [30, 61])
    np.testing.assert_array_equal(is_check, ~is_start)


@each_norm
@pytest.mark.parametrize("bounds", [None, BOX])
def test_targets_reach_the_largest_margin_of_a_linear_model(norm_name, bounds):
    norm, eps = NORMS[norm_name], EPS[norm_name]
    search = targets.aimed(auto.apgd_search(norm), losses.targeted_margin)
    x_adv, info = _called(search, _goal(), eps, K - 1, bounds)
    found = losses.margin(_linear(x_adv), Y)
    best = _largest_margin(norm_name, eps, bounds)
    assert (found <= best + 1e-4).all()
    # Steps in l1 move several entries, and end a little short of the best vertex.
    least = best - (0.15 * eps if norm_name == "l1" else 1e-3)
    assert (np.asarray(found) >= least).mean() >= (0.9 if norm_name == "l1" else 1)
    is_decided = np.abs(best) > (0.1 if norm_name == "l1" else 1e-3)
    np.testing.assert_array_equal(info.fooled[is_decided], best[is_decided] > 0)


@pytest.mark.parametrize("loss", [losses.margin, losses.dlr])
def test_scale_and_offset_of_the_logits_change_nothing(loss):
    attack = attacks.apgd(norms.linf, num_steps=20, bounds=BOX)

    @jax.jit
    def attacked(scale, offset):
        def predict(x):
            return scale * _linear(x) + offset

        return attack(KEY, _goal(loss, predict), X, Y, 0.08)[0]

    plain = attacked(1.0, 0.0)
    np.testing.assert_allclose(attacked(1024.0, 0.0), plain, atol=1e-6)
    np.testing.assert_allclose(attacked(1.0, 8.0), plain, atol=1e-3)


def test_the_largest_loss_never_falls_and_steps_only_halve():
    problem = attacks.search.problem(KEY, _goal(), X, Y, 0.1, BOX)
    search = auto.apgd_search(norms.linf, num_steps=40)
    step = jax.jit(lambda state, k: search.step(problem, state, k))
    state = search.begin(problem)
    for k in range(search.num_steps):
        last, state = state, step(state, k)
        assert (state.best.loss >= last.best.loss).all()
        np.testing.assert_array_equal(
            state.step_size < last.step_size, state.step_size == last.step_size / 2
        )
    halvings = np.log2(0.2 / np.asarray(state.step_size))
    np.testing.assert_allclose(halvings, np.round(halvings), atol=1e-5)
    assert halvings.max() > 1


# --- FAB ---


@each_norm
def test_fab_finds_the_distance_to_the_boundary_of_two_classes(norm_name):
    norm, w = NORMS[norm_name], W[:2]
    predict = partial(_linear, w=w)
    y = jnp.argmax(predict(X), axis=1)
    lead, directions = _gap(X, y, w)
    rows = np.arange(N)
    other = 1 - np.asarray(y)
    dual = np.asarray(jax.vmap(norm.dual)(directions[rows, other]))
    distance = lead[rows, other] / dual
    fab = attacks.fab(norm, num_steps=60, num_targets=1)
    run = jax.jit(lambda eps: fab(KEY, _goal(predict=predict), X, y, eps))
    x_adv, info = run(100.0)
    assert info.fooled.all()
    length = jax.vmap(norm.value)(x_adv - X)
    # It hovers about the boundary at 0.9 · 1.05 + 0.1 of it and beyond.
    np.testing.assert_allclose(length, distance, rtol=0.01)
    assert (length > distance * (1 - 1e-5)).all()
    # A radius that does not reach leaves the input; one that does has the same point.
    x_adv, info = run(jnp.asarray(distance * np.where(rows % 2, 1.01, 0.99)))
    np.testing.assert_array_equal(info.fooled, rows % 2 == 1)
    np.testing.assert_array_equal(x_adv[::2], X[::2])


def test_fab_in_a_box_goes_to_the_hyperplane_within_it():
    predict = partial(_linear, w=W[:2])
    y = jnp.argmax(predict(X), axis=1)
    lead, directions = _gap(X, y, W[:2])
    rows, other = np.arange(N), 1 - np.asarray(y)
    onto = jax.vmap(attacks.projections.onto_plane(norms.l2))
    flat = X.reshape(N, D)
    w, c = (jnp.float32(each[rows, other]) for each in (directions, lead))
    distance = jax.vmap(norms.l2.value)(onto(w, c, -flat, 1 - flat))
    attack = attacks.fab(norms.l2, num_steps=60, num_targets=1, bounds=BOX)
    x_adv, info = jax.jit(lambda: attack(KEY, _goal(predict=predict), X, y, 9.0))()
    assert info.fooled.all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    np.testing.assert_allclose(jax.vmap(norms.l2.value)(x_adv - X), distance, rtol=0.02)


def test_logits_are_asked_for():
    fab = attacks.fab(norms.l2, num_steps=2)
    with pytest.raises(ValueError, match=r"plain loss: give a criteria\.Goal"):
        fab(KEY, lambda x, y: x.sum((1, 2, 3)), X, Y, 0.1)
    with pytest.raises(ValueError, match=r"shape \(40,\): give logits \[n, k\]"):
        fab(KEY, _goal(predict=lambda x: x.sum((1, 2, 3))), X, Y, 0.1)


# --- Square ---


def test_shares_of_pixels_halve_when_the_original_does():
    shares = squares.share_of_pixels(10_000, 0.8)
    for step, halvings in ((1, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2)):
        assert shares[step - 1] == np.float32(0.8 / 2**halvings)
    assert shares[-1] == np.float32(0.8 / 2**9)


@each_norm
def test_square_breaks_what_can_be_broken_of_a_linear_model(norm_name):
    norm, eps = NORMS[norm_name], 1.5 * EPS[norm_name]
    attack = attacks.square(norm, num_steps=2000, bounds=BOX)
    x_adv, info = jax.jit(lambda: attack(KEY, _goal(), X, Y, eps))()
    best = _largest_margin(norm_name, eps, BOX)
    np.testing.assert_array_equal(
        info.fooled, criteria.misclassified(_linear(x_adv), Y)
    )
    assert not info.fooled[best < -1e-4].any()
    # Windows of at least 3 × 3 pixels, with both signs in them, do not reach all of it.
    share = {"linf": 0.95, "l2": 0.5, "l1": 0.5}[norm_name]
    assert info.fooled[best > 0].mean() >= share
    assert (jax.vmap(norm.value)(x_adv - X) <= eps * (1 + 1e-5)).all()
    assert not info.zero_grad.any()


@pytest.mark.parametrize("shape", [(16,), (4, 4), (2, 8, 1), (1, 2, 4, 2)])
@each_norm
def test_square_takes_inputs_of_any_shape(norm_name, shape):
    x = X.reshape(N, *shape)
    attack = attacks.square(NORMS[norm_name], num_steps=30, bounds=BOX)
    x_adv, info = jax.jit(lambda: attack(KEY, _goal(), x, Y, 0.5))()
    assert x_adv.shape == x.shape
    assert jnp.isfinite(x_adv).all()
    assert info.fooled.any()


def test_windows_reach_every_edge():
    for side in (1, 3):
        keys = jax.random.split(jax.random.key(side), 300)
        window = jax.vmap(lambda key, s=side: squares._window(key, s, s, 5, 4)[2])
        covered = window(keys)[..., 0]
        np.testing.assert_array_equal(covered.sum(axis=(1, 2)), side**2)
        assert covered.any(axis=0).all()


# --- ensembles ---


def _small(norm, num_classes=K, num_steps=10):
    """Few steps, for what does not depend on their number."""
    search = auto.apgd_search(norm, num_steps=num_steps)
    aim = targets.aimed(search, losses.targeted_margin)
    return (
        Component("apgd-ce", search),
        Component("apgd-t", aim, num_repeats=num_classes - 1),
        Component("square", squares.square_search(norm, num_steps=50)),
    )


COMPONENTS = _small(norms.linf)


@pytest.fixture(scope="module")
def found():
    run = ensembles.compiled(_linear, COMPONENTS, bounds=BOX, batch_sizes=(8, 64))
    return run(KEY, X, Y, 0.08)


def test_a_point_that_breaks_each_example_is_kept(found):
    np.testing.assert_array_equal(found.robust, found.broken_by == -1)
    wrong = np.asarray(criteria.misclassified(_linear(found.x_adv), Y))
    np.testing.assert_array_equal(wrong, ~found.robust)
    delta = np.abs(found.x_adv - np.asarray(X))
    assert delta.max() <= 0.08 * (1 + 1e-6)
    np.testing.assert_array_equal(delta[found.robust], 0)
    assert 0 < found.robust.mean() < 1
    best = _largest_margin("linf", 0.08, BOX)
    np.testing.assert_array_equal(found.robust, best < 0)
    assert found.caveats() == ()
    assert [row.num_attacked for row in found.rows[1:]] == [
        found.rows[0].num_attacked - found.rows[0].num_broken,
        found.rows[1].num_attacked - found.rows[1].num_broken,
    ]


@pytest.mark.parametrize("batch_sizes", [(40,), (1, 3, 7)])
def test_batches_and_order_change_nothing(found, batch_sizes):
    order = np.random.default_rng(1).permutation(N)
    run = ensembles.compiled(_linear, COMPONENTS, bounds=BOX, batch_sizes=batch_sizes)
    keys = jax.vmap(partial(jax.random.fold_in, KEY))(jnp.arange(N))
    again = run(keys[order], X[order], Y[order], 0.08)
    np.testing.assert_array_equal(again.robust, found.robust[order])
    np.testing.assert_array_equal(again.broken_by, found.broken_by[order])
    np.testing.assert_allclose(again.x_adv, found.x_adv[order], atol=1e-5)


def test_an_ensemble_goes_on_where_it_was():
    run = ensembles.compiled(_linear, COMPONENTS, bounds=BOX, batch_sizes=(8, 64))
    seen = []
    whole = run(KEY, X, Y, 0.08, watch=seen.append)
    assert {each.name for each in seen} == {each.name for each in COMPONENTS}
    assert all(each.done <= each.total for each in seen)
    assert seen[-1].done == seen[-1].total
    found = None
    for number in (0, 1, 1, 3):
        found = run(KEY, X, Y, 0.08, start=found, num_components=number)
        assert len(found.rows) == number
    np.testing.assert_array_equal(found.robust, whole.robust)
    np.testing.assert_array_equal(found.x_adv, whole.x_adv)
    assert found.rows == whole.rows


@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize("make", [ensembles.standard, ensembles.strong, ensembles.plus])
def test_few_classes_have_components_of_their_own(make, num_classes):
    predict = partial(_linear, w=W[:num_classes])
    y = jnp.argmax(predict(X), axis=1)
    for component in make(norms.linf, num_classes=num_classes):
        steps = component.search
        assert component.num_repeats <= max(num_classes - 1, 5)
        goal = criteria.Goal(predict, component.loss)
        problem = attacks.search.problem(KEY, goal, X, y, 0.05, BOX)
        jax.eval_shape(lambda p=problem, t=steps: t.step(p, t.begin(p), 0))
    with pytest.raises(ValueError, match="num_classes = 0: choose"):
        make(norms.linf, num_classes=0)


def test_single_logits_are_attacked_as_two_classes():
    w = W[1] - W[0]

    def single(x):
        return _linear(x, w=w[None])[:, 0]

    signs = jnp.where(single(X) > 0, 1, -1)
    standard = ensembles.standard(norms.linf, num_classes=1)
    assert [each.num_repeats for each in standard] == [1, 1, 1, 1]
    run = ensembles.compiled(single, COMPONENTS, bounds=BOX, batch_sizes=(40,))
    found = run(KEY, X, signs, 0.08)
    two = ensembles.compiled(
        lambda x: jnp.stack([jnp.zeros(len(x)), single(x)], axis=1),
        *(COMPONENTS,),
        bounds=BOX,
        batch_sizes=(40,),
    )
    expected = two(KEY, X, (signs + 1) // 2, 0.08)
    assert 0 < found.robust.sum() < found.correct.sum()
    np.testing.assert_array_equal(found.robust, expected.robust)
    np.testing.assert_array_equal(found.x_adv, expected.x_adv)


def test_points_at_which_nothing_moves_are_counted():
    def flat(x):
        return _linear(jnp.zeros_like(x) + 0.5)

    y = jnp.argmax(flat(X), axis=1)
    found = ensembles.compiled(flat, COMPONENTS[:1], bounds=BOX)(KEY, X, y, 0.08)
    assert found.robust.all()
    assert found.stuck.all()
    line = "points look robust where no attack raised the loss at all"
    assert f"{N} of {N} {line}" in found.caveats()


def test_what_gradients_do_not_see_is_found_by_square():
    def rounded(x):
        return _linear(jnp.round(8 * x) / 8)

    y = jnp.argmax(rounded(X), axis=1)
    run = ensembles.compiled(rounded, COMPONENTS, bounds=BOX, batch_sizes=(40,))
    found = run(KEY, X, y, 0.12)
    by_gradient = sum(row.num_broken for row in found.rows[:2])
    assert found.rows[2].num_broken > 5 > by_gradient
    vanished, masked = found.caveats()
    assert f"{found.robust.sum()} of {N} gradients vanished" in vanished
    assert f"of {N} points were broken by square where gradients had" in masked


def test_huge_logits_hide_nothing_from_margins():
    def scaled(x):
        return 1e4 * _linear(x)

    found = ensembles.compiled(scaled, COMPONENTS, bounds=BOX, batch_sizes=(40,))(
        KEY, X, Y, 0.08
    )
    best = _largest_margin("linf", 0.08, BOX)
    np.testing.assert_array_equal(found.robust, best < 0)


@each_norm
def test_what_is_kept_is_in_the_ball_and_in_the_box(norm_name):
    norm, eps = NORMS[norm_name], np.linspace(0, 2, N) * EPS[norm_name]
    run = ensembles.compiled(_linear, _small(norm), bounds=BOX, batch_sizes=(40,))
    found = run(KEY, X, Y, eps)
    length = jax.vmap(norm.value)(found.x_adv - X)
    assert (length <= eps * (1 + 1e-5)).all()
    assert ((found.x_adv >= 0) & (found.x_adv <= 1)).all()
    assert found.robust[0]
    assert not found.robust[-5:].all()


@each_norm
def test_features_that_are_held_take_no_radius(norm_name):
    """With half of the features held, the other half has the whole ball."""
    norm, eps, w = NORMS[norm_name], EPS[norm_name], W[:2]
    predict = partial(_linear, w=w)
    y = jnp.argmax(predict(X), axis=1)
    mask = jnp.zeros((4, 4, 1)).at[:2].set(1)
    search = auto.apgd_search(norm)
    attack = attacks.search.as_attack(search, None)
    run = jax.jit(lambda eps: attack(KEY, _goal(predict=predict), X, y, eps))
    x_adv, info = run(eps * mask[None])
    np.testing.assert_array_equal(x_adv[:, 2:], X[:, 2:])
    length = jax.vmap(norm.value)(x_adv - X)
    np.testing.assert_allclose(length, eps, rtol=1e-3)
    theta = (w[1] - w[0]).reshape(mask.shape) * mask
    reached = (info.loss - losses.margin(predict(X), y)) / (eps * norm.dual(theta))
    assert norm_name == "l1" or (reached >= 0.999).all(), reached


def test_what_is_wrong_with_the_data_is_said():
    def probabilities(x):
        return jax.nn.softmax(_linear(x))

    search = auto.apgd_search(norms.linf, num_steps=2)
    first = (Component("apgd-ce", search),)
    run = ensembles.compiled(probabilities, first, bounds=BOX, batch_sizes=(40,))
    found = run(KEY, X.at[:3].add(2.0), Y.at[5].set(K), 0.01)
    assert not found.correct[5]
    undefined, outside, flat = found.caveats()
    assert undefined.startswith("1 of 40 examples had")
    assert outside.startswith("3 of 40 inputs lie outside")
    assert "outputs are probabilities" in flat


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: _compiled(batch_sizes=()), r"batch_sizes = \(\): give one or more"),
        (lambda: _compiled(batch_sizes=8), "batch_sizes = 8: give one or more"),
        (lambda: _compiled(batch_sizes=(0,)), "batch_sizes = 0: choose an integer"),
        (lambda: _compiled(predict=3), "predict = 3 cannot be called"),
        (lambda: _compiled()(KEY, X[:0], Y[:0], 0.1), "x has no examples"),
        (lambda: _compiled()(KEY, X, Y[:3], 0.1), "one entry of each for every"),
        (lambda: _compiled()(KEY, X, jnp.ones(N), 0.1), "labels are integers"),
    ],
)
def test_a_mistake_is_one_value_error(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def _compiled(predict=_linear, batch_sizes=(40,)):
    return ensembles.compiled(predict, COMPONENTS, batch_sizes=batch_sizes)


def test_random_models_are_attacked_in_the_mean():
    """Noise that hides one draw's gradient is averaged away."""

    def noisy(key, x):
        z = _linear(x)
        return z + 0.05 * jax.random.normal(key, z.shape)

    rand = ensembles.rand(norms.linf, num_classes=K, num_draws=8)
    run = ensembles.compiled(noisy, rand, bounds=BOX, batch_sizes=(40,))
    found = run(KEY, X, Y, 0.08)
    truth = _largest_margin("linf", 0.08, BOX)
    # Up to what noise may decide.
    assert not found.robust[truth > 0.5].any()
    assert found.robust[truth < -0.5].all()
    assert np.sum(truth > 0.5) > 5
    assert np.sum(truth < -0.5) > 5
    with pytest.raises(ValueError, match="all with num_draws or all without"):
        ensembles.compiled(noisy, (*rand, COMPONENTS[0]))


def test_the_mean_of_draws_is_what_is_raised():
    keys = jax.random.split(KEY, 5)

    def draws(x):
        return jax.vmap(lambda key: _linear(x) + jax.random.normal(key, (N, K)))(keys)

    goal = criteria.Expected(lambda x: draws(x)[-1], losses.margin, draws=draws)
    expected = np.mean([losses.margin(z, Y) for z in draws(X)], axis=0)
    np.testing.assert_allclose(goal(X, Y), expected, rtol=1e-5)
    fooled = criteria.misclassified(draws(X)[-1], Y)
    np.testing.assert_array_equal(goal.judge(X, Y).fooled, fooled)
    assert 0 < fooled.sum() < N


def test_what_an_ensemble_cannot_take_is_refused():
    run = ensembles.compiled(_linear, COMPONENTS[:1], bounds=BOX, batch_sizes=(40,))
    for eps in (-0.1, jnp.nan, jnp.linspace(-0.1, 1, N)):
        with pytest.raises(ValueError, match="give numbers of at least 0"):
            run(KEY, X, Y, eps)
    single = ensembles.compiled(lambda x: _linear(x)[:, 0], COMPONENTS, bounds=BOX)
    with pytest.raises(ValueError, match="give -1 and 1"):
        single(KEY, X, Y % 2, 0.1)


def test_a_start_of_something_else_is_refused():
    run = ensembles.compiled(_linear, COMPONENTS, bounds=BOX, batch_sizes=(40,))
    start = run(KEY, X, Y, 0.08, num_components=1)
    for x, y in ((X[:8], Y[:8]), (X + 0.01, Y), (X, (Y + 1) % K)):
        with pytest.raises(ValueError, match="of other inputs, labels or"):
            run(KEY, x, y, 0.08, start=start)
    other = ensembles.compiled(_linear, COMPONENTS[1:], bounds=BOX, batch_sizes=(40,))
    with pytest.raises(ValueError, match=r"start has run .* give what this ensemble"):
        other(KEY, X, Y, 0.08, start=start)
    broken = X.at[0, 0].set(jnp.nan)
    start_nan = run(KEY, broken, Y, 0.08, num_components=1)
    assert run(KEY, broken, Y, 0.08, start=start_nan).rows[:1] == start_nan.rows
    with pytest.raises(ValueError, match="start is a dict"):
        run(KEY, X, Y, 0.08, start={})
    for number in (-1, 9):
        with pytest.raises(ValueError, match=f"num_components = {number}"):
            run(KEY, X, Y, 0.08, num_components=number)
    with pytest.raises(ValueError, match="the start has run 1 already"):
        run(KEY, X, Y, 0.08, start=start, num_components=0)


def test_nothing_is_said_of_points_that_were_not_to_move():
    run = ensembles.compiled(_linear, COMPONENTS[:1], bounds=BOX, batch_sizes=(40,))
    assert run(KEY, X, Y, 0.0).caveats() == ()
    fab = (Component("fab-t", attacks.boundary.fab_search(norms.linf)),)
    run = ensembles.compiled(_linear, fab, bounds=BOX, batch_sizes=(40,))
    assert run(KEY, X, Y, 0.01).caveats() == ()


def test_random_models_are_attacked_to_the_last_step(monkeypatch):
    """One draw that fools is no verdict: sizes of programs would decide."""

    def noisy(key, x):
        return _linear(x) + 3 * jax.random.normal(key, (len(x), K))

    rand = ensembles.rand(norms.linf, num_classes=K, num_draws=2)
    seen = []
    for block in (1, 25):
        monkeypatch.setitem(components._BLOCK, True, block)
        run = ensembles.compiled(noisy, rand[:1], bounds=BOX, batch_sizes=(40,))
        seen.append(run(KEY, X, Y, 0.05).robust)
    np.testing.assert_array_equal(*seen)


def test_another_number_of_classes_is_refused(key):
    """With fewer classes there would be fewer targets, and a weaker attack."""
    x, y = jnp.ones((4, 5)), jnp.arange(4)
    w = jax.random.normal(key, (5, 4))
    for make in (ensembles.standard, ensembles.plus, ensembles.strong):
        for wrong in (3, 5):
            attack = ensembles.compiled(
                lambda x: x @ w, make(norms.linf, num_classes=wrong)
            )
            with pytest.raises(
                ValueError, match="the model tells 4 apart: give num_cl"
            ):
                attack(key, x, y, 0.1)
    attack = ensembles.compiled(
        lambda x: {"logits": x @ w}, ensembles.standard(norms.linf, num_classes=4)
    )
    with pytest.raises(ValueError, match="returns a dict: make it return one array"):
        attack(key, x, y, 0.1)
