"""Whether what the paper found comes out here: one word and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from tst_titan.compare.answer import Finding, finding
from tst_titan.compare.kinds import Kind
from tst_titan.compare.numbers import Number
from tst_titan.compare.results import Results, RunFacts
from tst_titan.config.experiment import Claim, RunSpec

Outcome = Literal["reproduced", "not reproduced", "reproduced in part", "cannot be told", "see the sentence"]


def shows(gap: Number, ends: str) -> bool | None:
    """Whether a run that is ``gap`` above another ends as a claim says; None where the interval leaves it open."""
    if gap.interval is None:
        return None
    low, high = gap.interval
    if ends == "not_higher":
        return True if high <= 0 else False if low > 0 else None
    low, high = (low, high) if ends == "higher" else (-high, -low)
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
        found = _against(results, run, reference)
        verdicts.append(shows(found.gap, claim.ends) if found else None)
        parts.append(f"{_named(results, run)} against {_named(results, reference)}: {_text(found)}")
    return _outcome(verdicts), "; ".join(parts)


def _outcome(verdicts: list[bool | None]) -> Outcome:
    if all(verdicts):
        return "reproduced"
    if True not in verdicts:
        return "not reproduced" if False in verdicts else "cannot be told"
    return "reproduced in part"


def _facts(results: Results, name: str, spec: RunSpec) -> RunFacts:
    """The run of a name, or its first seed's."""
    alike = (run for run in results.runs if run.label == (spec.label or name))
    return next(run for run in alike if spec.group in (None, run.group))


def _named(results: Results, run: RunFacts) -> str:
    return run.label + (f" ({run.group})" if len(results.groups) > 1 and run.group else "")


def _against(results: Results, run: RunFacts, other: RunFacts) -> Finding | None:
    """Compared with each other where they were; else through the baseline that both were compared with."""
    direct = finding(results, other, run)
    if direct is not None:
        return direct
    for baseline in (each for each in results.runs if each.is_baseline and each.group == run.group):
        a, b = (finding(results, baseline, each) for each in (run, other))
        if a is not None and b is not None and a.unit == b.unit:
            gap = _apart(a.gap, b.gap)
            return replace(a, reference=other, gap=gap, seeds=min(a.seeds, b.seeds))
    return None


def _apart(first: Number, second: Number) -> Number:
    """A difference of differences, as if they were independent: its interval is too wide for paired ones."""
    value = first.number - second.number
    if first.interval is None or second.interval is None:
        return Number(value, first.unit)
    half = math.hypot(*((high - low) / 2 for low, high in (first.interval, second.interval)))
    return Number(value, first.unit, low=value - half, high=value + half)


def _text(found: Finding | None) -> str:
    if found is None:
        return "no loss in common"
    ends = "error not known"
    if found.gap.interval is not None:
        ends = " to ".join(f"{end:+.3f}" for end in found.gap.interval)
    return f"{found.gap.number:+.3f} nats ({ends}; {found.seeds} seed{'s' * (found.seeds != 1)})"
