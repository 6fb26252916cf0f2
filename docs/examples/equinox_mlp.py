"""An Equinox MLP: eps*, the radius where adversarial training stops being like clean training."""

import equinox as eqx
import jax
import optax
from advjax import attacks, critical, data, fit, losses, models, norms, objectives


class Net(eqx.Module):
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(64, 10, 32, depth=1, key=key)

    def __call__(self, x):
        return self.mlp(x.reshape(-1))


train, test = (data.load("digits", split=split) for split in ("train", "test"))
model = models.from_equinox(lambda key: Net(key))
attack = attacks.pgd(norms.linf, num_steps=5, rel_step_size=0.3, bounds=(0.0, 1.0))
objective = objectives.adversarial(model, losses.cross_entropy, attack)
validation = fit.Validation(test, attack)
keys, settings = jax.random.split(jax.random.key(0), 5), {"num_epochs": 40, "batch_size": 100}
trained = critical.by_fit(model, objective, optax.adam(0.01), train, validation, **settings)
found = critical.radius(trained, keys, highest=0.1, width=0.04)
for rule, interval in found.by_rule.items():
    print(rule, "epoch: eps* = {:.4f} [{:.4f}, {:.4f}]".format(*interval))
print(found.num_trained, "networks of", found.num_seeds, "seeds;", found.caveats)
