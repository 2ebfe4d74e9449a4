"""Budgets at equal loss: what one side needs for the other side's final loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_titan.compare.arithmetic import Crossing, curve_crossing, length_crossing
from tst_titan.compare.measured import Measured, merge_sources, missing
from tst_titan.compare.noise import MeanWithError
from tst_titan.compare.runs import RunData
from tst_titan.compare.spec import Options

BUDGETS = {"steps": "step", "flops": "flops", "data_tokens": "data_tokens", "hours": "hours"}
UNITS = {"steps": "steps", "flops": "FLOPs", "data_tokens": "tokens", "hours": "hours"}
NO_TOKEN_LOSS = "no token loss: one of the runs ends in its bag phase"
Bound = Literal["at_least", "at_most"]


@dataclass(frozen=True)
class EqualLoss:
    """Budgets at one loss.

    Attributes:
        target_loss: the final loss that the other side has to reach.
        status: whether it does.
        bound: "at_least" or "at_most" where the speed-up is only bounded by what was run.
        at: budgets of the side that moves, at the target: steps, flops, data_tokens, hours.
        speedup: the reference's budget over the run's, by the same names.
    """

    target_loss: Measured
    status: Literal["reached", "not_reached"]
    bound: Bound | None
    method: str
    note: str
    at: dict[str, Measured]
    speedup: dict[str, Measured]


def by_length(family: Sequence[RunData]) -> list[RunData]:
    """Runs with a token loss, one a length, shortest first."""
    lengths = {run.steps: run for run in reversed(family) if run.final.comparable}
    return [lengths[steps] for steps in sorted(lengths)]


def metrics_sources(run: RunData) -> tuple[str, ...]:
    """The metrics files behind a run's curve."""
    return tuple(stage.metrics_path for stage in run.stages)


def equal_loss(reference: RunData, run: RunData, family: Sequence[RunData], options: Options) -> EqualLoss:
    """What the baseline needs for the run's final loss.

    With baselines of several lengths, their final losses are interpolated in log length. With one, a run that
    ends below it is out of its reach ("not reached"; a bound on the speed-up where the baseline is longer),
    and a run that ends above it is met inside the baseline's curve, which bounds the speed-up from above.
    """
    target = run.metrics["final_loss"]
    if not (run.final.comparable and reference.final.comparable):
        return _no_equal_loss(target, NO_TOKEN_LOSS)
    if len(family) > 1:
        return _over_lengths(run, family, options)
    if run.final.mean.mean < reference.final.mean.mean:
        return _not_reached(reference, run, options)
    found = _curve_crossings(reference, run.final.mean, options)
    note = (
        "read inside the reference's curve, before or during its decay: a reference planned to end there "
        "would be lower, so the speed-up is at most this"
    )
    sources = merge_sources(metrics_sources(reference), run.metrics["final_loss"])
    return _from_crossings(target, found, sources, run, reference, "at_most", note)


def run_reaches(reference: RunData, run: RunData, options: Options) -> EqualLoss:
    """Where the run's own token-phase curve passes the reference's final loss."""
    target = reference.metrics["final_loss"]
    if not (run.final.comparable and reference.final.comparable):
        return _no_equal_loss(target, NO_TOKEN_LOSS)
    found = _curve_crossings(run, reference.final.mean, options)
    note = (
        "read inside the run's curve: at that point it has not finished its decay, the reference has, so the "
        "speed-up is at least this"
    )
    sources = merge_sources(metrics_sources(run), reference.metrics["final_loss"])
    return _from_crossings(target, found, sources, run, reference, "at_least", note)


def _over_lengths(run: RunData, family: Sequence[RunData], options: Options) -> EqualLoss:
    """Equal loss from the final losses of baselines of several lengths."""
    finals = [item.final.mean for item in family]
    target = run.metrics["final_loss"]
    sources = merge_sources(target, *(item.metrics["final_loss"] for item in family))
    found = {
        name: length_crossing(
            np.array([item.total(column) for item in family]), finals, run.final.mean,
            options.confidence, options.bootstrap_samples, options.bootstrap_seed,
        )
        for name, column in BUDGETS.items()
    }  # fmt: skip
    shortest, longest = family[0], family[-1]
    status = found["steps"].status
    if status == "reached":
        note = f"between baselines of {shortest.steps} to {longest.steps} steps, linear in log steps"
        return _filled(target, found, sources, run, "run", None, note, "interpolated final losses")
    if status == "never":
        note = f"even the longest baseline ({longest.steps} steps) ends above the run's final loss"
        return _bounded(target, longest, run, sources, "at_least", note)
    note = f"already the shortest baseline ({shortest.steps} steps) ends at or below the run's final loss"
    return _bounded(target, shortest, run, sources, "at_most", note)


