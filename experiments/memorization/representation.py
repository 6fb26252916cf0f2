"""The memorising classifier on images: Proposition 3.2, Theorem 3.3, Corollary 3.4.

Size: 5000 training and 1000 test images; the stored results have 2000 and 500. Time: 14
minutes with those, on one core.

    advjax run memorization/representation --config.networks=runs/NETWORKS

where NETWORKS is a finished ``networks``.

Variants: ``cpu``, the default; ``smoke``, small, for tests.

On top of each clean network, f_adv memorises the training images that an attack finds
to have a small margin. Checked are what the construction needs, that no two balls of
different classes meet; what it promises, robust training error 0 and the clean test
error of the clean network, with a large robust test error; and that its ReLU network
agrees with it off the shells where soft indicators fall. Parameters are counted, and
compared over d and N with those of a clean and of a robust classifier.

On LeNet5 and MNIST it memorises 23 % of the images: the robust training error falls
from that to 0.17 %, the clean test error stays 1.8 %, the robust test error 24 %.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import attacks, criteria, losses, margins, memorization, models, norms
from advjax.models import memorizing
from advjax.types import Array, Batch
from experiments import arrays, figures, findings, intervals
from experiments.fields import count, number, seed, with_defaults
from experiments.finished import Networks
from experiments.memorization import networks
from experiments.memorization.networks import NETWORKS
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.writing import Drawn, Report, Table

Predict = Callable[[Array], Array]
"""Logits of images."""


class Share(NamedTuple):
    """A share of images in %, as a table says it: which, and by what it is found."""

    label: str
    by: str


OF_F_ADV = {
    "small_share": Share("small margins, μ", "memorised training images"),
    "clean_train_error": Share("clean training error", "f_clean"),
    "own_train_error": Share(
        "robust training error, points memorised for", "0 by construction where R > 2δ"
    ),
    "robust_train_error": Share(
        "robust training error, f_adv", "attacks and points not used to build it"
    ),
    "missed": Share("missed by the first attack", "found by the stronger attack alone"),
    "clean_test_error_of_clean": Share("clean test error, f_clean", ""),
    "clean_test_error": Share("clean test error, f_adv", ""),
    "robust_test_error_of_clean": Share("robust test error, f_clean", "PGD on f_clean"),
    "robust_test_error": Share("robust test error, f_adv", "PGD on f_clean"),
}
OF_RELU = {
    "relu_robust_train_error": Share(
        "robust training error", "points not used to build it"
    ),
    "relu_attacked_train_error": Share(
        "robust training error, PGD on it", "first images memorised"
    ),
    "relu_clean_test_error": Share("clean test error", "first test images"),
    "relu_robust_test_error": Share(
        "robust test error", "PGD on f_clean, first test images"
    ),
    "relu_attacked_test_error": Share(
        "robust test error, PGD on it", "first test images"
    ),
}
MULTIPLICATIONS = ("products", "gates")
"""Of indicators and values, by a network of s levels, or exactly."""
SIDES = ("off", "on")
"""Of the shells in which the indicators of the ReLU network fall."""


# --- f_adv on one network ---


class Points(NamedTuple):
    """Where classifiers are tested; all as many as the images they belong to.

    Attributes:
        train: training images.
        test: test images.
        own: the training images, and where the attacks end that f_adv is built by.
        new: where another attack on them ends, and random points in their balls.
        attacked: where an attack on the test images ends.
    """

    train: Batch
    test: Batch
    own: list[np.ndarray]
    new: list[np.ndarray]
    attacked: np.ndarray


class Construction(NamedTuple):
    """f_adv on a clean network.

    Attributes:
        config: the configuration.
        run: the networks.
        network: parameters and batch statistics of the clean one.
        clean: f_clean.
        small: the training images of small margin, which are memorised.
        f_adv: f_adv.
    """

    config: Config
    run: Networks
    network: tuple[Any, Any]
    clean: Predict
    small: Batch
    f_adv: Predict

    @property
    def eps(self) -> float:
        """The radius δ."""
        return self.run.config.eps[0]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return recipe.DATASETS[self.run.config.dataset]


def _cases(setup: Setup) -> dict[str, tuple[int]]:
    return {f"seed-{i}": (i,) for i in range(setup.inputs["networks"].config.num_seeds)}


def _measured(setup: Setup, i: int) -> xr.Dataset:
    """Errors in %, distances and sizes of network ``i``, ``[]`` each.

    Those of its ReLU network are over ``multiplication`` and ``side``.
    """
    config, run = setup.config, setup.inputs["networks"]
    network = run.networks("standard")[i]
    clean = jax.jit(partial(run.model(dtype=jnp.float32).predict, *network))
    points = _points(config, run, clean)
    broken = [_wrong(config, clean, x, points.train.y) for x in points.own]
    is_small = np.any(broken, axis=0)
    small = Batch(points.train.x[is_small], points.train.y[is_small])
    f_adv = _classifier(clean, small, run.config.eps[0])
    made = Construction(config, run, network, clean, small, f_adv)
    shares = {
        "small_share": is_small.mean(),
        "clean_train_error": broken[0].mean(),
        "missed": (broken[2] & ~broken[1] & ~broken[0]).mean(),
        **_errors(made, points),
        **_relu_errors(made, points),
    }
    percent = {name: 100 * share for name, share in shares.items()}
    found = percent | _separations(made, points) | {"num_small": small.y.size}
    scalars = arrays.dataset({name: ((), each) for name, each in found.items()})
    return scalars.merge(_compared(made, points))


def _points(config: Config, run: Networks, clean: Predict) -> Points:
    eps, chosen = run.config.eps[0], config.subset_seed
    train = run.images("train", config.num_images, chosen)
    test = run.images("test", config.num_test, chosen)
    attacked = partial(_attacked, config, clean, eps)
    weak = attacked(train, config.split_steps, "margin", 0)
    strong = attacked(train, config.strong_steps, "loss", 1)
    other = attacked(train, config.strong_steps, "margin", 2)
    return Points(
        train,
        test,
        own=[train.x, weak, strong],
        new=[other, *_random(config, eps, train)],
        attacked=attacked(test, config.strong_steps, "margin", 3),
    )


def _attacked(
    config: Config,
    predict: Predict,
    eps: float,
    part: Batch,
    num_steps: int,
    kind: str,
    number: int,
    unroll: int | None = None,
) -> np.ndarray:
    """The images under PGD with restarts on the margin or the cross-entropy.

    ``number`` is that of the attack, by which its random starts differ from others'.
    """
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

    key = jax.random.fold_in(jax.random.key(config.seed), number)
    keys = jax.random.split(key, len(part.y))
    return _in_batches(config, one, keys, part.x, part.y)


def _in_batches(config: Config, function: Callable, *arrays: Array) -> np.ndarray:
    parts = [
        jax.device_get(function(*(a[i : i + config.batch_size] for a in arrays)))
        for i in range(0, len(arrays[0]), config.batch_size)
    ]
    return np.concatenate(parts)


def _wrong(
    config: Config, predict: Predict, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """``[n]``; by the margin, so that ties are wrong."""
    margin = jax.jit(margins.logit_margin(predict))
    return _in_batches(config, margin, x, y) <= 0


def _classifier(clean: Predict, small: Batch, eps: float) -> Predict:
    targets = jax.nn.one_hot(small.y, clean(small.x[:1]).shape[1])
    return memorization.classifier(
        clean, norms.linf, jnp.asarray(small.x), targets, eps
    )


def _random(config: Config, eps: float, train: Batch) -> list[np.ndarray]:
    """Points uniform in the balls, within the cube of images."""
    rng = np.random.default_rng(config.seed)
    noise = [rng.uniform(-eps, eps, train.x.shape) for _ in range(config.num_random)]
    return [np.clip(train.x + each.astype(np.float32), 0, 1) for each in noise]


def _errors(made: Construction, points: Points) -> dict[str, float]:
    """Shares of images that are wrong at one of some points at least."""

    def share(predict, at, y):
        wrong = [_wrong(made.config, predict, x, y) for x in at]
        return np.any(wrong, axis=0).mean()

    train, test = points.train, points.test
    return {
        "own_train_error": share(made.f_adv, points.own, train.y),
        "robust_train_error": share(made.f_adv, points.new, train.y),
        "clean_test_error_of_clean": share(made.clean, [test.x], test.y),
        "clean_test_error": share(made.f_adv, [test.x], test.y),
        "robust_test_error_of_clean": share(made.clean, [points.attacked], test.y),
        "robust_test_error": share(made.f_adv, [points.attacked], test.y),
    }


def _separations(made: Construction, points: Points) -> dict[str, np.ndarray]:
    """The least distance R of memorised images to training images of other classes."""
    train, small = points.train, made.small
    nearest = jax.jit(partial(memorization.separation, norms.linf))
    between = jax.jit(partial(memorization.distances, norms.linf))
    to_test = between(jnp.asarray(points.test.x), jnp.asarray(small.x)).min(axis=1)
    return {
        "separation": np.asarray(nearest(train.x, train.y, small.x, small.y)).min(),
        "nearest_test_image": np.asarray(to_test).min(),
        "num_inputs": train.x[0].size,
    }


# --- its ReLU network ---


def _relu(made: Construction, bound: float, num_levels: int | None) -> Predict:
    """The ReLU network, for logits below ``bound``; exact gates for None levels."""
    params, stats = made.network
    module = models.Memorizing(
        recipe.module(made.run.config, dtype=jnp.float32),
        len(made.small.y),
        made.num_classes,
        made.eps,
        made.config.shell * made.eps,
        bound,
        num_levels,
    )
    targets = jax.nn.one_hot(made.small.y, made.num_classes)
    own = memorizing.params(params, jnp.asarray(made.small.x), targets)
    stats = {"batch_stats": {"clean": stats}} if stats else {}
    return partial(module.apply, {"params": own, **stats})


def _bound(made: Construction, points: list[np.ndarray]) -> float:
    """A power of two that logits of f_clean at these points stay below."""
    logits = (np.abs(_in_batches(made.config, made.clean, x)) for x in points)
    return float(2 ** np.ceil(np.log2(max(each.max() for each in logits))))


def _amid_shells(made: Construction) -> np.ndarray:
    """Points amid the shells, but where the cube of images is in the way."""
    rng = np.random.default_rng(made.config.seed)
    x = made.small.x
    signs = rng.choice(np.float32([-1, 1]), x.shape)
    return np.clip(x + (1 + made.config.shell) / 2 * made.eps * signs, 0, 1)


def _is_on_shell(made: Construction, points: list[np.ndarray]) -> np.ndarray:
    """Which points lie in a shell and in no ball, ``[n]`` of all together."""
    centres = jnp.asarray(made.small.x)

    @jax.jit
    def is_on(x):
        least = memorization.distances(norms.linf, x, centres).min(axis=1)
        is_out = least > memorization.reach(norms.linf, x, made.eps)
        return is_out & (least < made.config.shell * made.eps)

    return np.concatenate([_in_batches(made.config, is_on, x) for x in points])


def _compared(made: Construction, points: Points) -> xr.Dataset:
    """Largest differences of logits to f_adv over ``multiplication`` and ``side``.

    Beside them the number of points on each side, and of parameters.
    """
    config = made.config
    every = [*points.own, *points.new, points.test.x, points.attacked]
    every = [x[: config.num_compared] for x in (*every, _amid_shells(made))]
    bound, is_on = _bound(made, every), _is_on_shell(made, every)
    num_clean = sum(leaf.size for leaf in jax.tree.leaves(made.network[0]))
    num_levels = memorizing.levels(bound, config.error)
    largest, parameters = [], []
    for levels in (num_levels, None):
        relu = _relu(made, bound, levels)
        apart = jax.jit(
            lambda x, relu=relu: jnp.abs(relu(x) - made.f_adv(x)).max(axis=1)
        )
        differences = np.concatenate([_in_batches(config, apart, x) for x in every])
        sides = (differences[~is_on], differences[is_on])
        largest.append([side.max(initial=0) for side in sides])
        parameters.append(
            memorization.num_memorizing(
                num_inputs=made.small.x[0].size,
                num_centres=len(made.small.y),
                num_outputs=made.num_classes,
                num_levels=levels,
                clean=num_clean,
            )
        )
    return arrays.dataset(
        {
            "difference": (("multiplication", "side"), largest),
            "num_points": (("side",), [(~is_on).sum(), is_on.sum()]),
            "parameters": (("multiplication",), parameters),
            "clean_parameters": ((), num_clean),
            "logit_bound": ((), bound),
            "levels": ((), num_levels),
        },
        {"multiplication": MULTIPLICATIONS, "side": SIDES},
    )


def _relu_errors(made: Construction, points: Points) -> dict[str, float]:
    """Corollary 3.4: errors of the ReLU network itself, with exact gates."""
    config, few = made.config, slice(made.config.num_compared)
    bounded = (*points.new, points.test.x, points.attacked)
    relu = jax.jit(_relu(made, _bound(made, [x[few] for x in bounded]), None))
    first = slice(config.num_attacked)
    memorised = Batch(made.small.x[first], made.small.y[first])
    tested = Batch(points.test.x[first], points.test.y[first])

    def wrong(x, y):
        return _wrong(config, relu, x, y)

    def attacked_error(part):
        x = _attacked(config, relu, made.eps, part, config.split_steps, "margin", 4, 1)
        return wrong(x, part.y).mean()

    train_y, test_y = points.train.y[few], points.test.y[few]
    robust = np.any([wrong(x[few], train_y) for x in points.new], axis=0)
    return {
        "relu_robust_train_error": robust.mean(),
        "relu_attacked_train_error": attacked_error(memorised),
        "relu_clean_test_error": wrong(points.test.x[few], test_y).mean(),
        "relu_robust_test_error": wrong(points.attacked[few], test_y).mean(),
        "relu_attacked_test_error": attacked_error(tested),
    }


# --- parameters over d and N ---

_DEPTH = 50  # more than the layers of the memorising network, 2 log2 d + s + 5
KINDS = ("clean", "memorising", "robust, at least")


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Everything over ``seed``, and parameters over N and d with their bounds."""
    run = setup.inputs["networks"]
    values = arrays.stacked(found, "seed").assign_coords(seed=np.arange(len(found)))
    k, s = recipe.DATASETS[run.config.dataset], values["levels"]
    per_image = 14 * values["num_small"] * values["num_inputs"]
    bound = per_image + 27 * k * s + 5 * s + values["clean_parameters"]
    return values.assign(
        parameter_bound=bound, **_parameters(run, values)
    ).assign_attrs(networks.facts(run))


