"""The parts of the bag losses that see every logit: blocks of rows, or Triton kernels on CUDA."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist

from .losses import Loss
from .shard import VocabShard

# Elements of the float32 copy of one block of rows: on the CPU a core's cache holds it, elsewhere it is
# small beside the logits and large enough to keep the device busy.
_CPU_BLOCK = 1 << 18
_DEVICE_BLOCK = 1 << 26


class Targets(NamedTuple):
    """The (N, s) tensors about the targets of N positions."""

    labels: torch.Tensor
    """Ids in the whole vocabulary."""
    columns: torch.Tensor
    """Columns of the local logits; some valid column where not held."""
    held: torch.Tensor
    """Whether the local logits have the label."""
    at_labels: torch.Tensor
    """The labels' logits."""
    slope: torch.Tensor
    """Derivative of the loss by ``at_labels``, beside the dense part."""


def builds_gradient_early(loss: Loss, logits: torch.Tensor) -> bool:
    """Whether forward should already build the gradient: one exponential a logit instead of two.

    Not where a low-precision gradient would be rounded twice, and not on accelerators, where memory traffic
    decides and the scaling by the upstream gradient would cost one more pass.
    """
    return (
        loss.elementwise is None
        and logits.device.type == "cpu"
        and logits.dtype in (torch.float32, torch.float64)
    )


def softmax_in_forward(logits: torch.Tensor, overwrite: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-sum-exp (N,) and softmax (N, V) of the rows, the latter over the logits if asked to."""
    logits = logits.detach()
    softmax = logits if overwrite else torch.empty_like(logits)
    lse = torch.empty(logits.shape[0], dtype=logits.dtype, device=logits.device)
    for block in _blocks(logits):
        row_max = logits[block].amax(1)
        torch.softmax(logits[block], 1, out=softmax[block])
        # The greatest entry of the softmax is 1 / sum(exp(z - max)): the sum needs no pass of its own.
        torch.sub(row_max, softmax[block].amax(1).log_(), out=lse[block])
    return lse, softmax


def forward(
    loss: Loss, logits: torch.Tensor, at_labels: torch.Tensor, shard: VocabShard | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense part (N,) of the loss and the labels' logits (N, s), both over the whole vocabulary."""
    logits = logits.detach()
    if loss.elementwise is None:
        kernels = _kernels(logits)
        statistics = _softmax_statistics if kernels is None else kernels.softmax_statistics
        row_max, row_sum = statistics(logits)
        if shard is None:
            return row_max + row_sum.log(), at_labels
        top = shard.all_reduce(row_max.clone(), dist.ReduceOp.MAX)
        row_sum = row_sum * torch.exp(row_max - top)
        both = shard.all_reduce(torch.cat([row_sum[:, None], at_labels], 1), dist.ReduceOp.SUM)
        return top + both[:, 0].log(), both[:, 1:].contiguous()
    total = torch.empty(logits.shape[0], dtype=at_labels.dtype, device=logits.device)
    vocab_size = logits.shape[1] if shard is None else shard.vocab_size
    for block in _blocks(logits):
        z = logits[block].to(total.dtype)
        torch.sum(loss.elementwise.value(z), 1, out=total[block])
    total /= vocab_size
    if shard is None:
        return total, at_labels
    both = shard.all_reduce(torch.cat([total[:, None], at_labels], 1), dist.ReduceOp.SUM)
    return both[:, 0].contiguous(), both[:, 1:].contiguous()


def gradient(
    loss: Loss,
    logits: torch.Tensor,
    total: torch.Tensor,
    mass: torch.Tensor,
    targets: Targets,
    vocab_size: int,
    out: torch.Tensor,
) -> None:
    """Write the gradient (N, V) into ``out``, which may be the logits themselves.

    ``total`` is the dense part as ``forward`` returned it; ``mass`` (N,) and ``targets.slope`` are already
    multiplied by the upstream gradient.
    """
    logits = logits.detach()
    kernels = _kernels(logits) if loss.elementwise is None else None
    if kernels is not None:
        kernels.softmax_gradient(logits, total, mass, targets, out)
        return
    slope = targets.slope * targets.held
    for block in _blocks(logits):
        z = logits[block].to(total.dtype)
        if loss.elementwise is None:
            every = (z - total[block, None]).exp_().mul_(mass[block, None])
        else:
            every = loss.elementwise.slope(z).mul_(mass[block, None] / vocab_size)
        out[block] = every.scatter_add_(1, targets.columns[block], slope[block])


def _softmax_statistics(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Greatest logit of each row (N,) and the sum (N,) of the exponentials of the distances to it."""
    row_max = logits.amax(1).to(torch.promote_types(logits.dtype, torch.float32))
    # A shard of a row may hold nothing but -inf; its distances are then -inf, not nan.
    reference = row_max.masked_fill(row_max == -math.inf, 0.0)
    row_sum = torch.empty_like(row_max)
    for block in _blocks(logits):
        torch.sum((logits[block] - reference[block, None]).exp_(), 1, out=row_sum[block])
    return row_max, row_sum


def _kernels(logits: torch.Tensor) -> ModuleType | None:
    """The Triton kernels, where they apply: on a CUDA (or ROCm) device with Triton installed."""
    if not logits.is_cuda or logits.dtype == torch.float64 or logits.stride(1) != 1:
        return None
    try:
        return importlib.import_module(".kernels", __package__)
    except ImportError:
        return None


def _blocks(logits: torch.Tensor) -> Iterator[slice]:
    elements = _CPU_BLOCK * torch.get_num_threads() if logits.device.type == "cpu" else _DEVICE_BLOCK
    rows = max(1, elements // max(1, logits.shape[1]))
    for start in range(0, logits.shape[0], rows):
        yield slice(start, min(start + rows, logits.shape[0]))