def _not_reached(reference: RunData, run: RunData, options: Options) -> EqualLoss:
    """The single baseline ends above the run: a bound where it was the longer one, else nothing."""
    target = run.metrics["final_loss"]
    sources = merge_sources(target, reference.metrics["final_loss"])
    note = (
        f"not reached: the reference ends at {reference.final.mean.mean:.4f} after {reference.steps} steps, "
        f"above the run's {run.final.mean.mean:.4f}"
    )
    if reference.total("flops") > run.total("flops") * (1 + options.equal_tolerance):
        return _bounded(target, reference, run, sources, "at_least", note)
    return _no_equal_loss(target, note)


def _bounded(
    target: Measured,
    end: RunData,
    run: RunData,
    sources: tuple[str, ...],
    bound: Bound,
    note: str,
) -> EqualLoss:
    """The target lies outside the lengths that were run; the nearest length bounds the speed-up."""
    sources = merge_sources(sources, (end.manifest, run.manifest))
    at, speedup = {}, {}
    for name, column in BUDGETS.items():
        at[name] = missing(note, UNITS[name], sources)
        speedup[name] = Measured(
            end.total(column) / run.total(column), "times", sources, method=bound.replace("_", " ")
        )
    return EqualLoss(target, "not_reached", bound, "none", note, at, speedup)


def _no_equal_loss(target: Measured, reason: str) -> EqualLoss:
    """Nothing can be said."""
    at = {name: missing(reason, unit, target.sources) for name, unit in UNITS.items()}
    speedup = {name: missing(reason, "times", target.sources) for name in BUDGETS}
    return EqualLoss(target, "not_reached", None, "none", reason, at, speedup)


def _curve_crossings(moving: RunData, target: MeanWithError, options: Options) -> dict[str, Crossing]:
    """Where a run's curve passes a loss, in every budget."""
    found = curve_crossing(
        moving.curve, list(BUDGETS.values()), target, options.smoothing_window,
        options.confidence, options.bootstrap_samples, options.bootstrap_seed,
    )  # fmt: skip
    return {name: found[column] for name, column in BUDGETS.items()}


def _from_crossings(
    target: Measured,
    found: dict[str, Crossing],
    sources: tuple[str, ...],
    run: RunData,
    reference: RunData,
    bound: Bound,
    note: str,
) -> EqualLoss:
    """Equal loss from crossings of one side's curve."""
    moving = reference if bound == "at_most" else run
    if found["steps"].status == "never":
        lowest = moving.final.mean.mean
        return _no_equal_loss(
            target, f"not reached: {moving.name} ends at {lowest:.4f} after {moving.steps} steps"
        )
    if found["steps"].status == "before":
        return _no_equal_loss(target, f"{moving.name} is below it from its first token-phase step on")
    fixed = run if bound == "at_most" else reference
    side: Literal["run", "reference"] = "run" if bound == "at_most" else "reference"
    return _filled(target, found, sources, fixed, side, bound, note, "curve crossing")


def _filled(
    target: Measured,
    found: dict[str, Crossing],
    sources: tuple[str, ...],
    fixed: RunData,
    fixed_side: Literal["run", "reference"],
    bound: Bound | None,
    note: str,
    method: str,
) -> EqualLoss:
    """Budgets at the target, and speed-ups: the reference's over the run's."""
    at, speedup = {}, {}
    sources = merge_sources(sources, (fixed.manifest,))
    for name, crossing in found.items():
        if crossing.position is None:
            at[name] = missing("not reached", UNITS[name], sources)
            speedup[name] = missing("not reached", "times", sources)
            continue
        at[name] = Measured(
            crossing.position, UNITS[name], sources, None, crossing.low, crossing.high, method
        )
        speedup[name] = _speedup(crossing, fixed.total(BUDGETS[name]), fixed_side, sources, method)
    return EqualLoss(target, "reached", bound, method, note, at, speedup)


def _speedup(
    crossing: Crossing,
    whole: float,
    fixed_side: Literal["run", "reference"],
    sources: tuple[str, ...],
    method: str,
) -> Measured:
    """The reference's budget over the run's, one of them a crossing and the other a whole run."""

    def ratio(position: float | None) -> float | None:
        if position is None:
            return None
        return position / whole if fixed_side == "run" else whole / position

    low, high = crossing.low, crossing.high
    if fixed_side == "reference":
        low, high = high, low
    return Measured(ratio(crossing.position), "times", sources, None, ratio(low), ratio(high), method)
