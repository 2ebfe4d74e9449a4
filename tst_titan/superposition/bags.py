"""How a window of tokens becomes the inputs and targets of latents (arXiv 2605.06546)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Sides = Literal["full", "input_only", "output_only"]
SIDES: tuple[str, ...] = get_args(Sides)


def _check(latents: int, bag_size: int, sides: str) -> None:
    if latents < 1:
        raise ValueError(f"latents: {latents} is not valid; a window holds at least 1 latent")
    if bag_size < 1:
        raise ValueError(f"bag_size: {bag_size} is not valid; it must be a whole number of at least 1")
    if sides not in SIDES:
        raise ValueError(f"sides: {sides!r} is not valid; it must be one of {', '.join(SIDES)}")


def tokens_per_window(latents: int, bag_size: int, sides: str = "full") -> int:
    """Tokens to read for one sequence of ``latents`` positions, the targets of its last position included.

    ``full`` and ``output_only`` need the whole bag after the last position, ``input_only`` only its first
    token: ``bag_size * (latents + 1)``, ``latents + bag_size`` and ``bag_size * latents + 1`` tokens. At
    bag size 1 all three are the ordinary window of ``latents + 1`` tokens. Raises ValueError for arguments
    out of range.
    """
    _check(latents, bag_size, sides)
    if sides == "full":
        return bag_size * (latents + 1)
    if sides == "input_only":
        return bag_size * latents + 1
    return latents + bag_size


def tokens_advanced(latents: int, bag_size: int, sides: str = "full") -> int:
    """Tokens by which the reading position moves after one window: those that were inputs.

    ``bag_size * latents`` where bags go in (``full``, ``input_only``), ``latents`` where single tokens do
    (``output_only``). Raises ValueError for arguments out of range.
    """
    _check(latents, bag_size, sides)
    return latents if sides == "output_only" else bag_size * latents


def bag_labels(tokens: torch.Tensor, bag_size: int, sides: str = "full") -> tuple[torch.Tensor, torch.Tensor]:
    """Cut windows of tokens into the inputs and the targets of L latents.

    ``tokens`` is an integer tensor (B, tokens_per_window(L, bag_size, sides)). With s the bag size, returns
    inputs and labels of the same dtype:

    - ``full``: inputs (B, L, s), labels (B, L, s), ``labels[b, j, k] = tokens[b, (j + 1) * s + k]``;
    - ``input_only``: inputs (B, L, s), labels (B, L), the first token of the next bag;
    - ``output_only``: inputs (B, L), labels (B, L, s), the s tokens after each position (overlapping).

    The results are views of ``tokens`` where they can be. Raises ValueError when the number of tokens fits
    no L.
    """
    _check(1, bag_size, sides)
    if tokens.ndim != 2:
        raise ValueError(f"tokens: shape {tuple(tokens.shape)} is not valid; it must be (sequences, tokens)")
    width = tokens.shape[1]
    smallest = tokens_per_window(1, bag_size, sides)
    step = tokens_advanced(1, bag_size, sides)
    if width < smallest or (width - smallest) % step:
        raise ValueError(
            f"tokens: {width} tokens a sequence are not valid with bag_size {bag_size} and sides {sides!r}; "
            f"there must be {smallest} and any multiple of {step} more"
        )
    latents = (width - smallest) // step + 1
    if sides == "output_only":
        return tokens[:, :latents], tokens[:, 1:].unfold(1, bag_size, 1)
    inputs = tokens[:, : latents * bag_size].unflatten(1, (latents, bag_size))
    if sides == "input_only":
        return inputs, tokens[:, bag_size::bag_size]
    return inputs, tokens[:, bag_size:].unflatten(1, (latents, bag_size))
