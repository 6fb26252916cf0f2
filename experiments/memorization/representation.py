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

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments import arrays, figures, findings, intervals
from experiments.fields import count, number, seed, with_defaults
from experiments.memorization import construction, networks, relu_network, sizes
from experiments.memorization.networks import NETWORKS
from experiments.memorization.relu_network import MULTIPLICATIONS, SIDES
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.writing import Drawn, Report, Table


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


# --- measurement ---


def _cases(setup: Setup) -> dict[str, tuple[int]]:
    return {f"seed-{i}": (i,) for i in range(setup.inputs["networks"].config.num_seeds)}


def _measured(setup: Setup, i: int) -> xr.Dataset:
    """Errors in %, distances and sizes of network ``i``, ``[]`` each.

    Those of its ReLU network are over ``multiplication`` and ``side``.
    """
    run = setup.inputs["networks"]
    made = construction.made(setup.config, run, run.networks("standard")[i])
    shares = construction.errors(made) | relu_network.errors(made)
    percent = {name: 100 * share for name, share in shares.items()}
    found = percent | construction.separations(made)
    scalars = arrays.dataset({name: ((), each) for name, each in found.items()})
    return scalars.merge(relu_network.compared(made))


# --- values ---


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Everything over ``seed``, and parameters over N and d with their bounds."""
    run = setup.inputs["networks"]
    values = arrays.stacked(found, "seed").assign_coords(seed=np.arange(len(found)))
    k, s = recipe.num_classes(run.config), values["levels"]
    per_image = 14 * values["num_small"] * values["num_inputs"]
    bound = per_image + 27 * k * s + 5 * s + values["clean_parameters"]
    return values.assign(
        parameter_bound=bound, **sizes.over_n_and_d(run, values)
    ).assign_attrs(networks.facts(run))


# --- the report ---

_WITHIN = 1.0
"""% of error that is as good as 0."""


def _report(config: Config, values: xr.Dataset) -> Report:
    facts = values.attrs
    return Report(
        f"The memorising classifier: clean {facts['model']} on {facts['dataset']}, δ = "
        f"{facts['eps']:.4g}",
        "Can a clean network be made robust on its training images alone?",
        [*_findings_of_f_adv(config, values), *_findings_of_relu(config, values)],
        [
            Drawn("errors", _errors_figure(values), "errors of the three classifiers"),
            Drawn("parameters", sizes.figure(values), "parameters over N and d"),
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
        f"measured μ; robust, for {sizes.DEPTH} layers and robust error 0: points "
        f"{2 * facts['eps']:.3g} apart (`memorization.robust_log10`).\n\nErrors under "
        "attacks are lower bounds; intervals are Student's. Networks: "
        f"{facts['networks']}."
    )


def _size(config: Config, values: xr.Dataset) -> str:
    return f"{config.num_images} images, {values.sizes['seed']} networks"


def _findings_of_f_adv(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Proposition 3.2: what it needs and what it promises."""
    size, eps = _size(config, values), values.attrs["eps"]
    apart = float(values["separation"].min(skipna=False))
    robust = values["robust_train_error"]
    clean = np.abs(values["clean_test_error"] - values["clean_test_error_of_clean"])
    gap = intervals.student(values["robust_test_error"] - robust)
    points = {"size": size, "form": ".2f", "unit": " points"}
    return [
        findings.finding(
            "R: balls of different classes do not meet",
            f"{apart:.3f}",
            printed=f"above 2δ = {2 * eps:.3f}",
            size=size,
            verdict=findings.proved(is_so=apart > 2 * eps, is_not=apart <= 2 * eps),
        ),
        _is_robust("f_adv", "attacks not used to build it", robust, size),
        findings.finding(
            "clean test error of f_adv is that of f_clean; largest difference",
            float(clean.max(skipna=False)),
            printed="0 points",
            verdict=findings.proved(
                is_so=bool((clean == 0).all()), is_not=bool((clean > 0).any())
            ),
            **points,
        ),
        findings.finding(
            "under attacks, robust test error of f_adv is above its robust training "
            "error",
            gap,
            printed="Ω(μ)",
            verdict=findings.above(gap),
            **points,
        ),
    ]


def _is_robust(
    which: str, by: str, errors: xr.DataArray, size: str
) -> findings.Finding:
    """Attacks find a lower bound of the error: it can contradict, and not agree."""
    found = intervals.student(errors)
    is_above = findings.above(found, _WITHIN) == findings.AGREES
    return findings.finding(
        f"robust training error of {which} is below {_WITHIN:g} %; {by} find",
        found,
        printed="0 %",
        size=size,
        form=".2f",
        unit=" %",
        verdict=findings.CONTRADICTED if is_above else findings.UNDECIDED,
    )


def _findings_of_relu(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Theorem 3.3 and Corollary 3.4."""
    size, own = _size(config, values), values.sel(multiplication="products")
    off = float(own["difference"].sel(side="off").max(skipna=False))
    share = own["parameters"] / own["parameter_bound"]
    outer = (1 + config.shell) * values.attrs["eps"]
    apart = float(values["separation"].min(skipna=False))
    return [
        findings.finding(
            "R: balls and shells of different classes do not meet",
            f"{apart:.3f}",
            printed=f"above {1 + config.shell:g}δ = {outer:.3f}",
            size=size,
            verdict=findings.proved(is_so=apart > outer, is_not=apart <= outer),
        ),
        findings.finding(
            "largest difference of the ReLU network to f_adv off the shells",
            f"{off:.1e}",
            printed=f"at most {config.error:g}",
            size=f"{int(values['num_points'].sel(side='off').sum())} points",
            verdict=findings.proved(
                is_so=off <= config.error, is_not=off > config.error
            ),
        ),
        findings.finding(
            "parameters of the ReLU network, over the bound of Theorem 3.3",
            float(share.max(skipna=False)),
            printed="at most 1",
            size=size,
            verdict=findings.proved(
                is_so=bool((share <= 1).all()), is_not=bool((share > 1).any())
            ),
        ),
        _is_robust(
            "the ReLU network",
            "attacks on f_clean",
            values["relu_robust_train_error"],
            f"{config.num_compared} images, {values.sizes['seed']} networks",
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
    largest = values["difference"].max("seed", skipna=False)
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
        means = [float(each.mean(skipna=False)) for each in runs]
        axis.bar(where, means, 0.25, color=color, alpha=0.6, label=classifier)
        for x, each in zip(where, runs, strict=True):
            dots = {"color": color, "s": 12, "zorder": 3}
            axis.scatter(np.full(each.size, x), each, **dots)
    axis.set_xticks(range(len(errors)), errors)
    axis.set(ylabel="error, % (dots: networks)")
    axis.grid(visible=False, axis="x")
    figures.legend_below(figure, axis)
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
