"""``max(0, 1 - t * z)`` against the vector t that is +1 at the bag's tokens and -1 elsewhere, averaged over it."""

from __future__ import annotations

from .record import Bag, Elementwise, Loss, Part


def _targets(bag: Bag) -> Part:
    distinct, z = bag.distinct(), bag.logits
    change = (1 - z).clamp_min(0) - (1 + z).clamp_min(0)
    slope = -((z < 1).to(z.dtype) + (z > -1).to(z.dtype))
    size = bag.vocab_size
    return Part(bag.any_counted(), (change * distinct).sum(1) / size, slope * distinct / size)


LOSS = Loss(
    name="hinge",
    targets=_targets,
    initial=lambda *_: 1.0,
    elementwise=Elementwise(
        value=lambda z: (z + 1).clamp_min_(0),
        slope=lambda z: (z > -1).to(z.dtype),
    ),
)
