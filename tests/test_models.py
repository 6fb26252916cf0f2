"""The MLP, and the adapters for networks of other makes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import attacks, losses, models, norms, objectives, train
from advjax.types import Batch

pytestmark = pytest.mark.usefixtures("unoptimised")

X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 2, 3)), jnp.float32)
Y = jnp.arange(12) % 4


class LinenNet(nn.Module):
    """Batch statistics and a ``train`` argument."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(8)(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(4)(nn.relu(x))


class PlainLinenNet(nn.Module):
    """Neither."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x.reshape(x.shape[0], -1))


def _nnx_net():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(6, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.second = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            x = self.norm(self.first(x.reshape(x.shape[0], -1)))
            return self.second(self.dropout(nnx.relu(x)))

    return Net(nnx.Rngs(0))


def _function():
    def init(key, x):
        return 0.1 * jax.random.normal(key, (x[0].size, 4))

    return models.from_function(init, lambda w, x: x.reshape(x.shape[0], -1) @ w)


MODELS = {
    "function": _function,
    "linen": lambda: models.from_linen(LinenNet()),
    "linen without train": lambda: models.from_linen(PlainLinenNet()),
    "nnx": lambda: models.from_nnx(_nnx_net()),
    "mlp": lambda: models.make("mlp", num_classes=4, hidden=(8, 8)),
}
each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_every_make_trains_adversarially(name):
    model, tx = MODELS[name](), optax.adam(0.03)
    attack = attacks.pgd(norms.l2, num_steps=2, rel_step_size=0.5)
    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    state = train.create(jax.random.key(0), model, tx, X)
    indices = jnp.tile(jnp.arange(12), (40, 1))
    run = jax.jit(train.scanned(train.make_step(objective, tx)))
    state, metrics = run(state, Batch(X, Y), indices, 0.1)
    assert metrics["loss"][-1] < 0.7 * metrics["loss"][0]
    assert not metrics["zero_grad"].any()
    logits, stats = model.apply(state.params, state.batch_stats, X, train=False)
    assert logits.shape == (12, 4)
    jax.tree.map(np.testing.assert_array_equal, _arrays(stats), _arrays(state[2]))


@each_model
def test_every_make_is_attacked_as_a_plain_function(name):
    model = MODELS[name]()
    variables = model.init(jax.random.key(1), X)

    def loss(x, y):
        return losses.cross_entropy(model.apply(*variables, x, train=False)[0], y)

    attack = attacks.pgd(norms.l2, num_steps=5, rel_step_size=0.5)
    _, info = jax.jit(lambda x, y: attack(jax.random.key(0), loss, x, y, 0.5))(X, Y)
    assert (info.loss > loss(X, Y)).all()


def _arrays(tree):
    leaves = jax.tree.leaves(tree)
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.number)]


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_statistics_move_only_in_training(name):
    model = MODELS[name]()
    params, stats = model.init(jax.random.key(0), X)
    for train_mode in (False, True):
        _, after = model.apply(params, stats, X, train=train_mode)
        assert jax.tree.structure(after) == jax.tree.structure(stats)
        moved = [
            (a != b).any() for a, b in zip(_arrays(after), _arrays(stats), strict=True)
        ]
        assert any(moved) == train_mode


def test_nnx_adapter_predicts_what_the_module_does():
    module = _nnx_net()
    module.train()
    model = models.from_nnx(module)
    assert not module.dropout.deterministic  # the caller's module keeps its mode
    params, stats = model.init(jax.random.key(0), X)
    logits, _ = model.apply(params, stats, X, train=False)
    module.eval()
    np.testing.assert_allclose(logits, module(X), rtol=1e-6)


def test_models_map_over_seeds():
    model = MODELS["mlp"]()
    keys = jax.random.split(jax.random.key(0), 3)
    params, _ = jax.vmap(lambda key: model.init(key, X))(keys)
    logits = jax.vmap(lambda p: model.apply(p, {}, X, train=False)[0])(params)
    assert logits.shape == (3, 12, 4)
    assert (logits[0] != logits[1]).any()


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"model = 'mpl': did you mean mlp.*alexnet"):
        models.make("mpl", num_classes=2)


def test_an_unknown_option_lists_the_choices():
    with pytest.raises(ValueError, match=r"hiden: no option of .* mlp; .*hidden"):
        models.make("mlp", num_classes=2, hiden=(3,))
