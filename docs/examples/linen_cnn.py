"""A linen CNN: adversarial training, robust accuracy by AutoAttack, and a file."""

import flax.linen as nn
import jax
import optax
from advjax import attacks, data, evaluate, fit, losses, models, norms, objectives, weights
from advjax.attacks import ensembles


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


train, test = (data.load("digits", split=split) for split in ("train", "test"))
train, held = data.split(train, 237, seed=0)
key, linf, eps, model = jax.random.key(0), norms.linf, 0.1, models.from_linen(Net())
attack = attacks.pgd(linf, num_steps=5, rel_step_size=0.3, bounds=(0.0, 1.0))
objective = objectives.adversarial(model, losses.cross_entropy, attack)
settings = {"num_epochs": 20, "batch_size": 100, "validation": fit.Validation(held, attack)}
fitted = fit.run(key, model, objective, optax.adam(3e-3), train, eps, **settings)
autoattack = ensembles.standard(linf, num_classes=10)
found = ensembles.compiled(fitted.best.predict, autoattack)(key, test.x, test.y, eps)
accuracy = evaluate.wilson(found.robust.sum(), len(test.y))
print("robust accuracy: {:.3f} [{:.3f}, {:.3f}]".format(*accuracy))
print("reasons to distrust it:", fitted.caveats + found.caveats())
weights.save("net.safetensors", fitted.best, about={"eps": eps}, overwrite=True)
