"""Triton kernels of the softmax losses: two reads of the logits and one write of their gradient.

Imported only where the logits are on a CUDA device; the tests run them in Triton's interpreter. Rows are
processed in float32. The gradient may overwrite the logits: every program reads its entries before it
writes them, and what the targets' entries need has been gathered before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .dense import Targets

_STATISTICS_BLOCK = 8192
_GRADIENT_BLOCK = 4096


@triton.jit
def _statistics_kernel(logits, row_stride, columns, row_max, row_sum, BLOCK: tl.constexpr):
    """One program a row: running maximum and rescaled sum of exponentials, one block of columns at a time."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    top = float("-inf")
    total = 0.0
    for start in range(0, columns, BLOCK):
        inside = start + lanes < columns
        z = tl.load(logits + row * row_stride + start + lanes, mask=inside, other=float("-inf")).to(
            tl.float32
        )
        new_top = tl.maximum(top, tl.max(z, axis=0))
        # A row may begin with nothing but -inf: its distances are then 0 by convention, not nan.
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp(top - reference) + tl.sum(tl.exp(z - reference), axis=0)
        top = new_top
    tl.store(row_max + row, top)
    tl.store(row_sum + row, total)


@triton.jit
def _gradient_kernel(logits, row_stride, columns, lse, mass, out, out_stride, BLOCK: tl.constexpr):
    """One program a block of one row: mass * exp(z - lse)."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = lanes < columns
    z = tl.load(logits + row * row_stride + lanes, mask=inside, other=0.0).to(tl.float32)
    share = tl.load(mass + row) * tl.exp(z - tl.load(lse + row))
    tl.store(out + row * out_stride + lanes, share.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _targets_kernel(
    labels, columns, held, at_labels, slope, lse, mass, out, out_stride, bag_size, BAG: tl.constexpr
):
    """One program a row: the gradient at the targets, from their float32 logits, so that it is rounded
    once.

    Repeated labels all store the same number.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BAG)
    inside = lanes < bag_size
    place = row * bag_size + lanes
    label = tl.load(labels + place, mask=inside, other=-1)
    own = tl.load(slope + place, mask=inside, other=0.0)
    merged = tl.sum(tl.where(label[:, None] == label[None, :], own[None, :], 0.0), axis=1)
    z = tl.load(at_labels + place, mask=inside, other=0.0)
    value = tl.load(mass + row) * tl.exp(z - tl.load(lse + row)) + merged
    column = tl.load(columns + place, mask=inside, other=0)
    written = inside & (tl.load(held + place, mask=inside, other=0) != 0)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=written)


def softmax_statistics(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Greatest logit of each row (N,) and the sum (N,) of the exponentials of distances to it, float32."""
    rows, columns = logits.shape
    row_max = torch.empty(rows, dtype=torch.float32, device=logits.device)
    row_sum = torch.empty_like(row_max)
    block = min(_STATISTICS_BLOCK, triton.next_power_of_2(columns))
    _statistics_kernel[(rows,)](logits, logits.stride(0), columns, row_max, row_sum, BLOCK=block, num_warps=8)
    return row_max, row_sum


def softmax_gradient(
    logits: torch.Tensor, lse: torch.Tensor, mass: torch.Tensor, targets: Targets, out: torch.Tensor
) -> None:
    """Write ``mass * softmax(z)`` plus the targets' slopes into ``out`` (N, V), which may be the logits."""
    rows, columns = logits.shape
    lse, mass = lse.contiguous(), mass.contiguous()
    block = min(_GRADIENT_BLOCK, triton.next_power_of_2(columns))
    grid = (rows, triton.cdiv(columns, block))
    _gradient_kernel[grid](
        logits, logits.stride(0), columns, lse, mass, out, out.stride(0), BLOCK=block, num_warps=8
    )
    labels, local, held, at_labels, slope = (part.contiguous() for part in targets)
    _targets_kernel[(rows,)](
        labels,
        local,
        held.to(torch.int8),
        at_labels,
        slope,
        lse,
        mass,
        out,
        out.stride(0),
        labels.shape[1],
        BAG=triton.next_power_of_2(labels.shape[1]),
        num_warps=1,
    )
    torch.autograd.graph.increment_version(out)
