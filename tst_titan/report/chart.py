"""The page's interactive loss curves: traces of Plotly, with a place on each axis that a reader can choose."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tst_titan.compare.drawing.style import CSS_VARIABLES, MANY_KEYS, Look, looks_of
from tst_titan.compare.numbers import Number
from tst_titan.compare.results import HELDOUT, Results
from tst_titan.report.draw_curves import curves_of, view_of
from tst_titan.report.text import AXES

Trace = dict[str, Any]

_DIGITS = 7
_FEW_SWITCHES = 4
# Matplotlib's markers (style.py) as Plotly calls them.
_SYMBOLS = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "P": "cross", "X": "x", "*": "star", "p": "pentagon", "h": "hexagon",
}  # fmt: skip


def library() -> str:
    """Plotly's own script, which a page loads from the file beside it."""
    return str(get_plotlyjs())


def loss_chart(experiment: Results) -> Markup:
    """JSON for a <script> element: traces, and the ranges of the loss by group.

    Returns:
        groups: name to {"readable": [low, high], "whole": [low, high]}, nats/token.
        traces: Plotly's without x, y and colour, which chart.js takes from ``meta``: colour (a CSS variable's name
            where the page has one), x (a list for every axis), y ("smoothed", and "logged" where that differs),
            group, and kind: "bag", "switch", "token", "final", or "training" behind held-out losses.
    """
    looks, shown = looks_of(experiment.runs), _shown_at_first(experiment)
    groups: dict[str, dict[str, list[float | int]]] = {}
    traces: list[Trace] = []
    for group in experiment.groups:
        runs = [run for run in experiment.runs if run.group == group]
        curves, behind = curves_of(experiment, runs)
        view = view_of(curves)
        groups[group] = {"readable": _rounded(view.readable), "whole": _rounded(view.whole)}
        repeated = len({run.label for run in runs}) < len(runs)
        switches = sum(bool(run.bag_sizes) for run in runs if run.name in shown)
        for run in runs:
            common = {
                "name": run.name if repeated else run.label,
                "legendgroup": run.name,
                "visible": True if run.name in shown else "legendonly",
            }
            look = looks[run.name]
            colour = CSS_VARIABLES.get(look.colour, look.colour)
            metric = experiment.final_loss(runs)
            if run.bag_loss_only and metric == "final_loss":
                metric = "final_bag_loss"
            final = experiment.get("run", run.name, metric)
            own = _traces(curves[curves["run"] == run.name], final, look, view.whole)
            for trace in (*own, *_faint(behind[behind["run"] == run.name])):
                if trace["meta"]["kind"] == "switch" and switches > _FEW_SWITCHES:
                    trace["opacity"] = 0.4
                trace["meta"] |= {"group": group, "colour": colour}
                traces.append({**common, "uid": f"trace{len(traces)}", **trace})
    return as_script({"groups": groups, "traces": traces})


def as_script(data: dict[str, Any]) -> Markup:
    """JSON that may stand inside a <script> element whatever the names in it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _traces(
    curve: pd.DataFrame, final: Number | None, look: Look, whole: tuple[float, float]
) -> Iterator[Trace]:
    """A run's traces: bag phase, switch, token phases, final loss; those that it has."""
    bags, tokens = curve[~curve["comparable"]], curve[curve["comparable"]]
    first = bags if tokens.empty else tokens
    if not bags.empty:
        yield {
            "mode": "lines", "opacity": 0.65, "line": {"width": 1.5, "dash": "5px,3px"},
            "showlegend": first is bags, "hovertemplate": "%{y:.4f} bag loss",
            "meta": {"kind": "bag", **_points(bags)},
        }  # fmt: skip
        end = bags.iloc[-1]
        yield {
            "mode": "lines", "line": {"width": 1, "dash": "dot"}, "showlegend": False, "hoverinfo": "skip",
            "meta": {"kind": "switch", "x": {axis: _rounded([end[axis]] * 2) for axis in AXES},
                     "y": {"smoothed": _rounded(whole)}},
        }  # fmt: skip
    if not tokens.empty:
        heldout = tokens["measured_on"].iloc[0] == HELDOUT
        yield {
            "mode": "lines+markers", "line": {"width": 2},
            "marker": {"symbol": _SYMBOLS[look.marker], **({"size": 5} if heldout else {"size": 7, "maxdisplayed": 9})},
            "showlegend": True, "hovertemplate": "%{y:.4f}", "meta": {"kind": "token", **_points(tokens)},
        }  # fmt: skip
    if final is not None and final.exists:
        end = first.iloc[-1]
        yield {
            "mode": "markers", "marker": {"symbol": "circle-open", "size": 12, "line": {"width": 2}},
            "showlegend": False, "hovertemplate": "%{y:.4f} final loss",
            "meta": {"kind": "final", "x": {axis: _rounded([end[axis]]) for axis in AXES},
                     "y": {"smoothed": _rounded([final.number])}},
        }  # fmt: skip


def _faint(curve: pd.DataFrame) -> Iterator[Trace]:
    """The training losses of a run's token phases behind its held-out ones."""
    tokens = curve[curve["comparable"]]
    if not tokens.empty:
        yield {
            "mode": "lines", "opacity": 0.35, "line": {"width": 1}, "showlegend": False, "hoverinfo": "skip",
            "meta": {"kind": "training", **_points(tokens)},
        }  # fmt: skip


def _points(rows: pd.DataFrame) -> dict[str, Any]:
    """Places on every axis, and the loss smoothed and as logged."""
    return {
        "x": {axis: _rounded(rows[axis]) for axis in AXES},
        "y": {"smoothed": _rounded(rows["smoothed"]), "logged": _rounded(rows["loss"])},
    }


def _shown_at_first(experiment: Results) -> set[str]:
    """All runs where they are few; else the baselines and the best runs of every group."""
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


def _rounded(values: Iterable[float]) -> list[float | int]:
    """Values to seven significant digits, whole numbers without a point."""
    made: list[float | int] = []
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"a curve holds {value}")
        short = float(f"{value:.{_DIGITS}g}")
        made.append(int(short) if short.is_integer() else short)
    return made
