"""What figures are drawn from: lines and dots with their intervals, places for groups, keys, a finished panel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, Transform

from tst_titan.compare.drawing import style
from tst_titan.compare.drawing.style import Look, save, series_looks
from tst_titan.compare.numbers import Number, to_csv
from tst_titan.compare.results import check_format
from tst_titan.errors import UserError
from tst_titan.files import read_object, write_atomically

FIGURES_FORMAT = 1
_ACROSS = 3
Role = Literal["curves", "result"]


@dataclass(frozen=True)
class Panel:
    """One entry of figures.json.

    Attributes:
        name: file name without suffix.
        role: "curves" are loss curves (the page shows them interactively); "result" is anything else.
        alt: what the figure shows, for those who cannot see it.
        csv: file with exactly the numbers drawn; None where they are compare's curves.csv.
    """

    name: str
    role: Role
    title: str
    caption: str
    alt: str
    svg: str
    pdf: str
    csv: str | None


def figure_of(
    rows: int, across: int, row_height: float, base: float = 0.5, **more: Any
) -> tuple[Figure, Any]:
    """A figure of the page's width with a grid of axes."""
    return plt.subplots(rows, across, figsize=(7.2, base + row_height * rows), squeeze=False, **more)


def side_by_side(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes that share y, three a row."""
    across = min(count, _ACROSS)
    down = -(-count // _ACROSS)
    width = {1: 5.4, 2: 7.2}.get(across, 10.0)
    figure, axes = plt.subplots(down, across, figsize=(width, 0.6 + 3.0 * down), squeeze=False, sharey=True)
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, list(axes.flat[:count])


def finish(
    figure: Figure,
    folder: Path,
    name: str,
    title: str,
    caption: str,
    alt: str,
    numbers: Sequence[Number] | pd.DataFrame | None = None,
    role: Role = "result",
) -> Panel:
    """Write a figure, and the numbers that it draws, and describe both."""
    save(figure, folder, name)
    plt.close(figure)
    csv = None
    if numbers is not None:
        csv = f"{name}.csv"
        text = numbers.to_csv(index=False) if isinstance(numbers, pd.DataFrame) else to_csv(numbers)
        write_atomically(folder / csv, text)
    return Panel(name, role, title, caption, alt, f"{name}.svg", f"{name}.pdf", csv)


def write_panels(folder: Path, experiment: str, scale: str, source: Path, panels: Sequence[Panel]) -> None:
    """Write figures.json: whose figures lie in a folder, and the file that they were drawn from."""
    content = {
        "format": FIGURES_FORMAT, "experiment": experiment, "scale": scale, "source": source.as_posix(),
        "panels": [asdict(panel) for panel in panels],
    }  # fmt: skip
    write_atomically(folder / "figures.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_panels(folder: Path) -> dict[str, Any]:
    """Read figures.json of a figures folder.

    Raises:
        UserError: it is missing, of another format, or names a file that does not exist.
    """
    path = folder / "figures.json"
    content = read_object(path, "draw the figures first")
    check_format(content, path, FIGURES_FORMAT)
    for panel in content["panels"]:
        for kind in ("svg", "pdf", "csv"):
            name = panel[kind]
            if name is not None and not (folder / name).is_file():
                raise UserError(f"{path}: names {name}, which does not exist; draw the figures again")
    return content


def shifts(count: int) -> list[float]:
    """Points by which ``count`` lines stand beside each other, so that bars at one x can be told apart."""
    return [3.0 * (index - (count - 1) / 2) for index in range(count)]


def line(
    axes: Axes,
    numbers: Sequence[Number],
    x: str,
    look: Look,
    width: float = 0.8,
    hollow: bool = False,
    shift: float = 0.0,
) -> None:
    """Numbers over one of their columns, with bars for intervals and arrows for bounds; hollow ones are the paper's.

    Args:
        shift: points to the right.
    """
    known = [number for number in numbers if number.exists]
    if not known:
        return
    beside = _beside(axes, shift)
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "transform": beside}
    if hollow:
        style |= {"markerfacecolor": "none", "linestyle": ":", "linewidth": 1.0}
    axes.plot([getattr(number, x) for number in known], [number.number for number in known], **style)
    for number in known:
        at = getattr(number, x)
        bar = () if hollow else number.interval or ()
        # Matplotlib leaves lines with a transform of their own out of an axis's limits.
        axes.update_datalim([(at, height) for height in (number.number, *bar)])
        axes.plot([at] * len(bar), list(bar), color=look.colour, linewidth=width, transform=beside)
        if hollow:
            continue
        if number.bound:
            up = 16 if number.bound == "at_least" else -16
            arrow = {"arrowstyle": "<-", "color": look.colour}
            axes.annotate(
                "",
                (at, number.number),
                xycoords=beside,
                xytext=(0, up),
                textcoords="offset points",
                arrowprops=arrow,
            )
    axes.autoscale_view()


def ring(axes: Axes, x: float | None, number: Number, look: Look, shift: float = 0.0) -> None:
    """A ring around a point of a line."""
    style: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "color": look.colour}
    axes.plot([x or 0.0], [number.number], "o", transform=_beside(axes, shift), **style)


def _beside(axes: Axes, shift: float) -> Transform:
    return axes.transData + ScaledTranslation(shift / 72, 0.0, axes.figure.dpi_scale_trans)


def dot(
    axes: Axes, number: Number | None, row: float, look: Look, hollow: bool = False, width: float = 1.2
) -> None:
    """A number in a row, with its interval; hollow ones are the paper's, or within the noise."""
    if number is None or not number.exists:
        return
    if number.interval is not None:
        axes.plot(list(number.interval), [row, row], color=look.colour, linewidth=width)
    face = "none" if hollow else look.colour
    axes.plot(number.number, row, color=look.colour, marker=look.marker, markersize=6, markerfacecolor=face)


def row_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Rows from the top down, without lines across."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.locator_params(axis="x", nbins=4)


def heat_map(axes: Axes, values: np.ndarray, texts: np.ndarray) -> None:
    """Values around 0 in shades relative to the largest, written in where they can be read; NaN stays empty."""
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    norm = TwoSlopeNorm(0.0, -largest, largest)
    shades = ScalarMappable(norm, "PuOr")
    axes.pcolormesh(values, cmap=shades.cmap, norm=norm)
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = shades.to_rgba(value)
        ground = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        colour = style.MUTED if np.isnan(value) else ("#fffffd" if ground < 0.18 else "#101010")
        axes.text(column + 0.5, row + 0.5, str(texts[row, column]), ha="center", va="center", color=colour,
                  fontsize=7.5 if values.shape[1] <= 8 else 6)  # fmt: skip
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_in(axes: Axes, text: str) -> None:
    """A text where there is nothing to draw."""
    axes.text(
        0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=style.MUTED, fontsize=8
    )


def looks_of_sizes(sizes: Iterable[float]) -> dict[float, Look]:
    """Looks of bag sizes."""
    ordered = sorted(sizes)
    looks = series_looks([f"s = {size:g}" for size in ordered])
    return dict(zip(ordered, looks.values(), strict=True))


def looks_of_names(is_baseline: Mapping[str, bool]) -> dict[str, Look]:
    """Looks of series, the baselines' black."""
    looks = series_looks([name for name, baseline in is_baseline.items() if not baseline])
    return looks | {
        name: Look(name, style.BASELINES[0], style.BASELINE_MARKERS[0])
        for name, baseline in is_baseline.items()
        if baseline
    }


def key(label: str, colour: str, hollow: bool = False, **style: Any) -> Line2D:
    """An entry of a legend."""
    if hollow:
        style = {"linestyle": "", "markerfacecolor": "none", **style}
    return Line2D([], [], color=colour, label=label, **style)


def legend(
    figure: Figure, looks: Iterable[Look], more: Sequence[Line2D] = (), columns: int = 5, **look_of_keys: Any
) -> None:
    """One legend for the whole figure, below it: an entry a look, each once, then the others."""
    keys = [key(look.key, look.colour, marker=look.marker, **look_of_keys) for look in dict.fromkeys(looks)]
    keys += more
    if keys:
        longest = max(len(str(each.get_label())) for each in keys)
        fitting = int(figure.get_figwidth() * 13 // (longest + 6))
        columns = max(1, min(columns, fitting, len(keys)))
        figure.legend(handles=keys, loc="outside lower left", ncols=columns)
