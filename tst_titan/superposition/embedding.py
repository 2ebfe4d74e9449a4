"""The mean of a bag's token embeddings, without a tensor of every token's embedding (arXiv 2605.06546)."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .shard import VocabShard

# Rows of a low-precision gradient that are summed in float32 at a time.
_GRADIENT_ROWS = 8192


def bag_embedding(
    weight: torch.Tensor, tokens: torch.Tensor, shard: VocabShard | None = None
) -> torch.Tensor:
    """Mean over each bag of its tokens' embeddings: weight (V, D), integer tokens (..., s) -> (..., D).

    The mean is accumulated in float32 (float64 for float64 weights) and returned in ``weight``'s dtype; the
    gradient of ``weight`` is dense and accumulated in float32 too. Neither direction makes a (..., s, D)
    tensor.

    With ``shard``, ``weight`` holds the rows [shard.start, shard.end) of the vocabulary, tokens remain
    global ids, and tokens of other shards contribute zero: summed over the ranks, the results are the mean.
    That sum is the caller's (tensor parallel calls such a result a partial sum); nothing is communicated
    here.

    Raises ValueError for tensors of the wrong shape; the look-up itself refuses ids outside the vocabulary.
    """
    if weight.ndim != 2:
        raise ValueError(f"weight: shape {tuple(weight.shape)} is not valid; it must be (vocabulary, width)")
    if tokens.ndim < 1 or tokens.shape[-1] < 1:
        raise ValueError(f"tokens: shape {tuple(tokens.shape)} is not valid; it must be (..., bag_size)")
    if shard is not None and weight.shape[0] != shard.size:
        raise ValueError(
            f"weight: {weight.shape[0]} rows are not valid for the shard [{shard.start}, {shard.end}); "
            f"there must be {shard.size}"
        )
    flat = tokens.reshape(-1, tokens.shape[-1])
    if flat.shape[1] == 1 and shard is None:
        mean = functional.embedding(flat[:, 0], weight)
    elif weight.device.type == "cpu":
        mean = _BagMeanOnCPU.apply(weight, flat, shard)
    else:
        mean = _bag_mean(weight, flat, shard)
    return mean.view(*tokens.shape[:-1], weight.shape[1])


def _bag_mean(weight: torch.Tensor, tokens: torch.Tensor, shard: VocabShard | None) -> torch.Tensor:
    """Torch's own kernels: both directions accumulate in float32 and split frequent tokens over threads."""
    if shard is None:
        return functional.embedding_bag(tokens, weight, mode="mean")
    ids, held = shard.local(tokens)
    include = held.to(weight.dtype)
    return functional.embedding_bag(ids, weight, mode="sum", per_sample_weights=include) / tokens.shape[1]


class _BagMeanOnCPU(torch.autograd.Function):
    """embedding_bag in both directions: the gradient of a token's row is itself the sum of a bag, namely of
    the gradients of the latents that hold the token. Rows are therefore written once, in a fixed order, and
    summed in registers; torch's own backward on the CPU rereads and rewrites a row for every occurrence.
    """

    @staticmethod
    def forward(ctx, weight: torch.Tensor, tokens: torch.Tensor, shard: VocabShard | None) -> torch.Tensor:
        ids, held = (tokens, None) if shard is None else shard.local(tokens)
        # Half the traffic of 64 bits, here and in the sort, which is what a narrow embedding waits for.
        ids = ids.to(torch.int32)
        # In backward, an id past the end collects what this shard does not hold.
        ctx.save_for_backward(ids if held is None else ids.where(held, weight.shape[0]))
        ctx.weight_shape, ctx.dtype, ctx.sharded = weight.shape, weight.dtype, held is not None
        include = None if held is None else held.to(weight.dtype)
        if weight.dtype in (torch.float32, torch.float64):
            # Shares of 1 / s in the sum cost nothing; dividing the sum would be one more pass over it.
            shares = torch.ones_like(ids, dtype=weight.dtype) if include is None else include
            shares /= ids.shape[1]
            return functional.embedding_bag(ids, weight, mode="sum", per_sample_weights=shares)
        # There embedding_bag rounds the sum, and then the mean, to the low precision.
        total = weight.new_zeros(ids.shape[0], weight.shape[1], dtype=torch.float32)
        for k in range(ids.shape[1]):
            rows = weight[ids[:, k]]
            total += rows if include is None else rows * include[:, k, None]
        return total.div_(ids.shape[1]).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        rows, width = ctx.weight_shape
        bag_size = ids.shape[1]
        flat = ids.flatten()
        offsets = flat.new_zeros(rows + 1)
        torch.cumsum(torch.bincount(flat, minlength=rows + 1)[:rows], 0, dtype=torch.int32, out=offsets[1:])
        keys = flat.to(torch.int16) if rows <= torch.iinfo(torch.int16).max else flat
        order = keys.argsort(stable=True)
        if ctx.sharded:
            order = order[: int(offsets[-1])]
        latents = _divided(order, bag_size).to(torch.int32)
        wide = torch.promote_types(gradient.dtype, torch.float32)
        gradient = gradient.to(wide)
        if ctx.dtype == wide:
            return _shared_out(gradient, latents, offsets, bag_size), None, None
        result = gradient.new_empty(rows, width, dtype=ctx.dtype)
        for start in range(0, rows, _GRADIENT_ROWS):
            bounds = offsets[start : start + _GRADIENT_ROWS + 1]
            own = latents[int(bounds[0]) : int(bounds[-1])]
            part = _shared_out(gradient, own, bounds - bounds[0], bag_size)
            result[start : start + _GRADIENT_ROWS] = part
        return result, None, None


def _divided(places: torch.Tensor, divisor: int) -> torch.Tensor:
    """``places // divisor`` in place, for int64 in [0, 2**31): a product and a shift, which vectorise.

    With 2**k >= divisor and m = ceil(2**(31 + k) / divisor) <= 2**32 the product stays below 2**63, and the excess of m
    over the exact quotient adds less than 1 / divisor to the result, so that it is exact.
    """
    shift = 31 + (divisor - 1).bit_length()
    return places.mul_(-(-(1 << shift) // divisor)).bitwise_right_shift_(shift)


def _shared_out(
    gradient: torch.Tensor, latents: torch.Tensor, offsets: torch.Tensor, bag_size: int
) -> torch.Tensor:
    """Row r: the sum of ``gradient[latents[offsets[r] : offsets[r + 1]]] / bag_size``; R + 1 offsets -> (R, D)."""
    shares = gradient.new_full(latents.shape, 1.0 / bag_size)
    return functional.embedding_bag(
        latents, gradient, offsets, mode="sum", per_sample_weights=shares, include_last_offset=True
    )
