"""Loss curves: every run of a group against steps, FLOPs, data tokens or hours, bag phase included.

Held-out losses where all runs of a group were measured, training losses faint behind them; else training losses alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tst_titan.compare import drawing
from tst_titan.compare.drawing import Panel
from tst_titan.compare.drawing.style import BAG_DASH, INK, MUTED, Look, format_axis, looks_of
from tst_titan.compare.results import HELDOUT, TRAINING, Results, RunFacts
from tst_titan.report.text import AXES, AXIS_NAMES, number_text

_FEW = 4
_COLUMNS = 3
_SHOWN_FROM = 0.3


@dataclass(frozen=True)
class View:
    """y-ranges of a group's curves, nats per token.

    Attributes:
        readable: the range in which the token phases can be told apart.
        whole: the range of everything that was logged.
    """

    readable: tuple[float, float]
    whole: tuple[float, float]


def view_of(curves: pd.DataFrame) -> View:
    """Choose the y-ranges of the runs in ``curves``.

    The readable range reaches from below the lowest smoothed token loss up to where the runs' token phases
    are after their first 30 %: what lies above is the start of training and the spike after the switch.
    """
    token = curves[_in_token_phase(curves)]
    whole = _padded(curves["smoothed"].min(), curves["smoothed"].max())
    if token.empty:
        return View(whole, whole)
    tops = []
    for _, part in token.groupby("run", sort=False):
        first, last = part["step"].iloc[0], part["step"].iloc[-1]
        late = part[part["step"] >= first + _SHOWN_FROM * (last - first)]
        tops.append(float(late["smoothed"].iloc[0]))
    return View(_padded(token["smoothed"].min(), max(tops)), whole)


def draw_curves(experiment: Results, folder: Path, token_phase_only: bool = False) -> list[Panel]:
    """One panel for each of steps, FLOPs, data tokens and hours."""
    looks = looks_of(experiment.runs)
    return [_panel(experiment, looks, column, folder, token_phase_only) for column in AXES]


def _panel(
    experiment: Results, looks: dict[str, Look], column: str, folder: Path, token_phase_only: bool
) -> Panel:
    """All groups side by side against one column: above everything, below the token phases enlarged."""
    groups = experiment.groups
    across = min(len(groups), _COLUMNS)
    down = -(-len(groups) // _COLUMNS)
    height = 4.6 if across == 1 else 4.0
    figure = plt.figure(figsize=(7.2 if across < _COLUMNS else 10.0, height * down))
    grid = figure.add_gridspec(2 * down, across, height_ratios=[1.0, 1.9] * down)
    for index, group in enumerate(groups):
        row, place = divmod(index, across)
        below = figure.add_subplot(grid[2 * row + 1, place])
        above = figure.add_subplot(grid[2 * row, place], sharex=below)
        runs = [run for run in experiment.runs if run.group == group]
        curves, behind = curves_of(experiment, runs)
        if token_phase_only:
            only_bags = [run.name for run in runs if run.bag_loss_only]
            curves = curves[_in_token_phase(curves) | curves["run"].isin(only_bags)]
        view = view_of(curves)
        for axes, (low, high) in ((above, view.whole), (below, view.readable)):
            _draw_behind(axes, behind, looks, column)
            switches = _draw_group(axes, curves, runs, looks, column)
            axes.set_ylim(low, high)
        if 0 < len(switches) <= _FEW:
            word = "switch" if len(switches) == 1 else "switches"
            above.annotate(word, (switches[0], 1.0), xycoords=("data", "axes fraction"), xytext=(3, -8),
                           textcoords="offset points", fontsize=7.5, color=MUTED)  # fmt: skip
        above.set_title(group or "Whole course above, token phases enlarged below", color=INK)
        above.tick_params(labelbottom=False)
        format_axis(below, column)
        below.set_xlabel(AXES[column])
        if place == 0:
            below.set_ylabel("Loss, nats per token")
    bags = [drawing.key("bag loss", MUTED, linestyle=BAG_DASH, linewidth=1.2)]
    with_bags = any(run.bag_sizes for run in experiment.runs)
    drawing.legend(figure, (looks[run.name] for run in experiment.runs), bags if with_bags else [])
    caption = f"{_loss_words(experiment)} against {AXIS_NAMES[column]}. {curve_note(experiment)}"
    name = "loss_steps" if column == "step" else f"loss_{column}"
    return drawing.finish(
        figure,
        folder,
        name,
        f"Loss against {AXIS_NAMES[column]}",
        caption,
        _alt(experiment, column),
        role="curves",
    )


def curves_of(experiment: Results, runs: Sequence[RunFacts]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves of one group's runs: those that it is read by, and the training losses behind held-out ones, else none."""
    curves = experiment.curves[experiment.curves["run"].isin([run.name for run in runs])]
    chosen = curves["measured_on"] == experiment.measured_on(runs)
    return curves[chosen], curves[~chosen & (curves["measured_on"] == TRAINING)]


