"""A metric over bag size and bag fraction, ours beside the paper's (figures 4, 5, 8 and 11)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D

from tst_titan import paper
from tst_titan.report.panels import Panel, number_rows, save_panel
from tst_titan.report.read import Experiment
from tst_titan.report.style import BASELINES, CONTEXT, INK, MUTED, Look, legend_below, series_looks
from tst_titan.report.text import interval_text, metric_name, metric_rank, number_text, value_text

_UNITS = {"%": "accuracy, %", "nats/token": "nats per token", "bits/byte": "bits per byte"}
Cell = dict[str, Any]


def draw_grids(experiment: Experiment, folder: Path) -> list[Panel]:
    """Two panels a metric: the values as lines over r, and the gains as a heat map."""
    panels = []
    grids = experiment.content["grids"]
    for metric in sorted(dict.fromkeys(grid["metric"] for grid in grids), key=metric_rank):
        chosen = [grid for grid in grids if grid["metric"] == metric]
        panels.append(_lines(metric, chosen, folder))
        if any(cell["gain"]["value"] is not None for grid in chosen for cell in grid["cells"]):
            panels.append(_heat_maps(metric, chosen, folder))
    return panels


def grid_file(metric: str) -> str:
    """Name of the panel with a metric's lines."""
    return "grid_" + metric.replace("/", "_")


def paper_grid(grid: dict[str, Any]) -> pd.DataFrame:
    """All of the paper's cells of the table that a grid's published cells come from.

    Returns:
        Columns bag_size, bag_step_ratio, value; empty where the grid has no published cells.
    """
    cited = [cell["published"]["sources"] for cell in grid["cells"] if cell["published"] is not None]
    found = re.search(r"tables? (\d+)", " ".join(source for sources in cited for source in sources))
    columns = ["bag_size", "bag_step_ratio", "value"]
    if found is None:
        return pd.DataFrame(columns=columns)
    rows = paper.published_sweeps(table=int(found.group(1)))
    if grid["metric"] == "average_accuracy":
        first = rows.iloc[0]
        rows = paper.average_accuracy(
            paper.published_sweeps(
                model=first["model"], total_steps=first["total_steps"], bag_weighting=first["bag_weighting"]
            )
        )
    return rows[columns]


def _lines(metric: str, grids: Sequence[dict[str, Any]], folder: Path) -> Panel:
    """Groups below each other: ours on the left, the paper's on the right where it has any."""
    published = [paper_grid(grid) for grid in grids]
    across = 2 if any(len(rows) for rows in published) else 1
    sizes = sorted({cell["bag_size"] for grid in grids for cell in grid["cells"]})
    looks = series_looks([f"s = {size:g}" for size in sizes])
    figure, rows_of_axes = plt.subplots(
        len(grids), across, figsize=(7.2, 0.5 + 2.9 * len(grids)), squeeze=False, sharex=True
    )
    for grid, rows, axes in zip(grids, published, rows_of_axes, strict=True):
        name = grid["group"]
        _our_lines(axes[0], grid, looks)
        axes[0].set_title(f"{name}: ours" if name else "Ours", color=INK)
        if across == 2:
            _paper_lines(axes[1], rows, looks)
            axes[1].set_title(f"{name}: the paper's" if name else "The paper's", color=INK)
        for part in axes:
            part.set_ylabel(_UNITS.get(_unit(grid), _unit(grid)))
    for part in rows_of_axes[-1]:
        part.set_xlabel("Bag fraction r")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=look.key) for look in looks.values()
    ]
    handles.append(Line2D([], [], color=BASELINES[0], linestyle="--", linewidth=1.0, label="baseline"))
    if any(
        not looks.keys() >= {f"s = {size:g}" for size in rows["bag_size"] if size > 1} for rows in published
    ):
        handles.append(Line2D([], [], color=CONTEXT, linewidth=1.0, label="the paper's other s"))
    legend_below(figure, handles, columns=6)
    caption = (
        f"{metric_name(metric)} over bag fraction r, one line a bag size s. Bars: the interval of our number. "
        "Dashed: the baseline of equal FLOPs"
        + ("; the paper's own grid, at its sizes, on the right" if across == 2 else "")
        + ("; r = 1 ends in the bag phase and has no token loss to draw." if metric == "final_loss" else ".")
    )
    made = save_panel(
        figure, folder, grid_file(metric), f"{metric_name(metric)} over s and r", caption, _alt(metric, grids),
        data=_data(grids),
    )  # fmt: skip
    plt.close(figure)
    return made


