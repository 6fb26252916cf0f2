"""Everything that is jitted lowers for CUDA and TPU, as far as a CPU can tell.

``jax.export`` lowers a program for platforms that are not there. What cannot be lowered
for an accelerator fails here; that it runs well there is not known.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from contracts import ATTACKS, NORMS, each_case, pgd
from jax import export

from advjax import (
    attacks,
    criteria,
    curves,
    descent,
    dynamics,
    evaluate,
    flatness,
    hessians,
    inference,
    influence,
    lazy,
    linear,
    losses,
    margins,
    memorization,
    models,
    norms,
    objectives,
    solvers,
    spectrum,
    train,
    transition,
)
from advjax.types import Batch

N, D, K = 4, 6, 3
KEY = jax.random.key(0)
X = jax.ShapeDtypeStruct((N, D), jnp.float32)
Y = jax.ShapeDtypeStruct((N,), jnp.int32)
SIGNS = jax.ShapeDtypeStruct((N,), jnp.float32)
EPS = jax.ShapeDtypeStruct((), jnp.float32)
W = jnp.linspace(-1, 1, D * K).reshape(D, K)
THETA = jax.ShapeDtypeStruct((D,), jnp.float32)
BOX = (0.0, 1.0)


def _lowers(function, *args):
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args
    )
    exported = export.export(jax.jit(function), platforms=["cuda", "tpu"])(*shapes)
    assert exported.platforms == ("cuda", "tpu")


def _predict(x):
    return jnp.tanh(x.reshape(len(x), -1) @ W)


def _loss_fn(x, y):
    return losses.cross_entropy(_predict(x), y)


def _seeded(function):
    """Keys are made inside, since their arrays are no plain input of a program."""
    return lambda *args: function(KEY, *args)


@each_case
def test_attacks(name, norm_name):
    attack = ATTACKS[name](NORMS[norm_name])
    goal = criteria.Goal(_predict, losses.cross_entropy)
    _lowers(_seeded(lambda key, x, y, eps: attack(key, goal, x, y, eps)), X, Y, EPS)


@pytest.mark.parametrize("norm_name", NORMS)
def test_attacks_in_half_precision_and_on_features(norm_name):
    attack = pgd(NORMS[norm_name], start=attacks.in_ball(NORMS[norm_name]))

    def attacked(key, x, y, eps):
        goal = criteria.Goal(lambda x: _predict(x.astype(jnp.float32)), losses.margin)
        return attack(key, goal, x, y, eps)

    half = jax.ShapeDtypeStruct(X.shape, jnp.bfloat16)
    _lowers(_seeded(attacked), half, Y, jax.ShapeDtypeStruct((1, D), jnp.float32))


INNER = pgd(norms.linf, start=attacks.gaussian(1e-3))
OBJECTIVES = {
    "standard": lambda model: objectives.standard(model, losses.cross_entropy),
    "adversarial": lambda model: objectives.adversarial(
        model, losses.cross_entropy, INNER
    ),
    "trades": lambda model: objectives.trades(model, INNER, beta=6.0),
    "mart": lambda model: objectives.mart(model, INNER, beta=5.0),
    "penalised": lambda model: objectives.with_penalty(
        objectives.standard(model, losses.cross_entropy), norms.l1.value
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_steps(name):
    model = models.make("mlp", num_classes=K, hidden=(5,))
    tx = optax.chain(optax.sgd(0.1, momentum=0.9))
    step = train.scanned(train.make_step(OBJECTIVES[name](model), tx))

    def run(key, x, y, eps):
        state = train.create(key, model, tx, x)
        indices = train.epochs(state, 2, N, 2)
        state, metrics = step(state, Batch(x, y), indices, eps)
        return state.params, metrics

    over = jax.vmap(run, (0, None, None, 0))
    seeded = lambda x, y, eps: over(jax.random.split(KEY, 2), x, y, eps)  # noqa: E731
    _lowers(seeded, X, Y, jax.ShapeDtypeStruct((2,), jnp.float32))


IMAGES = {
    "mlp": (28, 28, 1),
    "cnn_wong": (28, 28, 1),
    "lenet5": (28, 28, 1),
    "cnn3": (28, 28, 1),
    "rescnn3": (28, 28, 1),
    "alexnet": (32, 32, 3),
    "vgg11": (32, 32, 3),
    "preactresnet18": (32, 32, 3),
    "resnet18": (32, 32, 3),
    "resnet50": (32, 32, 3),
    "resnet9": (32, 32, 3),
    "wideresnet28": (32, 32, 3),
    "wideresnet34": (32, 32, 3),
}


@pytest.mark.parametrize("name", IMAGES)
def test_networks(name):
    """Initialisation, and the gradient of a training pass, float32 and bfloat16."""
    model = models.make(name, num_classes=10, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, *IMAGES[name]), jnp.float32)

    def gradient(x):
        params, stats = model.init(KEY, x)

        def loss(params):
            logits, _ = model.apply(params, stats, x, train=True)
            return jnp.sum(losses.cross_entropy(logits, jnp.zeros(2, jnp.int32)))

        return jax.grad(loss)(params)

    _lowers(gradient, x)


def _evaluated(x, y, eps):
    args = (KEY, _predict, losses.cross_entropy, INNER, x, y, eps)
    return evaluate.outcome(*args), evaluate.targeted_outcome(*args)


def _hessian(x, y):
    def total(x):
        return jnp.sum(_loss_fn(x, y))

    return hessians.hvp(total, x), x


def _eigenpairs(x, y):
    find = spectrum.top_eigs(num_matvecs=5, num_eigs=2)
    matvec, like = _hessian(x, y)
    return find(KEY, matvec, like)


def _traces(x, y):
    matvec, like = _hessian(x, y)
    return (
        spectrum.trace(num_samples=3)(KEY, matvec, like),
        spectrum.density(num_matvecs=3, num_samples=2)(KEY, matvec, like),
    )


def _flat(norm, x, y, eps):
    search = flatness.largest(norm, num_steps=3, rel_step_size=0.5, bounds=BOX)
    measure = flatness.gradient_norm(_loss_fn, norm)
    return search(KEY, measure, x, y, eps), search(KEY, _loss_fn, x, y, eps)


def _linear(norm, theta, x, y, eps):
    population = linear.Population(theta, None, jnp.float32(1))
    found = [
        linear.adversarial_loss(theta, norm, x, y, eps),
        linear.adversarial_gradient(theta, norm, x, y, eps),
        linear.population_risk(theta, norm, population, eps),
        flatness.linear(theta, norm, x, y, eps),
        margins.linear(theta, 0.0, norm, x, y),
    ]
    if norm is not norms.l1:
        found += [
            linear.adversarial_loss(theta, norm, x, y, eps, xi=0.1),
            linear.adversarial_gradient(theta, norm, x, y, eps, xi=0.1),
            linear.population_risk(theta, norm, population, eps, xi=0.1),
        ]
    if norm is norms.l2:
        found.append(linear.optimal(norm, population, eps))
    return found


def _solved(norm, x, y, eps):
    return (
        solvers.adversarial(norm, x, y, eps, penalty=0.1),
        solvers.lower_bound(x[0], norm, x, y, eps),
        solvers.min_norm(x, y),
    )


def _lazy(norm, x, y, eps):
    weights = lazy.output_weights(KEY, num_hidden=7)
    network = lazy.Network(weights, lazy.sigmoid)
    theta = lazy.init(KEY, num_hidden=7, num_inputs=D, scale=10.0)
    return lazy.adversarial_gradient(theta, network, norm, x, y, eps, xi=0.1)


def _perturbed(x, y):
    def logits_fn(x):
        return _predict(x[None])[0]

    one = partial(losses.cross_entropy, labels=y[0])
    affine = dynamics.logit_jacobian(logits_fn, x[0])
    path = dynamics.ascend_logits(num_steps=4)(one, *affine, 0.1)
    eigs = dynamics.logit_eigs(affine.jacobian, path.logit_hessian)
    ascent = dynamics.ascend(num_steps=4)(lambda x: one(logits_fn(x)), x[0], 0.1)
    strength = influence.influence(num_steps=3)(
        lambda x: logits_fn(x)[0], jax.nn.softplus, x[0], 0.1
    )
    return dynamics.closed_form(eigs, x[0], 0.1), ascent, strength


def _memorised(norm, x, y, eps):
    targets = jax.nn.one_hot(y, K)
    f_adv = memorization.classifier(_predict, norm, x, targets, eps)
    return f_adv(x), memorization.separation(norm, x, y, x, y)


def _curved(x, y, eps):
    path = curves.straight(x, 2 * x)
    points = [curve(path, 0.3) for curve in (curves.bezier, curves.polychain)]
    radii = jnp.linspace(0, 1, N)
    crossings = (
        transition.crossing(radii, x[:, 0], eps),
        transition.extrapolate(radii, x[:, 0], eps),
    )
    update = descent.step(lambda theta: theta - x[0], 0.1, prox=descent.lasso(0.1))
    p = inference.p_value(x[0, 0], x[:, 0]), inference.rank_p_value(x[0, 0], x[:, 0])
    return points, crossings, descent.path(x[0], update, num_steps=3), p, y


PROGRAMS = {
    "evaluation": (_evaluated, X, Y, EPS),
    "eigenpairs": (_eigenpairs, X, Y),
    "traces and densities": (_traces, X, Y),
    "dynamics": (_perturbed, X, Y),
    "curves, crossings, descent, p-values": (_curved, X, Y, EPS),
    **{
        f"{what}, {name}": (partial(function, norm), *args)
        for what, function, *args in (
            ("flatness", _flat, X, Y, EPS),
            ("linear models", _linear, THETA, X, SIGNS, EPS),
            ("lazy networks", _lazy, X, SIGNS, EPS),
            ("solvers", _solved, X, SIGNS, EPS),
            ("memorization", _memorised, X, Y, EPS),
        )
        for name, norm in NORMS.items()
        if norm is not norms.l1 or what not in ("lazy networks", "solvers")
    },
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_theory_and_diagnostics(name):
    _lowers(*PROGRAMS[name])
