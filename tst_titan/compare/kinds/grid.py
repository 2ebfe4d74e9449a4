"""A metric over bag size and bag fraction, beside the paper's cells (figures 4, 5, 8 and 11)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from tst_titan import paper
from tst_titan.compare.kinds import Kind
from tst_titan.compare.losses import losses_of
from tst_titan.compare.metrics import HELDOUT, TASK, is_own, metric_of, metric_rank
from tst_titan.compare.noise import LARGE, t_quantile
from tst_titan.compare.numbers import ON_HELDOUT, Number, difference, merge_sources, missing
from tst_titan.compare.results import Results, Sentence
from tst_titan.compare.runs import RunData
from tst_titan.compare.seeds import by_seed, difference_over_seeds, mean_over_seeds, measured_on_same_text
from tst_titan.compare.sentences import COMPARED, between, in_group, said
from tst_titan.compare.spec import ComparisonSpec, PublishedCell
from tst_titan.config.comparison import ComparisonOptions
from tst_titan.text import GAP, interval_text, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tst_titan.compare.drawing import Panel
    from tst_titan.compare.drawing.style import Look

BAG_LOSS = "a bag loss: not comparable"
_AXES = ("bag_size", "bag_fraction")
_BEATS = ("cells", "ours", "published", "ours_and_published", "same_side")
_SUFFIXES = (
    ".gain", ".paper", ".paper_gain", ".best", ".paper_best", ".rank_correlation", ".cells_in_common",
    *(f".beats.{what}" for what in _BEATS),
)  # fmt: skip
_FEWEST_FOR_RANKS = 4
_MANY_CELLS = 4
_GAIN_METHOD = "better than the baseline by"
Place = tuple[float, float]
Cells = dict[Place, Number]


class Grid(Kind):
    """Rows of part "grid", of a group's title and a metric ``m``.

    ``m`` itself: a cell's mean over seeds, and the baseline's at bag size 1; ``m.gain``: how much better than the
    baseline; ``m.paper`` and ``m.paper_gain``: the paper's; ``m.best`` and ``m.paper_best``: the cell with the largest
    gain, the paper's among the cells in common; ``m.rank_correlation``: Spearman's, ours with the paper's;
    ``m.cells_in_common`` and ``m.beats.*``: in how many of them the baseline is beaten.
    """

    needs = _AXES
    draws_metrics = True
    with_curves = False

    def numbers(self, runs: Sequence[RunData], spec: ComparisonSpec) -> Iterator[Number]:
        """One grid a group, variant and metric.

        Runs of a group that differ in another axis than bag size and bag fraction (target weights, sides) make
        grids of their own, which share the group's baselines; the title then names the difference.
        """
        for group in dict.fromkeys(run.spec.group for run in runs):
            members = [run for run in runs if run.spec.group == group]
            baselines = [run for run in members if run.spec.is_baseline]
            for variant, others in _variants([run for run in members if not run.spec.is_baseline]).items():
                title = " ".join(part for part in (group, variant) if part)
                for metric in _chosen(spec.metrics, others):
                    yield from _grid(title, metric, baselines, others, spec.options)

    def sentences(self, results: Results) -> Iterator[Sentence]:
        """Best cell and how many beat the baseline; metrics that the experiment is about and no run has."""
        for group, metric in grids_of(results, best=True):
            yield from said("result", _results(results, group, metric))
        for metric in dict.fromkeys(metric for _, metric in grids_of(results)):
            groups = [group for group, other in grids_of(results) if other == metric]
            cells = [cell for group in groups for cell in cells_of(results, group, metric).values()]
            if cells and not any(cell.exists for cell in cells):
                words = metric_of(metric).words or metric
                yield Sentence(kind="gap", text=f"No {words} of any run: {cells[0].reason}.")

    def answer(self, results: Results) -> str:
        """How many cells win, and the best: of the held-out loss, else of the first metric that has gains."""
        metrics = sorted(
            dict.fromkeys(metric for _, metric in grids_of(results)),
            key=lambda name: (not name.startswith(ON_HELDOUT), name not in HELDOUT),
        )
        for metric in metrics:
            grids = [group for group, name in grids_of(results) if name == metric]
            gains = [
                (gain.number, group, place, gain)
                for group in grids
                for place, gain in cells_of(results, group, metric, ".gain").items()
                if gain.exists
            ]
            if not gains:
                continue
            number, group, (size, fraction), gain = max(gains, key=lambda found: found[0])
            where = f"s = {size:g}, r = {fraction:g}" + (f" ({group})" if group else "")
            what = metric_of(metric).label.lower()
            return (
                f"{_tally([gain for *_, gain in gains], f' of equal FLOPs in {what}')}. "
                f"Best: {where}, {abs(number):.4f} {gain.unit} "
                f"{'better' if number > 0 else 'worse'}{between(gain, 4)}"
                + (", which is partly luck." if len(gains) >= _MANY_CELLS else ".")
            )
        return ""

    def reproduction(self, results: Results) -> Iterator[str]:
        """Sides of the baseline, ranks and best cell of every grid, against the paper's."""
        for group, name in grids_of(results, best=True):
            if metric_of(name) in COMPARED:
                yield from _reproduction(results, group, name)

    def draw(self, results: Results, folder: Path) -> list[Panel]:
        """Two panels a metric: the values as lines over r, and the gains as a heat map."""
        panels = []
        grids = grids_of(results)
        for metric in sorted(dict.fromkeys(metric for _, metric in grids), key=metric_rank):
            groups = [group for group, other in grids if other == metric]
            panels.append(_draw_lines(results, metric, groups, folder))
            if any(
                gain.exists for group in groups for gain in cells_of(results, group, metric, ".gain").values()
            ):
                panels.append(_draw_gains(results, metric, groups, folder))
        return panels


