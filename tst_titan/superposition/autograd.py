"""A bag's loss as one autograd function: one pass over the logits forward, one backward (arXiv 2605.06546).

Only blocks of rows are ever copied, and the gradient is the one tensor of the logits' size that is made. What the
losses are is in ``losses/``. Shapes: N positions, V vocabulary entries, s tokens a bag.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from . import dense
from .losses import Loss, loss_of
from .losses.record import Bag
from .shard import VocabShard

IGNORE_INDEX = -100


def multi_hot_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    shard: VocabShard | None = None,
    overwrite_logits: bool = False,
) -> torch.Tensor:
    """MCE, summed over positions: ``logsumexp(z) - sum_k weights[k] * z[labels[k]]`` (arXiv 2605.06546).

    logits (N, V) of any float dtype, integer labels (N, s), weights (s,) summing to 1. Returns a float32
    scalar (float64 for float64 logits): the sum of the positions' losses in nats. The caller divides it by
    the number of latents; at initialisation that mean is about ln V, whatever s is. It equals the weighted
    sum of s ordinary cross-entropies, also where labels are -100: they drop their term, and a position with
    no other label has neither loss nor gradient.

    With ``shard``, logits are the calling rank's columns of the vocabulary, labels are global ids, and
    every rank of ``shard.group`` gets the same value: two all-reduces, of N and of N * (s + 1) numbers, in
    forward; none in backward.

    ``overwrite_logits`` writes the gradient over the logits (contiguous ones) instead of into a new tensor.
    Do not read them afterwards; where autograd itself still needs them, it raises an error. Backward runs
    once: a second time through the same graph is an error where the first changed the gradient in place.

    Raises ValueError for arguments that do not fit each other.
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
    """The loss called ``name``, one of LOSSES, with the arguments and the result of multi_hot_cross_entropy.

    A loss that takes no weights sees the bag as a set.
    """
    loss = loss_of(name)
    _check(loss, logits, labels, weights, shard, overwrite_logits)
    # Inside the Function nothing tells whether a gradient will be asked for: grad mode is always off there.
    trains = torch.is_grad_enabled() and logits.requires_grad
    early = trains and shard is None and dense.builds_gradient_early(loss, logits)
    return _BagLoss.apply(logits, labels, weights, loss, shard, overwrite_logits, early)


def _check(
    loss: Loss,
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    shard: VocabShard | None,
    overwrite: bool,
) -> None:
    if logits.ndim != 2 or labels.ndim != 2 or logits.shape[0] != labels.shape[0] or not labels.shape[1]:
        raise ValueError(
            f"logits, labels: shapes {tuple(logits.shape)} and {tuple(labels.shape)} are not valid; "
            "they must be (N, vocabulary) and (N, bag_size)"
        )
    if not loss.takes_weights and weights is not None:
        raise ValueError(f"weights: they have no effect on the loss {loss.name!r}")
    if loss.takes_weights and (weights is None or weights.shape != labels.shape[1:]):
        found = "None" if weights is None else f"shape {tuple(weights.shape)}"
        raise ValueError(
            f"weights: {found} is not valid; {loss.name!r} needs the shape {tuple(labels.shape[1:])}"
        )
    if shard is not None and logits.shape[1] != shard.size:
        raise ValueError(
            f"logits: {logits.shape[1]} columns are not valid for the shard [{shard.start}, {shard.end}); "
            f"there must be {shard.size}"
        )
    if overwrite and not logits.is_contiguous():
        raise ValueError("logits: strided ones cannot be overwritten; pass contiguous ones")


class _BagLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None,
        loss: Loss,
        shard: VocabShard | None,
        overwrite: bool,
        early: bool,
    ) -> torch.Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        counted = labels != IGNORE_INDEX
        columns, held = (labels.where(counted, 0), counted) if shard is None else shard.local(labels)
        at_labels = logits.gather(1, columns).to(wide).masked_fill_(~held, 0.0)
        if early:
            total, gradient = dense.softmax_in_forward(logits, overwrite)
        else:
            total, at_labels = dense.forward(loss, logits, at_labels, shard)
        vocab_size = logits.shape[1] if shard is None else shard.vocab_size
        bag = Bag(logits=at_labels, labels=labels, counted=counted, weights=weights, vocab_size=vocab_size)
        mass, addend, slope = loss.targets(bag)
        if early:
            if bool(((mass - 1.0).abs() > 8 * torch.finfo(mass.dtype).eps).any()):
                gradient.mul_(mass[:, None])
            gradient.scatter_add_(1, columns, slope)
            ctx.save_for_backward(gradient)
        else:
            target = dense.Targets(labels, columns, held, at_labels, slope)
            ctx.save_for_backward(logits, total, mass, *target)
        ctx.early, ctx.loss, ctx.overwrite, ctx.vocab_size = early, loss, overwrite, vocab_size
        return (mass * total + addend).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.early:
            (gradient,) = ctx.saved_tensors
            if upstream.item() != 1.0:
                gradient.mul_(upstream)
            return gradient, None, None, None, None, None, None
        logits, total, mass, *target = ctx.saved_tensors
        out = logits.detach() if ctx.overwrite else torch.empty_like(logits)
        targets = dense.Targets(*target)
        targets = targets._replace(slope=targets.slope * upstream)
        dense.gradient(ctx.loss, logits, total, mass * upstream, targets, ctx.vocab_size, out)
        return out, None, None, None, None, None, None
