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

pytestmark = pytest.mark.usefixtures("unoptimised")

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
    assert sorted(metrics) == ["loss", "objective", "zero_grad"]


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
    for batch_size in (0, 21):
        with pytest.raises(ValueError, match=f"batch_size = {batch_size}: choose 1"):
            train.epoch_indices(jax.random.key(0), 20, batch_size)


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
    prepared, _ = train.prepared(STEP, prepare)(state, DATA, 0.3)
    doubled, _ = STEP(state, Batch(2 * X, Y), 0.3)
    chex.assert_trees_all_equal(_plain(prepared), _plain(doubled))
    train.prepared(STEP, prepare)(prepared, DATA, 0.3)
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
    eval_mode, _ = model.apply(params, found, x, train=False)
    np.testing.assert_allclose(eval_mode, train_mode, rtol=0.05, atol=0.05)


def test_batch_statistics_do_not_depend_on_the_weight_of_the_average():
    def apply(params, stats, x, *, train, weight):
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
