"""Whole training runs against the steps and tests that they are made of."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import (
    attacks,
    evaluate,
    fit,
    losses,
    models,
    norms,
    objectives,
    train,
    weights,
)
from advjax.types import Batch

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(40, 5)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int32)
DATA, HELD = Batch(X[:24], Y[:24]), Batch(X[24:], Y[24:])
MODEL = models.make("mlp", num_classes=2, hidden=(6,))
ATTACK = attacks.pgd(
    norms.linf,
    num_steps=2,
    rel_step_size=0.5,
    start=attacks.in_ball(norms.linf),
    bounds=(0.0, 1.0),
)
OBJECTIVE = objectives.adversarial(MODEL, losses.cross_entropy, ATTACK)
TX = optax.sgd(0.3)
VALIDATION = fit.Validation(HELD, ATTACK, batch_size=7)
KEY = jax.random.key(3)
SIZE = {"num_epochs": 4, "batch_size": 10}


def _run(key=KEY, eps=0.1, objective=OBJECTIVE, tx=TX, **changes):
    given = {**SIZE, "validation": VALIDATION, "mode": "loop", **changes}
    return fit.run(key, MODEL, objective, tx, DATA, eps, **given)


def test_a_run_is_that_of_its_steps():
    state = train.create(KEY, MODEL, TX, X[:1])
    one_epoch = train.looped(train.make_step(OBJECTIVE, TX))
    losses_of = []
    for epoch in range(4):
        indices = train.epoch_indices(train.shuffle_key(state, epoch), 24, 10)
        state, metrics = one_epoch(state, DATA, indices, jnp.float32(0.1))
        losses_of.append(metrics["loss"].mean())
    fitted = _run()
    chex.assert_trees_all_equal(fitted.last.params, state.params)
    np.testing.assert_array_equal(fitted.curves["loss"], losses_of)


def test_the_radius_warms_up_over_steps():
    """Two steps an epoch: radii 0, 0.025, 0.05, 0.075, and 0.1 from then on."""
    state = train.create(KEY, MODEL, TX, X[:1])
    step = jax.jit(train.make_step(OBJECTIVE, TX))
    for epoch in range(4):
        key = train.shuffle_key(state, epoch)
        for rows in train.epoch_indices(key, 24, 10):
            eps = jnp.float32(0.1) * jnp.minimum(state.step / 4, 1)
            state, _ = step(state, Batch(X[rows], Y[rows]), eps)
    fitted = _run(num_warm_up_epochs=2)
    chex.assert_trees_all_close(fitted.last.params, state.params, rtol=1e-6)
    with pytest.raises(ValueError, match="num_warm_up_epochs = -1"):
        _run(num_warm_up_epochs=-1)


def test_the_validation_is_an_evaluation_and_chooses_the_best():
    fitted = _run()
    robust = fitted.curves["validation_robust_loss"]
    assert fitted.best_epoch == 1 + np.argmin(robust)
    for network, epoch in ((fitted.best, fitted.best_epoch), (fitted.last, 4)):
        found = evaluate.outcome(
            jax.random.fold_in(KEY, epoch - 1),
            network.predict,
            losses.cross_entropy,
            ATTACK,
            *HELD,
            0.1,
        )
        for name, values in {
            "loss": found.loss,
            "accuracy": found.correct,
            "robust_loss": found.robust_loss,
            "robust_accuracy": found.robust,
        }.items():
            curve = fitted.curves[f"validation_{name}"]
            np.testing.assert_allclose(curve[epoch - 1], np.mean(values), rtol=1e-5)


def test_the_best_is_chosen_among_the_epochs_that_may_be():
    late = _run(validation=fit.Validation(HELD, ATTACK, first_epoch=3))
    robust = late.curves["validation_robust_loss"]
    assert late.best_epoch == 3 + np.argmin(robust[2:])
    with pytest.raises(ValueError, match="there are 4 epochs"):
        _run(validation=fit.Validation(HELD, ATTACK, first_epoch=9))
    with pytest.raises(ValueError, match="is a Batch: give"):
        _run(validation=HELD)


@pytest.mark.parametrize("mode", ["loop", "scan", "auto"])
def test_runs_at_once_are_the_runs_one_by_one(mode):
    keys, eps = jax.random.split(KEY, 3), [0.0, 0.1, 0.3]
    together = fit.runs(
        keys, MODEL, OBJECTIVE, TX, DATA, eps, **SIZE, validation=VALIDATION, mode=mode
    )
    for key, radius, fitted in zip(keys, eps, together, strict=True):
        alone = _run(key, radius)
        chex.assert_trees_all_close(fitted.last.params, alone.last.params, atol=1e-5)
        chex.assert_trees_all_close(fitted.curves, alone.curves, atol=1e-4)
        assert fitted.best_epoch == alone.best_epoch


def test_clean_training_needs_no_attack_and_no_validation():
    clean = objectives.standard(MODEL, losses.cross_entropy)
    fitted = _run(objective=clean, validation=fit.Validation(HELD))
    assert "validation_robust_loss" not in fitted.curves
    assert fitted.best_epoch == 1 + np.argmin(fitted.curves["validation_loss"])
    bare = _run(objective=clean, validation=None)
    assert bare.best is None
    assert {*bare.curves} >= {"loss", "accuracy"}
    chex.assert_trees_all_equal(bare.last.params, fitted.last.params)


def test_a_watch_sees_every_epoch_and_an_augmentation_every_batch():
    seen = []

    def dark(key, x):
        del key
        return 0 * x

    fitted = _run(prepare=dark, watch=lambda epoch, found: seen.append((epoch, found)))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    np.testing.assert_array_equal(
        [found["loss"][0] for _, found in seen], fitted.curves["loss"]
    )
    unlike = _run().last.params
    assert not jax.tree.all(jax.tree.map(np.array_equal, fitted.last.params, unlike))


def test_what_diverges_says_so_and_keeps_what_was_good():
    def rate(step):
        return jnp.where(step < 5, 0.05, jnp.nan)

    fitted = _run(tx=optax.sgd(rate))
    assert fitted.best_epoch in (1, 2)
    assert np.isfinite(fitted.best.predict(X)).all()
    assert any("not a number" in line for line in fitted.caveats)


def test_gradients_that_vanish_are_said():
    model = models.from_function(
        lambda key, x: {"w": jnp.ones((5, 2))}, lambda w, x: jnp.round(x @ w["w"])
    )
    objective = objectives.adversarial(model, losses.cross_entropy, ATTACK)
    given = {**SIZE, "validation": None, "mode": "loop"}
    fitted = fit.run(KEY, model, objective, TX, DATA, 0.1, **given)
    assert any("zero_grad" in line for line in fitted.caveats)
    assert not any("zero_grad" in line for line in _run().caveats)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"uint8: give numbers"):
        _run(validation=fit.Validation(Batch((255 * X).astype(np.uint8), Y)))
    with pytest.raises(ValueError, match="give one radius, or fit"):
        _run(eps=[0.1, 0.2])
    with pytest.raises(ValueError, match="data is a"):
        fit.run(KEY, MODEL, OBJECTIVE, TX, X, 0.1, **SIZE)
    with pytest.raises(ValueError, match="x"):
        fit.run(KEY, MODEL, OBJECTIVE, TX, Batch(X, Y[:3]), 0.1, **SIZE)
    with pytest.raises(ValueError, match="eps"):
        fit.runs(jax.random.split(KEY, 2), MODEL, OBJECTIVE, TX, DATA, [0.1], **SIZE)
    with pytest.raises(ValueError, match="objective = "):
        _run(objective=losses.cross_entropy)
    with pytest.raises(ValueError, match="attack = "):
        _run(validation=fit.Validation(HELD, attacks.pgd))
    with pytest.raises(ValueError, match="batch_size"):
        _run(batch_size=25)
    with pytest.raises(ValueError, match="num_epochs"):
        _run(num_epochs=0)
    for name in ("prepare", "watch"):
        with pytest.raises(ValueError, match=f"{name} = 3 cannot be called as {name}"):
            _run(**{name: 3})
    with pytest.raises((ValueError, TypeError), match="None"):
        _run(objective=None)
    for eps in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="give finite radii of at least 0"):
            _run(eps=eps)
    with pytest.raises(ValueError, match="keys and eps are empty"):
        fit.runs(jax.random.split(KEY, 2)[:0], MODEL, OBJECTIVE, TX, DATA, [], **SIZE)
    with pytest.raises(ValueError, match="first_epoch"):
        _run(validation=fit.Validation(HELD, first_epoch=0))


def test_a_trainer_is_compiled_once_and_gives_the_same_runs():
    calls = []

    def counted(params, batch_stats, key, batch, eps):
        calls.append(1)
        return OBJECTIVE(params, batch_stats, key, batch, eps)

    given = {**SIZE, "validation": VALIDATION, "mode": "loop"}
    trained = fit.trainer(MODEL, counted, TX, DATA, **given)
    assert len(trained(jax.random.split(KEY, 2), [0.0, 0.1])) == 2
    number = len(calls)
    (again,) = trained(jnp.expand_dims(KEY, 0), [0.1])
    assert len(calls) == number
    chex.assert_trees_all_equal(again.best.params, _run().best.params)
    with pytest.raises(ValueError, match="eps"):
        trained(jax.random.split(KEY, 2), [0.1])


def test_training_goes_on_from_a_network():
    first = _run(num_epochs=2).last
    fitted = _run(start=first, eps=0.0)
    begin = train.restart(KEY, first.params, first.batch_stats, TX)
    one_epoch = train.looped(train.make_step(OBJECTIVE, TX))
    for epoch in range(4):
        indices = train.epoch_indices(train.shuffle_key(begin, epoch), 24, 10)
        begin, _ = one_epoch(begin, DATA, indices, jnp.float32(0.0))
    chex.assert_trees_all_equal(fitted.last.params, begin.params)
    wide = models.make("mlp", num_classes=2, hidden=(7,))
    other = weights.Network(wide, *wide.init(KEY, X[:1]))
    for wrong in (other, first.params):
        with pytest.raises(ValueError, match="start is a"):
            _run(start=wrong)


def test_labels_and_images_that_do_not_fit_are_refused_before_training():
    for name, wrong in (("data", Y + 1), ("data", Y - 1)):
        with pytest.raises(ValueError, match=f"{name}.y has labels from"):
            fit.run(KEY, MODEL, OBJECTIVE, TX, Batch(X, wrong), 0.1, **SIZE)
    held = fit.Validation(Batch(X, Y + 1))
    with pytest.raises(ValueError, match=r"validation\.data\.y has labels from 1 to 2"):
        _run(validation=held)
    narrow = fit.Validation(Batch(X[:, :3], Y))
    with pytest.raises(ValueError, match=r"validation\.data\.x has examples of shape"):
        _run(validation=narrow)


def test_convolutions_are_dispatched_step_by_step_on_cpu():
    x = jnp.ones((1, 28, 28, 1))
    for name, mode in {"lenet5": "loop", "mlp": "scan"}.items():
        model = models.make(name, num_classes=2)
        expected = mode if jax.default_backend() == "cpu" else "scan"
        assert fit._mode("auto", model, x) == expected
        assert fit._mode("loop", model, x) == "loop"
