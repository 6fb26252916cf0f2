"""AutoAttack, and an ensemble of our own, over a data set.

    attack = ensembles.compiled(predict, ensembles.standard(norms.linf, num_classes=10),
                                bounds=(0.0, 1.0))
    found = attack(key, x, y, eps)
    found.robust.mean(), found.rows, found.caveats()

Components run one after the other, each on the points that all before it left robust;
what they break is looked at once more, in one forward pass, before it counts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from advjax import arguments, losses, norms
from advjax.arguments import Bounds
from advjax.attacks import auto, boundary, squares, targets
from advjax.attacks.components import Component
from advjax.attacks.projections import Projection
from advjax.attacks.survivors import Ensemble
from advjax.norms import Norm
from advjax.types import Array, Key, Loss, Predict

__all__ = ["compiled", "plus", "rand", "standard", "strong"]


def _apgd(
    name: str,
    norm: Norm,
    loss: Loss,
    num_repeats: int = 1,
    *,
    project: Projection,
) -> Component:
    return Component(name, auto.apgd_search(norm, project=project), loss, num_repeats)


def _apgd_t(
    name: str,
    norm: Norm,
    loss: targets.TargetedLoss,
    num_repeats: int,
    *,
    project: Projection,
) -> Component:
    steps = auto.apgd_search(norm, project=project)
    return Component(name, targets.aimed(steps, loss), num_repeats=num_repeats)


def standard(
    norm: Norm, *, num_classes: int, project: Projection = "exact"
) -> tuple[Component, ...]:
    """AutoAttack: APGD on cross-entropy and, with targets, on the DLR; FAB; Square.

    100 steps each, 9 targets or as many as there are, 5000 queries; for l1 five
    restarts of the first and five targets. Four classes at least have the targeted DLR
    loss; fewer have the margin in its place.

    Args:
        norm: of the ball.
        num_classes: k; 1 or 2 for single logits.
        project: of APGD; "clip" is that of the original code.

    Croce and Hein, Reliable evaluation of adversarial robustness, 2020, and Mind the
    box, 2021.
    """
    num_targets = _num_targets(num_classes)
    is_l1 = norm is norms.l1
    aim = losses.targeted_dlr if num_classes > 3 else losses.targeted_margin
    apgd, apgd_t = partial(_apgd, project=project), partial(_apgd_t, project=project)
    return _of_classes(
        num_classes,
        apgd("apgd-ce", norm, losses.cross_entropy, 5 if is_l1 else 1),
        apgd_t("apgd-t", norm, aim, min(num_targets, 5) if is_l1 else num_targets),
        Component("fab-t", boundary.fab_search(norm), num_repeats=num_targets),
        Component("square", squares.square_search(norm)),
    )


def plus(
    norm: Norm, *, num_classes: int, project: Projection = "exact"
) -> tuple[Component, ...]:
    """The longer ensemble of the same code, with five restarts of APGD.

    Not to the letter: FAB runs towards targets alone, where that code has five restarts
    without a target as well.
    """
    num_targets = _num_targets(num_classes)
    dlr = losses.dlr if num_classes > 2 else losses.margin
    aim = losses.targeted_dlr if num_classes > 3 else losses.targeted_margin
    apgd, apgd_t = partial(_apgd, project=project), partial(_apgd_t, project=project)
    return _of_classes(
        num_classes,
        apgd("apgd-ce", norm, losses.cross_entropy, 5),
        apgd("apgd-dlr", norm, dlr, 5),
        Component("fab-t", boundary.fab_search(norm), num_repeats=num_targets),
        Component("square", squares.square_search(norm)),
        apgd_t("apgd-t", norm, aim, num_targets),
    )


def rand(norm: Norm, *, num_classes: int, num_draws: int = 20) -> tuple[Component, ...]:
    """AutoAttack for random models, ``(key, x) -> logits``.

    APGD on cross-entropy and on the DLR loss, with each gradient averaged over draws. A
    verdict is that of one draw, and so depends on the key. Attacks that know how a
    defence draws find more.

    Args:
        norm: of the ball.
        num_classes: as of ``standard``.
        num_draws: for each gradient.
    """
    num_draws = arguments.count("num_draws", num_draws)
    dlr = losses.dlr if num_classes > 2 else losses.margin
    found = (
        _apgd("apgd-ce", norm, losses.cross_entropy, project="exact"),
        _apgd("apgd-dlr", norm, dlr, project="exact"),
    )
    made = _of_classes(num_classes, *found)
    return tuple(dataclasses.replace(each, num_draws=num_draws) for each in made)


def strong(norm: Norm, *, num_classes: int) -> tuple[Component, ...]:
    """Two losses with targets, exact projections, and a shorter FAB: fewer gradients.

    APGD with 9 targets on the DLR loss, and with 6 on the margin of probabilities in
    the place of cross-entropy and of FAB on all targets but three; Square.
    ``experiments.benchmarks.autoattack`` compares it with ``standard``.
    """
    num_targets = _num_targets(num_classes)
    aim = losses.targeted_dlr if num_classes > 3 else losses.targeted_margin
    probability = losses.targeted_probability_margin
    few = partial(min, num_targets)
    return _of_classes(
        num_classes,
        _apgd_t("apgd-t dlr", norm, aim, num_targets, project="exact"),
        _apgd_t("apgd-t p", norm, probability, few(6), project="exact"),
        Component("fab-t", boundary.fab_search(norm), num_repeats=few(3)),
        Component("square", squares.square_search(norm)),
    )


def _of_classes(num_classes: int, *made: Component) -> tuple[Component, ...]:
    """Components that say how many classes they are for, whose models are checked."""
    return tuple(dataclasses.replace(each, num_classes=num_classes) for each in made)


def _num_targets(num_classes: int) -> int:
    return max(min(arguments.count("num_classes", num_classes) - 1, 9), 1)


def compiled(
    predict: Predict | Callable[[Key, Array], Array],
    components: Sequence[Component],
    *,
    bounds: Bounds | None = (0.0, 1.0),
    batch_sizes: Sequence[int] | None = None,
) -> Ensemble:
    """An ensemble for a model.

    Args:
        predict: ``x[n, ...] -> logits[n, k]`` in evaluation mode, or ``[n]`` single
            logits, whose labels are -1 and 1; with ``rand`` ``(key, x) -> logits``.
        components: such as those of ``standard``.
        bounds: as of ``pgd``.
        batch_sizes: of compiled programs; what is left of the points is packed into
            the small ones. 256 if None, and also 32 for models of more than a million
            operations.

    Raises:
        ValueError: for wrong arguments.
    """
    if not components or len({bool(each.num_draws) for each in components}) > 1:
        msg = "give one or more components, all with num_draws or all without"
        raise ValueError(msg)
    if not components[0].num_draws:
        arguments.functions(predict=predict)
    bounds = arguments.bounds(bounds)
    if batch_sizes is not None and not (
        isinstance(batch_sizes, Sequence) and len(batch_sizes)
    ):
        msg = f"batch_sizes = {batch_sizes!r}: give one or more, such as (32, 256)"
        raise ValueError(msg)
    return Ensemble(predict, components, bounds, batch_sizes)
