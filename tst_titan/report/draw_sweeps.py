"""Final loss along one axis (learning rate, epochs), and what a bag step is worth over s, r and width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tst_titan.compare.spec import BASELINE
from tst_titan.report.panels import Panel, number_rows, save_panel
from tst_titan.report.read import Experiment
from tst_titan.report.style import BASELINE_MARKERS, BASELINES, INK, MUTED, Look, legend_below, series_looks
from tst_titan.report.text import number_text

_AXES = {"lr": "Peak learning rate", "epochs": "Epochs of the baseline over the data"}
_ACROSS = 3


def draw_sweeps(experiment: Experiment, folder: Path) -> list[Panel]:
    """One panel an axis: a line a variant, groups side by side."""
    sweeps = experiment.content["sweeps"]
    return [
        _sweep(axis, [sweep for sweep in sweeps if sweep["axis"] == axis], folder)
        for axis in dict.fromkeys(sweep["axis"] for sweep in sweeps)
    ]


def _sweep(axis: str, sweeps: Sequence[dict[str, Any]], folder: Path) -> Panel:
    """All groups of one axis."""
    names = list(dict.fromkeys(series["name"] for sweep in sweeps for series in sweep["series"]))
    roles = {series["name"]: series["role"] for sweep in sweeps for series in sweep["series"]}
    looks = series_looks([name for name in names if roles[name] != BASELINE])
    looks |= {
        name: Look(name, BASELINES[0], BASELINE_MARKERS[0]) for name in names if roles[name] == BASELINE
    }
    figure, places = _side_by_side(len(sweeps))
    for axes, sweep in zip(places, sweeps, strict=False):
        for series in sweep["series"]:
            _series(axes, series, looks[series["name"]])
        axes.set_xscale("log")
        ticks = sorted({point["x"] for series in sweep["series"] for point in series["points"]})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(_AXES.get(axis, axis))
        axes.set_title(sweep["group"], color=INK)
    places[0].set_ylabel("Final loss, nats per token")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=look.key) for look in looks.values()
    ]
    handles.append(Line2D([], [], color=MUTED, marker="o", markersize=9, markerfacecolor="none", linestyle="",
                          label="best of its line"))  # fmt: skip
    legend_below(figure, handles)
    best = "; ".join(
        f"{(sweep['group'] + ' ') if sweep['group'] else ''}{series['name']} best at {series['best']['x']:g} "
        f"({number_text(series['best']['value'])})"
        for sweep in sweeps for series in sweep["series"] if series["best"] is not None
    )  # fmt: skip
    rows = [
        {"group": sweep["group"], "axis": axis, "series": series["name"], "role": series["role"], "x": point["x"],
         "final_loss": point["value"], "run": point["run"]}
        for sweep in sweeps for series in sweep["series"] for point in series["points"]
    ]  # fmt: skip
    title = f"Final loss over {_AXES.get(axis, axis)[0].lower()}{_AXES.get(axis, axis)[1:]}"
    caption = "Final loss of every run with its interval; a ring marks the best point of each line."
    made = save_panel(
        figure, folder, f"sweep_{axis}", title, caption, f"{title}: {best}.", data=number_rows(rows)
    )
    plt.close(figure)
    return made


def _series(axes: Axes, series: dict[str, Any], look: Look) -> None:
    """One variant with its intervals and its best point."""
    points = [point for point in series["points"] if point["value"]["value"] is not None]
    axes.plot(
        [point["x"] for point in points], [point["value"]["value"] for point in points], color=look.colour,
        marker=look.marker,
    )  # fmt: skip
    for point in points:
        low, high = point["value"]["low"], point["value"]["high"]
        if low is not None and high is not None:
            axes.plot([point["x"]] * 2, [low, high], color=look.colour, linewidth=0.9)
    best = series["best"]
    if best is not None:
        axes.plot(
            best["x"], best["value"]["value"], "o", markersize=10, markerfacecolor="none", color=look.colour
        )


def draw_transfer(experiment: Experiment, folder: Path) -> Panel | None:
    """What a bag step is worth against r, one line a bag size, groups side by side, the paper's in open markers."""
    entries = experiment.content["transfer"]
    if not entries:
        return None
    groups = list(dict.fromkeys(item["group"] for item in entries))
    looks = series_looks([f"s = {size:g}" for size in sorted({item["bag_size"] for item in entries})])
    figure, places = _side_by_side(len(groups))
    for axes, group in zip(places, groups, strict=False):
        members = [item for item in entries if item["group"] == group]
        for size in sorted({item["bag_size"] for item in members}):
            chosen = sorted((i for i in members if i["bag_size"] == size), key=lambda i: i["bag_fraction"])
            _worth_line(axes, chosen, looks[f"s = {size:g}"])
        axes.axhline(1.0, color=INK, linewidth=0.8)
        axes.set_title(group, color=INK)
        axes.set_xlabel("Bag fraction r")
        axes.set_xticks(sorted({item["bag_fraction"] for item in members}))
        axes.margins(y=0.18)
    places[0].set_ylabel("Token steps that a bag step replaces")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=look.key) for look in looks.values()
    ]
    if any(item["published"] for item in entries):
        handles.append(
            Line2D(
                [],
                [],
                color=MUTED,
                marker="o",
                linestyle=":",
                markerfacecolor="none",
                label="from the paper's",
            )
        )
    legend_below(figure, handles)
    keys = ("group", "run", "bag_size", "bag_fraction", "width", "status", "bound", "baseline_steps",
            "token_steps_per_bag_step")  # fmt: skip
    said = "; ".join(
        f"{item['run']} {(item['bound'] or '').replace('_', ' ')} {number_text(item['token_steps_per_bag_step'])}"
        for item in entries[:16]
    )
    made = save_panel(
        figure, folder, "transfer", "What a bag step is worth",
        "The number of token steps that one bag step replaces: the steps of a baseline that ends at the run's "
        "loss, minus the run's token steps, over its bag steps. Above 1 (line) a bag step does more than a "
        "token step at the same FLOPs. Bars: intervals. An arrow up or down: the baselines that were run only bound "
        "it from below or above.",
        f"Token steps that a bag step replaces: {said}.",
        data=number_rows([{key: item[key] for key in keys} for item in entries]),
    )  # fmt: skip
    plt.close(figure)
    return made


