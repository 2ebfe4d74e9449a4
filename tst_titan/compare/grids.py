"""A metric over bag size and bag fraction, beside the paper's cells (figures 4, 5, 8 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tst_titan.compare.measured import Measured, merge_sources, missing
from tst_titan.compare.runs import RunData
from tst_titan.compare.seeds import mean_interval
from tst_titan.compare.spec import Options

_LOSSES = ("final_loss", "heldout_nats_per_token", "heldout_bits_per_byte")
_FEWEST_FOR_RANKS = 4


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


def make_grids(runs: Sequence[RunData], options: Options) -> list[Grid]:
    """One grid per group and metric that any run of the group has."""
    grids = []
    for group in dict.fromkeys(run.spec.group for run in runs):
        members = [run for run in runs if run.spec.group == group]
        if all(run.spec.is_baseline for run in members):
            continue
        names = dict.fromkeys(name for run in members for name in run.metrics)
        wanted = [
            name
            for name in names
            if name.startswith("accuracy/") or name in (*_LOSSES, "average_accuracy", "mmlu")
        ]
        for metric in wanted:
            if any(run.metrics.get(metric, missing("-")).exists for run in members):
                grids.append(_grid(group, metric, members, options))
    return grids


def _grid(group: str, metric: str, members: Sequence[RunData], options: Options) -> Grid:
    """The grid of one group and metric."""
    others = [run for run in members if not run.spec.is_baseline]
    baselines = [run for run in members if run.spec.is_baseline and _same_flops(run, others, options)]
    baseline = _mean(baselines, metric, options) if baselines else None
    published_baseline = _published(baselines, metric)
    keys = dict.fromkeys((run.axis("bag_size"), run.axis("bag_fraction")) for run in others)
    cells = []
    for bag_size, fraction in keys:
        here = [
            run for run in others if (run.axis("bag_size"), run.axis("bag_fraction")) == (bag_size, fraction)
        ]
        cells.append(_cell(here, metric, baseline, published_baseline, options))
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
    baseline: Measured | None,
    published_baseline: Measured | None,
    options: Options,
) -> Cell:
    """One cell from its runs over seeds."""
    bag_only = not here[0].final.comparable
    name = "final_bag_loss" if bag_only and metric == "final_loss" else metric
    value = _mean(here, name, options)
    published = _published(here, name)
    lost = bag_only and metric == "final_loss"
    return Cell(
        bag_size=float(here[0].axis("bag_size") or 0),
        bag_fraction=float(here[0].axis("bag_fraction") or 0),
        value=value,
        gain=missing("a bag loss has no gain", value.unit) if lost else _gain(metric, value, baseline),
        published=published,
        published_gain=None if lost or published is None else _gain(metric, published, published_baseline),
        runs=[run.name for run in here],
        bag_loss_only=bag_only,
    )


def _gain(metric: str, value: Measured, baseline: Measured | None) -> Measured:
    """Baseline minus value for a loss, value minus baseline for an accuracy."""
    if baseline is None or baseline.value is None:
        return missing("no equal-FLOPs baseline in this group", value.unit, value.sources)
    if value.value is None:
        return missing(value.reason or "", value.unit, value.sources)
    sign = -1.0 if metric in _LOSSES else 1.0
    sources = merge_sources(value, baseline)
    gain = sign * (value.value - baseline.value)
    if value.stderr is None or baseline.stderr is None:
        return Measured(gain, value.unit, sources, method="better than the baseline by")
    stderr = float(np.hypot(value.stderr, baseline.stderr))
    # The widest relative half-width of the two intervals serves for the difference.
    quantiles = [
        (number.high - number.low) / 2 / number.stderr
        for number in (value, baseline)
        if number.high is not None and number.low is not None and number.stderr
    ]
    half = stderr * max(quantiles, default=2.0)
    return Measured(
        gain, value.unit, sources, stderr, gain - half, gain + half, "better than the baseline by"
    )


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
