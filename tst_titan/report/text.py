"""Names of axes, and the numbers of a comparison, for people."""

from __future__ import annotations

from tst_titan import text
from tst_titan.compare.numbers import Number
from tst_titan.compare.results import Facts, Sentence
from tst_titan.text import GAP, value_text

AXES = {
    "step": "Optimizer steps",
    "flops": "FLOPs",
    "data_tokens": "Data tokens",
    "hours": "Training time, hours",
}
"""Columns that a loss curve can be drawn against, with the axis label."""

AXIS_NAMES = {"step": "steps", "flops": "FLOPs", "data_tokens": "data tokens", "hours": "hours"}


def number_text(number: Number | None) -> str:
    """A number with its unit's usual digits; a dash where it has no value."""
    return GAP if number is None else value_text(number.value, number.unit)


def interval_text(number: Number) -> str:
    """The interval of a number, "2.93 to 2.95"; empty where it has none."""
    return text.interval_text(number.low, number.high, number.unit)


def signed_text(number: Number | None) -> str:
    """A difference with its sign."""
    return GAP if number is None else text.signed_text(number.value, number.unit)


def evidence(facts: Facts) -> list[Sentence]:
    """The verdict without its caveat; with several seeds, what all of them say comes first."""
    found = [sentence for sentence in facts.verdict if sentence.kind != "caveat"]
    several = len({run.seed for run in facts.runs}) > 1
    return sorted(found, key=lambda sentence: sentence.kind != "noise") if several else found


def cell_note(number: Number) -> str:
    """What a table cell says on hover: exact value, interval, how it was computed and from which files."""
    parts = [f"no value: {number.reason}"]
    if number.exists:
        parts = [f"{number.value!r} {number.unit}".rstrip()]
        if interval_text(number):
            parts.append(f"interval {interval_text(number)}")
    if number.method:
        parts.append(number.method)
    if number.sources:
        parts.append("from " + ", ".join(number.sources))
    return "; ".join(parts)
