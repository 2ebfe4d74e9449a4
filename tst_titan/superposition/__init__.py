"""Token superposition over plain tensors: bags, their embedding, their targets' weights and their losses.

Nothing here imports anything beside torch (and Triton, on CUDA), so it runs, and is benchmarked, where
torchtitan is not installed. Torch itself is imported with the first name that needs it: configs and plans
read what a bag may be from here and wait for nothing. Source of the method: arXiv 2605.06546.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autograd import bag_loss, multi_hot_cross_entropy
    from .bags import SIDES, bag_labels, tokens_advanced, tokens_per_window
    from .embedding import bag_embedding
    from .losses import LOSSES
    from .shard import VocabShard
    from .weights import WEIGHT_KINDS, target_weights

__all__ = [
    "LOSSES",
    "SIDES",
    "WEIGHT_KINDS",
    "VocabShard",
    "bag_embedding",
    "bag_labels",
    "bag_loss",
    "multi_hot_cross_entropy",
    "target_weights",
    "tokens_advanced",
    "tokens_per_window",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("bags", "weights", "losses", "autograd", "embedding", "shard"):
            found = import_module(f".{module}", __name__)
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
