"""Multi-hot cross-entropy: ``logsumexp(z) - sum_k weights[k] * z[labels[k]]``, the paper's loss.

It equals the weighted sum of s ordinary cross-entropies, also where labels do not count: they drop their term.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .record import Bag, Loss

if TYPE_CHECKING:
    import torch


def _targets(bag: Bag) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert bag.weights is not None
    shares = bag.weights.to(bag.logits.dtype) * bag.counted
    return shares.sum(1), -(shares * bag.logits).sum(1), -shares


LOSS = Loss(
    name="mce", targets=_targets, initial=lambda vocab_size, _: math.log(vocab_size), takes_weights=True
)
