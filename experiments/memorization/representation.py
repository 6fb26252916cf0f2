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

from advjax import attacks, losses, margins, memorization, models, norms
from advjax.types import Batch
from experiments import checks, figures
from experiments.memorization import networks
from experiments.memorization.networks import Networks
from experiments.training import recipe
from experiments.workdir import Workdir

PERCENT = {
    "share of small margins, μ": "training images",
    "clean training error": "f_clean",
    "robust training error, f_clean": "the attack of the split",
    "robust training error, f_adv": "both attacks, and random points",
    "robust training error, stronger attack": "of f_adv, before what it finds is added",
    "clean test error, f_clean": "test images",
    "clean test error, f_adv": "test images",
    "robust test error, f_clean": "PGD on f_clean",
    "robust test error, f_adv": "PGD on f_clean",
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    counts = ("split_steps", "strong_steps", "num_restarts", "batch_size")
    checks.integers(config, *counts, "num_random")
    checks.single(config, *counts, "num_random", "shell", "error")
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
    predict = jax.jit(lambda x: model.apply(*network, x, train=False)[0])
    train = family.images("train", config.num_images, config.subset_seed)
    test = family.images("test", config.num_test, config.subset_seed)
    attacked = partial(_attacked, config, predict, family.eps)
    weak = attacked(train, config.split_steps, "margin", 0)
    strong = attacked(train, config.strong_steps, "loss", 1)
    wrong = {"split": _wrong(config, predict, weak, train.y)}
    wrong["strong"] = _wrong(config, predict, strong, train.y)
    first = _small(train, wrong["split"])
    small = _small(train, wrong["split"] | wrong["strong"])
    f_first, f_adv = (
        _classifier(predict, memory, family.eps) for memory in (first, small)
    )
    clean_wrong = _wrong(config, predict, train.x, train.y)
    again = attacked(train, config.strong_steps, "margin", 2)
    points = [weak, strong, again, *_random(config, family.eps, train)]
    of_adv = [_wrong(config, f_adv, x, train.y) for x in points]
    on_test = attacked(test, config.strong_steps, "margin", 3)
    shares = (
        len(first.y) / len(train.y),
        clean_wrong.mean(),
        wrong["split"].mean(),
        np.any(of_adv, axis=0).mean(),
        _wrong(config, f_first, strong, train.y).mean(),
        _wrong(config, predict, test.x, test.y).mean(),
        _wrong(config, f_adv, test.x, test.y).mean(),
        _wrong(config, predict, on_test, test.y).mean(),
        _wrong(config, f_adv, on_test, test.y).mean(),
    )
    percent = {name: 100 * v for name, v in zip(PERCENT, shares, strict=True)}
    separation = _separations(train, test, small)
    points += [test.x, on_test, _on_shells(config, family.eps, small)]
    relu = _relu_network(config, family, network, small, f_adv, points)
    return {
        "percent": percent,
        "num_small": np.array(len(small.y)),
        "num_inputs": np.array(train.x[0].size),
        **separation,
        **relu,
    }


def _attacked(config, predict, eps, part: Batch, num_steps: int, kind: str, seed: int):
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
        ),
        config.num_restarts,
    )

    @jax.jit
    def one(key, x, y):
        return attack(key, lambda x, y: loss(predict(x), y), x, y, eps)[0]

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
    score = jax.jit(margins.score(predict))
    return _in_batches(config, score, x, y) <= 0


def _small(train: Batch, is_small: np.ndarray) -> Batch:
    return Batch(train.x[is_small], train.y[is_small])


