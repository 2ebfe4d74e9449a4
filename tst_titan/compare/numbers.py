"""A row of the table of results: one number, where it belongs, how sure it is and which files it came from."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pydantic import TypeAdapter

Winner = Literal["", "run", "reference", "undecided"]
Bound = Literal["", "at_least", "at_most"]
ON_HELDOUT = "heldout."
"""Prefix of a metric that was read off held-out losses; the same of training losses has the name without it."""
_SCORED = "heldout.difference"  # of a pair: between the final models' evaluations


@dataclass(frozen=True)
class Number:
    """One number of a comparison; or, where ``value`` is None, the reason why there is none.

    Attributes:
        unit: e.g. "nats/token", "%", "steps"; also of ``stderr``, ``low`` and ``high``.
        sources: files, or tables of the paper, that it was computed from.
        low, high: ends of the interval at the comparison's level of confidence.
        method: how it was computed, in a few words.
        bound: whether what was run only bounds the number from below or above.
        winner: which side a difference shows to be better.
        note: what a reader must know beside it.
        n: seeds behind it, where it is a mean over seeds.
        part: what it is about: a "run", the "paper"'s version of one, a "pair", variants over "seeds", or the kind of
            experiment that computed it.
        run, reference: names of runs; of variants (labels) where the number is about several runs each.
        x: value along the axis of a sweep.
        runs: names of the runs behind a cell.
    """

    value: float | None
    unit: str = ""
    sources: tuple[str, ...] = ()
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    reason: str = ""
    bound: Bound = ""
    winner: Winner = ""
    note: str = ""
    n: int | None = None
    part: str = ""
    group: str = ""
    run: str = ""
    reference: str = ""
    seed: int | None = None
    bag_size: float | None = None
    bag_fraction: float | None = None
    x: float | None = None
    metric: str = ""
    runs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a missing number needs a reason")
        for name in ("value", "stderr", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} is {number}; a number that does not exist is None with a reason")

    @property
    def exists(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def number(self) -> float:
        """The value, for callers that have checked that it exists."""
        if self.value is None:
            raise ValueError(f"no value: {self.reason}")
        return self.value

    @property
    def base(self) -> str:
        """Its metric, whichever losses it was read off."""
        return self.metric.removeprefix(ON_HELDOUT) if self.on_heldout else self.metric

    @property
    def on_heldout(self) -> bool:
        """Whether it was read off held-out losses that were measured during training."""
        scored = self.part == "pair" and self.metric.startswith(_SCORED)
        return self.metric.startswith(ON_HELDOUT) and not scored

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval; None where one is not known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval lies on one side of 0; None where it is not known."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def at(self, part: str, metric: str, **place: Any) -> Number:
        """The same number in its place in the table."""
        return replace(self, part=part, metric=metric, **place)


def missing(reason: str, unit: str = "", sources: Iterable[str] = ()) -> Number:
    """A number that does not exist, and why."""
    return Number(None, unit, tuple(dict.fromkeys(sources)), reason=reason)


def merge_sources(*parts: Number | Iterable[str]) -> tuple[str, ...]:
    """The sources of several numbers in order, each named once."""
    names = [name for part in parts for name in (part.sources if isinstance(part, Number) else part)]
    return tuple(dict.fromkeys(names))


def with_error(
    value: float, stderr: float | None, quantile: float, unit: str, sources: tuple[str, ...], method: str = ""
) -> Number:
    """A number with the interval of +- ``quantile`` standard errors; without one where the error is not known."""
    if stderr is None:
        return Number(value, unit, sources, method=method)
    half = quantile * stderr
    return Number(value, unit, sources, stderr, value - half, value + half, method)


def difference(first: Number, second: Number, quantile: float, method: str = "") -> Number:
    """``first - second`` of two independent numbers.

    Without both standard errors the difference has no interval: nothing is assumed about the missing one.
    """
    sources = merge_sources(first, second)
    if first.value is None or second.value is None:
        return missing(first.reason or second.reason, first.unit, sources)
    known = first.stderr is not None and second.stderr is not None
    stderr = math.hypot(first.stderr, second.stderr) if known else None  # type: ignore[arg-type]
    return with_error(first.value - second.value, stderr, quantile, first.unit, sources, method)


_LISTS = ("sources", "runs")
COLUMNS = (
    "part", "group", "run", "reference", "seed", "bag_size", "bag_fraction", "x", "metric", "value", "stderr", "low",
    "high", "unit", "bound", "winner", "n", "method", "note", "reason", "runs", "sources",
)  # fmt: skip
_NUMBER = TypeAdapter(Number)
assert set(COLUMNS) == {field.name for field in fields(Number)}


def to_csv(numbers: Iterable[Number]) -> str:
    """The table as CSV: floats as they are, lists as JSON, empty where there is nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number in numbers:
        cells = {name: getattr(number, name) for name in COLUMNS}
        cells |= {name: json.dumps(cells[name], ensure_ascii=False) if cells[name] else "" for name in _LISTS}
        writer.writerow([cells[name] for name in COLUMNS])
    return text.getvalue()


def from_csv(text: str) -> list[Number]:
    """``to_csv`` back.

    Raises:
        ValueError: other columns, or a cell of another type.
    """
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"its columns are {', '.join(reader.fieldnames or ())}, not {', '.join(COLUMNS)}")
    numbers = []
    for row in reader:
        cells = {name: json.loads(cell) if name in _LISTS else cell for name, cell in row.items() if cell}
        numbers.append(_NUMBER.validate_python({"value": None} | cells))
    return numbers
