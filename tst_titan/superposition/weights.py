"""How much each token of the target bag counts (arXiv 2605.06546, figures 8 to 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

WeightKind = Literal["uniform", "power", "exponential", "first", "mutual_information"]
WEIGHT_KINDS: tuple[str, ...] = get_args(WeightKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualInformationLaw:
    """The fitted law ``c0 + a * d**k`` of the mutual information of two tokens d tokens apart.

    The defaults are the published fit (arXiv 2605.06546, figure 10).
    """

    c0: float = 3.63
    a: float = 1.35
    k: float = -1.25

    def __call__(self, distance: float) -> float:
        return self.c0 + self.a * distance**self.k


def target_weights(
    kind: str | Sequence[float],
    bag_size: int,
    *,
    law: MutualInformationLaw | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Weights g_1..g_s of the target bag's tokens, float32 of shape (bag_size,), summing to 1.

    ``kind`` is ``uniform``, ``power`` (1/i), ``exponential`` (e^-i), ``first`` (the bag's first token
    alone), ``mutual_information`` (``law`` at distance i) or the weights themselves: a sequence of
    ``bag_size`` numbers, none negative and not all zero. Computed in float64 and rounded once. Raises
    ValueError naming the key, what was found and what is valid; ``law`` with any other kind is an error
    because it would have no effect.
    """
    if bag_size < 1:
        raise ValueError(f"bag_size: {bag_size} is not valid; it must be a whole number of at least 1")
    if law is not None and kind != "mutual_information":
        raise ValueError(
            f"law: {law} has no effect with target weights {kind!r}; it needs mutual_information"
        )
    if isinstance(kind, str):
        raw = _named_weights(kind, bag_size, law or MutualInformationLaw())
    else:
        raw = [float(value) for value in kind]
        if len(raw) != bag_size:
            raise ValueError(
                f"target_weights: {len(raw)} numbers are not valid with bag_size {bag_size}; "
                f"there must be {bag_size}"
            )
    if not all(math.isfinite(value) and value >= 0.0 for value in raw) or not any(raw):
        raise ValueError(
            f"target_weights: {raw} is not valid; the weights must be finite, none negative and not all zero"
        )
    weights = torch.tensor(raw, dtype=torch.float64)
    return (weights / weights.sum()).to(torch.float32).to(device=device)


def _named_weights(kind: str, bag_size: int, law: MutualInformationLaw) -> list[float]:
    places = range(1, bag_size + 1)
    if kind == "uniform":
        return [1.0 for _ in places]
    if kind == "power":
        return [1.0 / i for i in places]
    if kind == "exponential":
        # Counted from the first place, because e^-i itself would underflow in a very large bag.
        return [math.exp(1 - i) for i in places]
    if kind == "first":
        return [1.0 if i == 1 else 0.0 for i in places]
    if kind == "mutual_information":
        return [law(i) for i in places]
    raise ValueError(
        f"target_weights: {kind!r} is not valid; it must be one of {', '.join(WEIGHT_KINDS)} "
        f"or a list of {bag_size} numbers"
    )
