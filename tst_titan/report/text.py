"""Numbers and words for people: units of a size that can be read, and no digit that means nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tst_titan.compare.table import scaled

GAP = "—"

METRIC_NAMES = {
    "steps": "Steps",
    "bag_steps": "Bag steps",
    "latents": "Latents",
    "data_tokens": "Data tokens",
    "unique_data_tokens": "Unique tokens",
    "epochs": "Epochs",
    "flops": "FLOPs",
    "hours": "Training time",
    "device_hours": "Device time",
    "final_loss": "Final loss",
    "final_loss_last": "Last logged loss",
    "final_bag_loss": "Final bag loss",
    "heldout_nats_per_token": "Held-out loss",
    "heldout_bits_per_byte": "Held-out bits per byte",
    "average_accuracy": "Average of the seven tasks",
    "mmlu": "MMLU",
}
AXES = {
    "step": "Optimizer steps",
    "flops": "FLOPs",
    "data_tokens": "Data tokens",
    "hours": "Training time, hours",
}
"""Columns that a loss curve can be drawn against, with the axis label."""

AXIS_NAMES = {"step": "steps", "flops": "FLOPs", "data_tokens": "data tokens", "hours": "hours"}
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def metric_name(metric: str) -> str:
    """Name of a metric for people: "accuracy/arc_easy" becomes "arc_easy"."""
    return METRIC_NAMES.get(metric, metric.removeprefix("accuracy/"))


def metric_rank(metric: str) -> int:
    """Order in which metrics are shown: losses, averages, then single tasks."""
    first = ("final_loss", "heldout_nats_per_token", "heldout_bits_per_byte", "average_accuracy", "mmlu")
    return first.index(metric) if metric in first else len(first)


def number_text(number: dict[str, Any] | None) -> str:
    """A number of comparison.json with its unit's usual digits; a dash where it has no value."""
    if number is None or number["value"] is None:
        return GAP
    return value_text(number["value"], number["unit"])


def value_text(value: float, unit: str) -> str:
    """A value in its unit, short enough for a table cell."""
    form = _FORMS.get(unit)
    return form(value) if form is not None else f"{value:.4g} {unit}".rstrip()


def interval_text(number: dict[str, Any]) -> str:
    """The interval of a number, "2.93 to 2.95"; empty where it has none."""
    low, high = number["low"], number["high"]
    if low is None and high is None:
        return ""
    ends = [GAP if end is None else value_text(end, number["unit"]) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def signed_text(number: dict[str, Any] | None) -> str:
    """A difference with its sign."""
    if number is None or number["value"] is None:
        return GAP
    text = number_text({**number, "value": abs(number["value"])})
    return f"{'+' if number['value'] >= 0 else '−'}{text}"


def power_of_ten(value: float, digits: int = 3) -> str:
    """1.23 × 10¹⁸ for large and very small numbers, plain text for the others."""
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if digits < 3:
        mantissa = mantissa.removesuffix(".0")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def duration(hours: float) -> str:
    """Hours as seconds, minutes or hours, whichever reads best."""
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def cell_note(number: dict[str, Any]) -> str:
    """What a table cell says on hover: exact value, interval, how it was computed and from which files."""
    unit = number["unit"]
    if number["value"] is None:
        parts = [f"no value: {number['reason']}"]
    else:
        parts = [f"{number['value']!r} {unit}".rstrip()]
        if interval_text(number):
            parts.append(f"interval {interval_text(number)}")
    if number["method"]:
        parts.append(number["method"])
    if number["sources"]:
        parts.append("from " + ", ".join(number["sources"]))
    return "; ".join(parts)


_FORMS: dict[str, Callable[[float], str]] = {
    "nats/token": lambda value: f"{value:.4f}",
    "bits/byte": lambda value: f"{value:.4f}",
    "%": lambda value: f"{value:.1f}",
    "steps": lambda value: f"{value:,.0f}",
    "tokens": scaled,
    "latents": scaled,
    "FLOPs": power_of_ten,
    "hours": duration,
    "device-hours": duration,
    "B200-hours": lambda value: f"{value:,.0f} B200-h",
    "times": lambda value: f"{value:.2f}×",
    "epochs": lambda value: f"{value:.2f}",
    "token steps per bag step": lambda value: f"{value:.2f}",
    "": lambda value: f"{value:.2f}",
}
