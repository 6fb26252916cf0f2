"""The memorising classifier on images: Proposition 3.2, Theorem 3.3, Corollary 3.4.

On top of each clean network, f_adv memorises the training images that an attack finds
to have a small margin. Checked are what the construction needs, that no two balls of
different classes meet; what it promises, robust training error 0 and the clean test
error of the clean network, with a large robust test error; and that its ReLU network
agrees with it off the shells where soft indicators fall. Parameters are counted, and
compared over d and N with those of a clean and of a robust classifier.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import attacks, criteria, losses, margins, memorization, models, norms
from advjax.models import memorizing
from advjax.types import Batch
from experiments import checks, figures
from experiments.memorization import networks
from experiments.memorization.networks import Networks
from experiments.training import recipe
from experiments.workdir import Workdir

PERCENT = {
    "small margins, μ": "memorised training images",
    "clean training error": "f_clean",
    "robust training error, points memorised for": "0 by construction where R > 2δ",
    "robust training error, f_adv": "attacks and points not used to build it",
    "missed by the first attack": "found by the stronger attack alone",
    "clean test error, f_clean": "",
    "clean test error, f_adv": "",
    "robust test error, f_clean": "PGD on f_clean",
    "robust test error, f_adv": "PGD on f_clean",
}
RELU_PERCENT = {
    "robust training error": "points not used to build it",
    "robust training error, PGD on it": "first images memorised",
    "clean test error": "first test images",
    "robust test error": "PGD on f_clean, first test images",
    "robust test error, PGD on it": "first test images",
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    counts = ("split_steps", "strong_steps", "num_restarts", "batch_size", "num_random")
    counts += ("num_test", "num_compared", "num_attacked")
    checks.integers(config, *counts)
    checks.single(config, *counts, "shell", "error")
    checks.numbers(config, "shell", above=1)
    checks.numbers(config, "error", above=0)
    checks.seed(config)
    networks.read(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Builds f_adv and its ReLU network on every clean network, and reports."""
    family = networks.read(config)
    rows = [
        workdir.stage(f"seed-{i}", _of_network, config, family, network)
        for i, network in enumerate(family.of("standard"))
    ]
    found = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    counts = _counts(family, found)
    _figure(counts, workdir)
    return _report(config, family, found, counts, workdir)


# --- f_adv on one network ---


def _of_network(config: ConfigDict, family: Networks, network) -> dict[str, Any]:
    """Errors in %, distances and the errors of the ReLU network, ``[]`` each."""
    model = recipe.network(family.config, dtype=jnp.float32)
    predict = jax.jit(partial(model.predict, *network))
    train = family.images("train", config.num_images, config.subset_seed)
    test = family.images("test", config.num_test, config.subset_seed)
    attacked = partial(_attacked, config, predict, family.eps)
    weak = attacked(train, config.split_steps, "margin", 0)
    strong = attacked(train, config.strong_steps, "loss", 1)
    own = [train.x, weak, strong]
    broken = [_wrong(config, predict, x, train.y) for x in own]
    small = _small(train, np.any(broken, axis=0))
    f_adv = _classifier(predict, small, family.eps)
    new = [
        attacked(train, config.strong_steps, "margin", 2),
        *_random(config, family.eps, train),
    ]
    on_test = attacked(test, config.strong_steps, "margin", 3)
    shares = (
        len(small.y) / len(train.y),
        broken[0].mean(),
        np.any([_wrong(config, f_adv, x, train.y) for x in own], axis=0).mean(),
        np.any([_wrong(config, f_adv, x, train.y) for x in new], axis=0).mean(),
        (broken[2] & ~broken[1] & ~broken[0]).mean(),
        *(_wrong(config, f, test.x, test.y).mean() for f in (predict, f_adv)),
        *(_wrong(config, f, on_test, test.y).mean() for f in (predict, f_adv)),
    )
    shells = _on_shells(config, family.eps, small)
    points = [*own, *new, test.x, on_test, shells]
    memory = _Memory(config, family, network, small, f_adv)
    return {
        "percent": _percent(PERCENT, shares),
        "num_small": np.array(len(small.y)),
        "num_inputs": np.array(train.x[0].size),
        **_separations(train, test, small),
        **memory.compared(points),
        "relu": memory.errors(train, new, test, on_test),
    }


def _percent(names, shares) -> dict[str, np.ndarray]:
    return {name: 100 * np.array(v) for name, v in zip(names, shares, strict=True)}


