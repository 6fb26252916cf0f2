"""A trained classifier of scikit-learn, attacked as a plain function of its inputs."""

import jax
import numpy as np
from advjax import data, evaluate, norms, programs
from advjax.attacks import ensembles
from sklearn.linear_model import LogisticRegression

train, test = (data.load("digits", split=split) for split in ("train", "test"))
fitted = LogisticRegression(max_iter=1000).fit(train.x.reshape(-1, 64), train.y)
w, b = np.float32(fitted.coef_.T), np.float32(fitted.intercept_)
predict = lambda x: x.reshape(len(x), -1) @ w + b[None]

eps, key = 0.1, jax.random.key(0)
autoattack = ensembles.compiled(predict, ensembles.standard(norms.linf, num_classes=10))
found = autoattack(key, test.x, test.y, eps)
for name, is_right in (("clean", found.correct), ("robust", found.robust)):
    accuracy = evaluate.wilson(is_right.sum(), len(test.y))
    print(name, "accuracy: {:.3f} [{:.3f}, {:.3f}]".format(*accuracy))
print("reasons to distrust it:", found.caveats() + programs.caveats(predict, test.x))
