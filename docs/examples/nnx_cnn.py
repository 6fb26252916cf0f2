"""An NNX CNN: TRADES, the curvature of its loss, and how flat it is around images."""

import jax
import optax
from advjax import attacks, data, fit, flatness, losses, models, norms, objectives, spectrum
from advjax.hessians import dataset_hvp
from flax import nnx


def make(rngs):
    conv = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
    dense = nnx.Linear(128, 10, rngs=rngs)
    return nnx.Sequential(conv, nnx.relu, lambda x: x.reshape(len(x), -1), dense)


train, key, linf = data.load("digits", split="train"), jax.random.key(0), norms.linf
model, settings = models.from_nnx(make), {"num_epochs": 10, "batch_size": 100}
attack = attacks.pgd(linf, num_steps=5, rel_step_size=0.3, start=attacks.gaussian(1e-3))
objective = objectives.trades(model, attack, beta=6.0)
net = fit.run(key, model, objective, optax.adam(3e-3), train, 0.1, **settings).last
stats = net.batch_stats  # of batch normalisation; empty here
hvp = dataset_hvp(lambda w, x, y: losses.cross_entropy(model.predict(w, stats, x), y), *train)
top = spectrum.top_eigs(num_matvecs=20, num_eigs=3)(key, hvp(net.params), net.params)
print("largest eigenvalues:", top.values.round(3), "residuals at most", top.residuals.max())
slope = flatness.gradient_norm(lambda x, y: losses.cross_entropy(net.predict(x), y), linf)
climb = flatness.largest(linf, num_steps=10, rel_step_size=0.25)
steepest = jax.jit(lambda key, *at: climb(key, slope, *at))
peaks = flatness.profile(steepest, key, *train, (0.0, 0.05, 0.1))
print("largest gradients within 0, 0.05 and 0.1:", peaks.value.mean(axis=1).round(3))