def _attacked(
    config, predict, eps, part: Batch, num_steps, kind: str, seed: int, unroll=None
) -> np.ndarray:
    """The images under PGD with restarts on the margin or the cross-entropy."""
    loss = {"margin": losses.margin, "loss": losses.cross_entropy}[kind]
    attack = attacks.best_of(
        attacks.pgd(
            norms.linf,
            num_steps=num_steps,
            rel_step_size=2.5 / num_steps,
            start=attacks.in_ball(norms.linf),
            bounds=(0.0, 1.0),
            keep_best=True,
            unroll=unroll,
        ),
        num_restarts=config.num_restarts,
    )
    goal = criteria.Goal(predict, loss)

    @jax.jit
    def one(key, x, y):
        return attack(key, goal, x, y, eps)[0]

    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    keys = jax.random.split(key, len(part.y))
    return _in_batches(config, one, keys, part.x, part.y)


def _in_batches(config: ConfigDict, function, *arrays) -> np.ndarray:
    parts = [
        jax.device_get(function(*(a[i : i + config.batch_size] for a in arrays)))
        for i in range(0, len(arrays[0]), config.batch_size)
    ]
    return np.concatenate(parts)


def _wrong(config, predict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``[n]``; by the margin, so that ties are wrong."""
    margin = jax.jit(margins.logit_margin(predict))
    return _in_batches(config, margin, x, y) <= 0


def _small(train: Batch, is_small: np.ndarray) -> Batch:
    return Batch(train.x[is_small], train.y[is_small])


def _classifier(predict, memory: Batch, eps: float):
    targets = jax.nn.one_hot(memory.y, predict(memory.x[:1]).shape[1])
    return memorization.classifier(
        predict, norms.linf, jnp.asarray(memory.x), targets, eps
    )


def _random(config: ConfigDict, eps: float, train: Batch) -> list[np.ndarray]:
    """Points uniform in the balls, within the cube of images."""
    rng = np.random.default_rng(config.seed)
    noise = [rng.uniform(-eps, eps, train.x.shape) for _ in range(config.num_random)]
    return [np.clip(train.x + each.astype(np.float32), 0, 1) for each in noise]


def _on_shells(config: ConfigDict, eps: float, small: Batch) -> np.ndarray:
    """Points amid the shells, but where the cube of images is in the way."""
    rng = np.random.default_rng(config.seed)
    signs = rng.choice(np.float32([-1, 1]), small.x.shape)
    return np.clip(small.x + (1 + config.shell) / 2 * eps * signs, 0, 1)


def _separations(train: Batch, test: Batch, small: Batch) -> dict[str, np.ndarray]:
    """The least distance R of memorised images to training images of other classes."""
    nearest = jax.jit(partial(memorization.separation, norms.linf))
    between = jax.jit(partial(memorization.distances, norms.linf))
    to_test = between(jnp.asarray(test.x), jnp.asarray(small.x)).min(axis=1)
    return {
        "separation": np.asarray(nearest(train.x, train.y, small.x, small.y)).min(),
        "nearest test image": np.asarray(to_test).min(),
    }


# --- its ReLU network ---


class _Memory:
    """The ReLU network of one f_adv: differences, errors and parameters."""

    def __init__(self, config, family: Networks, network, small: Batch, f_adv):
        self._config, self._eps, self._small = config, family.eps, small
        self._family, self._network, self._f_adv = family, network, f_adv
        self._centres = jnp.asarray(small.x)
        self._num_classes = recipe.DATASETS[family.config.dataset]
        plain = recipe.network(family.config, dtype=jnp.float32)
        self._clean = jax.jit(partial(plain.predict, *network))

    def _relu(self, bound: float, num_levels: int | None):
        params, stats = self._network
        module = models.Memorizing(
            recipe.module(self._family.config, dtype=jnp.float32),
            *(len(self._small.y), self._num_classes, self._eps),
            *(self._config.shell * self._eps, bound, num_levels),
        )
        targets = jax.nn.one_hot(self._small.y, self._num_classes)
        own = memorizing.params(params, self._centres, targets)
        stats = {"batch_stats": {"clean": stats}} if stats else {}
        return partial(module.apply, {"params": own, **stats})

    def _bound(self, points: list[np.ndarray]) -> float:
        """A power of two that logits at these points stay below."""
        logits = (np.abs(_in_batches(self._config, self._clean, x)) for x in points)
        return float(2 ** np.ceil(np.log2(max(each.max() for each in logits))))

    def compared(self, points: list[np.ndarray]) -> dict[str, Any]:
        """Largest differences to f_adv, off the shells and on them, and parameters."""
        config, eps = self._config, self._eps
        points = [x[: config.num_compared] for x in points]
        bound = self._bound(points)
        num_clean = sum(leaf.size for leaf in jax.tree.leaves(self._network[0]))
        num_levels = memorizing.levels(bound, config.error)
        found = {
            "bound": np.array(bound),
            "levels": np.array(num_levels),
            "clean parameters": np.array(num_clean),
        }

        @jax.jit
        def on_shell(x):
            least = memorization.distances(norms.linf, x, self._centres).min(axis=1)
            is_out = least > memorization.reach(norms.linf, x, eps)
            return is_out & (least < config.shell * eps)

        is_on = np.concatenate([_in_batches(config, on_shell, x) for x in points])
        for name, levels in (("products", num_levels), ("gates", None)):
            relu = self._relu(bound, levels)
            apart = jax.jit(
                lambda x, relu=relu: jnp.abs(relu(x) - self._f_adv(x)).max(axis=1)
            )
            differences = np.concatenate(
                [_in_batches(config, apart, x) for x in points]
            )
            found[name] = {
                "error off shells": differences[~is_on].max(initial=0),
                "error on shells": differences[is_on].max(initial=0),
                "points off shells": np.array((~is_on).sum()),
                "points on shells": np.array(is_on.sum()),
                "parameters": np.array(
                    memorization.num_memorizing(
                        num_inputs=self._small.x[0].size,
                        num_centres=len(self._small.y),
                        num_outputs=self._num_classes,
                        num_levels=levels,
                        clean=num_clean,
                    )
                ),
            }
        return found

    def errors(self, train: Batch, new, test: Batch, on_test) -> dict[str, np.ndarray]:
        """Corollary 3.4: errors of the ReLU network itself, with exact gates."""
        config, few = self._config, slice(self._config.num_compared)
        bound = self._bound([x[few] for x in (*new, test.x, on_test)])
        relu = jax.jit(self._relu(bound, None))
        first = slice(config.num_attacked)
        memorised = Batch(self._small.x[first], self._small.y[first])
        tested = Batch(test.x[first], test.y[first])
        own = [
            _attacked(config, relu, self._eps, part, config.split_steps, "margin", 4, 1)
            for part in (memorised, tested)
        ]

        def wrong(x, y):
            return _wrong(config, relu, x, y)

        shares = (
            np.any([wrong(x[few], train.y[few]) for x in new], axis=0).mean(),
            wrong(own[0], memorised.y).mean(),
            wrong(test.x[few], test.y[few]).mean(),
            wrong(on_test[few], test.y[few]).mean(),
            wrong(own[1], tested.y).mean(),
        )
        return _percent(RELU_PERCENT, shares)


# --- parameters over d and N ---


_DEPTH = 50  # more than the layers of the memorising network, 2 log2 d + s + 5


def _counts(family: Networks, found: dict) -> dict[str, Any]:
    """log10 of parameters of the three kinds of classifier, over N and over d.

    The clean classifier is a network of width d and two hidden layers; the share of
    small margins is the one measured.
    """
    share = found["percent"]["small margins, μ"].mean() / 100
    levels, k = int(found["levels"].max()), recipe.DATASETS[family.config.dataset]
    d0, n0 = found["num_inputs"][0], family.images("train").y.size
    grids = {"N": 10.0 ** np.arange(2, 9), "d": 2 ** np.arange(3, 13)}
    counts = {}
    for over, grid in grids.items():
        rows = []
        for value in grid:
            n, d = (value, d0) if over == "N" else (n0, value)
            clean = memorization.num_clean((int(d), int(d), int(d), k))
            own = memorization.num_memorizing(
                num_inputs=int(d),
                num_centres=max(1, round(share * n)),
                num_outputs=k,
                num_levels=levels,
                clean=clean,
            )
            robust = memorization.robust_log10(int(d), family.eps, depth=_DEPTH)
            rows.append((np.log10(clean), np.log10(own), robust))
        counts[over] = {"grid": grid, "log10": np.array(rows)}
    return counts


def _figure(counts: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(2)
    kinds = ("clean", "memorising", "robust, at least")
    for axis, (over, found) in zip(axes, counts.items(), strict=True):
        rows = zip(kinds, found["log10"].T, figures.colors(3), strict=True)
        for label, values, color in rows:
            axis.plot(found["grid"], values, color=color, marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel=over)
        axis.set_ylabel("log₁₀ of the number of parameters")
    axes[0].legend()
    workdir.save_figure(figure, "parameters")


_SIZES = ("num_small", "levels", "clean parameters")
_SIDES = ("off", "on")


def _report(
    config: ConfigDict, family: Networks, found: dict, counts: dict, workdir: Workdir
) -> dict[str, Any]:
    percent = found["percent"]
    rows = [
        [name, figures.plus_minus(percent[name], 2), how]
        for name, how in PERCENT.items()
    ]
    k, d = recipe.DATASETS[family.config.dataset], int(found["num_inputs"][0])
    sizes = np.stack([found[name] for name in _SIZES], axis=1).tolist()
    bounds = [14 * m * d + 27 * k * s + 5 * s + clean for m, s, clean in sizes]
    relu = [
        [
            name,
            *(f"{found[name][f'error {side} shells'].max():.1e}" for side in _SIDES),
            *(f"{found[name][f'points {side} shells'].sum()}" for side in _SIDES),
            " / ".join(f"{count:,}" for count in found[name]["parameters"]),
        ]
        for name in ("products", "gates")
    ]
    relu_rows = [
        [name, figures.plus_minus(found["relu"][name], 2), how]
        for name, how in RELU_PERCENT.items()
    ]
    header = ["multiplication by", *(f"error {side} shells" for side in _SIDES)]
    header += [*(f"points {side} shells" for side in _SIDES), "parameters"]
    off = found["products"]["error off shells"].max()
    small, of_adv, clean, of_clean, robust = (
        figures.plus_minus(percent[name], 2)
        for name in (
            "small margins, μ",
            "robust training error, f_adv",
            "clean test error, f_adv",
            "clean test error, f_clean",
            "robust test error, f_adv",
        )
    )
    network = (
        f"f_adv on {family.config.model}, {family.config.dataset}, δ = {family.eps:g}"
    )
    numbers = f"robust training error {of_adv} %, clean test error {clean} % (f_clean "
    numbers += f"{of_clean} %), robust test error {robust} %"
    condition = _condition(config, family.eps, found["separation"].min())
    lines = [
        f"{network}, μ = {small} %: {numbers}",
        f"its ReLU network is within {off:.1e} off the shells; {condition}",
    ]
    workdir.write_text(
        "report.md",
        f"## The memorising classifier: clean {family.config.model} on "
        f"{family.config.dataset}, δ = {family.eps:.4g}\n\n"
        f"{config.num_images} training and {config.num_test} test images, in %, mean ± "
        f"sd over {len(bounds)} networks. Memorised is what is misclassified, or broken"
        f" by PGD-{config.split_steps} on the margin or PGD-{config.strong_steps} on "
        f"the cross-entropy, {config.num_restarts} starts each. Not used to build it: "
        f"PGD-{config.strong_steps} on the margin from other starts, and "
        f"{config.num_random} random points a ball.\n\n"
        + figures.table(["", "%", "by"], rows)
        + f"\nMemorised: {', '.join(map(str, found['num_small']))} images. With R the "
        f"least distance to a training image of another class: {condition}. Least "
        f"distance to a test image {found['nearest test image'].min():.4f}.\n\n"
        "### Its ReLU network\n\n"
        f"Indicators fall from δ to {config.shell:g} δ; logits stay below "
        f"{found['bound'].max():g} at all points here, {found['levels'].max()} levels "
        f"for an error of {config.error:g}. Largest difference of a logit over "
        f"{config.num_compared} images of each kind: training images, attacked, and "
        "random, test images, clean and attacked, and points amid the shells. "
        "Parameters of the clean network are those that it shares, its pooling has "
        "none. Bound of Theorem 3.3, 14 m d + 27 k s + 5 s + clean: "
        f"{' / '.join(f'{b:,}' for b in bounds)}.\n\n"
        + figures.table(header, relu)
        + f"\nCorollary 3.4, of {config.num_compared} images, or {config.num_attacked} "
        f"where PGD-{config.split_steps} attacks the ReLU network itself, in %:\n\n"
        + figures.table(["", "%", "of"], relu_rows)
        + "\n### Parameters\n\n![parameters over N and d](parameters.png)\n\n"
        "Clean: width d, two hidden layers. Memorising: with the measured μ. Robust, "
        f"for {_DEPTH} layers and robust error 0: points {2 * family.eps:.3g} apart "
        f"(`memorization.robust_log10`).\n\nNetworks: {family.origin}.\n",
    )
    return {"summary": lines, "found": found, "bounds": bounds, "counts": counts}


def _condition(config: ConfigDict, eps: float, separation: float) -> str:
    """What f_adv and its ReLU network need, as it is."""
    needed = {"2δ": 2 * eps, f"{1 + config.shell:g}δ": (1 + config.shell) * eps}
    said = [
        f"{'above' if separation > size else 'NOT above'} {name} = {size:.3f}"
        for name, size in needed.items()
    ]
    return f"R = {separation:.3f} is {said[0]} (f_adv) and {said[1]} (ReLU network)"
