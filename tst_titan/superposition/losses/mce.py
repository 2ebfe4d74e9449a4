"""Multi-hot cross-entropy: ``logsumexp(z) - sum_k weights[k] * z[labels[k]]``, the paper's loss.

It equals the weighted sum of s ordinary cross-entropies, also where labels do not count: they drop their term.
"""

from __future__ import annotations

import math

from .record import Bag, Loss, Part


def _targets(bag: Bag) -> Part:
    assert bag.weights is not None
    shares = bag.weights.to(bag.logits.dtype) * bag.counted
    return Part(shares.sum(1), -(shares * bag.logits).sum(1), -shares)


LOSS = Loss(
    name="mce", targets=_targets, initial=lambda vocab_size, _: math.log(vocab_size), takes_weights=True
)