def _in_token_phase(curves: pd.DataFrame) -> pd.Series:
    """Rows of next-token losses after the bag phase; held-out ones are there inside it too."""
    return curves["comparable"] & (curves["phase"] != "bag")


def _draw_behind(axes: Axes, curves: pd.DataFrame, looks: dict[str, Look], column: str) -> None:
    """Training losses of token phases, faint."""
    for (name, _), part in curves[curves["comparable"]].groupby(["run", "segment"], sort=True):
        axes.plot(part[column], part["smoothed"], color=looks[str(name)].colour, alpha=0.3, linewidth=0.8)


def _draw_group(
    axes: Axes, curves: pd.DataFrame, runs: Sequence[RunFacts], looks: dict[str, Look], column: str
) -> list[float]:
    """The runs of one group into one pair of axes; returns where they switch from bags to tokens."""
    few = len(runs) <= _FEW
    switches: dict[float, str] = {}
    for run in runs:
        look, curve = looks[run.name], curves[curves["run"] == run.name]
        for _, part in curve.groupby(["segment", "comparable"], sort=True):
            x = part[column].to_numpy(float)
            if not part["comparable"].iloc[0]:
                axes.plot(
                    x, part["smoothed"], color=look.colour, alpha=0.6, linestyle=BAG_DASH, linewidth=1.2
                )
                switches[float(x[-1])] = look.colour
                continue
            if few and part["measured_on"].iloc[0] == TRAINING:
                axes.plot(x, part["loss"], color=look.colour, alpha=0.18, linewidth=0.6)
        _token_line(axes, curve[curve["comparable"]], look, column, few)
    if len(switches) <= _FEW:
        for place, colour in switches.items():
            axes.axvline(place, color=colour, linewidth=0.8, linestyle=":")
    return sorted(switches)


def _token_line(axes: Axes, part: pd.DataFrame, look: Look, column: str, few: bool) -> None:
    """The smoothed token-phase curve, in one piece, with its markers."""
    if part.empty:
        return
    every, size = max(1, len(part) // (8 if few else 4)), 4.5 if few else 3.5
    if part["measured_on"].iloc[0] == HELDOUT:
        every, size = 1, 3.2 if few else 2.0  # every measurement
    axes.plot(
        part[column], part["smoothed"], color=look.colour, linewidth=1.6 if few else 1.1,
        marker=look.marker, markevery=(every // 2, every), markersize=size, markeredgewidth=0,
    )  # fmt: skip


def _on_heldout(experiment: Results) -> bool:
    """Whether the curves show held-out losses."""
    return experiment.measured_on(experiment.runs) == HELDOUT


def _loss_words(experiment: Results) -> str:
    return "Held-out loss" if _on_heldout(experiment) else "Training loss"


def curve_note(experiment: Results) -> str:
    """What the lines of a loss figure mean."""
    fitted = f"a line fitted to {experiment.facts.options.smoothing_window} logged steps around each point"
    text = f"Strong lines: {fitted}"
    if min(Counter(run.group for run in experiment.runs).values()) <= _FEW:
        text += "; faint: as logged"
    if _on_heldout(experiment):
        text = (
            "Strong lines with a mark a measurement: next-token loss on held-out windows, the same for "
            f"every run, in the bag phase too; faint: the training loss, {fitted}"
        )
    if any(run.bag_sizes for run in experiment.runs):
        text += (
            ". Dashed and lighter: the bag loss, a mean over the tokens of a bag, which no token loss can be "
            "compared with; dotted: the switch to tokens"
        )
    return text + "."


def _alt(experiment: Results, column: str) -> str:
    final = experiment.final_loss(experiment.runs)
    ends = [
        f"{run.label} {number_text(experiment.get('run', run.name, final))}"
        for run in experiment.runs[:12]
        if experiment.value(run.name, final) is not None
    ]
    more = " and more" if len(experiment.runs) > len(ends) else ""
    what = f"{_loss_words(experiment).lower()} in nats per token against {AXIS_NAMES[column]}"
    return f"Line chart of {what}. Final losses: {', '.join(ends)}{more}."


def _padded(low: float, high: float) -> tuple[float, float]:
    """A range with a little room on both sides."""
    room = 0.06 * (high - low) or 0.05
    return float(np.float64(low) - room), float(np.float64(high) + room)