def _classifier(predict, memory: Batch, eps: float):
    targets = jax.nn.one_hot(memory.y, predict(memory.x[:1]).shape[1])
    return memorization.classifier(
        predict, jnp.asarray(memory.x), targets, eps, norms.linf
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
    nearest = jax.jit(partial(memorization.separation, norm=norms.linf))
    between = jax.jit(partial(memorization.distances, norm=norms.linf))
    to_test = between(jnp.asarray(test.x), jnp.asarray(small.x)).min(axis=1)
    return {
        "separation": np.asarray(nearest(train.x, train.y, small.x, small.y)).min(),
        "nearest test image": np.asarray(to_test).min(),
    }


# --- its ReLU network ---


def _relu_network(config, family: Networks, network, small: Batch, f_adv, points):
    """Largest differences to f_adv, off the shells and on them, and parameters."""
    eps, num_classes = family.eps, recipe.DATASETS[family.config.dataset]
    plain = recipe.network(family.config, dtype=jnp.float32)
    predict = jax.jit(lambda x: plain.apply(*network, x, train=False)[0])
    logits = [_in_batches(config, predict, x) for x in points]
    bound = float(2 ** np.ceil(np.log2(max(np.abs(each).max() for each in logits))))
    num_clean = sum(leaf.size for leaf in jax.tree.leaves(network[0]))
    num_levels = models.levels(bound, config.error)
    targets = jax.nn.one_hot(small.y, num_classes)
    params = models.memorizing_params(network[0], jnp.asarray(small.x), targets)
    distances = jax.jit(
        lambda x: memorization.distances(x, jnp.asarray(small.x), norms.linf).min(
            axis=1
        )
    )
    stats = {"batch_stats": {"clean": network[1]}} if network[1] else {}
    found = {"bound": np.array(bound), "levels": np.array(num_levels)}
    for name, levels in (("products", num_levels), ("gates", None)):
        module = models.Memorizing(
            recipe.module(family.config, dtype=jnp.float32),
            *(len(small.y), num_classes, eps, config.shell * eps, bound, levels),
        )
        relu = partial(module.apply, {"params": params, **stats})
        apart = jax.jit(lambda x, relu=relu: jnp.abs(relu(x) - f_adv(x)).max(axis=1))
        off, on, num_off, num_on = 0.0, 0.0, 0, 0
        for x in points:
            x = x[: config.num_compared]
            least = _in_batches(config, distances, x)
            difference = _in_batches(config, apart, x)
            # f_adv counts points on the surface, up to rounding, as inside.
            is_on = (least > eps * (1 + 1e-5)) & (least < config.shell * eps)
            off = max(off, difference[~is_on].max(initial=0))
            on = max(on, difference[is_on].max(initial=0))
            num_off, num_on = num_off + (~is_on).sum(), num_on + is_on.sum()
        found[name] = {
            "error off shells": np.array(off),
            "error on shells": np.array(on),
            "points off shells": np.array(num_off),
            "points on shells": np.array(num_on),
            "parameters": np.array(
                memorization.num_memorizing(
                    small.x[0].size, len(small.y), num_classes, levels, num_clean
                )
            ),
        }
    found["clean parameters"] = np.array(num_clean)
    return found


# --- parameters over d and N ---


def _counts(family: Networks, found: dict) -> dict[str, Any]:
    """log10 of parameters of the three kinds of classifier, over N and over d.

    The clean classifier is a network of width d and two hidden layers; the share of
    small margins is the one measured.
    """
    share = found["percent"]["share of small margins, μ"].mean() / 100
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
                int(d), max(1, round(share * n)), k, levels, clean
            )
            robust = memorization.robust_log10(int(d), family.eps, depth=4)
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


def bound(m: int, d: int, k: int, s: int, clean: int) -> int:
    """What the number of parameters is at most: Õ(m d + log(B/ε)) + clean."""
    return 14 * m * d + 28 * k * s + 5 * s + clean


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
    bounds = [bound(m, d, k, s, clean) for m, s, clean in sizes]
    relu = [
        [
            name,
            *(f"{found[name][f'error {side} shells'].max():.1e}" for side in _SIDES),
            *(f"{found[name][f'points {side} shells'].sum()}" for side in _SIDES),
            " / ".join(f"{count:,}" for count in found[name]["parameters"]),
        ]
        for name in ("products", "gates")
    ]
    header = ["multiplication by", *(f"error {side} shells" for side in _SIDES)]
    header += [*(f"points {side} shells" for side in _SIDES), "parameters"]
    safe = found["separation"].min()
    off = found["products"]["error off shells"].max()
    most = (found["products"]["parameters"] / np.array(bounds)).max()
    small, of_adv, clean, of_clean, robust = (
        figures.plus_minus(percent[name], 2)
        for name in (
            "share of small margins, μ",
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
    relu_line = f"within {off:.1e} off the shells, {most:.2f} of the bound's parameters"
    lines = [
        f"{network}, μ = {small} %: {numbers}",
        f"its ReLU network: {relu_line}; R = {safe:.3f}, 2δ = {2 * family.eps:.3f}",
    ]
    workdir.write_text(
        "report.md",
        f"## The memorising classifier: clean {family.config.model} on "
        f"{family.config.dataset}, δ = {family.eps:.4g}\n\n"
        f"{config.num_images} training and {config.num_test} test images, in %, mean ± "
        f"sd over {len(bounds)} networks. The split is by PGD-{config.split_steps} on "
        f"the margin, and what PGD-{config.strong_steps} on the cross-entropy finds is "
        f"added; both with {config.num_restarts} starts. The robust training error is "
        f"under both, under PGD-{config.strong_steps} on the margin from other starts, "
        f"and at {config.num_random} random points a ball.\n\n"
        + figures.table(["", "%", "by"], rows)
        + f"\nMemorised: {', '.join(map(str, found['num_small']))} images. Least "
        f"distance to a training image of another class R = {safe:.4f}, above 2δ = "
        f"{2 * family.eps:.4g}; to a test image "
        f"{found['nearest test image'].min():.4f}.\n\n"
        "### Its ReLU network\n\n"
        f"Indicators fall from δ to {config.shell:g} δ; |logits| ≤ "
        f"{found['bound'].max():g}, {found['levels'].max()} levels for an error of "
        f"{config.error:g}. Largest difference of a logit over {config.num_compared} "
        "images of each kind: attacked and random training images, test images, clean "
        "and attacked, and points amid the shells. Bound, 14 m d + 28 k s + 5 s + "
        f"clean: {' / '.join(f'{b:,}' for b in bounds)}.\n\n"
        + figures.table(header, relu)
        + "\n### Parameters\n\n![parameters over N and d](parameters.png)\n\n"
        "Clean: width d, two hidden layers. Memorising: with the measured μ. Robust: "
        f"bounded below as in Theorem 3.5, four layers, points {2 * family.eps:.3g} "
        f"apart (`memorization.robust_log10`).\n\nNetworks: {family.origin}.\n",
    )
    return {"summary": lines, "found": found, "bounds": bounds, "counts": counts}
