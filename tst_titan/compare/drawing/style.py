"""The look of the figures: colours that colour-blind readers tell apart, markers beside them, fixed bytes.

Colours are Okabe and Ito's (yellow left out: it vanishes on white); baselines are black or grey. A marker goes
with every colour, so that colour is never the only cue. The page replaces these very hex codes by CSS variables,
so that one SVG serves light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tst_titan.compare.results import RunFacts
from tst_titan.text import amount, power_of_ten

INK = "#1b1f24"
MUTED = "#59636e"
RULE = "#d5dae0"
CONTEXT = "#b4bcc5"
PAPER = "#fffffe"
BASELINES = ("#000001", "#5a646f", "#8a94a0")
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "^", "v", "P", "<", ">", "*", "p")
BASELINE_MARKERS = ("s", "D", "X", "h")
BAG_DASH = (0, (3.2, 1.6))
MANY_KEYS = 8

CSS_VARIABLES: dict[str, str] = (
    {INK: "--ink", MUTED: "--muted", RULE: "--rule", CONTEXT: "--context", PAPER: "--paper"}
    | {colour: f"--base-{i}" for i, colour in enumerate(BASELINES)}
    | {colour: f"--series-{i}" for i, colour in enumerate(SERIES)}
)
"""Hex codes of the figures, lower case as Matplotlib writes them, and the page's variables for them."""

_RC: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "tst-titan", "pdf.fonttype": 42, "path.simplify_threshold": 0.25,
    "font.family": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 9, "legend.fontsize": 8.5, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "legend.frameon": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "lines.linewidth": 1.6, "lines.markersize": 4.5, "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06, "figure.constrained_layout.w_pad": 0.06,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a run is drawn wherever it appears.

    Attributes:
        key: what the legend says; runs with the same key look the same.
        colour: hex code.
        marker: Matplotlib marker.
    """

    key: str
    colour: str
    marker: str


def looks_of(runs: Sequence[RunFacts]) -> dict[str, Look]:
    """The look of every run by name.

    Runs are told apart by label. Where there are more labels than colours, by bag size, which is what a grid
    is read for; baselines are black and grey in the order in which they come.
    """
    labels = list(dict.fromkeys(run.label for run in runs))
    by_label = len(labels) <= MANY_KEYS
    keys = {run.name: run.label if by_label else _bag_key(run) for run in runs}
    baseline_keys = list(dict.fromkeys(keys[run.name] for run in runs if run.is_baseline))
    other_keys = list(dict.fromkeys(keys[run.name] for run in runs if not run.is_baseline))
    looks = {
        key: Look(key, BASELINES[i % len(BASELINES)], BASELINE_MARKERS[i % len(BASELINE_MARKERS)])
        for i, key in enumerate(baseline_keys)
    }
    looks |= {
        key: Look(key, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)])
        for i, key in enumerate(other_keys)
        if key not in looks
    }
    return {name: looks[key] for name, key in keys.items()}


def _bag_key(run: RunFacts) -> str:
    """Bag sizes of a run, "s = 8"; "baseline" where it has none."""
    return "s = " + ", ".join(f"{size:g}" for size in run.bag_sizes) if run.bag_sizes else "baseline"


def series_looks(names: Sequence[str]) -> dict[str, Look]:
    """Looks for series that are not runs, e.g. bag sizes of a grid, in order; shades of one scale if many."""
    if len(names) > len(SERIES):
        shades = mpl.colormaps["viridis"]([0.1 + 0.7 * i / (len(names) - 1) for i in range(len(names))])
        return {
            name: Look(name, mpl.colors.to_hex(shades[i]), MARKERS[i % len(MARKERS)])
            for i, name in enumerate(names)
        }
    return {
        name: Look(name, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }


def styled() -> Any:
    """Context manager in which figures are made and saved."""
    return mpl.rc_context(_RC)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write <name>.svg and <name>.pdf; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    # The layout is solved once; solving it again for each format doubles the time.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    for suffix, fields in metadata.items():
        path = folder / f"{name}.{suffix}"
        temporary = folder / f"{name}.{suffix}.tmp"
        figure.savefig(temporary, format=suffix, metadata=fields)
        temporary.replace(path)


def format_axis(axes: Axes, column: str) -> None:
    """Readable ticks for a budget: 20,000 steps, 1.5B tokens, 2 × 10¹⁸ FLOPs."""
    forms = {
        "step": lambda value, _: f"{value:,.0f}",
        "data_tokens": lambda value, _: amount(value),
        "flops": lambda value, _: power_of_ten(value, digits=2) if value else "0",
    }
    if column in forms:
        axes.xaxis.set_major_formatter(forms[column])
    axes.locator_params(axis="x", nbins=6)