def _parameters(run: Networks, values: xr.Dataset) -> dict[str, xr.DataArray]:
    """log10 of parameters of each ``kind`` of classifier, over ``n`` and over ``d``.

    The clean classifier is a network of width d and two hidden layers; the share of
    small margins is the one measured.
    """
    share = float(values["small_share"].mean()) / 100
    levels, k = int(values["levels"].max()), recipe.DATASETS[run.config.dataset]
    d0, n0 = int(values["num_inputs"][0]), run.images("train").y.size

    def log10(n, d):
        clean = memorization.num_clean((d, d, d, k))
        own = memorization.num_memorizing(
            num_inputs=d,
            num_centres=max(1, round(share * n)),
            num_outputs=k,
            num_levels=levels,
            clean=clean,
        )
        robust = memorization.robust_log10(d, run.config.eps[0], depth=_DEPTH)
        return np.log10(clean), np.log10(own), robust

    grids = {"n": 10.0 ** np.arange(2, 9), "d": 2 ** np.arange(3, 13)}
    counted = {
        "n": [log10(n, d0) for n in grids["n"]],
        "d": [log10(n0, int(d)) for d in grids["d"]],
    }
    return {
        f"parameters_over_{over}": xr.DataArray(
            rows, {over: grids[over], "kind": [*KINDS]}, (over, "kind")
        )
        for over, rows in counted.items()
    }