def _our_lines(axes: Axes, grid: dict[str, Any], looks: dict[str, Look]) -> None:
    """One line a bag size; cells that have a bag loss only are left out. Why there is no cell at all is written out."""
    reasons = {cell["value"]["reason"] for cell in grid["cells"] if cell["value"]["value"] is None}
    if grid["cells"] and not any(cell["value"]["value"] is not None for cell in grid["cells"]):
        text = textwrap.fill("not measured: " + "; ".join(sorted(reasons)), 44)
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=MUTED, fontsize=8)
    baseline = grid["baseline"]
    if baseline is not None and baseline["value"] is not None:
        axes.axhline(baseline["value"], color=BASELINES[0], linewidth=1.0, linestyle="--")
    for size in dict.fromkeys(cell["bag_size"] for cell in grid["cells"]):
        look = looks[f"s = {size:g}"]
        cells = [c for c in grid["cells"] if c["bag_size"] == size and c["value"]["value"] is not None]
        line = [cell for cell in cells if not (cell["bag_loss_only"] and grid["metric"] == "final_loss")]
        if not line:
            continue
        x = [cell["bag_fraction"] for cell in line]
        y = [cell["value"]["value"] for cell in line]
        axes.plot(x, y, color=look.colour, marker=look.marker)
        for cell in line:
            low, high = cell["value"]["low"], cell["value"]["high"]
            if low is not None and high is not None:
                axes.plot([cell["bag_fraction"]] * 2, [low, high], color=look.colour, linewidth=0.8)


def _paper_lines(axes: Axes, rows: pd.DataFrame, looks: dict[str, Look]) -> None:
    """The published grid; r = 1 of a loss (the bag loss) is left out as it is in ours."""
    if rows.empty:
        axes.text(
            0.5, 0.5, "no published numbers", ha="center", va="center", transform=axes.transAxes, color=MUTED
        )
        return
    baseline = rows[rows["bag_size"] == 1]
    if len(baseline):
        axes.axhline(float(baseline["value"].iloc[0]), color=BASELINES[0], linewidth=1.0, linestyle="--")
    shown = rows[(rows["bag_size"] > 1) & (rows["bag_step_ratio"] > 0) & (rows["bag_step_ratio"] < 1)]
    for size, part in shown.groupby("bag_size", sort=True):
        part = part.sort_values("bag_step_ratio")
        look = looks.get(f"s = {size:g}")
        if look is None:  # not among our sizes: context
            axes.plot(part["bag_step_ratio"], part["value"], color=CONTEXT, linewidth=0.8, zorder=1)
            continue
        axes.plot(part["bag_step_ratio"], part["value"], color=look.colour, marker=look.marker, markersize=3.5,
                  linewidth=1.0, markerfacecolor="none")  # fmt: skip


def _heat_maps(metric: str, grids: Sequence[dict[str, Any]], folder: Path) -> Panel:
    """Gain over the baseline in every cell, ours beside the paper's at the same cells."""
    across = 2 if any(cell["published_gain"] for grid in grids for cell in grid["cells"]) else 1
    figure, rows_of_axes = plt.subplots(
        len(grids), across, figsize=(7.2, 0.6 + 2.4 * len(grids)), squeeze=False
    )
    for grid, axes in zip(grids, rows_of_axes, strict=True):
        for part, key, whose in zip(axes, ("gain", "published_gain"), ("ours", "the paper's"), strict=False):
            _heat_map(part, grid["cells"], key)
            part.set_title(f"{grid['group']}: {whose}" if grid["group"] else whose.capitalize(), color=INK)
            part.set_xlabel("Bag fraction r")
            part.set_ylabel("Bag size s")
    unit = _unit(grids[0])
    made = save_panel(
        figure, folder, grid_file(metric).replace("grid_", "gain_"), f"{metric_name(metric)}: gain over the baseline",
        f"How much better than the baseline of equal FLOPs, in {unit} (positive: the baseline is beaten). Purple is "
        "better, orange worse; the number says by how much, shades are relative to the largest of each map. A dash: no "
        "number.",
        "Heat map of the gain over the baseline by bag size and bag fraction. " + _alt(metric, grids),
        data=_data(grids),
    )  # fmt: skip
    plt.close(figure)
    return made


