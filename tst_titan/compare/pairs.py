"""A run against a reference: at equal FLOPs, data and loss, on the hold-out set and in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_titan.compare.arithmetic import Switch, interpolate_finals, loss_at, switch_spike
from tst_titan.compare.documents import mean_over_documents, read_documents
from tst_titan.compare.equal_loss import (
    NO_TOKEN_LOSS,
    EqualLoss,
    by_length,
    equal_loss,
    metrics_sources,
    run_reaches,
)
from tst_titan.compare.measured import Measured, difference, merge_sources, missing
from tst_titan.compare.noise import MeanWithError, t_quantile
from tst_titan.compare.runs import LOSS_UNIT, RunData, measured_mean
from tst_titan.compare.spec import Options

Winner = Literal["run", "reference", "undecided"]
_LARGE = 10**6


@dataclass(frozen=True)
class AtBudget:
    """Two losses at one budget.

    Attributes:
        ratio: the reference's whole budget over the run's.
        winner: "undecided" where the interval of the difference holds 0 or is unknown; None without losses.
        fair: both losses are final losses after a decay.
        note: how the losses were read.
    """

    reference_loss: Measured
    run_loss: Measured
    difference: Measured
    ratio: float
    winner: Winner | None
    fair: bool
    note: str


@dataclass(frozen=True)
class Scored:
    """Difference of one evaluation, run minus reference.

    Attributes:
        paired: the interval is of the differences document by document; else the two errors count as independent.
    """

    difference: Measured
    winner: Winner | None
    paired: bool = False


@dataclass(frozen=True)
class Pair:
    """A run against one reference of its group."""

    group: str
    reference: str
    run: str
    equal_flops: AtBudget
    equal_data: AtBudget
    equal_loss: EqualLoss | None
    run_reaches_reference: EqualLoss | None
    heldout: Scored
    accuracy: Scored
    switch: Switch | None
    switch_sources: tuple[str, ...]


def compare_pair(
    reference: RunData, run: RunData, family: Sequence[RunData], options: Options, with_curves: bool = True
) -> Pair:
    """Everything that is said about one pair.

    Args:
        family: baselines that differ from each other in length only, the reference among them if it is one.
        with_curves: False leaves out what needs the curves redrawn (grids have hundreds of pairs).
    """
    family = by_length(family)
    return Pair(
        group=run.spec.group,
        reference=reference.name,
        run=run.name,
        equal_flops=at_budget("flops", reference, run, family, options),
        equal_data=at_budget("data_tokens", reference, run, family, options),
        equal_loss=equal_loss(reference, run, family, options) if with_curves else None,
        run_reaches_reference=run_reaches(reference, run, options) if with_curves else None,
        heldout=_heldout(reference, run, options),
        accuracy=_scored(reference, run, "average_accuracy", options, lower_is_better=False),
        switch=switch_spike(run.curve, reference.curve, options.smoothing_window) if with_curves else None,
        switch_sources=merge_sources(metrics_sources(run), metrics_sources(reference)),
    )


def at_budget(
    column: Literal["flops", "data_tokens"],
    reference: RunData,
    run: RunData,
    family: Sequence[RunData],
    options: Options,
) -> AtBudget:
    """Losses of reference and run at the same FLOPs or the same data tokens.

    In this order: final against final, where the whole budgets agree within ``equal_tolerance``; the run's
    final loss against the final loss interpolated between baselines of other lengths; the longer one's curve,
    read inside at the shorter one's whole budget, which is unfair to the longer one and marked so.
    """
    mine, theirs = run.total(column), reference.total(column)
    ratio = theirs / mine
    what = "FLOPs" if column == "flops" else "data tokens"
    if not (run.final.comparable and reference.final.comparable):
        gap = missing(NO_TOKEN_LOSS, LOSS_UNIT, (reference.manifest, run.manifest))
        return AtBudget(gap, gap, gap, ratio, None, False, gap.reason or "")
    own = run.metrics["final_loss"]
    if abs(ratio - 1) <= options.equal_tolerance:
        note = f"final losses; the reference's {what} are {ratio:.3f} times the run's"
        theirs_final = reference.metrics["final_loss"]
        return _decided(theirs_final, own, reference.final.mean, run.final.mean, ratio, True, note, options)
    lengths = np.array([item.total(column) for item in family])
    finals = [item.final.mean for item in family]
    between = interpolate_finals(lengths, finals, mine) if len(family) > 1 else None
    if between is not None:
        sources = merge_sources(*(item.metrics["final_loss"] for item in family))
        loss = measured_mean(between, options.confidence, sources)
        note = f"the baselines' final loss at the run's {what}, interpolated between their lengths"
        return _decided(loss, own, between, run.final.mean, ratio, True, note, options)
    return _inside(column, what, reference, run, ratio, options)


def _decided(
    reference_loss: Measured,
    run_loss: Measured,
    reference_mean: MeanWithError,
    run_mean: MeanWithError,
    ratio: float,
    fair: bool,
    note: str,
    options: Options,
) -> AtBudget:
    """Both losses, their difference and who is ahead."""
    quantile = t_quantile(options.confidence, min(reference_mean.dof, run_mean.dof))
    gap = difference(
        run_loss, reference_loss, quantile, "run minus reference; noise of the logged loss alone"
    )
    return AtBudget(reference_loss, run_loss, gap, ratio, _winner(gap, lower_is_better=True), fair, note)


def _inside(
    column: str, what: str, reference: RunData, run: RunData, ratio: float, options: Options
) -> AtBudget:
    """The longer run's curve at the shorter run's whole budget."""
    longer, shorter = (reference, run) if ratio > 1 else (run, reference)
    read, done = ("the reference", "the run") if longer is reference else ("the run", "the reference")
    position = shorter.total(column)
    found = loss_at(longer.curve, column, position, options.smoothing_window)
    if found is None:
        reason = f"{read} has no token loss at {position:.4g} {what}"
        gap = missing(reason, LOSS_UNIT, metrics_sources(longer))
        own, other = run.metrics["final_loss"], reference.metrics["final_loss"]
        losses = (gap, own) if longer is reference else (other, gap)
        return AtBudget(*losses, gap, ratio, None, False, reason)
    loss = measured_mean(
        found, options.confidence, metrics_sources(longer), f"logged steps up to {position:.4g} {what}"
    )
    note = (
        f"{read} is read inside its curve at {position:.4g} {what}, where it has not finished its decay; "
        f"{done} has, so the comparison favours {done}"
    )
    final = shorter.metrics["final_loss"]
    if longer is reference:
        made = _decided(loss, final, found, shorter.final.mean, ratio, False, note, options)
    else:
        made = _decided(final, loss, shorter.final.mean, found, ratio, False, note, options)
    ahead = "reference" if longer is reference else "run"
    # An unfair comparison decides only against the side that it favours.
    winner: Winner = made.winner if made.winner == ahead else "undecided"
    return AtBudget(made.reference_loss, made.run_loss, made.difference, ratio, winner, False, note)


def _heldout(reference: RunData, run: RunData, options: Options) -> Scored:
    """Difference of the held-out losses, paired by document where both models scored the same ones."""
    name = "heldout_nats_per_token"
    files = (run.spec.heldout_documents, reference.spec.heldout_documents)
    if None in files or not (run.metrics[name].exists and reference.metrics[name].exists):
        return _scored(reference, run, name, options, lower_is_better=True)
    own, other = (read_documents(str(file)) for file in files)
    if not own.same_text_as(other):
        return _scored(reference, run, name, options, lower_is_better=True)
    value, stderr = mean_over_documents(own.nats - other.nats, own.tokens)
    half = None if stderr is None else stderr * t_quantile(options.confidence, len(own.numbers) - 1)
    gap = Measured(
        value,
        LOSS_UNIT,
        tuple(map(str, files)),
        stderr,
        None if half is None else value - half,
        None if half is None else value + half,
        f"run minus reference, paired by document ({len(own.numbers)}); noise of the scored text alone",
    )
    return Scored(gap, _winner(gap, lower_is_better=True), paired=True)


def _scored(reference: RunData, run: RunData, name: str, options: Options, lower_is_better: bool) -> Scored:
    """Difference of an evaluation; both sides score the same items, so its interval is on the wide side."""
    gap = difference(
        run.metrics[name], reference.metrics[name], t_quantile(options.confidence, _LARGE),
        "run minus reference; noise of the scored items alone",
    )  # fmt: skip
    return Scored(gap, _winner(gap, lower_is_better))


def _winner(gap: Measured, lower_is_better: bool) -> Winner | None:
    """Who is ahead, from run minus reference."""
    if gap.value is None:
        return None
    if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return "undecided"
    return "run" if (gap.value < 0) == lower_is_better else "reference"
