"""Names of metrics and axes, and the numbers of comparison.json, for people."""

from __future__ import annotations

from typing import Any

from tst_titan import text
from tst_titan.text import GAP as GAP
from tst_titan.text import amount as scaled  # noqa: F401 (read from here by draw_corpus)
from tst_titan.text import value_text as value_text

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


def metric_name(metric: str) -> str:
    """Name of a metric for people: "accuracy/arc_easy" becomes "arc_easy"."""
    return METRIC_NAMES.get(metric, metric.removeprefix("accuracy/"))


def metric_rank(metric: str) -> int:
    """Order in which metrics are shown: losses, averages, then single tasks."""
    first = ("final_loss", "heldout_nats_per_token", "heldout_bits_per_byte", "average_accuracy", "mmlu")
    return first.index(metric) if metric in first else len(first)


def number_text(number: dict[str, Any] | None) -> str:
    """A number of comparison.json with its unit's usual digits; a dash where it has no value."""
    return GAP if number is None else value_text(number["value"], number["unit"])


def interval_text(number: dict[str, Any]) -> str:
    """The interval of a number, "2.93 to 2.95"; empty where it has none."""
    return text.interval_text(number["low"], number["high"], number["unit"])


def signed_text(number: dict[str, Any] | None) -> str:
    """A difference with its sign."""
    return GAP if number is None else text.signed_text(number["value"], number["unit"])


def answer(comparison: dict[str, Any]) -> str:
    """The first result that a comparison states; empty where there is none."""
    return next((sentence["text"] for sentence in comparison["verdict"] if sentence["kind"] == "result"), "")


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