def _heat_map(axes: Axes, cells: Sequence[Cell], key: str) -> None:
    """One heat map with its numbers written in."""
    sizes = sorted({cell["bag_size"] for cell in cells})
    # Where every cell ends in its bag phase there can be no gain; other empty cells stay visible.
    fractions = sorted(
        {cell["bag_fraction"] for cell in cells if not cell["bag_loss_only"] or _has(cell, key)}
    )
    gains = np.full((len(sizes), len(fractions)), np.nan)
    units = {}
    for cell in cells:
        number = cell[key]
        if _has(cell, key):
            place = sizes.index(cell["bag_size"]), fractions.index(cell["bag_fraction"])
            gains[place] = number["value"]
            units[place] = number["unit"]
    largest = float(np.nanmax(np.abs(gains), initial=0.0)) or 1.0
    norm = TwoSlopeNorm(0.0, -largest, largest)
    shades = ScalarMappable(norm, "PuOr")
    axes.pcolormesh(gains, cmap=shades.cmap, norm=norm)
    for (row, column), gain in np.ndenumerate(gains):
        place = (row, column)
        text = value_text(gain, units[place]) if place in units else "—"
        red, green, blue, _ = shades.to_rgba(gain)
        ground = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        colour = MUTED if place not in units else ("#fffffd" if ground < 0.18 else "#101010")
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour,
                  fontsize=7.5 if len(fractions) <= 8 else 6)  # fmt: skip
    axes.set_xticks(np.arange(len(fractions)) + 0.5, [f"{value:g}" for value in fractions])
    axes.set_yticks(np.arange(len(sizes)) + 0.5, [f"{value:g}" for value in sizes])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _has(cell: Cell, key: str) -> bool:
    """Whether a cell has a number."""
    return cell[key] is not None and cell[key]["value"] is not None


def _unit(grid: dict[str, Any]) -> str:
    """Unit of a grid's values."""
    return next((cell["value"]["unit"] for cell in grid["cells"]), "")


def _data(grids: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The cells as a table, baselines first."""
    rows: list[dict[str, Any]] = []
    none: dict[str, Any] = {"value": None, "low": None, "high": None, "sources": []}
    for grid in grids:
        head = {"group": grid["group"], "metric": grid["metric"]}
        base = {"value": grid["baseline"] or none, "gain": none, "published_gain": none}
        base |= {"published": grid["published_baseline"] or none}
        rows.append(
            head | {"bag_size": 1.0, "bag_fraction": 0.0, "bag_loss_only": False} | base | {"runs": ""}
        )
        for cell in grid["cells"]:
            numbers = {key: cell[key] or none for key in ("value", "gain", "published", "published_gain")}
            place = {key: cell[key] for key in ("bag_size", "bag_fraction", "bag_loss_only")}
            rows.append(head | place | numbers | {"runs": " ".join(cell["runs"])})
    return number_rows(rows)


def _alt(metric: str, grids: Sequence[dict[str, Any]]) -> str:
    parts = []
    for grid in grids:
        if grid["best"] is None:
            continue
        best = next(
            cell
            for cell in grid["cells"]
            if {"bag_size": cell["bag_size"], "bag_fraction": cell["bag_fraction"]} == grid["best"]
        )
        interval = interval_text(best["value"])
        parts.append(
            f"{grid['group'] or 'Best cell'}: s = {best['bag_size']:g}, r = {best['bag_fraction']:g} at "
            f"{number_text(best['value'])}" + (f" ({interval})" if interval else "")
        )
    return (
        f"{metric_name(metric)} over bag size and bag fraction. {'; '.join(parts) or 'No cell has a gain'}."
    )