# --- the report ---

_WITHIN = 1.0
"""Percentage points within which an error counts as the one that is claimed."""


def _report(config: Config, values: xr.Dataset) -> Report:
    facts = values.attrs
    return Report(
        f"The memorising classifier: clean {facts['model']} on {facts['dataset']}, δ = "
        f"{facts['eps']:.4g}",
        "Can a clean network be made robust on its training images alone?",
        [*_findings_of_f_adv(config, values), *_findings_of_relu(config, values)],
        [
            Drawn("errors", _errors_figure(values), "errors of the three classifiers"),
            Drawn("parameters", _parameters_figure(values), "parameters over N and d"),
        ],
        [
            _shares_table("f_adv", OF_F_ADV, values),
            _shares_table("Its ReLU network", OF_RELU, values),
            _difference_table(values),
            _sizes_table(values),
        ],
        _notes(config, values),
    )


def _notes(config: Config, values: xr.Dataset) -> str:
    facts = values.attrs
    return (
        f"{config.num_images} training and {config.num_test} test images, in %, mean ± "
        f"sd over {values.sizes['seed']} networks. Memorised is what is misclassified, "
        f"or broken by PGD-{config.split_steps} on the margin or PGD-"
        f"{config.strong_steps} on the cross-entropy, {config.num_restarts} starts "
        f"each. Not used to build it: PGD-{config.strong_steps} on the margin from "
        f"other starts, and {config.num_random} random points a ball. R is the least "
        "distance of a memorised image to a training image of another class.\n\n"
        f"Of the ReLU network indicators fall from δ to {config.shell:g} δ. "
        f"Differences are those of logits, for an error of {config.error:g}, at the "
        f"first {config.num_compared} images of each kind: training images, attacked, "
        "and random, test images, clean and attacked, and points amid the shells. Its "
        f"errors are over as many, or {config.num_attacked} where PGD-"
        f"{config.split_steps} attacks the ReLU network itself. Parameters of the "
        "clean network are those that it shares, its pooling has none. Bound of "
        "Theorem 3.3: 14 m d + 27 k s + 5 s + clean.\n\n"
        "Over N and d, clean: width d, two hidden layers; memorising: with the "
        f"measured μ; robust, for {_DEPTH} layers and robust error 0: points "
        f"{2 * facts['eps']:.3g} apart (`memorization.robust_log10`).\n\nErrors within "
        f"{_WITHIN:g} point of 0 count as 0; intervals are Student's. Networks: "
        f"{facts['networks']}."
    )


