"""AutoAttack beside its original code, on the same weights, images and radius.

    python -m experiments.benchmarks.autoattack runs/digits/best.safetensors --eps=0.1
    python -m experiments.benchmarks.autoattack FILE --norm=l2 --eps=0.5 --num=500
    python -m experiments.benchmarks.autoattack FILE --masked=rounded --only=ours
    python -m experiments.benchmarks.autoattack FILE --alone

For the last network of a file: robust accuracy after each component of ``standard`` and
of ``strong``, of the original code on the network's twin in torch, and of PGD-50 from
ten starts; points that one side breaks and the other does not; and time, in this
process, with compiling. ``--alone`` lets each component run on all points. Logits of
both sides are compared first, and what the original breaks is counted by our network
at its points. Needs the extra
``benchmarks``, whose ``pyautoattack`` is the original of Croce and Hein 2020 in a
package: of its attacks only imports and whitespace differ.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from pyautoattack import AutoAttack

from advjax import criteria, data, evaluate, losses
from advjax.attacks import ensembles
from advjax.types import Batch, Predict
from experiments import writing
from experiments.benchmarks import torch_networks
from experiments.training import parameters, recipe, testing


class Subject(NamedTuple):
    """One function in two frameworks, and where it is attacked.

    Attributes:
        predict: ours.
        twin: the same in torch.
        images: test images.
        norm: by name.
        eps: radius.
    """

    predict: Predict
    twin: Callable
    images: Batch
    norm: str
    eps: float

    @property
    def labels(self) -> torch.Tensor:
        """The labels, in torch."""
        return torch.from_numpy(np.array(self.images.y, np.int64))


def _rounded(x, floor):
    return floor(16 * x + 0.5) / 16


def _staircase(x, floor):
    """Four smooth and steep steps."""
    t = 4 * x - floor(4 * x)
    return (floor(4 * x) + 1 / (1 + 2.718281828 ** (30 * (0.5 - t)))) / 4


MASKED = {"none": None, "scaled": None, "rounded": _rounded, "staircase": _staircase}
SCALE = 1000.0


def subject(args: argparse.Namespace) -> Subject:
    """What the arguments ask for, after a look that both sides say the same."""
    released = parameters.read(args.file)
    config = recipe.restored(released.about["config"])
    test = recipe.read(config, "test")
    x, y = data.as_float(test.x[: args.num]), np.asarray(test.y[: args.num])
    network = testing.networks(released.params, released.batch_stats)[args.network]
    predict = partial(recipe.network(config).predict, *network)
    mean, sd = _normalisation(config)
    plain = torch_networks.twin(config.model, *network)
    twin = lambda x: plain((x - mean) / sd)  # noqa: E731
    bend = MASKED[args.masked]
    scale = SCALE if args.masked == "scaled" else 1.0
    if bend is not None:
        inner, inner_twin = predict, twin
        predict = lambda x: inner(bend(x, jnp.floor))  # noqa: E731
        twin = lambda x: inner_twin(bend(x, torch.floor))  # noqa: E731
    made = Subject(
        lambda x: scale * predict(x),
        lambda x: scale * twin(x),
        Batch(x, y),
        args.norm,
        args.eps,
    )
    with torch.no_grad():
        theirs = made.twin(torch_networks.images(np.asarray(x))).numpy()
    error = float(np.abs(theirs - made.predict(x)).max())
    print(f"largest difference of logits: {error:.2g}")
    return made


def _normalisation(config):
    from advjax import models

    given = models.NORMALISATION.get(config.dataset, {"mean": 0.0, "std": 1.0})
    return (
        torch.tensor(np.reshape(given[name], (-1, 1, 1)), dtype=torch.float32)
        for name in ("mean", "std")
    )


class Result(NamedTuple):
    """Who was robust after each component, ``{name: [n]}``, and the seconds it took."""

    robust: dict[str, np.ndarray]
    seconds: float
    note: str = ""

    @property
    def last(self) -> np.ndarray:
        """Who was robust in the end."""
        return [*self.robust.values()][-1]


def ours(subject: Subject, make: Callable, seed: int, *, alone: bool) -> Result:
    """An ensemble of ours, compiled anew."""
    jax.clear_caches()
    begin = time.monotonic()
    x, y = subject.images
    num_classes = jax.eval_shape(subject.predict, x[:1]).shape[-1]
    components = make(recipe.NORMS[subject.norm], num_classes=num_classes)
    key, robust = jax.random.key(seed), {}
    if alone:
        for component in components:
            run = ensembles.compiled(subject.predict, [component])
            robust[component.name] = run(key, x, y, subject.eps).robust
        return Result(robust, time.monotonic() - begin)
    run, found = ensembles.compiled(subject.predict, components), None
    for number, component in enumerate(components, 1):
        given = {"start": found, "num_components": number}
        found = run(key, x, y, subject.eps, **given)
        robust[component.name] = found.robust
    seconds = time.monotonic() - begin
    note = "; ".join((f"{run.num_programs} programs", *found.caveats()))
    return Result(robust, seconds, note)


THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def original(subject: Subject, seed: int, *, alone: bool) -> Result:
    """The original code; what it breaks is what our network calls wrong."""
    begin = time.monotonic()
    norm = THEIRS[subject.norm]
    adversary = AutoAttack(subject.twin, norm=norm, eps=subject.eps, seed=seed)
    x, y = torch_networks.images(np.asarray(subject.images.x)), subject.labels
    correct = np.asarray(criteria.correct(subject.predict(subject.images.x), y.numpy()))
    predict, robust, left = jax.jit(subject.predict), {}, correct
    for name in [*adversary.attacks_to_run]:
        rows = np.flatnonzero(correct if alone else left)
        adversary.attacks_to_run = [name]
        found, _ = adversary.run_standard_evaluation(x[rows], y[rows], batch_size=500)
        at = np.zeros(subject.images.x.shape, np.float32)
        at[rows] = np.transpose(np.asarray(found), (0, 2, 3, 1))
        left = np.zeros_like(correct)
        left[rows] = np.asarray(criteria.correct(predict(at), y.numpy()))[rows]
        robust[name] = left
    return Result(robust, time.monotonic() - begin)


def pgd(subject: Subject, seed: int) -> Result:
    """PGD-50 from ten starts, as ``advjax evaluate`` runs it by default."""
    begin = time.monotonic()
    attack = recipe.pgd(subject.norm, 50, 1 / 30, "in_ball")

    @jax.jit
    def one(key, x, y):
        given = (subject.predict, losses.cross_entropy, attack, x, y, subject.eps)
        return evaluate.outcome(key, *given)

    keys = jax.random.split(jax.random.key(seed), 10)
    size = min(len(subject.images.y), 100)
    outcomes = [
        evaluate.in_batches(one, key, *subject.images, batch_size=size) for key in keys
    ]
    robust = np.asarray(evaluate.worst_case(*outcomes).robust)
    return Result({"PGD-50 × 10": robust}, time.monotonic() - begin)


def contestants(args: argparse.Namespace) -> dict[str, Callable[..., Result]]:
    """``{name: (subject, seed) -> result}``."""
    run = partial(partial, alone=args.alone)
    found = {
        "standard": run(ours, make=ensembles.standard),
        "strong": run(ours, make=ensembles.strong),
        "original": run(original),
        "PGD": pgd,
    }
    if args.alone:
        return {name: found[name] for name in ("standard", "original")}
    kept = {"all": [*found], "ours": ["standard", "strong", "PGD"]}
    return {name: found[name] for name in kept[args.only]}


def rows(
    args: argparse.Namespace, subject: Subject
) -> Iterator[tuple[list[str], dict[str, Result]]]:
    """A row for each seed and side, and what each side found."""
    for seed in range(args.seeds):
        results = {}
        for name, run in contestants(args).items():
            result = results[name] = run(subject, seed=seed)
            after = (
                f"{part} {100 * robust.mean():.2f}"
                for part, robust in result.robust.items()
            )
            time_taken = f"{result.seconds:.1f} s"
            yield [name, str(seed), ", ".join(after), time_taken, result.note], results


def main() -> None:
    """Prints a table, and who breaks what the others do not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--network", type=int, default=-1)
    parser.add_argument("--norm", choices=THEIRS, default="linf")
    parser.add_argument("--eps", type=float, required=True)
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--masked", choices=MASKED, default="none")
    parser.add_argument("--only", choices=("all", "ours"), default="all")
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()
    made, table = subject(args), []
    results: dict[str, Result] = {}
    for row, results in rows(args, made):  # noqa: B007, of the last seed below
        print(*row, flush=True)
        table.append(row)
    print(writing.table(["", "seed", "robust accuracy, %", "time", ""], table))
    if not args.alone:
        for one, other in [(a, b) for a in results for b in results if a != b]:
            number = (results[other].last & ~results[one].last).sum()
            print(f"of the last seed, broken by {one} and not by {other}: {number}")
    else:
        for part, robust in results["standard"].robust.items():
            differ = (robust != results["original"].robust[part]).sum()
            print(f"{part}: {differ} points of the last seed differ")
    n, threads = len(made.images.y), torch.get_num_threads()
    versions = f"jax {jax.__version__}, torch {torch.__version__}, {threads} threads"
    print(f"{n} images, {args.norm} {args.eps:g}; {versions}")


if __name__ == "__main__":
    main()
