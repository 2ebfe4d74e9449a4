"""The mean of a bag's token embeddings, without a tensor that holds every token's embedding (arXiv 2605.06546)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .shard import VocabShard


def bag_embedding(
    weight: torch.Tensor, tokens: torch.Tensor, shard: VocabShard | None = None
) -> torch.Tensor:
    """Mean over each bag of its tokens' embeddings: weight (V, D), integer tokens (..., s) -> (..., D).

    The mean is accumulated in float32 and returned in ``weight``'s dtype; the gradient with respect to ``weight`` is
    dense, accumulated in float32 too. Neither direction makes a (..., s, D) tensor.

    With ``shard``, ``weight`` holds the rows [shard.start, shard.end) of the vocabulary, tokens remain global ids,
    and tokens of other shards contribute zero: the sum over the group's ranks is the mean. That sum is the caller's
    (tensor parallel treats the result as a partial sum); nothing is communicated here.

    Raises ValueError for tensors of the wrong shape; ids outside the vocabulary are errors of the look-up on the CPU.
    """
    if weight.ndim != 2:
        raise ValueError(f"weight: shape {tuple(weight.shape)} is not valid; it must be (vocabulary, width)")
    if tokens.ndim < 1 or tokens.shape[-1] < 1:
        raise ValueError(
            f"tokens: shape {tuple(tokens.shape)} is not valid; the last dimension must be the bag"
        )
    if shard is not None and weight.shape[0] != shard.end - shard.start:
        raise ValueError(
            f"weight: {weight.shape[0]} rows do not match the shard [{shard.start}, {shard.end})"
        )
    flat = tokens.reshape(-1, tokens.shape[-1])
    if flat.shape[1] == 1 and shard is None:
        mean = F.embedding(flat[:, 0], weight)
    else:
        mean = _BagMean.apply(weight, flat, shard)
    return mean.view(*tokens.shape[:-1], weight.shape[1])


class _BagMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: torch.Tensor, tokens: torch.Tensor, shard: VocabShard | None) -> torch.Tensor:
        ids, held = (tokens, None) if shard is None else shard.local(tokens)
        ctx.save_for_backward(ids, held)
        ctx.rows, ctx.dtype = weight.shape[0], weight.dtype
        bag_size = ids.shape[1]
        if weight.dtype in (torch.float32, torch.float64):
            include = None if held is None else held.to(weight.dtype)
            return F.embedding_bag(ids, weight, mode="sum", per_sample_weights=include).div_(bag_size)
        if held is None:
            return F.embedding_bag(ids, weight, mode="mean")
        total = torch.zeros(ids.shape[0], weight.shape[1], dtype=torch.float32, device=weight.device)
        for k in range(bag_size):
            total.addcmul_(weight[ids[:, k]], held[:, k, None].to(weight.dtype))
        return total.div_(bag_size).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ids, held = ctx.saved_tensors
        wide = torch.promote_types(grad.dtype, torch.float32)
        shares = grad.to(wide) / ids.shape[1]
        total = torch.zeros(ctx.rows, grad.shape[1], dtype=wide, device=grad.device)
        for k in range(ids.shape[1]):
            source = shares if held is None else shares * held[:, k, None]
            total.index_add_(0, ids[:, k], source)
        return total.to(ctx.dtype), None, None
