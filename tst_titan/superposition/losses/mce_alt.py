"""``logsumexp(z)`` minus the log-sum-exp over the bag's distinct tokens: -log P(the next token is one of the bag's).

Counting a repeated token twice would let the probability exceed 1 and the loss fall below 0, rewarding repetition.
"""

from __future__ import annotations

import math

from .record import Bag, Loss, Part


def _targets(bag: Bag) -> Part:
    distinct, mass = bag.distinct(), bag.any_counted()
    in_bag = bag.logits.masked_fill(~distinct, -math.inf)
    share = in_bag.softmax(1).masked_fill_(~distinct, 0.0)
    return Part(mass, -in_bag.logsumexp(1).masked_fill_(mass == 0, 0.0), -share)


LOSS = Loss(
    name="mce_alt",
    targets=_targets,
    initial=lambda vocab_size, bag_size: math.log(vocab_size / bag_size),
)
