"""Windows of packed documents, each closed by an end-of-text token: places in documents, and bags that stay in one."""

from __future__ import annotations

import torch

FILLER = -100
"""In a bag that its document did not fill: averaged by no embedding, counted by no loss."""


def positions_in_documents(tokens: torch.Tensor, eos_id: int) -> torch.Tensor:
    """Place of every token of windows (B, L) in its document, from 0: torchtitan's masks begin one where it is 0.

    A document that began before the window begins anew at its first token.
    """
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    begins = torch.zeros_like(tokens, dtype=torch.bool)
    begins[:, 1:] = tokens[:, :-1] == eos_id
    return place - torch.where(begins, place, 0).cummax(dim=1).values


def bags_inside_documents(tokens: torch.Tensor, bags: int, bag_size: int, eos_id: int) -> torch.Tensor:
    """The first bags of windows (B, W), W > (bags - 1) * bag_size, none of which spans two documents.

    Every document is cut from its first token on, and its last bag filled up. Returns (B, bags, bag_size); tokens that
    no longer fit behind the filled bags are left out. Every bag holds at least one token.
    """
    place = positions_in_documents(tokens, eos_id) % bag_size
    number = (place == 0).cumsum(dim=1) - 1
    kept = number < bags
    filled = tokens.new_full((len(tokens), bags, bag_size), FILLER)
    rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
    filled[rows[kept], number[kept], place[kept]] = tokens[kept]
    return filled
