"""A run against a reference: at equal FLOPs, data and loss, on the hold-out set, in accuracy, and at the switch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from tst_titan.compare.arithmetic import Crossing, interpolate_finals, length_crossing
from tst_titan.compare.documents import mean_over_documents, read_documents
from tst_titan.compare.kinds import Kind
from tst_titan.compare.losses import TrainingLosses, losses_of
from tst_titan.compare.metrics import METRICS, metric_of
from tst_titan.compare.noise import LARGE, MeanWithError, t_quantile
from tst_titan.compare.numbers import Bound, Number, Winner, difference, merge_sources, missing, with_error
from tst_titan.compare.runs import LOSS_UNIT, RunData, measured_mean
from tst_titan.config.comparison import ComparisonOptions

BUDGETS = {"steps": "step", "flops": "flops", "data_tokens": "data_tokens", "hours": "hours"}
"""Budgets of an equal loss, and the columns of a curve that they are read from."""
PAIRED_BY_DOCUMENT = "paired by document"
NO_TOKEN_LOSS = "no token loss: one of the runs ends in its bag phase"
_SAME_FAMILY = ("lr", "epochs", "options")
Numbers = dict[str, Number]


def references_of(run: RunData, runs: Sequence[RunData], kind: Kind) -> list[RunData]:
    """The runs that ``run`` is compared with: those of its group and model that the kind picks.

    Runs of the same seed are preferred; only where there are none, other seeds stand in.
    """
    found = kind.candidates(run, [other for other in runs if other.together_with(run)])
    for axis in kind.matched:
        found = [other for other in found if other.axis(axis) == run.axis(axis)]
    return [other for other in found if other.spec.seed == run.spec.seed] or found


def family_of(reference: RunData, runs: Sequence[RunData]) -> list[RunData]:
    """Baselines that differ from a baseline in length only, itself among them; one a length, shortest first.

    Only those with a token loss; for another run than a baseline, itself alone.
    """

    def is_alike(other: RunData) -> bool:
        return (
            other.spec.is_baseline
            and other.together_with(reference)
            and other.spec.seed == reference.spec.seed
            and other.steps != reference.steps
            and all(other.axis(axis) == reference.axis(axis) for axis in _SAME_FAMILY)
        )

    baseline = reference.spec.is_baseline
    family = [other for other in runs if other is reference or (baseline and is_alike(other))]
    lengths = {run.steps: run for run in reversed(family) if run.final.comparable}
    return [lengths[steps] for steps in sorted(lengths)]


def compare_pair(
    reference: RunData,
    run: RunData,
    family: Sequence[RunData],
    options: ComparisonOptions,
    with_curves: bool = True,
) -> list[Number]:
    """Everything that is said about one pair: of held-out losses, where all were measured, and of training losses.

    Args:
        family: baselines that differ from each other in length only, the reference among them if it is one.
        with_curves: False leaves out what needs the curves redrawn (grids have hundreds of pairs).
    """
    found: Numbers = {}
    for losses in losses_of(options, run, reference):
        alike = [other for other in family if losses.compares(run, other)]
        read = _within("equal_flops", at_budget("flops", reference, run, alike, losses))
        read |= _within("equal_data", at_budget("data_tokens", reference, run, alike, losses))
        if with_curves:
            read |= _within("equal_loss", equal_loss(reference, run, alike, losses))
            read |= _within("reaches", run_reaches(reference, run, losses))
            read |= _within("switch", losses.switch(run, reference))
        found |= {losses.prefix + name: number for name, number in read.items()}
    found |= _within("heldout", _heldout(reference, run, options))
    found["accuracy.difference"] = _scored(reference, run, "average_accuracy", options)
    place = {"group": run.spec.group, "run": run.name, "reference": reference.name}
    return [number.at("pair", metric, **place) for metric, number in found.items()]


def at_budget(
    column: Literal["flops", "data_tokens"],
    reference: RunData,
    run: RunData,
    family: Sequence[RunData],
    losses: TrainingLosses,
) -> Numbers:
    """Losses of reference and run at the same FLOPs or the same data tokens, their difference, and the budgets' ratio.

    In this order: final against final, where the whole budgets agree within ``equal_tolerance``; the run's
    final loss against the final loss interpolated between baselines of other lengths; the longer one's curve,
    read inside at the shorter one's whole budget, which is unfair to the longer one: the difference is a bound.
    """
    mine, theirs = run.total(column), reference.total(column)
    ratio = Number(theirs / mine, "")
    what = "FLOPs" if column == "flops" else "data tokens"
    if not losses.compares(run, reference):
        gap = missing(NO_TOKEN_LOSS, LOSS_UNIT, (reference.manifest, run.manifest))
        return {"reference_loss": gap, "run_loss": gap, "difference": gap, "ratio": ratio}
    own, mean = run.metrics[losses.final_metric], losses.final(run)
    if abs(ratio.number - 1) <= losses.options.equal_tolerance:
        note = f"final losses; the reference's {what} are {ratio.number:.3f} times the run's"
        other = reference.metrics[losses.final_metric]
        return _decided(other, own, losses.final(reference), mean, note, losses) | {"ratio": ratio}
    lengths, finals = [item.total(column) for item in family], [losses.final(item) for item in family]
    between = interpolate_finals(np.array(lengths), finals, mine) if len(family) > 1 else None
    if between is not None:
        sources = merge_sources(*(item.metrics[losses.final_metric] for item in family))
        loss = measured_mean(between, losses.options.confidence, sources)
        note = f"the baselines' final loss at the run's {what}, interpolated between their lengths"
        return _decided(loss, own, between, mean, note, losses) | {"ratio": ratio}
    return _inside(column, what, reference, run, losses) | {"ratio": ratio}


def _decided(
    reference_loss: Number,
    run_loss: Number,
    reference_mean: MeanWithError,
    run_mean: MeanWithError,
    note: str,
    losses: TrainingLosses,
) -> Numbers:
    """Both losses, their difference and who is ahead."""
    gap = losses.gap(run_loss, reference_loss, run_mean, reference_mean)
    gap = replace(gap, winner=winner_of(gap, lower_is_better=True), note=note)
    return {"reference_loss": reference_loss, "run_loss": run_loss, "difference": gap}


def _inside(column: str, what: str, reference: RunData, run: RunData, losses: TrainingLosses) -> Numbers:
    """The longer run's curve at the shorter run's whole budget."""
    in_reference = reference.total(column) > run.total(column)
    longer, shorter = (reference, run) if in_reference else (run, reference)
    read, done = ("the reference", "the run") if in_reference else ("the run", "the reference")
    position = shorter.total(column)
    found = losses.at(longer, column, position)
    final = shorter.metrics[losses.final_metric]
    if found is None:
        gap = missing(f"{read} has no token loss at {position:.4g} {what}", LOSS_UNIT, losses.files(longer))
        both = (gap, final) if in_reference else (final, gap)
        return dict(zip(("reference_loss", "run_loss", "difference"), (*both, gap), strict=True))
    where = f"{losses.inside} {position:.4g} {what}"
    loss = measured_mean(found, losses.options.confidence, losses.files(longer), where)
    note = (
        f"{read} is read inside its curve at {position:.4g} {what}, where it has not finished its decay; "
        f"{done} has, so the comparison favours {done}"
    )
    sides = (
        (loss, final, found, losses.final(shorter))
        if in_reference
        else (final, loss, losses.final(shorter), found)
    )
    made = _decided(*sides, note, losses)
    gap = made["difference"]
    # An unfair comparison decides only against the side that it favours.
    winner: Winner = gap.winner if gap.winner == ("reference" if in_reference else "run") else "undecided"
    bound: Bound = "at_least" if in_reference else "at_most"
    return made | {"difference": replace(gap, winner=winner, bound=bound)}


def equal_loss(
    reference: RunData, run: RunData, family: Sequence[RunData], losses: TrainingLosses
) -> Numbers:
    """What the baseline needs for the run's final loss, in every budget, and the speed-up: that over the run's own.

    With baselines of several lengths, their final losses are interpolated in log length. With one, a run that
    ends below it is out of its reach ("not reached"; a bound on the speed-up where the baseline is longer),
    and a run that ends above it is met inside the baseline's curve, which bounds the speed-up from above.
    """
    target = run.metrics[losses.final_metric]
    if not losses.compares(run, reference):
        return _no_equal_loss(target, NO_TOKEN_LOSS)
    if len(family) > 1:
        return _over_lengths(run, family, losses)
    if losses.final(run).mean < losses.final(reference).mean:
        return _not_reached(reference, run, losses)
    note = (
        "read inside the reference's curve, before or during its decay: a reference planned to end there "
        "would be lower, so the speed-up is at most this"
    )
    return _inside_curve(reference, run, target, "at_most", note, losses)


def run_reaches(reference: RunData, run: RunData, losses: TrainingLosses) -> Numbers:
    """Where the run's own token-phase curve passes the reference's final loss, by the same names."""
    target = reference.metrics[losses.final_metric]
    if not losses.compares(run, reference):
        return _no_equal_loss(target, NO_TOKEN_LOSS)
    note = (
        "read inside the run's curve: at that point it has not finished its decay, the reference has, so the "
        "speed-up is at least this"
    )
    return _inside_curve(run, reference, target, "at_least", note, losses)


def _inside_curve(
    moving: RunData, fixed: RunData, target: Number, bound: Bound, note: str, losses: TrainingLosses
) -> Numbers:
    """Where one side's curve passes the other's final loss."""
    found = losses.crossings(moving, list(BUDGETS.values()), losses.final(fixed))
    if found["step"].status == "never":
        ends = f"{losses.final(moving).mean:.4f} after {moving.steps} steps"
        return _no_equal_loss(target, f"not reached: {moving.name} ends at {ends}")
    if found["step"].status == "before":
        return _no_equal_loss(target, f"{moving.name} is below it from its first {losses.first} on")
    sources = merge_sources(losses.files(moving), target)
    return _crossed(found, sources, fixed, bound, note, "curve crossing")


def _over_lengths(run: RunData, family: Sequence[RunData], losses: TrainingLosses) -> Numbers:
    """Equal loss from the final losses of baselines of several lengths."""
    target = run.metrics[losses.final_metric]
    sources = merge_sources(target, *(item.metrics[losses.final_metric] for item in family))
    finals = [losses.final(item) for item in family]
    found = {
        column: length_crossing(
            np.array([item.total(column) for item in family]),
            finals,
            losses.final(run),
            *losses.options.redraws,
        )
        for column in BUDGETS.values()
    }
    shortest, longest = family[0], family[-1]
    if found["step"].status == "reached":
        note = f"between baselines of {shortest.steps} to {longest.steps} steps, linear in log steps"
        return _crossed(found, sources, run, "", note, "interpolated final losses")
    if found["step"].status == "never":
        note = f"even the longest baseline ({longest.steps} steps) ends above the run's final loss"
        return _bounded(longest, run, sources, "at_least", note)
    note = f"already the shortest baseline ({shortest.steps} steps) ends at or below the run's final loss"
    return _bounded(shortest, run, sources, "at_most", note)


def _not_reached(reference: RunData, run: RunData, losses: TrainingLosses) -> Numbers:
    """The single baseline ends above the run: a bound where it was the longer one, else nothing."""
    target = run.metrics[losses.final_metric]
    ends, own = (losses.final(side).mean for side in (reference, run))
    note = f"not reached: the reference ends at {ends:.4f} after {reference.steps} steps, above the run's {own:.4f}"
    if reference.total("flops") > run.total("flops") * (1 + losses.options.equal_tolerance):
        sources = merge_sources(target, reference.metrics[losses.final_metric])
        return _bounded(reference, run, sources, "at_least", note)
    return _no_equal_loss(target, note)


def _bounded(end: RunData, run: RunData, sources: tuple[str, ...], bound: Bound, note: str) -> Numbers:
    """The target lies outside the lengths that were run; the nearest length bounds the speed-up."""
    sources, method = merge_sources(sources, (end.manifest, run.manifest)), bound.replace("_", " ")
    ratios = {name: end.total(column) / run.total(column) for name, column in BUDGETS.items()}
    found = {f"at.{name}": missing(note, METRICS[name].unit, sources) for name in BUDGETS}
    found |= {
        f"speedup.{name}": Number(ratio, "times", sources, method=method) for name, ratio in ratios.items()
    }
    return {name: replace(number, bound=bound, note=note) for name, number in found.items()}


def _no_equal_loss(target: Number, reason: str) -> Numbers:
    """Nothing can be said."""
    found = {f"at.{name}": missing(reason, METRICS[name].unit, target.sources) for name in BUDGETS}
    found |= {f"speedup.{name}": missing(reason, "times", target.sources) for name in BUDGETS}
    return {name: replace(number, note=reason) for name, number in found.items()}


def _crossed(
    found: dict[str, Crossing], sources: tuple[str, ...], fixed: RunData, bound: Bound, note: str, method: str
) -> Numbers:
    """Budgets at the target, and speed-ups: the reference's budget over the run's, one a crossing, one a whole run."""
    sources = merge_sources(sources, (fixed.manifest,))
    at, speedup = {}, {}
    for name, column in BUDGETS.items():
        crossing, whole = found[column], fixed.total(column)
        ends = (crossing.position, crossing.low, crossing.high)
        if crossing.position is None:
            at[f"at.{name}"] = missing("not reached", METRICS[name].unit, sources)
            speedup[f"speedup.{name}"] = missing("not reached", "times", sources)
            continue
        at[f"at.{name}"] = Number(ends[0], METRICS[name].unit, sources, None, *ends[1:], method)
        # The run's own curve moves where the speed-up is bounded from below.
        if bound == "at_least":
            position, high, low = (None if end is None else whole / end for end in ends)
        else:
            position, low, high = (None if end is None else end / whole for end in ends)
        speedup[f"speedup.{name}"] = Number(position, "times", sources, None, low, high, method)
    return {name: replace(number, bound=bound, note=note) for name, number in (at | speedup).items()}


def _heldout(reference: RunData, run: RunData, options: ComparisonOptions) -> Numbers:
    """Difference of held-out losses, paired by document where both runs scored the same, and that of each source."""
    unpaired = _scored(reference, run, "heldout_nats_per_token", options)
    files = (run.spec.heldout_documents, reference.spec.heldout_documents)
    if files[0] is None or files[1] is None or not unpaired.exists:
        return {"difference": unpaired}
    own, other = (read_documents(file) for file in files if file is not None)
    if not own.same_text_as(other):
        return {"difference": unpaired}
    parts = {"difference": np.ones(len(own.numbers), bool)}
    if own.sources is not None:
        parts |= {f"difference/{source}": own.sources == source for source in np.unique(own.sources)}
    found = {}
    for name, part in parts.items():
        value, stderr = mean_over_documents((own.nats - other.nats)[part], own.tokens[part])
        n = int(part.sum())
        method = f"run minus reference, paired by document ({n}); noise of the scored text alone"
        quantile = t_quantile(options.confidence, n - 1)
        gap = with_error(value, stderr, quantile, LOSS_UNIT, (files[0], files[1]), method)
        found[name] = replace(gap, winner=winner_of(gap, lower_is_better=True), note=PAIRED_BY_DOCUMENT)
    return found


def _scored(reference: RunData, run: RunData, name: str, options: ComparisonOptions) -> Number:
    """Difference of an evaluation; both sides score the same items, so its interval is on the wide side."""
    method = "run minus reference; noise of the scored items alone"
    quantile = t_quantile(options.confidence, LARGE)
    gap = difference(run.metrics[name], reference.metrics[name], quantile, method)
    return replace(gap, winner=winner_of(gap, metric_of(name).lower_is_better))


def winner_of(gap: Number, lower_is_better: bool) -> Winner:
    """Who is ahead, from run minus reference: nobody where the interval holds 0 or is unknown."""
    if gap.value is None:
        return ""
    if not gap.excludes_zero:
        return "undecided"
    return "run" if (gap.value < 0) == lower_is_better else "reference"


def _within(what: str, numbers: Numbers) -> Numbers:
    return {f"{what}.{name}": number for name, number in numbers.items()}
