"""The losses of a bag, one file each (arXiv 2605.06546); importing them does not import torch."""

from importlib import import_module
from typing import Literal, get_args

from .record import Loss

LossName = Literal["mce", "mce_alt", "hinge", "bce"]
LOSSES: dict[str, Loss] = {name: import_module(f".{name}", __name__).LOSS for name in get_args(LossName)}


def loss_of(name: str) -> Loss:
    """The loss of that name. Raises ValueError for a name that is not listed."""
    if name not in LOSSES:
        raise ValueError(f"loss: {name!r} is not valid; it must be one of {', '.join(LOSSES)}")
    return LOSSES[name]
