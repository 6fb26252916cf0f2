"""Steps, the two ways of dispatching them, and resumption."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from advjax import attacks, losses, models, norms, objectives, train
from advjax.types import Batch, Model

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(20, 5)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, 20))
DATA = Batch(X, Y)
MODEL = models.make("mlp", num_classes=3, hidden=(7,))
TX = optax.sgd(0.1, momentum=0.9)
ATTACK = attacks.pgd(
    norms.l2, num_steps=2, rel_step_size=0.5, start=attacks.in_ball(norms.l2)
)
STEP = train.make_step(objectives.adversarial(MODEL, losses.cross_entropy, ATTACK), TX)
INDICES = train.epoch_indices(jax.random.key(3), 20, 6)


def _state(seed=0):
    return train.create(jax.random.key(seed), MODEL, TX, X[:1])


def _plain(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_one_step_equals_numpy():
    """FGSM and SGD on a linear softmax model, from stored numbers, in float64."""
    w = np.sin(np.arange(15.0)).reshape(5, 3)
    x, y, eps = np.asarray(X[:4], float), np.asarray(Y[:4]), 0.1

    def residuals(x):
        p = np.array([reference.softmax(row) for row in x @ w])
        return p - np.eye(3)[y]

    x_adv = x + eps * np.sign(residuals(x) @ w.T)
    terms = [reference.cross_entropy(z, c) for z, c in zip(x_adv @ w, y, strict=True)]
    expected = w - 0.1 * x_adv.T @ residuals(x_adv) / 4

    model = models.from_function(lambda key, x: jnp.asarray(w), lambda w, x: x @ w)
    objective = objectives.adversarial(
        model, losses.cross_entropy, attacks.fgsm(norms.linf)
    )
    tx = optax.sgd(0.1)
    state = train.restart(jax.random.key(0), jnp.asarray(w, jnp.float32), {}, tx)
    state, metrics = train.make_step(objective, tx)(state, Batch(X[:4], Y[:4]), eps)
    np.testing.assert_allclose(state.params, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(metrics["objective"], metrics["loss"])
    accuracy = np.mean(np.argmax(x_adv @ w, axis=1) == y)
    np.testing.assert_allclose(metrics["accuracy"], accuracy)
    assert metrics["zero_grad"] == 0
    assert state.step == 1


def test_regression_has_no_accuracy():
    model = models.from_function(
        lambda key, x: jnp.zeros(5), lambda theta, x: x @ theta
    )
    step = train.make_step(objectives.standard(model, losses.squared_error), TX)
    _, metrics = step(
        train.create(jax.random.key(0), model, TX, X), Batch(X, X[:, 0]), 0.0
    )
    assert sorted(metrics) == ["loss", "objective", "undefined_grad", "zero_grad"]


def test_scanned_and_looped_runs_agree():
    scanned, metrics = jax.jit(train.scanned(STEP))(_state(), DATA, INDICES, 0.3)
    looped, loop_metrics = train.looped(STEP)(_state(), DATA, INDICES, 0.3)
    chex.assert_trees_all_close(_plain(scanned), _plain(looped), atol=1e-6)
    chex.assert_trees_all_close(metrics, loop_metrics, atol=1e-6)
    assert metrics["loss"].shape == (3,)


def test_numpy_data_serve_as_well():
    data = Batch(np.asarray(X), np.asarray(Y))
    for run in (train.scanned(STEP), train.looped(STEP)):
        state, _ = run(_state(), data, INDICES, 0.3)
        assert state.step == 3
    with pytest.raises(ValueError, match="no steps"):
        train.looped(STEP)(_state(), data, INDICES[:0], 0.3)


def test_a_schedule_wraps_the_step():
    def scheduled(state, batch, eps):
        return STEP(state, batch, eps * jnp.where(state.step < 1, 0.0, 1.0))

    _, metrics = train.scanned(scheduled)(_state(), DATA, INDICES, 0.3)
    _, clean = train.scanned(STEP)(_state(), DATA, INDICES, 0.0)
    assert metrics["loss"][0] == clean["loss"][0]
    assert metrics["loss"][1] != clean["loss"][1]


def test_a_resumed_run_is_the_same_run():
    run = jax.jit(train.scanned(STEP))
    whole, _ = run(_state(), DATA, INDICES, 0.3)
    half, _ = run(_state(), DATA, INDICES[:1], 0.3)
    resumed, _ = run(half, DATA, INDICES[1:], 0.3)
    chex.assert_trees_all_close(_plain(whole), _plain(resumed), atol=1e-7)


def test_a_batch_of_states_trains_over_seeds_and_radii():
    keys, radii = jax.random.split(jax.random.key(0), 2), jnp.array([0.0, 0.2, 0.4])

    def run(key, eps):
        state = train.create(key, MODEL, TX, X[:1])
        return train.scanned(STEP)(state, DATA, INDICES, eps)[1]["loss"]

    losses_at_once = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(keys, radii)
    assert losses_at_once.shape == (2, 3, 3)
    np.testing.assert_allclose(losses_at_once[1, 2], run(keys[1], 0.4), rtol=1e-4)


def test_looped_dispatch_compiles_once_for_all_radii():
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(STEP, n=1)
    run = train.looped(counted)
    state = _state()
    for eps in (0.1, 0.2):
        state, _ = run(state, DATA, INDICES, eps)
    assert state.step == 6


def test_batch_statistics_move_in_training():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))

    model = models.from_linen(Net())
    objective = objectives.adversarial(model, losses.cross_entropy, ATTACK)
    state = train.create(jax.random.key(0), model, TX, X[:1])
    after, _ = train.make_step(objective, TX)(state, DATA, 0.1)
    before = state.batch_stats["BatchNorm_0"]["mean"]
    assert (after.batch_stats["BatchNorm_0"]["mean"] != before).any()


def test_epoch_indices_are_a_shuffled_pass():
    assert INDICES.shape == (3, 6)
    assert len(set(np.ravel(INDICES).tolist())) == 18
    other = train.epoch_indices(jax.random.key(4), 20, 6)
    assert (other != INDICES).any()
    for batch_size in (0, 21, 2.5):
        with pytest.raises(ValueError, match=f"batch_size = {batch_size}: choose"):
            train.epoch_indices(jax.random.key(0), 20, batch_size)
    with pytest.raises(ValueError, match="num_epochs = 0"):
        train.epochs(_state(), 0, 20, 6)
    with pytest.raises(ValueError, match="batch_size = 0"):
        train.remainder_indices(jax.random.key(0), 20, 0)
    for call in (train.epoch_indices, train.remainder_indices):
        with pytest.raises(ValueError, match="is no PRNG key"):
            call(0, 20, 6)


def test_the_remainder_completes_the_pass():
    key = jax.random.key(3)
    rest = train.remainder_indices(key, 20, 6)
    assert rest.shape == (1, 2)
    seen = {*np.ravel(INDICES).tolist(), *np.ravel(rest).tolist()}
    assert seen == set(range(20))
    assert train.remainder_indices(key, 20, 5).shape == (0, 0)


def test_orders_differ_between_epochs_and_runs():
    states = [_state(0), _state(1)]
    keys = [train.shuffle_key(state, epoch) for state in states for epoch in (0, 1)]
    orders = [train.epoch_indices(key, 20, 6).tolist() for key in keys]
    assert len({str(order) for order in orders}) == 4


def test_several_epochs_are_those_of_a_run_that_shuffles_one_by_one():
    states = jax.vmap(lambda key: train.create(key, MODEL, TX, X[:1]))(
        jax.random.split(jax.random.key(0), 2)
    )
    found = jax.vmap(lambda state: train.epochs(state, 3, 20, 6))(states)
    for i in range(2):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
        keys = [train.shuffle_key(state, epoch) for epoch in range(3)]
        one_by_one = [train.epoch_indices(key, 20, 6) for key in keys]
        np.testing.assert_array_equal(found[i], np.concatenate(one_by_one))
    with pytest.raises(ValueError, match="batch_size = 21"):
        train.epochs(state, 3, 20, 21)


def test_inputs_are_prepared_with_a_key_of_their_own():
    seen = []

    def prepare(key, x):
        seen.append(jax.random.key_data(key).tolist())
        return 2 * x

    state = _state()
    prepared, _ = train.preprocessed(STEP, prepare)(state, DATA, 0.3)
    doubled, _ = STEP(state, Batch(2 * X, Y), 0.3)
    chex.assert_trees_all_equal(_plain(prepared), _plain(doubled))
    train.preprocessed(STEP, prepare)(prepared, DATA, 0.3)
    attack_key = jax.random.fold_in(state.key, 0)
    assert len({str(key) for key in seen}) == 2
    assert jax.random.key_data(attack_key).tolist() not in seen


@pytest.mark.parametrize("mode", ["auto", "loop", "scan"])
def test_dispatched_runs_equal_single_ones(mode):
    states = jax.jit(jax.vmap(lambda key: train.create(key, MODEL, TX, X[:1])))(
        jax.random.split(jax.random.key(0), 2)
    )
    singles = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(2)]
    eps = np.array([0.1, 0.4], np.float32)
    indices = np.stack([INDICES, INDICES[::-1]])
    # Copies: the states are consumed.
    after, metrics = train.dispatched(STEP, mode)(
        jax.tree.map(jnp.copy, states), DATA, indices, eps
    )
    assert metrics["loss"].shape == (2, 3)
    for i, single in enumerate(singles):
        expected, one = train.scanned(STEP)(single, DATA, indices[i], eps[i])
        found = jax.tree.map(lambda leaf, i=i: leaf[i], after)
        chex.assert_trees_all_close(_plain(found), _plain(expected), atol=1e-6)
        np.testing.assert_allclose(metrics["loss"][i], one["loss"], atol=1e-6)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode = 'loops': choose 'auto', 'loop'"):
        train.dispatched(STEP, "loops")


def test_batch_statistics_are_those_of_the_batch_whatever_the_averages():
    """Of a network with batch normalisation, against the sums of NumPy."""
    model = models.make("preactresnet18", num_classes=3, widths=(4, 4), depth=1)
    x = jnp.asarray(RNG.normal(5, 3, size=(6, 8, 8, 3)), jnp.float32)
    params, batch_stats = model.init(jax.random.key(0), x)
    other = jax.tree.map(lambda leaf: leaf + 7, batch_stats)
    found = train.batch_statistics(model, params, other, x)
    # Its first step from averages of zero is a tenth of the batch's.
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)
    _, tenth = model.apply(params, zeros, x, train=True)
    chex.assert_trees_all_close(
        found, jax.tree.map(lambda leaf: 10 * leaf, tenth), rtol=1e-5, atol=1e-6
    )
    # At them, evaluation and training mode agree but for the unbiased variance.
    train_mode, _ = model.apply(params, batch_stats, x, train=True)
    eval_mode = model.predict(params, found, x)
    np.testing.assert_allclose(eval_mode, train_mode, rtol=0.05, atol=0.05)


def test_batch_statistics_do_not_depend_on_the_weight_of_the_average():
    def apply(params, stats, x, *, train, weight, key=None):
        del key
        batch = {"mean": jnp.mean(x, axis=0)}
        new = jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, stats, batch)
        return x * params, new if train else stats

    x = jnp.asarray(RNG.normal(100, 1, size=(50, 4)), jnp.float32)
    for weight in (0.01, 0.5, 1.0):
        model = Model(None, partial(apply, weight=weight))
        stats = {"mean": jnp.zeros(4)}
        found = train.batch_statistics(model, 1.0, stats, x)
        np.testing.assert_allclose(found["mean"], np.mean(x, axis=0), rtol=1e-4)
    assert train.batch_statistics(MODEL, _state().params, {}, X) == {}


# What used to be silently wrong -------------------------------------------------------


@pytest.mark.parametrize(
    "dispatch", [train.scanned, train.looped, lambda step: jax.jit(train.scanned(step))]
)
def test_nothing_of_the_caller_is_consumed(dispatch):
    """Parameters, keys and statistics serve a second run, at another radius."""
    params, stats = MODEL.init(jax.random.key(0), X[:1])
    key, run = jax.random.key(1), dispatch(STEP)
    first, again = (
        run(train.restart(key, params, stats, TX), DATA, INDICES, 0.1) for _ in range(2)
    )
    chex.assert_trees_all_equal(_plain(first[0]), _plain(again[0]))
    for leaf in jax.tree.leaves((params, stats, jax.random.key_data(key), DATA)):
        assert not leaf.is_deleted()


@pytest.mark.parametrize("mode", ["loop", "scan"])
def test_no_way_of_dispatching_consumes_the_states(mode):
    states = jax.vmap(lambda key: train.create(key, MODEL, TX, X[:1]))(
        jax.random.split(jax.random.key(0), 2)
    )
    run = train.dispatched(STEP, mode)
    args = (states, DATA, jnp.stack([INDICES] * 2), jnp.array([0.0, 0.1]))
    first, again = run(*args), run(*args)
    chex.assert_trees_all_equal(_plain(first[0]), _plain(again[0]))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(_plain(states)))


@pytest.mark.parametrize("dispatch", [train.scanned, train.looped])
def test_indices_that_are_no_examples_are_refused_where_they_are_known(dispatch):
    run = dispatch(STEP)
    for index in (-1, 20):
        with pytest.raises(ValueError, match="there are 20 examples, from 0"):
            run(_state(), DATA, INDICES.at[0, 0].set(index), 0.1)
    with pytest.raises(ValueError, match=r"x \(20, 5\), y \(10,\)"):
        run(_state(), DATA._replace(y=Y[:10]), INDICES, 0.1)
    with pytest.raises(ValueError, match=r"the batch is a tuple: give types\.Batch"):
        run(_state(), (X, Y), INDICES, 0.1)


def test_a_traced_index_that_is_no_example_shows():
    run = jax.jit(train.scanned(STEP))
    _, metrics = run(_state(), DATA, INDICES.at[1, 0].set(20), 0.1)
    np.testing.assert_array_equal(jnp.isnan(metrics["loss"]), [False, True, True])
    _, metrics = run(_state(), DATA, INDICES.at[1, 0].set(-1), 0.1)
    np.testing.assert_array_equal(jnp.isnan(metrics["loss"]), [False, True, True])
    images = Batch(jnp.zeros((20, 5), jnp.uint8), Y)
    as_float = train.preprocessed(STEP, lambda key, x: x / 255)
    _, metrics = jax.jit(train.scanned(as_float))(
        _state(), images, INDICES.at[1, 0].set(20), 0.1
    )
    assert jnp.isnan(metrics["loss"][1])


def test_runs_are_of_one_number():
    states = jax.vmap(lambda key: train.create(key, MODEL, TX, X[:1]))(
        jax.random.split(jax.random.key(0), 3)
    )
    for mode in ("loop", "scan"):
        with pytest.raises(ValueError, match=r"eps \(2,\)"):
            train.dispatched(STEP, mode)(
                states, DATA, jnp.stack([INDICES] * 3), jnp.array([0.0, 0.1])
            )


def test_accuracy_is_that_of_the_one_judge():
    """Labels ``[n, 1]`` used to give 0.5 for 1.0, and one logit no accuracy at all."""
    w = jnp.array([1.0, -1.0, 0.5, 2.0, 0.0])
    model = models.from_function(lambda key, x: w, lambda w, x: x @ w)
    signs = jnp.sign(X @ w).astype(int)
    step = train.make_step(objectives.standard(model, losses.logistic), TX)
    state = train.create(jax.random.key(0), model, TX, X)
    _, metrics = step(state, Batch(X, signs), 0.0)
    assert metrics["accuracy"] == 1.0
    # With labels of another shape there is no accuracy, but one error.
    with pytest.raises(ValueError, match=r"\(20,\), y \(20, 1\); make them equal"):
        step(state, Batch(X, signs[:, None]), 0.0)
    of_columns = models.from_function(lambda key, x: w, lambda w, x: x[:, :2] * w[0])
    mean = lambda z, y: jnp.mean((z - y) ** 2, axis=1)  # noqa: E731
    step = train.make_step(objectives.standard(of_columns, mean), TX)
    with pytest.raises(ValueError, match=r"output has shape \(20, 2\), y \(20, 1\)"):
        step(
            train.create(jax.random.key(0), of_columns, TX, X),
            Batch(X, signs[:, None]),
            0.0,
        )


def test_flags_of_the_attack_are_metrics():
    bounded = attacks.fgsm(norms.linf, bounds=(-1.0, 1.0))
    objective = objectives.adversarial(MODEL, losses.cross_entropy, bounded)
    _, metrics = train.make_step(objective, TX)(_state(), DATA, 0.1)
    outside = (jnp.abs(X) > 1).any(axis=1).mean()
    assert 0 < outside < 1
    np.testing.assert_allclose(metrics["outside"], outside)

    def norm_at_zero(x):
        return x @ jnp.ones((5, 3)) + jnp.linalg.norm(0 * x[:, :1], axis=1)[:, None]

    model = models.from_function(lambda key, x: {}, lambda _, x: norm_at_zero(x))
    objective = objectives.adversarial(
        model, losses.cross_entropy, attacks.fgsm(norms.l2)
    )
    state = train.create(jax.random.key(0), model, TX, X)
    _, metrics = train.make_step(objective, TX)(state, DATA, 0.1)
    assert metrics["undefined_grad"] == 1
    assert jnp.isfinite(metrics["loss"])


OPTIMISERS = {
    "reduce on plateau": lambda: optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=2)
    ),
    "line search": lambda: optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=10),
    ),
    "lbfgs": lambda: optax.lbfgs(),
    "inside multi_transform": lambda: optax.multi_transform(
        {"all": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())},
        lambda params: jax.tree.map(lambda _: "all", params),
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_with_extra_arguments_train(name):
    tx = OPTIMISERS[name]()
    step = train.make_step(objectives.standard(MODEL, losses.cross_entropy), tx)
    state = train.create(jax.random.key(0), MODEL, tx, X[:1])
    everything = jnp.tile(jnp.arange(20), (6, 1))
    state, metrics = jax.jit(train.scanned(step))(state, DATA, everything, 0.0)
    assert (jnp.diff(metrics["objective"]) < 0).all()


def test_optimisers_are_given_what_they_name_and_nothing_else():
    def named(updates, state, params=None, *, value):
        del params
        return jax.tree.map(lambda g: -value * g, updates), state

    def plain(updates, state, params=None):
        del params
        return jax.tree.map(jnp.negative, updates), state

    moved = {}
    for update in (named, plain):
        tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
        step = train.make_step(objectives.standard(MODEL, losses.cross_entropy), tx)
        before = train.create(jax.random.key(0), MODEL, tx, X[:1])
        after, metrics = step(before, DATA, 0.0)
        moved[update] = jax.tree.map(jnp.subtract, after.params, before.params)
    expected = jax.tree.map(lambda leaf: metrics["objective"] * leaf, moved[plain])
    chex.assert_trees_all_close(moved[named], expected, rtol=1e-5, atol=1e-7)


def test_statistics_that_are_no_numbers_are_taken_as_they_are():
    """Counters and keys, as NNX keeps them for dropout."""
    key = jax.random.key(7)

    def apply(params, stats, x, *, train, key=None):
        del key
        mean = 0.9 * stats["mean"] + 0.1 * jnp.mean(x, axis=0)
        moved = {"mean": mean, "count": stats["count"] + 1, "key": stats["key"]}
        return x * params, moved if train else stats

    stats = {"mean": jnp.zeros(5), "count": jnp.zeros((), jnp.uint32), "key": key}
    found = train.batch_statistics(Model(None, apply), 1.0, stats, X)
    np.testing.assert_allclose(found["mean"], X.mean(axis=0), rtol=1e-4, atol=1e-6)
    assert found["count"].dtype == jnp.uint32
    assert found["key"] == key


def test_frozen_statistics_and_constants_are_taken_as_they_are():
    """Filled like the others, a frozen layer would feed nonsense to those above it."""
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=True, name="frozen")(x)
            shift = self.variable("constants", "shift", lambda: jnp.full(4, 3.0))
            x = nn.Dense(4)(x) + shift.value[None]
            return nn.BatchNorm(use_running_average=not train, name="live")(x)

    model = models.from_linen(Net())
    params, stats = model.init(jax.random.key(0), X)
    frozen = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
    norms_of = stats["batch_stats"] | {"frozen": frozen}
    stats = stats | {"batch_stats": norms_of}
    found = train.batch_statistics(model, params, stats, X)
    chex.assert_trees_all_equal(found["batch_stats"]["frozen"], frozen)
    np.testing.assert_array_equal(found["constants"]["shift"], 3.0)
    hidden = (X - frozen["mean"][None]) / jnp.sqrt(frozen["var"] + 1e-5)[None]
    hidden = hidden @ params["Dense_0"]["kernel"] + 3.0
    live = found["batch_stats"]["live"]
    np.testing.assert_allclose(live["mean"], hidden.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(live["var"], hidden.var(axis=0), rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_double_precision_keeps_every_dtype_through_a_scan():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
            return nn.Dense(3)(nn.tanh(x))

    model = models.from_linen(Net())
    step = train.make_step(objectives.standard(model, losses.cross_entropy), TX)
    for dtype in (jnp.float32, jnp.float64):
        state = train.create(jax.random.key(0), model, TX, X[:1].astype(dtype))
        after, _ = train.scanned(step)(state, Batch(X.astype(dtype), Y), INDICES, 0.0)
        chex.assert_trees_all_equal_dtypes(_plain(state), _plain(after))


def test_plain_input_is_welcome():
    plain = Batch(np.asarray(X, np.float64), np.asarray(Y, np.int64))
    indices = np.asarray(INDICES).tolist()
    found, _ = train.looped(STEP)(_state(), plain, np.asarray(indices), np.float64(0.1))
    arrays = Batch(*map(jnp.asarray, plain))
    expected, _ = train.looped(STEP)(_state(), arrays, INDICES, 0.1)
    chex.assert_trees_all_close(_plain(found), _plain(expected), atol=1e-6)
    lists = Batch(plain.x.tolist(), plain.y.tolist())
    for run in (train.looped(STEP), train.scanned(STEP)):
        found, _ = run(_state(), lists, indices, 0.1)
        chex.assert_trees_all_close(_plain(found), _plain(expected), atol=1e-6)
    with pytest.raises(ValueError, match="indices have dtype float"):
        train.looped(STEP)(_state(), DATA, np.asarray(indices, float), 0.1)
    with pytest.raises(ValueError, match="indices have dtype bool"):
        train.scanned(STEP)(_state(), DATA, np.ones((2, 3), bool), 0.1)


def test_labels_0_and_1_of_single_logits_have_no_accuracy_where_they_are_traced():
    w = jnp.ones(5)
    model = models.from_function(lambda key, x: w, lambda w, x: x @ w)

    def loss(z, y):
        return optax.sigmoid_binary_cross_entropy(z, y)

    step = jax.jit(train.make_step(objectives.standard(model, loss), TX))
    state = train.create(jax.random.key(0), model, TX, X)
    _, metrics = step(state, Batch(X, (X @ w > 0).astype(int)), 0.0)
    assert jnp.isnan(metrics["accuracy"])


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_runs_are_the_same_alone_and_mapped_for_any_generator(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 3)
    mapped = jax.vmap(lambda key: train.create(key, MODEL, TX, X))(keys)
    for i in range(3):
        alone = train.create(keys[i], MODEL, TX, X)
        chex.assert_trees_all_close(
            _plain(jax.tree.map(lambda leaf, i=i: leaf[i], mapped)), _plain(alone)
        )
    state = train.restart(keys[0], {}, {}, TX)
    order = train.epochs(state, 3, 20, 6)
    for epoch in range(3):
        expected = train.epoch_indices(train.shuffle_key(state, epoch), 20, 6)
        np.testing.assert_array_equal(order[3 * epoch : 3 * epoch + 3], expected)


def test_statistics_of_half_precision_are_those_of_single():
    def apply(params, stats, x, *, train, key=None):
        del key
        moved = {"mean": 0.99 * stats["mean"] + 0.01 * jnp.mean(x, axis=0)}
        return x * params, moved if train else stats

    stats = {"mean": jnp.zeros(5, jnp.bfloat16)}
    found = train.batch_statistics(Model(None, apply), 1.0, stats, X)["mean"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(float), X.mean(axis=0), rtol=2**-8)


def _restarted(key):
    return train.restart(key, {}, {}, TX)


def test_what_is_no_model_and_no_optimiser_is_refused():
    with pytest.raises(ValueError, match="is no PRNG key"):
        train.create(0, MODEL, TX, X)
    with pytest.raises(ValueError, match="give one key, and vmap"):
        train.create(jax.random.split(jax.random.key(0)), MODEL, TX, X)
    orders = (train.epoch_indices, train.remainder_indices)
    for function in (*(lambda key, f=f: f(key, 20, 6) for f in orders), _restarted):
        with pytest.raises(ValueError, match="is no PRNG key"):
            function(0)
        with pytest.raises(ValueError, match="give one key, and vmap"):
            function(jax.random.split(jax.random.key(0)))
    with pytest.raises(ValueError, match="model is a MLP: give"):
        train.create(jax.random.key(0), models.module("mlp", num_classes=3), TX, X)
    with pytest.raises(ValueError, match="give an optimiser, such as"):
        train.make_step(objectives.standard(MODEL, losses.cross_entropy), optax.sgd)
