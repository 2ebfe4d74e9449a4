"""A metric over bag size and bag fraction, beside the paper's cells (figures 4, 5, 8 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tst_titan.compare.measured import Measured, difference, merge_sources, missing
from tst_titan.compare.noise import t_quantile
from tst_titan.compare.runs import RunData
from tst_titan.compare.seeds import difference_over_seeds, mean_interval
from tst_titan.compare.spec import Options

_LOSSES = ("final_loss", "heldout_nats_per_token", "heldout_bits_per_byte")
_FEWEST_FOR_RANKS = 4
_LARGE = 10**6  # degrees of freedom of a normal distribution
GAIN_METHOD = "better than the baseline by"


@dataclass(frozen=True)
class Point:
    """Where a cell lies."""

    bag_size: float
    bag_fraction: float


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        value: mean over the cell's seeds; the bag loss where ``bag_loss_only``.
        gain: how much better than the baseline (lower loss, higher accuracy), in the metric's unit.
        published, published_gain: the paper's cell, and its distance from the paper's baseline.
        runs: names of the runs behind it.
        bag_loss_only: r = 1: no token phase, hence not comparable and never the best.
    """

    bag_size: float
    bag_fraction: float
    value: Measured
    gain: Measured
    published: Measured | None
    published_gain: Measured | None
    runs: list[str]
    bag_loss_only: bool


@dataclass(frozen=True)
class Grid:
    """All cells of one group and metric.

    Attributes:
        best, published_best: cell with the largest gain; the published one among the cells in common.
        rank_correlation: Spearman's, between our values and the paper's over the cells in common.
        beats_baseline: numbers of the cells in common in which the baseline is beaten: "ours", "published",
            "ours_and_published"; None without published cells or a baseline.
    """

    group: str
    metric: str
    baseline: Measured | None
    published_baseline: Measured | None
    cells: list[Cell]
    best: Point | None
    published_best: Point | None
    rank_correlation: Measured
    cells_in_common: int
    beats_baseline: dict[str, int] | None


def make_grids(runs: Sequence[RunData], options: Options, metrics: Sequence[str] = ()) -> list[Grid]:
    """One grid per group, variant and metric.

    Args:
        metrics: those that are wanted, "accuracy" standing for every task; one that no run has makes a grid of
            gaps with their reason. By default whatever any of a grid's runs has.

    Runs of a group that differ in another axis than bag size and bag fraction (target weights, sides) make
    grids of their own, which share the group's baselines; the grid's ``group`` then names the difference.
    """
    grids = []
    for group in dict.fromkeys(run.spec.group for run in runs):
        members = [run for run in runs if run.spec.group == group]
        baselines = [run for run in members if run.spec.is_baseline]
        for variant, others in _variants([run for run in members if not run.spec.is_baseline]).items():
            title = " ".join(part for part in (group, variant) if part)
            together = [*baselines, *others]
            for metric in _chosen(metrics, others):
                grids.append(_grid(title, metric, together, options))
    return grids


def _chosen(wanted: Sequence[str], runs: Sequence[RunData]) -> list[str]:
    """Metrics of a grid's runs: the wanted ones, or those that any run has."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if _is_shown(name))
    there = [name for name in names if any(name in run.metrics and run.metrics[name].exists for run in runs)]
    if not wanted:
        return there
    tasks = [name for name in there if name.startswith("accuracy/")]
    return [name for item in wanted for name in (tasks if item == "accuracy" else [item])]


def _variants(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs by the axes that vary among them besides bag size and bag fraction; "" where none does."""
    names = dict.fromkeys(name for run in runs for name in run.spec.axes)
    varying = [
        name
        for name in names
        if name not in ("bag_size", "bag_fraction") and len({str(run.axis(name)) for run in runs}) > 1
    ]
    found: dict[str, list[RunData]] = {}
    for run in runs:
        found.setdefault(", ".join(f"{name} {run.axis(name)}" for name in varying), []).append(run)
    return found


def _is_shown(metric: str) -> bool:
    """Metrics that make a grid."""
    return metric.startswith("accuracy/") or metric in (*_LOSSES, "average_accuracy", "mmlu")


def _grid(group: str, metric: str, members: Sequence[RunData], options: Options) -> Grid:
    """The grid of one group and metric."""
    others = [run for run in members if not run.spec.is_baseline]
    baselines = [run for run in members if run.spec.is_baseline and _same_flops(run, others, options)]
    baseline = _mean(baselines, metric, options) if baselines else None
    published_baseline = _published(baselines, metric)
    places: dict[tuple[object, object], list[RunData]] = {}
    for run in others:
        places.setdefault((run.axis("bag_size"), run.axis("bag_fraction")), []).append(run)
    cells = [_cell(here, metric, baselines, published_baseline, options) for here in places.values()]
    cells.sort(key=lambda cell: (cell.bag_size, cell.bag_fraction))
    common = [
        cell for cell in cells if cell.value.exists and cell.published is not None and not cell.bag_loss_only
    ]
    return Grid(
        group=group,
        metric=metric,
        baseline=baseline,
        published_baseline=published_baseline,
        cells=cells,
        best=_best([cell for cell in cells if not cell.bag_loss_only], "gain"),
        published_best=_best(common, "published_gain"),
        rank_correlation=_rank_correlation(common),
        cells_in_common=len(common),
        beats_baseline=_beats(common),
    )