def _worth_line(axes: Axes, entries: Sequence[dict[str, Any]], look: Look) -> None:
    """One bag size: a line over r, arrows where the worth is only bounded, the paper's beside it."""
    known = [item for item in entries if item["token_steps_per_bag_step"]["value"] is not None]
    x = [item["bag_fraction"] for item in known]
    axes.plot(
        x,
        [item["token_steps_per_bag_step"]["value"] for item in known],
        color=look.colour,
        marker=look.marker,
    )
    for item in known:
        number = item["token_steps_per_bag_step"]
        place = (item["bag_fraction"], number["value"])
        if number["low"] is not None and number["high"] is not None:
            axes.plot([place[0]] * 2, [number["low"], number["high"]], color=look.colour, linewidth=0.9)
        if item["bound"] is not None:
            up = item["bound"] == "at_least"
            axes.annotate("", place, xytext=(0, 16 if up else -16), textcoords="offset points",
                          arrowprops={"arrowstyle": "<-", "color": look.colour})  # fmt: skip
    published = [item for item in entries if item["published"] and item["published"]["value"] is not None]
    if published:
        axes.plot(
            [item["bag_fraction"] for item in published], [item["published"]["value"] for item in published],
            color=look.colour, marker=look.marker, markerfacecolor="none", linestyle=":", linewidth=1.0,
        )  # fmt: skip


def _side_by_side(count: int) -> tuple[Any, list[Axes]]:
    """A figure with ``count`` axes, three a row."""
    across = min(count, _ACROSS)
    down = -(-count // _ACROSS)
    width = {1: 5.4, 2: 7.2}.get(across, 10.0)
    figure, axes = plt.subplots(down, across, figsize=(width, 0.6 + 3.0 * down), squeeze=False, sharey=True)
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, list(axes.flat[:count])
