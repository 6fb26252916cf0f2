"""Adversarial training in JAX: attacks, objectives, theory and diagnostics.

Everything is a pure function of arrays. Modules are imported by name, as in
``from advjax import attacks, norms``; importing the package alone imports nothing.

| module | what it has |
| --- | --- |
| `types` | the contracts on one page; read this first |
| `norms` | the l1, l2 and linf balls, for one example |
| `losses` | per-example losses |
| `criteria` | which outputs are right, and what an attack is after |
| `attacks` | fgsm, pgd, apgd, fab, square, best_of, smooth; AutoAttack |
| `flags` | reasons to distrust what an attack found |
| `programs` | operations of a model that hide its gradients |
| `convolutions` | convolutions as XLA runs them fast on CPU |
| `regions` | balls and boxes: where an attack may go |
| `arguments` | checks of what a caller passes |
| `objectives` | what training minimises: clean, adversarial, TRADES, MART, GradAlign |
| `penalties` | which parameters a penalty takes, and LASSO with exact zeros |
| `linear` | linear regression under attack: closed forms, risks, the optimum |
| `lazy` | two-layer networks with a fixed output layer, and the linear limit |
| `descent` | full-batch gradient and proximal descent, and what to keep of its path |
| `solvers` | minimisers of the empirical problems, with a certified gap |
| `replicates` | one function over any number of replicates, in chunks, on all devices |
| `models` | networks, and adapters for networks written elsewhere |
| `data` | Gaussian designs and small real data sets |
| `augmentation` | crops, flips and rotations of a batch of images |
| `train` | the state, the step, and two ways of dispatching steps |
| `fit` | a whole training run, with validation, the best and the last network |
| `weights` | a model with its parameters, and safe files of them |
| `pytorch` | weights of PyTorch's networks, and back |
| `free` | free adversarial training: one gradient for weights and inputs |
| `evaluate` | clean and robust accuracy and loss, with intervals |
| `curves` | curves of low loss between two networks, and their plane |
| `hessians` | products with Hessians, of one input or over a data set |
| `spectrum` | eigenpairs, traces and densities of matrices, from their products |
| `dynamics` | ascent without normalisation, its closed form, fixed gates |
| `flatness` | the largest gradient and rise of a loss around an example |
| `margins` | distances to the decision boundary, and who is close to it |
| `memorization` | the classifier that memorises, its learner, parameter counts |
| `influence` | what training on attacked inputs adds to the change of the weights |
| `transition` | eps*: where the adversarial training loss crosses a threshold |
| `critical` | eps* of one's own network with an interval: where to train next |
| `inference` | p-values against replicates |
"""