KIND = Grid()


def grids_of(results: Results, best: bool = False) -> list[tuple[str, str]]:
    """(title of the group, metric) of every grid, in order; ``best``: not of training losses with held-out ones."""
    rows = results.best("grid") if best else results.select("grid")
    return list(dict.fromkeys((row.group, row.metric) for row in rows if not row.metric.endswith(_SUFFIXES)))


def cells_of(results: Results, group: str, metric: str, what: str = "") -> Cells:
    """The cells of a grid by bag size and bag fraction: values, or ".gain", ".paper", ".paper_gain"."""
    rows = results.select("grid", group=group, metric=metric + what)
    return {(row.bag_size or 0.0, row.bag_fraction or 0.0): row for row in rows if row.bag_size != 1}


def baseline_of(results: Results, group: str, metric: str, what: str = "") -> Number | None:
    """The baseline of a grid, or ".paper" for the paper's."""
    rows = results.select("grid", group=group, metric=metric + what, bag_size=1.0)
    return rows[0] if rows else None


def best_of(results: Results, group: str, metric: str, what: str = ".best") -> tuple[float, float] | None:
    """Where the best cell of a grid lies."""
    return next(iter(cells_of(results, group, metric, what)), None)


def paper_grid(results: Results, group: str, metric: str) -> pd.DataFrame:
    """All cells of the paper's grid that a grid has cells of: bag_size, bag_step_ratio, value; else empty."""
    columns = ["bag_size", "bag_step_ratio", "value"]
    cells = cells_of(results, group, metric, ".paper")
    cited = [results.run_named[name].paper for cell in cells.values() for name in cell.runs]
    found = next((one for one in cited if isinstance(one, PublishedCell)), None)
    if found is None:
        return pd.DataFrame(columns=columns)
    rows = paper.published_sweeps(
        model=found.model, total_steps=found.total_steps, bag_weighting=found.bag_weighting
    )
    if metric == "average_accuracy":
        return paper.average_accuracy(rows)[columns]
    name = "loss" if metric.removeprefix(ON_HELDOUT) == "final_loss" else metric.removeprefix(TASK)
    return rows.loc[rows["metric"] == name, columns]


