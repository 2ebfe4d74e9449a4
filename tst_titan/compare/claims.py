"""Whether what the paper found comes out here: one word and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tst_titan.compare.answer import Finding, finding
from tst_titan.compare.kinds import Kind
from tst_titan.compare.results import Results, RunFacts
from tst_titan.config.experiment import Claim, RunSpec

Outcome = Literal["reproduced", "not reproduced", "reproduced in part", "cannot be told", "see the sentence"]


@dataclass(frozen=True)
class Gap:
    """How much higher one run ends than another, in nats per token.

    Attributes:
        value: run minus other.
        low, high: its interval; None where an error is not known.
        seeds: behind it.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int

    def shows(self, ends: str) -> bool | None:
        """Whether a run that is said to end so does; None where the interval leaves it open."""
        if self.low is None or self.high is None:
            return None
        if ends == "not_higher":
            return True if self.high <= 0 else False if self.low > 0 else None
        low, high = (self.low, self.high) if ends == "higher" else (-self.high, -self.low)
        return True if low > 0 else False if high < 0 else None


def judge(results: Results, kind: Kind, claim: Claim, specs: Mapping[str, RunSpec]) -> tuple[Outcome, str]:
    """The outcome of a claim, and a sentence with what was measured.

    Args:
        results: the experiment, compared.
        kind: of the experiment; a grid says itself what comes out.
        claim: with the names of runs in ``specs``.
        specs: the experiment's runs by the names that they have in its file.
    """
    if results.facts.caveat:
        return "cannot be told", results.facts.caveat
    if not claim.runs:
        return "see the sentence", " ".join(kind.reproduction(results) or ()) or results.facts.answer
    verdicts: list[bool | None] = []
    parts = []
    for name, other in claim.runs.items():
        run, reference = (_facts(results, name, specs[name]) for name in (name, other))
        gap = _gap(results, run, reference)
        verdicts.append(gap.shows(claim.ends) if gap else None)
        parts.append(f"{_named(results, run)} against {_named(results, reference)}: {_text(gap)}")
    return _outcome(verdicts), "; ".join(parts)


def _outcome(verdicts: list[bool | None]) -> Outcome:
    if all(verdicts):
        return "reproduced"
    if True not in verdicts:
        return "not reproduced" if False in verdicts else "cannot be told"
    return "reproduced in part"


def _facts(results: Results, name: str, spec: RunSpec) -> RunFacts:
    """The run of a name, or its first seed's."""
    label, group = spec.label or name, spec.group or ""
    return next(run for run in results.runs if (run.label, run.group) == (label, group))


def _named(results: Results, run: RunFacts) -> str:
    return run.label + (f" ({run.group})" if len(results.groups) > 1 and run.group else "")


def _gap(results: Results, run: RunFacts, other: RunFacts) -> Gap | None:
    """Compared with each other where they were; else through the baseline that both were compared with."""
    direct = finding(results, other, run)
    if direct is not None:
        low, high = direct.gap.interval or (None, None)
        return Gap(direct.gap.number, low, high, direct.seeds)
    for baseline in (each for each in results.runs if each.is_baseline and each.group == run.group):
        a, b = (finding(results, baseline, each) for each in (run, other))
        if a is not None and b is not None and a.unit == b.unit:
            half = _half(a, b)
            value = a.gap.number - b.gap.number
            seeds = min(a.seeds, b.seeds)
            if half is None:
                return Gap(value, None, None, seeds)
            return Gap(value, value - half, value + half, seeds)
    return None


def _half(*findings: Finding) -> float | None:
    """Half the interval of a difference of differences, as if they were independent: too wide for paired ones."""
    intervals = [found.gap.interval for found in findings]
    if None in intervals:
        return None
    return math.hypot(*((high - low) / 2 for low, high in intervals))  # type: ignore[misc]


def _text(gap: Gap | None) -> str:
    if gap is None:
        return "no loss in common"
    interval = "error not known" if gap.low is None else f"{gap.low:+.3f} to {gap.high:+.3f}"
    return f"{gap.value:+.3f} nats ({interval}; {gap.seeds} seed{'s' * (gap.seeds != 1)})"
