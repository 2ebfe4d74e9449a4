"""Losses of one distribution against a bag of targets, each in one pass over the logits (arXiv 2605.06546).

Every loss is a dense part, which sees each logit once, plus a part over the (N, s) logits of the targets:

    mce      sum_k g_k CE(z, y_k)    = logsumexp(z)      - sum_k g_k z[y_k]
    mce_alt  -log P(any of the bag)  = logsumexp(z)      - logsumexp over the bag's tokens of z[y]
    bce      against a 0/1 vector    = mean softplus(z)  - sum over the bag's tokens of z[y] / V
    hinge    against a -1/+1 vector  = mean max(0, 1+z)  + sum of (max(0, 1-z[y]) - max(0, 1+z[y])) / V

so its cost hardly depends on the bag size. Only blocks of rows are ever copied, and the gradient is the one
tensor of the logits' size that is made. Shapes: N positions, V vocabulary entries, s tokens a bag.
"""

from __future__ import annotations

import math

import torch
from torch.autograd.function import once_differentiable

from . import dense
from .shard import VocabShard

LOSSES = ("mce", "mce_alt", "hinge", "bce")
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
    """The loss called ``name``, one of LOSSES, with the arguments and the result of
    multi_hot_cross_entropy.

    ``mce`` needs ``weights``; the others see the bag as a set and take none. Their definitions, per
    position:

    - ``mce_alt``: minus the log of the summed probability of the bag's *distinct* tokens, that is of the
      event
      "the next token is one of the bag's". Counting a repeated token twice would let the sum exceed 1 and
      the loss fall below 0, rewarding repetition.
    - ``bce``: binary cross-entropy with logits against the vector that is 1 at the bag's tokens, and
    - ``hinge``: ``max(0, 1 - t * z)`` against the vector that is +1 at the bag's tokens and -1 elsewhere;
      both
      averaged over the vocabulary.
    """
    _check(name, logits, labels, weights, shard, overwrite_logits)
    # Inside the Function nothing tells whether a gradient will be asked for: grad mode is always off there.
    trains = torch.is_grad_enabled() and logits.requires_grad
    early = trains and shard is None and dense.builds_gradient_early(name, logits)
    return _BagLoss.apply(logits, labels, weights, name, shard, overwrite_logits, early)


def expected_initial_loss(name: str, vocab_size: int, bag_size: int) -> float:
    """Mean loss of a position, in nats, when all logits are 0 and the bag's tokens differ: what training
    starts from. A loss far from it is wired wrongly. Raises ValueError for a name that is not one of
    LOSSES.
    """
    _check_name(name)
    if name == "mce":
        return math.log(vocab_size)
    if name == "mce_alt":
        return math.log(vocab_size / bag_size)
    return math.log(2.0) if name == "bce" else 1.0


def _check_name(name: str) -> None:
    if name not in LOSSES:
        raise ValueError(f"loss: {name!r} is not valid; it must be one of {', '.join(LOSSES)}")


def _check(
    name: str,
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    shard: VocabShard | None,
    overwrite: bool,
) -> None:
    _check_name(name)
    if logits.ndim != 2 or labels.ndim != 2 or logits.shape[0] != labels.shape[0] or not labels.shape[1]:
        raise ValueError(
            f"logits, labels: shapes {tuple(logits.shape)} and {tuple(labels.shape)} are not valid; "
            "they must be (N, vocabulary) and (N, bag_size)"
        )
    if name != "mce" and weights is not None:
        raise ValueError(f"weights: they have no effect on the loss {name!r}; only 'mce' takes them")
    if name == "mce" and (weights is None or weights.shape != labels.shape[1:]):
        found = "None" if weights is None else f"shape {tuple(weights.shape)}"
        raise ValueError(f"weights: {found} is not valid; 'mce' needs the shape {tuple(labels.shape[1:])}")
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
        name: str,
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
            total, at_labels = dense.forward(name, logits, at_labels, shard)
        vocab_size = logits.shape[1] if shard is None else shard.vocab_size
        mass, rest, slope = _targets_part(name, at_labels, labels, counted, weights, vocab_size)
        if early:
            if bool(((mass - 1.0).abs() > 8 * torch.finfo(mass.dtype).eps).any()):
                gradient.mul_(mass[:, None])
            gradient.scatter_add_(1, columns, slope)
            ctx.save_for_backward(gradient)
        else:
            target = dense.Targets(labels, columns, held, at_labels, slope)
            ctx.save_for_backward(logits, total, mass, *target)
        ctx.early, ctx.name, ctx.overwrite, ctx.vocab_size = early, name, overwrite, vocab_size
        return (mass * total + rest).sum()

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
        dense.gradient(ctx.name, logits, total, mass * upstream, targets, ctx.vocab_size, out)
        return out, None, None, None, None, None, None


def _targets_part(
    name: str,
    at_labels: torch.Tensor,
    labels: torch.Tensor,
    counted: torch.Tensor,
    weights: torch.Tensor | None,
    vocab_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the targets' logits (N, s) add to a position's loss.

    Returns the factor of the dense part (N,), the addend (N,) and the addend's derivative by ``at_labels``
    (N, s), which is 0 at labels that do not count.
    """
    if name == "mce":
        assert weights is not None
        shares = weights.to(at_labels.dtype) * counted
        return shares.sum(1), -(shares * at_labels).sum(1), -shares
    distinct = _distinct(labels) & counted
    mass = counted.any(1).to(at_labels.dtype)
    if name == "mce_alt":
        in_bag = at_labels.masked_fill(~distinct, -math.inf)
        share = in_bag.softmax(1).masked_fill_(~distinct, 0.0)
        return mass, -in_bag.logsumexp(1).masked_fill_(mass == 0, 0.0), -share
    if name == "bce":
        slope = distinct.to(at_labels.dtype) / -vocab_size
        return mass, (slope * at_labels).sum(1), slope
    change = (1 - at_labels).clamp_min(0) - (1 + at_labels).clamp_min(0)
    slope = -((at_labels < 1).to(change.dtype) + (at_labels > -1).to(change.dtype))
    return mass, (change * distinct).sum(1) / vocab_size, slope * distinct / vocab_size


def _distinct(labels: torch.Tensor) -> torch.Tensor:
    """Mask (N, s) of each row's labels without their repetitions."""
    ordered, order = labels.sort(dim=1, stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(fresh).scatter_(1, order, fresh)
