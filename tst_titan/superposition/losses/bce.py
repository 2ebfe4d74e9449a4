"""Binary cross-entropy with logits against the vector that is 1 at the bag's tokens, averaged over the vocabulary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .record import Bag, Elementwise, Loss, Part

if TYPE_CHECKING:
    import torch


def _targets(bag: Bag) -> Part:
    slope = bag.distinct().to(bag.logits.dtype) / -bag.vocab_size
    return Part(bag.any_counted(), (slope * bag.logits).sum(1), slope)


def _softplus(z: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import softplus

    return softplus(z, threshold=40)


LOSS = Loss(
    name="bce",
    targets=_targets,
    initial=lambda *_: math.log(2.0),
    elementwise=Elementwise(value=_softplus, slope=lambda z: z.sigmoid()),
)