def _cell(
    here: Sequence[RunData],
    metric: str,
    baselines: Sequence[RunData],
    published_baseline: Measured | None,
    options: Options,
) -> Cell:
    """One cell from its runs over seeds."""
    bag_only = not here[0].final.comparable
    name = "final_bag_loss" if bag_only and metric == "final_loss" else metric
    value = _mean(here, name, options)
    published = _published(here, name)
    lost = bag_only and metric == "final_loss"
    gain = missing("a bag loss has no gain", value.unit) if lost else _gain(metric, here, baselines, options)
    published_gain = None
    if published is not None and published_baseline is not None and not lost:
        gap = _sign(metric) * (published.number - published_baseline.number)
        published_gain = Measured(
            gap, published.unit, merge_sources(published, published_baseline), method=GAIN_METHOD
        )
    return Cell(
        bag_size=float(here[0].axis("bag_size") or 0),
        bag_fraction=float(here[0].axis("bag_fraction") or 0),
        value=value,
        gain=gain,
        published=published,
        published_gain=published_gain,
        runs=[run.name for run in here],
        bag_loss_only=bag_only,
    )


def _sign(metric: str) -> float:
    """-1 where lower is better."""
    return -1.0 if metric in _LOSSES else 1.0


def _gain(metric: str, here: Sequence[RunData], baselines: Sequence[RunData], options: Options) -> Measured:
    """How much better than the baseline, over seeds where there are several."""
    ours, theirs = _by_seed(here, metric), _by_seed(baselines, metric)
    unit = next((number.unit for number in ours.values()), "")
    if not theirs:
        return missing(f"no equal-FLOPs baseline of this group has {metric}", unit)
    if not ours:
        return missing(_mean(here, metric, options).reason or "", unit)
    sources = merge_sources(*ours.values(), *theirs.values())
    if len(ours) == len(theirs) == 1:
        dof = min(run.final.mean.dof for run in (*here, *baselines))
        quantile = t_quantile(options.confidence, dof if metric == "final_loss" else _LARGE)
        gap = difference(next(iter(ours.values())), next(iter(theirs.values())), quantile)
    else:
        found = difference_over_seeds(
            {seed: number.number for seed, number in theirs.items()},
            {seed: number.number for seed, number in ours.items()},
            options.confidence,
        )
        gap = Measured(found.difference, unit, (), found.stderr, found.low, found.high)
    ends = (gap.low, gap.high)
    if _sign(metric) < 0:
        low, high = (None if end is None else -end for end in reversed(ends))
        return Measured(-gap.number, unit, sources, gap.stderr, low, high, GAIN_METHOD)
    return Measured(gap.number, unit, sources, gap.stderr, *ends, GAIN_METHOD)


def _by_seed(runs: Sequence[RunData], metric: str) -> dict[int, Measured]:
    """A metric by seed, where it exists."""
    found = {run.spec.seed: run.metrics.get(metric) for run in runs}
    return {seed: number for seed, number in found.items() if number is not None and number.exists}


def _mean(runs: Sequence[RunData], metric: str, options: Options) -> Measured:
    """Mean over seeds with its interval; for one seed the run's own number."""
    numbers = [run.metrics[metric] for run in runs if metric in run.metrics]
    found = [number for number in numbers if number.exists]
    if not found:
        reason = next((number.reason for number in numbers if number.reason), f"no run has {metric}")
        return missing(reason, numbers[0].unit if numbers else "", merge_sources(*numbers))
    if len(found) == 1:
        return found[0]
    values = np.array([number.number for number in found])
    mean, low, high = mean_interval(values, options.confidence)
    method = f"mean of {len(found)} seeds"
    return Measured(mean, found[0].unit, merge_sources(*found), float(stats.sem(values)), low, high, method)


def _published(runs: Sequence[RunData], metric: str) -> Measured | None:
    """The paper's number for the first of the runs that has one."""
    return next((run.published[metric] for run in runs if metric in run.published), None)


def _same_flops(baseline: RunData, others: Sequence[RunData], options: Options) -> bool:
    """Whether a baseline has the FLOPs of the grid's runs (grids may hold longer baselines too)."""
    ratios = [baseline.total("flops") / run.total("flops") for run in others]
    return any(abs(ratio - 1) <= options.equal_tolerance for ratio in ratios)


def _best(cells: Sequence[Cell], key: str) -> Point | None:
    """The cell with the largest gain."""
    known = [cell for cell in cells if getattr(cell, key) is not None and getattr(cell, key).exists]
    if not known:
        return None
    cell = max(known, key=lambda item: getattr(item, key).number)
    return Point(cell.bag_size, cell.bag_fraction)


def _rank_correlation(common: Sequence[Cell]) -> Measured:
    """Spearman's rank correlation of our cells with the paper's."""
    sources = merge_sources(
        *(cell.value for cell in common), *(cell.published for cell in common if cell.published)
    )
    if len(common) < _FEWEST_FOR_RANKS:
        return missing(f"{len(common)} cells in common; {_FEWEST_FOR_RANKS} are needed", "", sources)
    ours = np.array([cell.value.number for cell in common])
    theirs = np.array([cell.published.number for cell in common if cell.published is not None])
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return missing("all cells are equal", "", sources)
    value = float(stats.spearmanr(ours, theirs).statistic)
    return Measured(value, "", sources, method=f"Spearman over {len(common)} cells")


def _beats(common: Sequence[Cell]) -> dict[str, int] | None:
    """In how many of the cells in common the baseline is beaten, by us and in the paper."""
    known = [
        (cell.gain.number > 0, cell.published_gain.number > 0)
        for cell in common
        if cell.gain.exists and cell.published_gain is not None and cell.published_gain.exists
    ]
    if not known:
        return None
    return {
        "cells": len(known),
        "ours": sum(ours for ours, _ in known),
        "published": sum(theirs for _, theirs in known),
        "ours_and_published": sum(ours and theirs for ours, theirs in known),
        "same_side": sum(ours == theirs for ours, theirs in known),
    }
