"""How much each token of the target bag counts (arXiv 2605.06546, figures 8 to 10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

WeightKind = Literal["uniform", "power", "exponential", "first", "mutual_information"]
WEIGHT_KINDS: tuple[str, ...] = get_args(WeightKind)
Law = Callable[[float], float]


def target_weights(
    kind: str | Sequence[float],
    bag_size: int,
    *,
    law: Law | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Weights g_1..g_s of the target bag's tokens, float32 of shape (bag_size,), summing to 1.

    Arguments and errors are those of ``relative_weights``. Computed in float64 and rounded once.
    """
    import torch

    weights = torch.tensor(relative_weights(kind, bag_size, law), dtype=torch.float64)
    return (weights / weights.sum()).to(torch.float32).to(device=device)


def relative_weights(kind: str | Sequence[float], bag_size: int, law: Law | None = None) -> list[float]:
    """The weights of the target bag's tokens before they are scaled to sum to 1.

    ``kind`` is ``uniform``, ``power`` (1/i), ``exponential`` (e^-i), ``first`` (the bag's first token
    alone), ``mutual_information`` (of two tokens at distance i, which ``law`` gives in nats) or the weights
    themselves: a sequence of ``bag_size`` numbers, none negative and not all zero. Raises ValueError naming
    what was found and what is valid.
    """
    if bag_size < 1:
        raise ValueError(f"bag_size: {bag_size} is not valid; it must be a whole number of at least 1")
    raw = _named_weights(kind, bag_size, law) if isinstance(kind, str) else [float(value) for value in kind]
    if len(raw) != bag_size:
        raise ValueError(f"weights has {len(raw)} numbers; a bag of {bag_size} needs {bag_size}")
    if not all(math.isfinite(value) and value >= 0.0 for value in raw) or not any(raw):
        raise ValueError(
            f"weights: {tuple(raw)} is not valid; they must be finite, none negative and not all zero"
        )
    return raw


def _named_weights(kind: str, bag_size: int, law: Law | None) -> list[float]:
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
        if law is None:
            raise ValueError("weights: 'mutual_information' needs a law of the distance")
        return [law(i) for i in places]
    raise ValueError(
        f"weights: {kind!r} is not valid; it must be one of {', '.join(WEIGHT_KINDS)} "
        f"or a list of {bag_size} numbers"
    )