def _size(config: Config, values: xr.Dataset) -> str:
    return f"{config.num_images} images, {values.sizes['seed']} networks"


def _findings_of_f_adv(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Proposition 3.2: what it needs and what it promises."""
    size, eps = _size(config, values), values.attrs["eps"]
    apart = float(values["separation"].min())
    robust = intervals.student(values["robust_train_error"])
    clean = values["clean_test_error"] - values["clean_test_error_of_clean"]
    gap = intervals.student(values["robust_test_error"] - values["robust_train_error"])
    points = {"size": size, "form": ".2f", "unit": " points"}
    return [
        findings.finding(
            "R: balls of different classes do not meet",
            f"{apart:.3f}",
            printed=f"above 2δ = {2 * eps:.3f}",
            size=size,
            verdict=findings.follows(is_so=apart > 2 * eps),
        ),
        findings.finding(
            "robust training error of f_adv, by attacks not used to build it",
            robust,
            printed="0 %",
            size=size,
            form=".2f",
            unit=" %",
            verdict=findings.equal(robust, 0.0, _WITHIN),
        ),
        findings.finding(
            "clean test error of f_adv less that of f_clean, at most",
            float(np.abs(clean).max()),
            printed="0 points",
            verdict=findings.follows(is_so=bool((clean == 0).all())),
            **points,
        ),
        findings.finding(
            "robust test error of f_adv above its robust training error",
            gap,
            printed="Ω(μ)",
            verdict=findings.above(gap),
            **points,
        ),
    ]


def _findings_of_relu(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Theorem 3.3 and Corollary 3.4."""
    size, own = _size(config, values), values.sel(multiplication="products")
    off = float(own["difference"].sel(side="off").max())
    parameters, bound = own["parameters"], own["parameter_bound"]
    outer = (1 + config.shell) * values.attrs["eps"]
    apart = float(values["separation"].min())
    robust = intervals.student(values["relu_robust_train_error"])
    return [
        findings.finding(
            "R: balls and shells of different classes do not meet",
            f"{apart:.3f}",
            printed=f"above {1 + config.shell:g}δ = {outer:.3f}",
            size=size,
            verdict=findings.follows(is_so=apart > outer),
        ),
        findings.finding(
            "largest difference of the ReLU network to f_adv off the shells",
            f"{off:.1e}",
            printed=f"at most {config.error:g}",
            size=f"{int(values['num_points'].sel(side='off').sum())} points",
            verdict=findings.follows(is_so=off <= config.error),
        ),
        findings.finding(
            "parameters of the ReLU network, over the bound of Theorem 3.3",
            float((parameters / bound).max()),
            printed="at most 1",
            size=size,
            verdict=findings.follows(is_so=bool((parameters <= bound).all())),
        ),
        findings.finding(
            "robust training error of the ReLU network, by attacks on f_clean",
            robust,
            printed="0 %",
            size=f"{config.num_compared} images, {values.sizes['seed']} networks",
            form=".2f",
            unit=" %",
            verdict=findings.equal(robust, 0.0, _WITHIN),
        ),
    ]


def _shares_table(title: str, shares: Mapping[str, Share], values: xr.Dataset) -> Table:
    rows = [
        [share.label, figures.plus_minus(values[name], 2), share.by]
        for name, share in shares.items()
    ]
    return Table(title, ["", "%", "by or of"], rows)


def _difference_table(values: xr.Dataset) -> Table:
    numbers = values["num_points"].sum("seed")
    header = ["multiplication by"]
    header += [f"{s} the shells, {int(numbers.sel(side=s))} points" for s in SIDES]
    largest = values["difference"].max("seed")
    rows = [
        [by, *(f"{float(largest.sel(multiplication=by, side=s)):.1e}" for s in SIDES)]
        for by in MULTIPLICATIONS
    ]
    return Table("Largest difference of the ReLU network to f_adv", header, rows)


def _sizes_table(values: xr.Dataset) -> Table:
    """A column for each network."""
    parameters = values["parameters"]
    products, gates = (parameters.sel(multiplication=by) for by in MULTIPLICATIONS)
    rows = {
        "memorised images": (values["num_small"], ",.0f"),
        "R": (values["separation"], ".4f"),
        "least distance to a test image": (values["nearest_test_image"], ".4f"),
        "logits stay below": (values["logit_bound"], ".0f"),
        "levels s": (values["levels"], ".0f"),
        "parameters of f_clean": (values["clean_parameters"], ",.0f"),
        "of its ReLU network, by products": (products, ",.0f"),
        "by gates": (gates, ",.0f"),
        "bound of Theorem 3.3": (values["parameter_bound"], ",.0f"),
    }
    header = ["", *(f"network {i}" for i in values["seed"].values)]
    return Table(
        "Sizes and distances",
        header,
        [
            [label, *(format(float(each), form) for each in row)]
            for label, (row, form) in rows.items()
        ],
    )


_SHOWN = {
    "f_clean": {
        "robust training error": "small_share",
        "clean test error": "clean_test_error_of_clean",
        "robust test error": "robust_test_error_of_clean",
    },
    "f_adv": {
        "robust training error": "robust_train_error",
        "clean test error": "clean_test_error",
        "robust test error": "robust_test_error",
    },
    "its ReLU network": {
        "robust training error": "relu_robust_train_error",
        "clean test error": "relu_clean_test_error",
        "robust test error": "relu_robust_test_error",
    },
}
"""By classifier and error. Small margins are robust training errors of f_clean."""


def _errors_figure(values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    colors = figures.colors(len(_SHOWN))
    for j, ((classifier, errors), color) in enumerate(
        zip(_SHOWN.items(), colors, strict=True)
    ):
        where = np.arange(len(errors)) + 0.27 * (j - 1)
        runs = [values[name] for name in errors.values()]
        means = [float(each.mean()) for each in runs]
        axis.bar(where, means, 0.25, color=color, alpha=0.6, label=classifier)
        for x, each in zip(where, runs, strict=True):
            dots = {"color": color, "s": 12, "zorder": 3}
            axis.scatter(np.full(each.size, x), each, **dots)
    axis.set_xticks(range(len(errors)), errors)
    axis.set(ylabel="error, % (dots: networks)")
    axis.grid(visible=False, axis="x")
    figures.legend_below(figure, axis)
    return figure


def _parameters_figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2)
    labels = {"n": "training examples N", "d": "dimension d of the inputs"}
    for axis, (over, label) in zip(axes, labels.items(), strict=True):
        counted = values[f"parameters_over_{over}"]
        for kind, color in zip(KINDS, figures.colors(len(KINDS)), strict=True):
            row = counted.sel(kind=kind)
            axis.plot(row[over], row, color=color, marker="o", label=kind)
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0].set_ylabel("log₁₀ of the number of parameters")
    figures.legend_below(figure, axes[0])
    return figure


STUDY = Study(
    "memorization.representation",
    {
        **with_defaults(networks.FIELDS, num_images=5000),
        "num_test": count(1000, "test images, a random subset"),
        "num_compared": count(
            500, "images of each kind on which the ReLU network is compared"
        ),
        "num_attacked": count(
            100, "images of each part on which the ReLU network is attacked"
        ),
        "split_steps": count(
            20, "steps of the first attack that looks for small margins"
        ),
        "strong_steps": count(
            40, "steps of the second one, and of the attacks that check"
        ),
        "num_restarts": count(2, "random starts of each attack"),
        "num_random": count(2, "random points in the ball of each image"),
        "batch_size": count(100, "images at once"),
        "shell": number(
            1.5, "distance from which indicators are 0, over the radius", above=1
        ),
        "error": number(
            1e-3, "largest error of a product in the ReLU network", above=0
        ),
        "seed": seed(),
    },
    _report,
    variants=(
        {
            "cpu": {},
            "smoke": {
                "num_images": 40,
                "num_test": 20,
                "num_compared": 20,
                "num_attacked": 20,
                "split_steps": 3,
                "strong_steps": 3,
                "batch_size": 20,
            },
        },
    ),
    needs={"networks": NETWORKS},
    cases=_cases,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
