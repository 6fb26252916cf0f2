"""Operations that hide gradients are found where they matter, and nowhere else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models, programs

X = jnp.ones((2, 8, 8, 1))
W = jnp.ones((64, 3))


def _linear(x):
    return x.reshape(len(x), -1) @ W


@jax.custom_vjp
def _straight(x):
    return jnp.round(x)


_straight.defvjp(lambda x: (_straight(x), None), lambda _, g: (g,))


@jax.custom_jvp
def _own(x):
    return 2 * x


_own.defjvp(lambda primals, tangents: (_own(primals[0]), tangents[0]))


def _called(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def _scanned(x):
    return jax.lax.scan(lambda x, _: (jnp.floor(x), None), x, None, length=2)[0]


def _carried(x, bend):
    def body(h, x):
        h = jnp.tanh(bend(8 * h) + x)
        return h, h

    return jax.lax.scan(body, jnp.zeros_like(x[0]), x)[1]


def _noisy(x):
    return x + jax.random.normal(jax.random.key(0), x.shape)


HIDING = {
    "round": (lambda x: _linear(jnp.round(8 * x)), "rounds"),
    "integers": (lambda x: _linear((8 * x).astype(jnp.uint8) / 8), "rounds"),
    "sign": (lambda x: jnp.sign(_linear(x)), "rounds"),
    "in a scan": (lambda x: _linear(_scanned(x)), "rounds"),
    "in jit": (lambda x: _linear(jax.jit(jnp.floor)(x)), "rounds"),
    "in a branch": (
        lambda x: jax.lax.cond(x[0, 0, 0, 0] > 0, jnp.floor, lambda x: x, x),
        "rounds",
    ),
    "in what a loop carries": (lambda x: _linear(_carried(x, jnp.round)), "rounds"),
    "a threshold": (lambda x: _linear((x > 0.5).astype(float)), "compares"),
    "a choice": (lambda x: _linear(jnp.where(x > 0.5, 1.0, 0.0)), "compares"),
    "bins": (lambda x: _linear(jnp.digitize(x, jnp.array([0.3, 0.6]))), "compares"),
    "stopped in a loop": (
        lambda x: _linear(_carried(x, jax.lax.stop_gradient)),
        "stops",
    ),
    "stop_gradient": (lambda x: _linear(jax.lax.stop_gradient(x)), "stops"),
    "custom_vjp": (lambda x: _linear(_straight(x)), "own"),
    "custom_jvp": (lambda x: _linear(_own(x)), "own"),
    "callback": (lambda x: _linear(_called(x)), "calls Python"),
    "noise": (lambda x: _linear(_noisy(x)), "draws"),
}


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_gradients_is_said(name):
    predict, what = HIDING[name]
    (line,) = programs.caveats(predict, X)
    assert what in line


def _attention(x):
    z = x.reshape(len(x), 8, 8)
    return (jax.nn.softmax(z @ z) @ z).reshape(len(x), -1) @ W


HONEST = {
    "activations": lambda x: _linear(
        jax.nn.relu(x) + jax.nn.silu(x) + jax.nn.gelu(x) + jax.nn.relu6(x)
    ),
    "softmax": _attention,
    "logsumexp": lambda x: jax.nn.log_softmax(_linear(x)) + jax.nn.logsumexp(x),
    "pooling": lambda x: nn.max_pool(x, (2, 2)).reshape(len(x), -1),
    "clipped": lambda x: _linear(jnp.clip(x, 0, 1) + jnp.abs(x)),
    "constants": lambda x: _linear(x) + jnp.round(W[:1]),
    "unused": lambda x: (jnp.round(x), _linear(x))[1],
    "unused in jit": lambda x: jax.jit(lambda x: (_linear(x), x.argmax()))(x)[0],
    "checkpoint": lambda x: jax.checkpoint(lambda x: jax.nn.relu(_linear(x)))(x),
    "scan": lambda x: _linear(_carried(x, jnp.abs)),
    "weights in a scan": lambda x: jax.lax.scan(
        lambda h, w: (h * jnp.round(w), None), _linear(x), W[:3, 0]
    )[0],
    "dot_product_attention": lambda x: jax.nn.dot_product_attention(x, x, x),
    "functions of jax": lambda x: jax.scipy.special.xlogy(x, x) + jnp.sinc(x),
    "a choice of branches": lambda x: _linear(jnp.where(x > 0, x, 0.1 * x)),
    "weights": lambda x: _linear(x) * jnp.sign(W[0, 0]),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_are_not_accused(name):
    assert programs.caveats(HONEST[name], X) == ()


@pytest.mark.parametrize("name", ["mlp", "cnn_wong", "preactresnet18"])
def test_networks_of_ours_hide_nothing(name):
    x = jnp.ones((1, 28, 28, 1)) if name == "cnn_wong" else jnp.ones((1, 32, 32, 3))
    model = models.make(name, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    trees = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    assert programs.caveats(lambda x: model.predict(*trees, x), x) == ()
