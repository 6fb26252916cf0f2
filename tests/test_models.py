"""The MLP, and the adapters for networks of other makes."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import attacks, losses, models, norms, objectives, train
from advjax.types import Batch

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


def _nnx_net(rngs):
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

    return Net(rngs)


def _function():
    def init(key, x):
        return 0.1 * jax.random.normal(key, (x[0].size, 4))

    return models.from_function(init, lambda w, x: x.reshape(x.shape[0], -1) @ w)


MODELS = {
    "function": _function,
    "linen": lambda: models.from_linen(LinenNet()),
    "linen without train": lambda: models.from_linen(PlainLinenNet()),
    "nnx": lambda: models.from_nnx(_nnx_net),
    "equinox": lambda: models.from_equinox(_equinox_net),
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
    jax.tree.map(np.testing.assert_array_equal, stats, state.batch_stats)


@each_model
def test_every_make_is_attacked_as_a_plain_function(name):
    model = MODELS[name]()
    variables = model.init(jax.random.key(1), X)

    def loss(x, y):
        return losses.cross_entropy(model.predict(*variables, x), y)

    attack = attacks.pgd(norms.l2, num_steps=5, rel_step_size=0.5)
    _, info = jax.jit(lambda x, y: attack(jax.random.key(0), loss, x, y, 0.5))(X, Y)
    assert (info.loss > loss(X, Y)).all()


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_statistics_move_only_in_training(name):
    model = MODELS[name]()
    params, stats = model.init(jax.random.key(0), X)
    for train_mode in (False, True):
        options = {"train": train_mode, "key": jax.random.key(1)}
        _, after = model.apply(params, stats, X, **options)
        assert jax.tree.structure(after) == jax.tree.structure(stats)
        moved = jax.tree.map(lambda a, b: (a != b).any(), after, stats)
        assert all(leaf == train_mode for leaf in jax.tree.leaves(moved))


def test_nnx_predicts_what_the_module_does():
    from flax import nnx

    module = _nnx_net(nnx.Rngs(jax.random.key(3)))
    model = models.from_nnx(_nnx_net)
    variables = models.nnx_state(module)
    fresh = model.init(jax.random.key(3), X)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), fresh, variables)
    logits = model.predict(*variables, X)
    assert not module.dropout.deterministic  # the caller's module keeps its mode
    module.eval()
    np.testing.assert_allclose(logits, module(X), rtol=1e-6)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"model = 'mpl': did you mean mlp.*alexnet"):
        models.make("mpl", num_classes=2)


def test_an_unknown_option_lists_the_choices():
    with pytest.raises(ValueError, match=r"hiden: no option of .* mlp; .*hidden"):
        models.make("mlp", num_classes=2, hiden=(3,))


# --- the modes of linen modules ---


class Unit(nn.Module):
    """Batch statistics and dropout, switched by an argument of another name."""

    @nn.compact
    def __call__(self, x, training=False):
        x = nn.BatchNorm(use_running_average=not training)(nn.Dense(5)(x))
        return nn.Dropout(0.5, deterministic=not training)(x)


class Inverted(nn.Module):
    """True in evaluation."""

    @nn.compact
    def __call__(self, x, *, deterministic):
        return nn.Dense(4)(Unit()(x, not deterministic))


class Loose(nn.Module):
    """Hands options on."""

    @nn.compact
    def __call__(self, x, **options):
        return Unit()(x, **options)


class SetUp(nn.Module):
    """A live layer in a submodule beside a frozen one."""

    def setup(self):
        self.unit, self.dropout = Unit(), nn.Dropout(0.5)
        self.frozen = nn.BatchNorm(use_running_average=True)

    def __call__(self, x, scale=1.0, is_training=False):
        x = self.frozen(self.unit(x * scale, training=is_training))
        return self.dropout(x, deterministic=not is_training)


class Nested(nn.Module):
    """An ``nn.jit`` of its own inside."""

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.jit(Unit, static_argnames="training")()(x, training=train)


class Decorated(nn.Module):
    """Wrapped as a method."""

    @nn.remat
    @nn.compact
    def __call__(self, x, eval=True):  # noqa: A002
        return Unit()(x, not eval)


class Scaled(nn.Module):
    """Two inputs, one of which is to be bound, and a constant."""

    @nn.compact
    def __call__(self, x, scale, train=False):
        constant = self.variable("constants", "c", lambda: jnp.full((5,), 2.0))
        return Unit()(x * (scale * constant.value)[None, None], train)


_mapped = partial(nn.vmap, variable_axes={"params": 0, "batch_stats": 0})
_mapped = partial(_mapped, split_rngs={"params": True, "dropout": True})

SWITCHED = {
    "found": lambda: models.from_linen(Unit()),
    "named": lambda: models.from_linen(Unit(), mode="training"),
    "inverted": lambda: models.from_linen(Inverted()),
    "of options": lambda: models.from_linen(Loose(), mode="training"),
    "setup": lambda: models.from_linen(SetUp()),
    "nested jit": lambda: models.from_linen(Nested()),
    "decorated": lambda: models.from_linen(Decorated()),
    "partial": lambda: models.from_linen(partial(Scaled(), scale=jnp.ones(5))),
    "bare partial": lambda: models.from_linen(partial(Unit())),
    "remat": lambda: models.from_linen(nn.remat(Unit)()),
    "remat, static": lambda: models.from_linen(nn.remat(Unit, static_argnums=(2,))()),
    "remat, options": lambda: models.from_linen(nn.remat(Loose)(), mode="training"),
    "remat, setup": lambda: models.from_linen(
        partial(nn.remat(SetUp, static_argnums=(3,))(), scale=2.0)
    ),
    "jit by name": lambda: models.from_linen(
        nn.jit(Unit, static_argnames="training")()
    ),
    "jit by place": lambda: models.from_linen(nn.jit(Unit, static_argnums=(2,))()),
    "vmap": lambda: models.from_linen(_mapped(Unit, in_axes=0)()),
    "vmap, static": lambda: models.from_linen(_mapped(Unit, in_axes=(0, None))()),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_the_mode_reaches_every_layer_of_a_linen_module(name):
    model, x = SWITCHED[name](), jnp.tile(X[..., :1], 5)
    params, stats = model.init(jax.random.key(0), x)
    before = model.predict(params, stats, x)
    train_mode = partial(model.apply, params, stats, x, train=True)
    outputs = [train_mode(key=jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
    assert (outputs[0][0] != outputs[2][0]).any()
    moved = jax.tree.map(lambda a, b: (a != b).any(), outputs[0][1], stats)
    _assert_moved(moved)
    np.testing.assert_array_equal(model.predict(params, stats, x), before)
    with pytest.raises(ValueError, match="give apply a key"):
        train_mode()


def _assert_moved(moved):
    for path, changed in jax.tree.leaves_with_path(moved):
        name = jax.tree_util.keystr(path)
        assert changed != ("frozen" in name or "constants" in name), name


def test_a_remat_module_computes_what_the_module_does():
    x, key = X[:, 0], jax.random.key(1)
    models_ = [models.from_linen(module) for module in (Unit(), nn.remat(Unit)())]
    params, stats = models_[0].init(jax.random.key(0), x)

    def loss(model, params):
        return (model.apply(params, stats, x, train=True, key=key)[0] ** 2).sum()

    grads = [jax.grad(partial(loss, model))(params) for model in models_]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *grads)
    outputs = [model.predict(params, stats, x) for model in models_]
    np.testing.assert_array_equal(*outputs)


class Unknown(nn.Module):
    """Whose mode has a name of its own."""

    layer: str

    @nn.compact
    def __call__(self, x, is_live=False):
        if self.layer == "norm":
            return nn.BatchNorm(use_running_average=not is_live)(x)
        if self.layer == "dropout":
            return nn.Dropout(0.5, deterministic=not is_live)(x)
        if self.layer == "attention":
            attention = nn.MultiHeadDotProductAttention(1, dropout_rate=0.5)
            return attention(x, deterministic=not is_live)
        return Noise()(x, train=is_live)


class Noise(nn.Module):
    """Draws from a stream of its own."""

    @nn.compact
    def __call__(self, x, train):
        return x + train * jax.random.normal(self._key(train), x.shape)

    def _key(self, train):
        return self.make_rng("noise") if train else jax.random.key(0)


@pytest.mark.parametrize("layer", ["norm", "dropout", "attention", "noise"])
def test_layers_that_nothing_switches_are_refused(layer):
    key, rngs = jax.random.key(0), ("dropout", "noise")
    with pytest.raises(
        ValueError, match=r"is_live=False.: no argument is known to switch"
    ):
        models.from_linen(Unknown(layer)).init(key, X)
    named = models.from_linen(Unknown(layer), mode="is_live", rngs=rngs)
    params, stats = named.init(key, X)
    live, _ = named.apply(params, stats, X, train=True, key=key)
    assert (live != named.predict(params, stats, X)).any()
    frozen = models.from_linen(Unknown(layer), mode=None)
    params, stats = frozen.init(key, X)
    still, after = frozen.apply(params, stats, X, train=True, key=key)
    np.testing.assert_array_equal(still, named.predict(params, stats, X))
    jax.tree.map(np.testing.assert_array_equal, after, stats)


def test_trained_statistics_are_refused_where_nothing_switches_them():
    """Also without ``init``: parameters of a checkpoint."""
    params, stats = models.from_linen(Unknown("norm"), mode=None).init(
        jax.random.key(0), X
    )
    with pytest.raises(ValueError, match="no argument is known"):
        models.from_linen(Unknown("norm")).apply(params, stats, X, train=True)


class Fixed(nn.Module):
    """Layers whose mode is fixed, whatever ``train`` is."""

    layer: str
    is_live: bool

    @nn.compact
    def __call__(self, x, train=False):
        del train
        if self.layer == "norm":
            return nn.BatchNorm(use_running_average=not self.is_live)(x)
        return nn.Dropout(0.5, deterministic=not self.is_live)(x)


@pytest.mark.parametrize("layer", ["norm", "dropout"])
def test_fixed_layers_are_refused_unless_they_are_frozen_deliberately(layer):
    key = jax.random.key(0)
    for mode in ("auto", "train", None):
        with pytest.raises(ValueError, match=r"evaluation: let the mode switch"):
            models.from_linen(Fixed(layer, True), mode=mode).init(key, X)
    with pytest.raises(ValueError, match=r"does not switch (batch|dropout)"):
        models.from_linen(Fixed(layer, False)).init(key, X)
    for mode in ("train", None):
        model = models.from_linen(Fixed(layer, False), mode=mode)
        params, stats = model.init(key, X)
        after = model.apply(params, stats, X, train=True)[1]
        jax.tree.map(np.testing.assert_array_equal, after, stats)


class HalfFixed(nn.Module):
    """One layer that the mode switches beside one that is always frozen."""

    fixed: str

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=self.fixed == "batch" or not train)(x)
        # What else changes does not speak for the statistics.
        count = self.variable("state", "count", lambda: jnp.zeros(()))
        if train and not self.is_initializing():
            count.value += 1
        is_off = self.fixed == "dropout" or not train
        return nn.Dropout(0.5, deterministic=is_off)(x)


@pytest.mark.parametrize("fixed", ["batch", "dropout"])
def test_a_frozen_layer_does_not_hide_behind_one_that_is_switched(fixed):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=f"does not switch {fixed}"):
        models.from_linen(HalfFixed(fixed)).init(key, X)
    models.from_linen(HalfFixed(fixed), mode="train").init(key, X)
    models.from_linen(HalfFixed("")).init(key, X)


def _same_nnx(constant):
    from flax import nnx

    net = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    return lambda rngs: nnx.Linear(5, 3, rngs=nnx.Rngs(0)) if constant else net


def _same_equinox(constant):
    import equinox as eqx

    net = eqx.nn.Linear(5, 3, key=jax.random.key(0))
    again = lambda key: eqx.nn.Linear(5, 3, key=jax.random.key(0))  # noqa: E731
    return again if constant else lambda key: net


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_constructor_that_ignores_its_key_is_refused(constant, wrapped):
    """All seeds would be one network, and a spread over seeds would be zero."""
    x = jnp.ones((2, 5))
    for adapter, same in (
        (models.from_nnx, _same_nnx(constant)),
        (models.from_equinox, _same_equinox(constant)),
    ):
        init = adapter(same).init
        with pytest.raises(ValueError, match="does not use its argument"):
            (jax.jit(init) if wrapped else init)(jax.random.key(1), x)
        meant = adapter(same, seeded=False).init
        one, two = (meant(jax.random.key(seed), x)[0] for seed in (1, 2))
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_parameters_that_start_from_zero_need_no_key():
    from flax import nnx

    x = jnp.ones((2, 5))
    zeros = nnx.initializers.zeros
    model = models.from_nnx(lambda rngs: nnx.Linear(5, 3, kernel_init=zeros, rngs=rngs))
    params, _ = model.init(jax.random.key(0), x)
    assert all(not leaf.any() for leaf in jax.tree.leaves(params))


class Pair(nn.Module):
    """Two outputs."""

    @nn.compact
    def __call__(self, x):
        return x, {"x": x}


class Two(nn.Module):
    """Two modes."""

    @nn.compact
    def __call__(self, x, train=False, deterministic=True):
        return Unit()(x, train and not deterministic)


class Growing(nn.Module):
    """Sows into a collection."""

    @nn.compact
    def __call__(self, x, train=False):
        self.sow("seen", "x", x)
        return Unit()(x, train)


LINEN_MISTAKES = {
    "class": (lambda: Unit, {}, "give an instance"),
    "partial of a class": (lambda: partial(Unit), {}, "give an instance"),
    "another mode": (Unit, {"mode": "train"}, r"choose from training, auto, or None"),
    "no name": (Unit, {"mode": True}, "mode = True"),
    "bound": (lambda: partial(Unit(), training=True), {"mode": "training"}, "training"),
    "several": (Two, {}, "train and deterministic: name one"),
    "second input": (Scaled, {}, "also needs scale"),
    "string": (Unit, {"rngs": "dropout"}, "give a tuple of names"),
    "unknown option": (Loose, {"mode": "trian"}, "unexpected keyword.*trian"),
    "options": (Loose, {}, "no argument is known to switch"),
    "output": (Pair, {}, "returns a tuple of 2: give one that returns one array"),
    "jit": (lambda: nn.jit(Unit)(), {}, "static_argnames='training'"),
    "bound live": (lambda: partial(Unit(), training=True), {}, "in evaluation"),
}


@pytest.mark.parametrize("name", LINEN_MISTAKES)
def test_a_linen_module_that_does_not_fit_is_one_value_error(name):
    make, options, words = LINEN_MISTAKES[name]
    with pytest.raises(ValueError, match=words):
        models.from_linen(make(), **options).init(jax.random.key(0), X)


def test_statistics_that_grow_are_refused():
    model = models.from_linen(Growing())
    params, stats = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="changes the number or the shapes"):
        model.apply(params, stats, X, train=True, key=jax.random.key(0))


def test_a_stream_of_another_name_is_asked_for():
    model = models.from_linen(Unknown("noise"), mode="is_live")
    with pytest.raises(ValueError, match=r"name the stream in rngs = .*noise"):
        model.apply({}, {}, X, train=True, key=jax.random.key(0))


def test_other_collections_are_kept_by_name():
    model = models.from_linen(partial(ScaledBy(), scale=2.0))
    params, stats = model.init(jax.random.key(0), X)
    assert set(stats) == {"batch_stats", "constants"}
    np.testing.assert_allclose(model.predict(params, stats, X), 4 * X)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, stats)
    output, after = model.apply(params, doubled, X, train=True)
    np.testing.assert_allclose(output, 8 * X)
    jax.tree.map(np.testing.assert_array_equal, after, doubled)


class ScaledBy(nn.Module):
    """A constant and no parameters."""

    @nn.compact
    def __call__(self, x, scale):
        constant = self.variable("constants", "c", lambda: jnp.full((3,), 2.0))
        return x * (scale * constant.value)[None, None]


def _dtype(leaf):
    return leaf.dtype


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, None])
@pytest.mark.usefixtures("x64")
def test_statistics_keep_their_dtype_in_a_scan(dtype):
    """Under x64 ``0.99 * mean`` of flax takes the dtype of the batch."""

    class Typed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dense(4, dtype=dtype)(x)
            return nn.BatchNorm(use_running_average=not train, dtype=dtype)(x)

    model, x = models.from_linen(Typed()), jnp.asarray(X[:, 0], jnp.float64)
    params, stats = model.init(jax.random.key(0), x)

    def body(stats, _):
        return model.apply(params, stats, x, train=True)[1], None

    after, _ = jax.jit(lambda stats: jax.lax.scan(body, stats, length=3))(stats)
    assert jax.tree.map(_dtype, after) == jax.tree.map(_dtype, stats)
    assert (after["BatchNorm_0"]["mean"] != 0).all()


@pytest.mark.parametrize("name", ["linen", "nnx", "equinox", "function", "mlp"])
def test_seeds_differ_under_vmap_and_jit_as_one_by_one(name):
    model, keys = MODELS[name](), jax.random.split(jax.random.key(0), 3)
    init = jax.jit(jax.vmap(lambda key: model.init(key, X)))
    together = init(keys)
    for i, key in enumerate(keys):
        alone = model.init(key, X)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6),
            together,
            alone,
        )
    logits = jax.vmap(lambda variables: model.predict(*variables, X))(together)
    assert len(np.unique(np.round(logits[:, 0, 0], 6))) == 3


# --- NNX ---


def _nnx_layers():
    from flax import nnx

    class Layers(nnx.Module):
        """Batch normalisation and dropout, called as ``how`` says."""

        def __init__(self, rngs, how="attributes", frozen=()):
            self.norm = nnx.BatchNorm(
                3, use_running_average="norm" in frozen, rngs=rngs
            )
            self.other = nnx.BatchNorm(3, rngs=rngs)
            self.dropout = nnx.Dropout(
                0.5, deterministic="dropout" in frozen, rngs=rngs
            )
            self.how = how

        def body(self, x):
            return self.dropout(self.other(self.norm(x)))

        def __call__(self, x):
            wrap = {"remat": nnx.remat, "jit": nnx.jit}.get(self.how, lambda f: f)
            return wrap(Layers.body)(self, x)

    class Argument(Layers):
        def __call__(self, x, is_train=False):
            train = {"live": True}.get(self.how, is_train)
            x = self.norm(x, use_running_average=not train)
            x = self.other(x, use_running_average=not train)
            return self.dropout(x, deterministic=not train)

    return Layers, Argument


FROZEN = [(), ("norm",), ("dropout",), ("norm", "dropout")]
HOW = [(how, frozen) for how in ("attributes", "remat", "jit") for frozen in FROZEN]


@pytest.mark.parametrize(("how", "frozen"), [*HOW, ("argument", ())])
def test_nnx_layers_train_as_constructed(how, frozen):
    layers, argument = _nnx_layers()
    model = models.from_nnx(lambda rngs: layers(rngs, how, frozen))
    if how == "argument":
        model = models.from_nnx(argument, mode="is_train")
    params, stats = model.init(jax.random.key(0), X)
    train_mode = partial(model.apply, params, stats, X, train=True)
    (a, after), (b, _), (c, _) = (
        train_mode(key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert (a != c).any() == ("dropout" not in frozen)
    moved = {
        name: bool((after[name].mean[...] != stats[name].mean[...]).any())
        for name in after
    }
    assert moved == {"norm": "norm" not in frozen, "other": True}
    np.testing.assert_allclose(model.predict(params, stats, X), X, rtol=1e-4)
    if "dropout" in frozen:
        np.testing.assert_array_equal(train_mode()[0], a)
    else:
        with pytest.raises(ValueError, match="in training: give apply a key"):
            train_mode()


def test_nnx_layers_that_do_not_fit_are_one_value_error():
    from flax import nnx

    layers, argument = _nnx_layers()
    mistakes = [
        (layers(nnx.Rngs(0)), {}, r"constructor, not a Layers.*nnx_state\(module\)"),
        (lambda: layers(nnx.Rngs(0)), {}, "give lambda rngs: Net"),
        (lambda *, rngs: layers(rngs), {}, "give lambda rngs: Net"),
        (nn.Dense(3), {}, "Dense is a linen module: from_linen"),
        (lambda rngs: 3, {}, "no NNX module"),
        (argument, {}, "Dropout, BatchNorm, BatchNorm: live as constructed"),
        (argument, {"mode": "train"}, "choose from is_train, auto, or None"),
        (lambda rngs: argument(rngs, "live"), {"mode": None}, "draws .* in evaluation"),
    ]
    for constructor, options, words in mistakes:
        with pytest.raises(ValueError, match=words):
            models.from_nnx(constructor, **options).init(jax.random.key(0), X)


def test_nnx_statistics_that_always_move_are_refused():
    from flax import nnx

    class Always(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(x, use_running_average=False)

    with pytest.raises(ValueError, match="changes statistics in evaluation"):
        models.from_nnx(Always).init(jax.random.key(0), X)


def test_a_trained_nnx_module_goes_on_and_is_left_as_it_is():
    from flax import nnx

    module = _nnx_net(nnx.Rngs(7))
    module(X)  # moves statistics and streams
    held = jax.tree.map(jnp.copy, nnx.state(module, nnx.Not(nnx.RngState)))
    counts = nnx.state(module, nnx.RngCount)
    params, stats = models.nnx_state(module)
    model, tx = models.from_nnx(_nnx_net), optax.sgd(0.1)
    fresh = model.init(jax.random.key(0), X)
    assert jax.tree.structure(fresh) == jax.tree.structure((params, stats))
    objective = objectives.standard(model, losses.cross_entropy)
    state = train.restart(jax.random.key(0), params, stats, tx)
    step = jax.jit(train.make_step(objective, tx), donate_argnums=0)
    state, _ = step(state, Batch(X, Y), 0.0)
    now = nnx.state(module, nnx.Not(nnx.RngState))
    jax.tree.map(np.testing.assert_array_equal, now, held)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(module, nnx.RngCount), counts)
    assert not module.dropout.deterministic
    with pytest.raises(ValueError, match="no NNX module"):
        models.nnx_state(LinenNet())


def test_shared_nnx_layers_stay_shared():
    from flax import nnx

    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(3, 3, rngs=rngs)
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x))

    model = models.from_nnx(Tied)
    params, stats = model.init(jax.random.key(0), X)
    (kernel,) = (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
    np.testing.assert_allclose(
        model.predict(params, stats, X), X @ kernel @ kernel, rtol=1e-5, atol=1e-6
    )


# --- Equinox and plain functions ---


@cache
def _equinox_nets():
    import equinox as eqx

    class Net(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        offset: jax.Array

        def __init__(self, key, **options):
            keys = jax.random.split(key)
            self.first = eqx.nn.Linear(6, 8, key=keys[0])
            self.second = eqx.nn.Linear(8, 4, key=keys[1])
            self.dropout = eqx.nn.Dropout(**{"p": 0.5, **options})
            self.offset = jnp.arange(4)

        def __call__(self, x, *, key=None):
            x = jax.nn.relu(self.first(x.ravel()))
            return self.second(self.dropout(x, key=key)) + self.offset

    class Deaf(Net):
        def __call__(self, x):
            return super().__call__(x)

    return Net, Deaf


def _equinox_net(key, **options):
    return _equinox_nets()[0](key, **options)


def test_equinox_predicts_what_the_module_does():
    import equinox as eqx

    module = _equinox_net(jax.random.key(3))
    model = models.from_equinox(_equinox_net)
    variables = models.equinox_state(module)
    fresh = model.init(jax.random.key(3), X)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), fresh, variables)
    expected = jax.vmap(eqx.nn.inference_mode(module))(X)
    np.testing.assert_allclose(model.predict(*variables, X), expected, rtol=1e-6)


def test_equinox_dropout_has_a_key_per_example():
    model = models.from_equinox(_equinox_net)
    variables, key = model.init(jax.random.key(0), X), jax.random.key(1)
    same = jnp.tile(X[:1], (5, 1, 1))
    output, _ = model.apply(*variables, same, train=True, key=key)
    assert len(np.unique(output[:, 0])) > 1
    alone, _ = model.apply(*variables, same[:2], train=True, key=key)
    np.testing.assert_allclose(alone, output[:2], rtol=1e-5)
    with pytest.raises(ValueError, match="has dropout: give apply a key"):
        model.apply(*variables, same, train=True)


@pytest.mark.parametrize("options", [{"p": 0.0}, {"inference": True}])
def test_equinox_layers_that_are_frozen_need_no_key(options):
    model = models.from_equinox(partial(_equinox_net, **options))
    variables = model.init(jax.random.key(0), X)
    output, _ = model.apply(*variables, X, train=True)
    np.testing.assert_array_equal(output, model.predict(*variables, X))


@pytest.mark.parametrize(
    ("frozen", "count"),
    [
        (lambda net: net.first, 2),
        (lambda net: net.first.weight, 3),
        (lambda net: (net.first, net.second.bias), 1),
    ],
)
def test_equinox_parameters_that_are_frozen_are_not_trained(frozen, count):
    model = models.from_equinox(_equinox_net, frozen=frozen)
    params, rest = model.init(jax.random.key(0), X)
    assert len(jax.tree.leaves(params)) == count
    assert len(jax.tree.leaves(rest)) == 5 - count
    everything = models.from_equinox(_equinox_net)
    np.testing.assert_array_equal(
        model.predict(params, rest, X),
        everything.predict(*everything.init(jax.random.key(0), X), X),
    )


def test_equinox_modules_that_do_not_fit_are_one_value_error():
    import equinox as eqx

    class Normalised(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __init__(self, key):
            del key
            self.norm = eqx.nn.BatchNorm(6, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(x.ravel(), state)

    mistakes = [
        (_equinox_net(jax.random.key(0)), r"not a Net.*equinox_state\(module\)"),
        (partial(eqx.nn.MLP, 6, 4, 8, 1), "give lambda key: Net"),
        (Normalised, r"eqx.nn.State, such as BatchNorm, are not supported"),
        (eqx.nn.make_with_state(Normalised), r"eqx.nn.State.* not supported"),
        (_equinox_nets()[1], "let __call__"),
        (lambda key: 3, "no Equinox module"),
        (nn.Dense(3), "Dense is a linen module: from_linen"),
    ]
    for constructor, words in mistakes:
        with pytest.raises(ValueError, match=words):
            models.from_equinox(constructor).init(jax.random.key(0), X)


def test_a_function_with_a_mode_is_refused():
    def predict(params, x, *, train=False):
        return x @ params * (1 + train)

    init = lambda key, x: jnp.ones((3, 4))  # noqa: E731
    with pytest.raises(ValueError, match=r"takes train.*functools.partial"):
        models.from_function(init, predict)
    model = models.from_function(init, partial(predict, train=True))
    variables = model.init(jax.random.key(0), X)
    np.testing.assert_allclose(model.predict(*variables, X), 2 * X @ jnp.ones((3, 4)))
    pair = models.from_function(init, lambda w, x: (x, w))
    with pytest.raises(ValueError, match="returns a tuple of 2"):
        pair.predict(*variables, X)
    assert models.from_function(init, np.matmul).predict(jnp.ones((4, 2)), {}, X).shape
