"""Token superposition over plain tensors: bags, their embedding, their targets' weights and their losses.

Nothing here imports anything beside torch (and Triton, on CUDA), so it runs, and is benchmarked, where
torchtitan is not installed. Source of the method: arXiv 2605.06546.
"""

from .bags import SIDES, bag_labels, tokens_advanced, tokens_per_window
from .embedding import bag_embedding
from .losses import LOSSES, bag_loss, expected_initial_loss, multi_hot_cross_entropy
from .shard import VocabShard
from .weights import WEIGHT_KINDS, MutualInformationLaw, target_weights

__all__ = [
    "LOSSES",
    "SIDES",
    "WEIGHT_KINDS",
    "MutualInformationLaw",
    "VocabShard",
    "bag_embedding",
    "bag_labels",
    "bag_loss",
    "expected_initial_loss",
    "multi_hot_cross_entropy",
    "target_weights",
    "tokens_advanced",
    "tokens_per_window",
]
