"""A number with its unit, its uncertainty and the files it came from; or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One number of the comparison.

    Attributes:
        value: None when the number does not exist; then ``reason`` says why.
        unit: e.g. "nats/token", "%", "steps".
        sources: files (or tables of the paper) that the number was computed from.
        stderr: standard error, in ``unit``.
        low, high: ends of the confidence interval at the comparison's level, in ``unit``.
        method: how it was computed, in a few words.
        reason: why there is no value.
    """

    value: float | None
    unit: str = ""
    sources: tuple[str, ...] = ()
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    reason: str | None = None

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

    def with_sources(self, sources: Iterable[str]) -> Measured:
        """The same number with these sources, each named once."""
        return replace(self, sources=tuple(dict.fromkeys(sources)))

    def to_mapping(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "value": self.value,
            "stderr": self.stderr,
            "low": self.low,
            "high": self.high,
            "unit": self.unit,
            "method": self.method,
            "sources": list(self.sources),
            "reason": self.reason,
        }


def missing(reason: str, unit: str = "", sources: Iterable[str] = ()) -> Measured:
    """A number that does not exist, and why."""
    return Measured(None, unit, tuple(dict.fromkeys(sources)), reason=reason)


def merge_sources(*parts: Measured | Iterable[str]) -> tuple[str, ...]:
    """The sources of several numbers in order, each named once."""
    names: list[str] = []
    for part in parts:
        names.extend(part.sources if isinstance(part, Measured) else part)
    return tuple(dict.fromkeys(names))


def difference(first: Measured, second: Measured, quantile: float, method: str = "") -> Measured:
    """``first - second`` of two independent numbers; the interval is +- ``quantile`` standard errors.

    Without both standard errors the difference has no interval: nothing is assumed about the missing one.
    """
    sources = merge_sources(first, second)
    if first.value is None or second.value is None:
        return missing(first.reason or second.reason or "", first.unit, sources)
    value = first.value - second.value
    if first.stderr is None or second.stderr is None:
        return Measured(value, first.unit, sources, method=method)
    stderr = math.hypot(first.stderr, second.stderr)
    return Measured(
        value, first.unit, sources, stderr, value - quantile * stderr, value + quantile * stderr, method
    )