def _variants(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs by the axes that vary among them besides bag size and bag fraction; "" where none does."""
    names = dict.fromkeys(name for run in runs for name in run.spec.axes if name not in _AXES)
    varying = [name for name in names if len({str(run.axis(name)) for run in runs}) > 1]
    found: dict[str, list[RunData]] = {}
    for run in runs:
        found.setdefault(", ".join(f"{name} {run.axis(name)}" for name in varying), []).append(run)
    return found


def _chosen(wanted: Sequence[str], runs: Sequence[RunData]) -> list[str]:
    """The wanted metrics (one that no run has makes a grid of gaps); all where none are named.

    "accuracy" stands for every task, "final_loss" for that on held-out windows too, if it was measured.
    """
    names = dict.fromkeys(name for run in runs for name in run.metrics if metric_of(name).measured)
    there = [name for name in names if any(name in run.metrics and run.metrics[name].exists for run in runs)]
    tasks = [name for name in there if name.startswith(TASK) or is_own(name)]
    heldout = [name for name in there if name.startswith(ON_HELDOUT)]
    stands_for = {"accuracy": tasks, "final_loss": [*heldout, "final_loss"]}
    return [name for item in wanted for name in stands_for.get(item, [item])] or there


def _grid(
    title: str,
    metric: str,
    baselines: Sequence[RunData],
    others: Sequence[RunData],
    options: ComparisonOptions,
) -> Iterator[Number]:
    """All rows of one grid."""
    baselines = [run for run in baselines if _same_flops(run, others, options)]

    def row(number: Number, what: str, place: Place | None = None, here: Sequence[RunData] = ()) -> Number:
        axes = dict(zip(_AXES, place or (None, None), strict=True))
        return number.at("grid", metric + what, group=title, runs=tuple(run.name for run in here), **axes)

    published_baseline = _published(baselines, metric)
    if baselines:
        yield row(_mean(baselines, metric, options), "", (1.0, 0.0), baselines)
    if published_baseline is not None:
        yield row(published_baseline, ".paper", (1.0, 0.0), baselines)
    places: dict[Place, list[RunData]] = {}
    for run in others:
        size, fraction = (float(run.axis(name) or 0) for name in _AXES)
        places.setdefault((size, fraction), []).append(run)
    tables: list[Cells] = [{} for _ in range(4)]
    values, gains, theirs, their_gains = tables
    for place, here in sorted(places.items()):
        cell = _cell(here, metric, baselines, published_baseline, options)
        for what, table in zip(("", ".gain", ".paper", ".paper_gain"), tables, strict=True):
            if what in cell:
                table[place] = row(cell[what], what, place, here)
                yield table[place]
    with_tokens = [place for place, here in sorted(places.items()) if here[0].final.comparable]
    common = [place for place in with_tokens if place in theirs and values[place].exists]
    held = {place: their_gains[place] for place in common if place in their_gains}
    for what, part in ((".best", {place: gains[place] for place in with_tokens}), (".paper_best", held)):
        known = {place: gain for place, gain in part.items() if gain.exists}
        if known:
            best = max(known, key=lambda place: known[place].number)
            yield row(known[best], what, best)
    yield row(
        _rank_correlation([values[place] for place in common], [theirs[place] for place in common]),
        ".rank_correlation",
    )
    yield row(Number(len(common), "cells"), ".cells_in_common")
    sides = [
        (gains[place].number > 0, gain.number > 0) for place, gain in held.items() if gains[place].exists
    ]
    if sides:
        own, published = np.array(sides).T
        counts = (len(sides), *(side.sum() for side in (own, published, own & published, own == published)))
        for what, count in zip(_BEATS, map(int, counts), strict=True):
            yield row(Number(count, "cells"), f".beats.{what}")


def _cell(
    here: Sequence[RunData],
    metric: str,
    baselines: Sequence[RunData],
    published_baseline: Number | None,
    options: ComparisonOptions,
) -> dict[str, Number]:
    """One cell from its runs over seeds: what is known of it, by suffix of the metric.

    Where r = 1 there is no token phase: its loss is a bag loss, has no gain and is never the best.
    """
    lost = metric == "final_loss" and not here[0].final.comparable
    name = "final_bag_loss" if lost else metric
    value = _mean(here, name, options)
    gain = missing("a bag loss has no gain", value.unit) if lost else _gain(metric, here, baselines, options)
    found = {"": replace(value, note=BAG_LOSS if lost else value.note), ".gain": gain}
    published = _published(here, name)
    if published is not None:
        found[".paper"] = published
        if published_baseline is not None and not lost:
            gap = _sign(metric) * (published.number - published_baseline.number)
            sources = merge_sources(published, published_baseline)
            found[".paper_gain"] = Number(gap, published.unit, sources, method=_GAIN_METHOD)
    return found


def _sign(metric: str) -> float:
    """-1 where lower is better."""
    return -1.0 if metric_of(metric).lower_is_better else 1.0


def _gain(
    metric: str, here: Sequence[RunData], baselines: Sequence[RunData], options: ComparisonOptions
) -> Number:
    """How much better than the baseline (lower loss, higher accuracy), over seeds where there are several."""
    ours, theirs = by_seed(here, metric), by_seed(baselines, metric)
    unit = next((number.unit for number in ours.values()), "")
    if not theirs:
        return missing(f"no equal-FLOPs baseline of this group has {metric}", unit)
    if not ours:
        return missing(_mean(here, metric, options).reason, unit)
    sources = merge_sources(*ours.values(), *theirs.values())
    if len(ours) == len(theirs) == 1:
        gap = _gap(metric, _having(here, metric)[0], _having(baselines, metric)[0], options)
    else:
        same_text = measured_on_same_text(metric, baselines[0], here[0])
        *_, gap = difference_over_seeds(theirs, ours, options.confidence, same_text)
    sign, ends = _sign(metric), [gap.low, gap.high]
    low, high = (None if end is None else sign * end for end in (ends if sign > 0 else reversed(ends)))
    return Number(sign * gap.number, unit, sources, gap.stderr, low, high, _GAIN_METHOD)


def _gap(metric: str, run: RunData, baseline: RunData, options: ComparisonOptions) -> Number:
    """Run minus baseline, of one seed each; losses on the same windows are paired."""
    for losses in losses_of(options, run, baseline):
        if metric == losses.final_metric:
            return losses.final_gap(run, baseline)
    quantile = t_quantile(options.confidence, LARGE)
    return difference(run.metrics[metric], baseline.metrics[metric], quantile)


def _having(runs: Sequence[RunData], metric: str) -> list[RunData]:
    """The runs that have a metric."""
    return [run for run in runs if metric in run.metrics and run.metrics[metric].exists]


def _mean(runs: Sequence[RunData], metric: str, options: ComparisonOptions) -> Number:
    """Mean over seeds with its interval; for one seed the run's own number."""
    numbers = [run.metrics[metric] for run in runs if metric in run.metrics]
    found = [number for number in numbers if number.exists]
    if not found:
        reason = next((number.reason for number in numbers if number.reason), f"no run has {metric}")
        return missing(reason, numbers[0].unit if numbers else "", merge_sources(*numbers))
    if len(found) == 1:
        return found[0]
    return mean_over_seeds(found, options.confidence)


def _published(runs: Sequence[RunData], metric: str) -> Number | None:
    """The paper's number for the first of the runs that has one."""
    name = metric.removeprefix(ON_HELDOUT)
    return next((run.published[name] for run in runs if name in run.published), None)


def _same_flops(baseline: RunData, others: Sequence[RunData], options: ComparisonOptions) -> bool:
    """Whether a baseline has the FLOPs of the grid's runs (grids may hold longer baselines too)."""
    ratios = [baseline.total("flops") / run.total("flops") for run in others]
    return any(abs(ratio - 1) <= options.equal_tolerance for ratio in ratios)


def _rank_correlation(ours: Sequence[Number], theirs: Sequence[Number]) -> Number:
    """Spearman's rank correlation of our cells with the paper's."""
    sources = merge_sources(*ours, *theirs)
    if len(ours) < _FEWEST_FOR_RANKS:
        return missing(f"{len(ours)} cells in common; {_FEWEST_FOR_RANKS} are needed", "", sources)
    values = [np.array([number.number for number in part]) for part in (ours, theirs)]
    if np.ptp(values[0]) == 0 or np.ptp(values[1]) == 0:
        return missing("all cells are equal", "", sources)
    return Number(
        float(stats.spearmanr(*values).statistic), "", sources, method=f"Spearman over {len(ours)} cells"
    )


def _tally(gains: Sequence[Number], which: str = "") -> str:
    """How many cells beat the baseline."""
    better = [gain for gain in gains if gain.number > 0]
    surely = sum(gain.low is not None and gain.low > 0 for gain in better)
    return f"Of {len(gains)} cells {len(better)} beat the baseline{which}, {surely} of them by more than the noise"


def _results(results: Results, group: str, metric: str) -> Iterator[str]:
    """Best cell and how many beat the baseline."""
    words, place = metric_of(metric).words, best_of(results, group, metric)
    if not words or place is None:
        return
    gains = [gain for gain in cells_of(results, group, metric, ".gain").values() if gain.exists]
    gain, value = (cells_of(results, group, metric, what)[place] for what in (".gain", ""))
    text = f"{abs(gain.number):.4f} {gain.unit} {'better' if gain.number > 0 else 'worse'} than the baseline"
    if gain.interval is not None:
        text += f" (gain {gain.interval[0]:+.4f} to {gain.interval[1]:+.4f})"
    yield (
        f"{in_group(group)}The best {words} is at s = {place[0]:g}, r = {place[1]:g}: {value.number:.4f}, {text}. "
        f"{_tally(gains)}."
    )
    if len(gains) >= _MANY_CELLS:
        luck = "its gain is flattered" if gain.number > 0 else "even so it is behind the baseline"
        yield f"{in_group(group)}The best of {len(gains)} cells is partly luck: {luck}."


def _reproduction(results: Results, group: str, name: str) -> Iterator[str]:
    """A grid against the paper's."""
    words = in_group(group) + metric_of(name).words
    wanted = {f"{name}.beats.{what}": what for what in _BEATS} | {
        f"{name}.cells_in_common": "cells_in_common"
    }
    rows = results.select("grid", group=group)
    counts = {wanted[row.metric]: row.number for row in rows if row.metric in wanted}
    if not counts["cells_in_common"]:
        return
    if "cells" in counts:
        cells, same = counts["cells"], counts["same_side"]
        verdict = "reproduced" if same == cells else "reproduced in part"
        if 2 * same < cells:
            verdict = "not reproduced"
        yield (
            f"{words}: the paper's TST beats the baseline in {counts['published']:.0f} of the {cells:.0f} cells in "
            f"common, ours in {counts['ours']:.0f}, both in {counts['ours_and_published']:.0f}: direction {verdict}."
        )
    (ranks,) = results.select("grid", group=group, metric=f"{name}.rank_correlation")
    if ranks.exists:
        yield (
            f"{words}: rank correlation with the paper's {counts['cells_in_common']:.0f} cells in common "
            f"{ranks.number:+.2f} (1: same order, 0: none)."
        )
    ours, theirs = (best_of(results, group, name, what) for what in (".best", ".paper_best"))
    if ours is not None and theirs is not None:
        yield (
            f"{words}: best cell s = {ours[0]:g}, r = {ours[1]:g}, {'the same as' if ours == theirs else 'not'} the "
            f"paper's s = {theirs[0]:g}, r = {theirs[1]:g} (best of the cells in common)."
        )


def _draw_lines(results: Results, metric: str, groups: Sequence[str], folder: Path) -> Panel:
    """Groups below each other: ours on the left, the paper's on the right where it has any."""
    from tst_titan.compare import drawing

    published = {group: paper_grid(results, group, metric) for group in groups}
    across = 2 if any(len(rows) for rows in published.values()) else 1
    cells = {group: cells_of(results, group, metric) for group in groups}
    looks = drawing.looks_of_sizes({size for group in groups for size, _ in cells[group]})
    figure, rows_of_axes = drawing.figure_of(len(groups), across, row_height=2.9, sharex=True)
    unit = next((cell.unit for group in groups for cell in cells[group].values()), "")
    for group, axes in zip(groups, rows_of_axes, strict=True):
        _our_lines(axes[0], list(cells[group].values()), baseline_of(results, group, metric), looks)
        for part, whose in zip(axes, ("ours", "the paper's"), strict=False):
            part.set_title(f"{group}: {whose}" if group else whose.capitalize(), color=drawing.style.INK)
            part.set_ylabel({"%": "accuracy, %"}.get(unit, unit.replace("/", " per ")))
        if across == 2:
            _paper_lines(axes[1], published[group], looks)
    for part in rows_of_axes[-1]:
        part.set_xlabel("Bag fraction r")
    keys = [drawing.key("baseline", drawing.style.BASELINES[0], linestyle="--", linewidth=1.0)]
    sizes = {size for rows in published.values() for size in rows["bag_size"] if size > 1}
    if not looks.keys() >= sizes:
        keys.append(drawing.key("the paper's other s", drawing.style.CONTEXT, linewidth=1.0))
    drawing.legend(figure, looks.values(), keys, columns=6)
    label = metric_of(metric).label
    caption = (
        f"{label} over bag fraction r, one line a bag size s. Bars: the interval of our number. "
        "Dashed: the baseline of equal FLOPs"
        + ("; the paper's own grid, at its sizes, on the right" if across == 2 else "")
        + ("; r = 1 ends in the bag phase and has no token loss to draw." if metric == "final_loss" else ".")
    )
    return drawing.finish(
        figure, folder, f"grid_{re.sub('[/.]', '_', metric)}", f"{label} over s and r", caption,
        _alt(results, metric, groups), _rows(results, metric, groups),
    )  # fmt: skip


def _our_lines(
    axes: Axes, cells: Sequence[Number], baseline: Number | None, looks: dict[float, Look]
) -> None:
    """One line a bag size; cells that have a bag loss only are left out. Why there is no cell at all is written out."""
    from tst_titan.compare import drawing

    if cells and not any(cell.exists for cell in cells):
        reasons = sorted({cell.reason for cell in cells})
        drawing.write_in(axes, textwrap.fill("not measured: " + "; ".join(reasons), 44))
    if baseline is not None and baseline.exists:
        axes.axhline(baseline.number, color=drawing.style.BASELINES[0], linewidth=1.0, linestyle="--")
    sizes = dict.fromkeys(cell.bag_size for cell in cells)
    for size, shift in zip(sizes, drawing.shifts(len(sizes)), strict=True):
        line = [cell for cell in cells if cell.bag_size == size and cell.note != BAG_LOSS]
        drawing.line(axes, line, "bag_fraction", looks[size or 0.0], shift=shift)


def _paper_lines(axes: Axes, rows: pd.DataFrame, looks: dict[float, Look]) -> None:
    """The published grid; r = 1 of a loss (the bag loss) is left out as it is in ours."""
    from tst_titan.compare import drawing

    if rows.empty:
        drawing.write_in(axes, "no published numbers")
        return
    for value in rows.loc[rows["bag_size"] == 1, "value"].head(1):
        axes.axhline(float(value), color=drawing.style.BASELINES[0], linewidth=1.0, linestyle="--")
    shown = rows[(rows["bag_size"] > 1) & rows["bag_step_ratio"].between(0, 1, inclusive="neither")]
    for size, part in shown.groupby("bag_size", sort=True):
        part = part.sort_values("bag_step_ratio")
        look = looks.get(float(size))  # type: ignore[arg-type]
        style = {
            "color": drawing.style.CONTEXT,
            "linewidth": 0.8,
            "zorder": 1,
        }  # not among our sizes: context
        if look is not None:
            style = {"color": look.colour, "marker": look.marker, "markersize": 3.5, "linewidth": 1.0,
                     "markerfacecolor": "none"}  # fmt: skip
        axes.plot(part["bag_step_ratio"], part["value"], **style)  # type: ignore[arg-type]


def _draw_gains(results: Results, metric: str, groups: Sequence[str], folder: Path) -> Panel:
    """Gain over the baseline in every cell, ours beside the paper's at the same cells."""
    from tst_titan.compare import drawing

    gains = {
        what: {group: cells_of(results, group, metric, what) for group in groups}
        for what in (".gain", ".paper_gain")
    }
    across = 2 if any(gains[".paper_gain"].values()) else 1
    figure, rows_of_axes = drawing.figure_of(len(groups), across, row_height=2.4, base=0.6)
    for group, axes in zip(groups, rows_of_axes, strict=True):
        for part, what, whose in zip(axes, gains, ("ours", "the paper's"), strict=False):
            # Where every cell ends in its bag phase there can be no gain; other empty cells stay visible.
            only_bags = {name for name, run in results.run_named.items() if run.bag_loss_only}
            cells = cells_of(results, group, metric)
            shown = {
                place
                for place in cells
                if not set(cells[place].runs) & only_bags or _has(gains[what][group], place)
            }
            _heat_map(
                part, sorted({size for size, _ in cells}), sorted({r for _, r in shown}), gains[what][group]
            )
            part.set_title(f"{group}: {whose}" if group else whose.capitalize(), color=drawing.style.INK)
            part.set_xlabel("Bag fraction r")
            part.set_ylabel("Bag size s")
    unit = next(cell.unit for cell in cells_of(results, groups[0], metric).values())
    label = metric_of(metric).label
    return drawing.finish(
        figure, folder, f"gain_{re.sub('[/.]', '_', metric)}", f"{label}: gain over the baseline",
        f"How much better than the baseline of equal FLOPs, in {unit} (positive: the baseline is beaten). Purple is "
        "better, orange worse; the number says by how much, shades are relative to the largest of each map. A dash: no "
        "number.",
        "Heat map of the gain over the baseline by bag size and bag fraction. " + _alt(results, metric, groups),
        _rows(results, metric, groups),
    )  # fmt: skip


def _has(cells: Cells, place: tuple[float, float]) -> bool:
    return place in cells and cells[place].exists


def _heat_map(axes: Axes, sizes: Sequence[float], fractions: Sequence[float], gains: Cells) -> None:
    """One heat map with its numbers written in."""
    from tst_titan.compare import drawing

    values = np.full((len(sizes), len(fractions)), np.nan)
    texts = np.full(values.shape, GAP, dtype=object)
    for (size, fraction), gain in gains.items():
        if gain.exists and fraction in fractions:
            cell = sizes.index(size), fractions.index(fraction)
            values[cell], texts[cell] = gain.number, value_text(gain.value, gain.unit)
    drawing.heat_map(axes, values, texts)
    axes.set_xticks(np.arange(len(fractions)) + 0.5, [f"{value:g}" for value in fractions])
    axes.set_yticks(np.arange(len(sizes)) + 0.5, [f"{value:g}" for value in sizes])


def _rows(results: Results, metric: str, groups: Sequence[str]) -> list[Number]:
    """The rows behind a panel."""
    shown = {metric + what for what in ("", ".gain", ".paper", ".paper_gain")}
    return [row for row in results.select("grid") if row.group in groups and row.metric in shown]


def _alt(results: Results, metric: str, groups: Sequence[str]) -> str:
    parts = []
    for group in groups:
        place = best_of(results, group, metric)
        if place is not None:
            best = cells_of(results, group, metric)[place]
            text = f"{group or 'Best cell'}: s = {place[0]:g}, r = {place[1]:g} at {value_text(best.value, best.unit)}"
            parts.append(
                text + (f" ({interval_text(best.low, best.high, best.unit)})" if best.interval else "")
            )
    return f"{metric_of(metric).label} over bag size and bag fraction. {'; '.join(parts) or 'No cell has a gain'}."
