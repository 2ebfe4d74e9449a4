"""The answer to an experiment's question in one sentence: did it help, by how much, how sure, at what cost."""

from __future__ import annotations

from dataclasses import dataclass

from tst_titan.compare.kinds import Kind
from tst_titan.compare.numbers import ON_HELDOUT, Number
from tst_titan.compare.results import Results, RunFacts
from tst_titan.compare.sentences import BOUND_WORDS, between, name_of, one_per_labels

_HELDOUT = "nats per held-out token"
_TRAINING = "nats per training token"
_BEST_FIRST = (
    ("heldout_nats_per_token", "heldout.difference", _HELDOUT, "on the held-out documents"),
    (f"{ON_HELDOUT}final_loss", f"{ON_HELDOUT}equal_flops.difference", _HELDOUT, "on the held-out windows"),
    ("final_loss", "equal_flops.difference", _TRAINING, "noise of the logged loss"),
)
"""Losses at the end of a run: metric over seeds, metric of one pair, its unit, and what the pair's interval covers."""


@dataclass(frozen=True)
class Finding:
    """What is known best of one run against the baseline of the nearest FLOPs.

    Attributes:
        gap: run minus reference: over seeds where there are several, else on the held-out text, else between
            the last training losses.
        unit: of ``gap``, in words.
        seeds: behind ``gap``.
        covers: what its interval covers.
    """

    reference: RunFacts
    run: RunFacts
    gap: Number
    unit: str
    seeds: int
    covers: str

    @property
    def side(self) -> int:
        """-1 where the run is lower by more than the noise, 1 where it is higher, 0 where nobody can tell."""
        if not self.gap.excludes_zero:
            return 0
        return -1 if self.gap.number < 0 else 1


def make_answer(results: Results, kind: Kind) -> str:
    """One or two sentences; empty where the runs have no loss that can be compared."""
    if not kind.pairwise:
        return kind.answer(results)
    found = _findings(results)
    if not found:
        return ""
    return _one(results, found[0]) if len(found) == 1 else _several(results, found)


def _findings(results: Results) -> list[Finding]:
    """One a run and group, against the reference whose FLOPs are nearest; a baseline where two are as near."""
    nearest: dict[str, tuple[RunFacts, RunFacts]] = {}

    def distance(pair: tuple[RunFacts, RunFacts]) -> tuple[float, bool]:
        ratio = _ratio(results, *pair, "equal_flops")
        return (round(abs(ratio - 1), 3), not pair[0].is_baseline)

    for pair in one_per_labels(results):
        name = pair[1].name
        if name not in nearest or distance(pair) < distance(nearest[name]):
            nearest[name] = pair
    found = (finding(results, *pair) for pair in nearest.values())
    return [finding for finding in found if finding is not None]


def finding(results: Results, reference: RunFacts, run: RunFacts) -> Finding | None:
    """None where the two have no loss in common."""
    for metric, alone, unit, covers in _BEST_FIRST:
        variants = {"group": run.group, "run": run.label, "reference": reference.label}
        for gap in results.select("seeds", metric=f"{metric}.difference", **variants):
            means = results.select("seeds", metric=f"{metric}.mean_run", **variants)
            if gap.interval is not None:
                seeds = means[0].n or 1
                return Finding(
                    reference, run, gap, unit, seeds, f"over {seeds} seeds" if seeds > 1 else covers
                )
        gap_alone = results.get("pair", run.name, alone, reference.name)
        if gap_alone is not None and gap_alone.exists and not gap_alone.bound:
            return Finding(reference, run, gap_alone, unit, 1, covers)
    return None


def _one(results: Results, finding: Finding) -> str:
    run, reference = (
        name_of(results, side, with_seed=finding.seeds < 2) for side in (finding.run, finding.reference)
    )
    if finding.side or finding.gap.interval is None:
        text = f"{run} ends {_amount(finding)} than {reference}"
    else:
        gap = finding.gap
        text = (
            f"{run} and {reference} cannot be told apart: the difference is {gap.number:+.4f} {finding.unit}"
        )
    text += f"{_interval(finding)}, {_cost(results, finding)}."
    rows = results.of_pair(finding.run.name, finding.reference.name)
    times, steps = (rows.get(f"equal_loss.{what}.steps") for what in ("speedup", "at"))
    if times is not None and steps is not None and steps.exists and times.number > 1:
        bound = BOUND_WORDS[times.bound]
        text += f" A baseline needs {bound}{times.number:.2f} times its steps{between(times, 2)}"
        text += f" to end at its {'held-out' if times.on_heldout else 'training'} loss."
    return text + (" One seed: it cannot say what another would give." if finding.seeds < 2 else "")


def _several(results: Results, found: list[Finding]) -> str:
    other = (
        "the baseline"
        if all(finding.reference.is_baseline for finding in found)
        else "what they are held against"
    )
    sides = [finding.side for finding in found]
    ends = {-1: f"lower than {other}", 1: f"higher than {other}", 0: f"within the noise of {other}"}
    if len(set(sides)) == 1:
        text = f"{'Both' if len(found) == 2 else f'All {len(found)}'} runs end {ends[sides[0]]}."
    else:
        counts = (f"{sides.count(side)} end {end}" for side, end in ends.items() if side in sides)
        text = f"Of {len(found)} runs {', '.join(counts)}."
    best = min(found, key=lambda finding: finding.gap.number)
    name = name_of(results, best.run, with_seed=best.seeds < 2)
    text += f" Best: {name}, {_amount(best)}{_interval(best)}, {_cost(results, best)}."
    seeds = max(finding.seeds for finding in found)
    return text + (" One seed each: they cannot say what another would give." if seeds < 2 else "")


def _amount(finding: Finding) -> str:
    return f"{abs(finding.gap.number):.4f} {finding.unit} {'lower' if finding.gap.number < 0 else 'higher'}"


def _interval(finding: Finding) -> str:
    """The interval as sizes of the difference where it has one sign, and what it covers."""
    if finding.gap.interval is None:
        return " (error not known)"
    low, high = finding.gap.interval
    if finding.side:
        low, high = sorted((abs(low), abs(high)))
        return f" ({low:.4f} to {high:.4f} {finding.covers})"
    return f" ({low:+.4f} to {high:+.4f} {finding.covers})"


def _ratio(results: Results, reference: RunFacts, run: RunFacts, budget: str) -> float:
    """Reference over run."""
    number = results.get("pair", run.name, f"{budget}.ratio", reference.name)
    assert number is not None
    return number.number


def _cost(results: Results, finding: Finding) -> str:
    """What the run took and read, as multiples of its reference."""
    flops, data = (
        1 / _ratio(results, finding.reference, finding.run, budget)
        for budget in ("equal_flops", "equal_data")
    )
    tolerance = results.facts.options.equal_tolerance
    paid = "at the same FLOPs" if abs(flops - 1) <= tolerance else f"at {flops:.2f} times the FLOPs"
    read = "the same amount of" if abs(data - 1) <= tolerance else f"{data:.2f} times the"
    return f"{paid}, having read {read} text"
