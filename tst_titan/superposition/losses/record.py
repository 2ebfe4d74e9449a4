"""What a loss of a bag consists of. Shapes: N positions, V vocabulary entries, s tokens a bag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """The targets of N positions as a loss sees them."""

    logits: torch.Tensor
    """Of the targets, float32 or wider, (N, s); 0 where a target does not count."""
    labels: torch.Tensor
    """Ids in the whole vocabulary, (N, s)."""
    counted: torch.Tensor
    """Whether a label counts, (N, s): -100 does not."""
    weights: torch.Tensor | None
    """Of the targets, (s,); None for a loss that takes none."""
    vocab_size: int

    def distinct(self) -> torch.Tensor:
        """Mask (N, s) of the labels that count, without their repetitions in a bag."""
        ordered, order = self.labels.sort(dim=1, stable=True)
        fresh = self.counted.new_ones(ordered.shape)
        fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        return fresh.new_zeros(fresh.shape).scatter_(1, order, fresh) & self.counted

    def any_counted(self) -> torch.Tensor:
        """1 for a position that has a target, 0 for one that has none, (N,)."""
        return self.counted.any(1).to(self.logits.dtype)


class Part(NamedTuple):
    """What the targets contribute to a loss."""

    mass: torch.Tensor
    """Factor of the dense part, (N,)."""
    addend: torch.Tensor
    """Beside it, (N,)."""
    slope: torch.Tensor
    """Derivative of the addend by ``Bag.logits``, (N, s), 0 at labels that do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """A function of every logit; its mean over the vocabulary is a dense part."""

    value: Callable[[torch.Tensor], torch.Tensor]
    """A new tensor of the logits' shape and dtype."""
    slope: Callable[[torch.Tensor], torch.Tensor]
    """Its derivative, a new tensor too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One distribution against a bag: ``mass * dense(z) + addend``, summed over positions.

    The dense part sees every logit once; mass and addend come from the (N, s) logits of the targets alone, so that the
    cost hardly depends on the bag size.
    """

    name: str
    targets: Callable[[Bag], Part]
    initial: Callable[[int, int], float]
    """Loss of a position whose logits are all 0 and whose targets differ, from V and s."""
    elementwise: Elementwise | None = None
    """The dense part is this function's mean over the vocabulary; None: the log-sum-exp, which has kernels."""
    takes_weights: bool = False
    """Whether it needs a weight for each target; the others see the bag as a set."""

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it normalises over the vocabulary; training then starts near ``initial``."""
        return self.elementwise is None
