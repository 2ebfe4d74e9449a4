"""Losses of one distribution against a bag of targets, each as one pass over the logits (arXiv 2605.06546).

Every loss is built from a dense part that sees each logit once (a log-sum-exp, or a mean over the vocabulary) and a
small part over the (N, s) logits of the targets, so its cost does not grow with the bag. Only row blocks of the
logits are ever copied; the gradient is the one logits-sized tensor that is made.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from .shard import VocabShard

LossName = Literal["mce", "mce_alt", "hinge", "bce"]
LOSSES: tuple[str, ...] = get_args(LossName)
IGNORE_INDEX = -100

# Elements of one block of rows: small enough that a block's float32 copy stays in a core's cache.
_BLOCK_ELEMENTS = 1 << 18


def multi_hot_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    shard: VocabShard | None = None,
    overwrite_logits: bool = False,
) -> torch.Tensor:
    """Sum over positions of ``logsumexp(z) - sum_k weights[k] * z[labels[k]]`` (MCE, arXiv 2605.06546).

    logits (N, V) of any float dtype, integer labels (N, s), weights (s,) summing to 1 -> float32 scalar: the sum of
    the positions' losses, in nats; the caller divides by the number of latents. It equals the weighted sum of s
    ordinary cross-entropies, which is also how labels of -100 count: they drop their term, and a position with no
    other label has neither loss nor gradient. Computed in float32 (float64 for float64 logits).

    With ``shard``, logits are the calling rank's columns of the vocabulary, labels are global ids, and the result is
    the same on all ranks of ``shard.group`` (two all-reduces of N and N * (s + 1) numbers, none in backward).

    ``overwrite_logits`` lets backward write the gradient over the logits instead of into a new tensor. Autograd
    raises an error if another function still needs the logits; do not read them yourself afterwards.

    Raises ValueError for tensors whose shapes do not fit.
    """
    return bag_loss("mce", logits, labels, weights, shard=shard, overwrite_logits=overwrite_logits)


def bag_loss(
    name: str,
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    shard: VocabShard | None = None,
    overwrite_logits: bool = False,
) -> torch.Tensor:
    """The loss called ``name`` (one of LOSSES), with the arguments and result of multi_hot_cross_entropy."""
    if name != "mce":
        raise ValueError(f"loss: {name!r} is not valid; it must be one of mce")
    _check(logits, labels, weights, shard)
    assert weights is not None
    return _MultiHotCrossEntropy.apply(logits, labels, weights, shard, overwrite_logits)


def _check(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, shard: VocabShard | None
) -> None:
    if logits.ndim != 2 or labels.ndim != 2 or logits.shape[0] != labels.shape[0]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} are not valid; "
            "they must be (N, vocabulary) and (N, bag_size)"
        )
    if weights is not None and weights.shape != labels.shape[1:]:
        raise ValueError(
            f"weights: shape {tuple(weights.shape)} is not valid; it must be {tuple(labels.shape[1:])}"
        )
    if shard is not None and logits.shape[1] != shard.end - shard.start:
        raise ValueError(
            f"logits: {logits.shape[1]} columns do not match the shard [{shard.start}, {shard.end})"
        )


def _wide(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _blocks(logits: torch.Tensor):
    """Row slices of about _BLOCK_ELEMENTS elements."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, logits.shape[1]))
    return [slice(i, min(i + rows, logits.shape[0])) for i in range(0, logits.shape[0], rows)]


class _MultiHotCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, weights, shard, overwrite):
        wide = _wide(logits)
        counted = labels != IGNORE_INDEX
        local, held = shard.local(labels) if shard is not None else (labels.where(counted, 0), counted)
        coefficients = weights.to(wide) * counted
        targets = logits.gather(1, local).to(wide) * held
        row_max = logits.amax(1).to(wide)
        if shard is not None:
            row_max = shard.all_reduce(row_max, dist.ReduceOp.MAX)
        sums = torch.empty_like(row_max)
        for block in _blocks(logits):
            torch.sum((logits[block] - row_max[block, None]).exp_(), 1, out=sums[block])
        if shard is not None:
            both = shard.all_reduce(torch.cat([sums[:, None], targets], 1), dist.ReduceOp.SUM)
            sums, targets = both[:, 0], both[:, 1:]
        lse = sums.log() + row_max
        mass = coefficients.sum(1)
        ctx.save_for_backward(logits, lse, mass, local, coefficients * held)
        ctx.overwrite = overwrite
        return (mass * lse - (coefficients * targets).sum(1)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, lse, mass, local, coefficients = ctx.saved_tensors
        out = logits.detach() if ctx.overwrite else torch.empty_like(logits)
        for block in _blocks(logits):
            share = torch.sub(logits[block], lse[block, None]).exp_().mul_((grad * mass[block])[:, None])
            share.scatter_add_(1, local[block], -grad * coefficients[block])
            out[block] = share
        return out, None, None, None, None
