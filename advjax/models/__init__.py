"""Networks behind ``Model(init, apply)``, and adapters for networks written elsewhere.

    model = models.make("mlp", num_classes=10, hidden=(128,))
    params, batch_stats = model.init(key, x)
    logits, _ = model.apply(params, batch_stats, x, train=False)

To attack a trained network no adapter is needed: any ``predict(x)`` makes a loss
``lambda x, y: losses.cross_entropy(predict(x), y)``. The adapters are for training.
"""

from advjax.models.adapters import from_function, from_linen, from_nnx
from advjax.models.mlp import MLP
from advjax.types import Model

__all__ = ["MLP", "from_function", "from_linen", "from_nnx", "make"]

_FAMILIES = {"mlp": MLP}


def make(name: str, *, num_classes: int, **options) -> Model:
    """The network called ``name``; ``options`` go to its linen module.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in _FAMILIES:
        msg = f"model = {name!r}: choose one of {', '.join(sorted(_FAMILIES))}"
        raise ValueError(msg)
    return from_linen(_FAMILIES[name](num_classes=num_classes, **options))
