"""The numbers behind the page's interactive loss curves, as compact JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from markupsafe import Markup

from tst_titan.report.draw_curves import view_of
from tst_titan.report.read import Experiment
from tst_titan.report.style import CSS_VARIABLES, MANY_KEYS, looks_of
from tst_titan.report.text import AXES, number_text

_DIGITS = 7


def chart_data(experiment: Experiment) -> dict[str, Any]:
    """Curves, looks and y-ranges of an experiment.

    Returns:
        title, axes (column and label), groups (name and y-ranges "readable" and "whole", nats/token), and
        runs: name, label, group, colour (a CSS value), marker, shown (whether it is drawn at first), final
        (text), and segments: phase, bag (whether its loss is a bag loss), bag_size, and equally long lists
        step, flops, data_tokens, hours, loss, smoothed.
    """
    looks = looks_of(experiment.runs)
    shown = _shown_at_first(experiment)
    runs = []
    for run in experiment.runs:
        look = looks[run.name]
        variable = CSS_VARIABLES.get(look.colour)
        final = experiment.get("run", run.name, "final_bag_loss" if run.bag_loss_only else "final_loss")
        runs.append(
            {
                "name": run.name,
                "label": run.label,
                "group": run.group,
                "colour": look.colour if variable is None else f"var({variable})",
                "marker": look.marker,
                "shown": run.name in shown,
                "final": number_text(final),
                "segments": _segments(experiment, run.name),
            }
        )
    groups = []
    for group in experiment.groups:
        names = [run.name for run in experiment.runs if run.group == group]
        view = view_of(experiment.curves[experiment.curves["run"].isin(names)])
        groups.append({"name": group, "readable": _rounded(view.readable), "whole": _rounded(view.whole)})
    axes = [{"key": key, "label": label} for key, label in AXES.items()]
    return {"title": experiment.title, "axes": axes, "groups": groups, "runs": runs}


def as_script(data: dict[str, Any]) -> Markup:
    """JSON that may stand inside a <script> element whatever the names in it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _shown_at_first(experiment: Experiment) -> set[str]:
    """All runs where they are few; else the baselines and the best run of every group."""
    chosen: set[str] = set()
    for group in experiment.groups:
        runs = [run for run in experiment.runs if run.group == group]
        if len(runs) <= MANY_KEYS:
            chosen |= {run.name for run in runs}
            continue
        losses = {run.name: experiment.value(run.name, "final_loss") for run in runs if not run.is_baseline}
        others = sorted((loss, name) for name, loss in losses.items() if loss is not None)
        baselines = [run for run in runs if run.is_baseline]
        chosen |= {run.name for run in baselines[:3]} | {name for _, name in others[:2]}
    return chosen


def _segments(experiment: Experiment, name: str) -> list[dict[str, Any]]:
    """A run's curve, one entry a segment."""
    segments = []
    for _, part in experiment.curve(name).groupby("segment", sort=True):
        first = part.iloc[0]
        segment: dict[str, Any] = {
            "phase": str(first["phase"]),
            "bag": not bool(first["comparable"]),
            "bag_size": int(float(first["bag_size"])),
        }
        for column in (*AXES, "loss", "smoothed"):
            segment[column] = _rounded(part[column].tolist())
        segments.append(segment)
    return segments


def _rounded(values: Any) -> list[float | int]:
    """Values to seven significant digits, whole numbers without a point."""
    made: list[float | int] = []
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"a curve holds {value}")
        short = float(f"{value:.{_DIGITS}g}")
        made.append(int(short) if short.is_integer() else short)
    return made
