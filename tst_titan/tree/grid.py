"""Expand an experiment's grid into runs, thinned by the scale."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tst_titan.config.experiment import (
    Axes,
    BagSpec,
    ExperimentConfig,
    GridLimits,
    GridSpec,
    GroupSpec,
    RunSpec,
)

# Axes whose values a run carries, in the order of its name.
_OF_RUNS = ("learning_rate_times", "epochs")
_OF_BAGS = ("weights", "sides")


def all_runs(experiment: ExperimentConfig, limits: GridLimits) -> Iterator[tuple[str, RunSpec]]:
    """The named runs, then those of the grid; without runs that were made elsewhere."""
    yield from ((name, run) for name, run in experiment.runs.items() if run.made_elsewhere is None)
    if experiment.grid is not None:
        yield from _grid_runs(experiment, experiment.grid, limits)


def groups_of(experiment: ExperimentConfig, grid: GridSpec, limits: GridLimits) -> list[GroupSpec]:
    """The groups of a grid, written out or as the product of sizes and lengths."""
    if grid.groups:
        return list(grid.groups)
    sizes = _thinned(grid.size, limits.size) or (experiment.size,)
    lengths = _thinned(grid.length, limits.length) or ("short",)
    return [GroupSpec(size=size, length=length) for size, length in itertools.product(sizes, lengths)]


def _thinned(wanted: Sequence[Any], limit: Sequence[Any]) -> Sequence[Any]:
    """An axis as a scale wants it: the limit's values where they are fewer."""
    return limit if limit and len(wanted) > len(limit) else wanted


def _grid_runs(
    experiment: ExperimentConfig, grid: GridSpec, limits: GridLimits
) -> Iterator[tuple[str, RunSpec]]:
    """The product of the axes; the baseline of every group (and learning rate, epochs) appears once."""
    seen = set()
    for group in groups_of(experiment, grid, limits):
        for run in _group_runs(group, grid, limits):
            several = bool(grid.groups or grid.size or grid.length)
            name = "-".join([*_prefix(group, run, several), *what_sets_apart(run)])
            if name not in seen:
                seen.add(name)
                yield name, run.model_copy(update={"label": label_of(run, group)})


def _group_runs(group: GroupSpec, grid: GridSpec, limits: GridLimits) -> Iterator[RunSpec]:
    def axis(name: str) -> Sequence[Any]:
        source: Axes = group if getattr(group, name) else grid
        return _thinned(getattr(source, name), getattr(limits, name)) or (None,)

    common = {"size": group.size, "group": group.title}
    for values in itertools.product(*(axis(name) for name in _OF_RUNS)):
        given = {name: value for name, value in zip(_OF_RUNS, values, strict=True) if value is not None}
        yield RunSpec(**common, length=group.length, times=group.times, **given)
        for length in group.baselines:
            yield RunSpec(**common, length=length, **given)
        for weights, sides, bag_size, fraction in itertools.product(
            *(axis(name) for name in (*_OF_BAGS, "bag_size", "bag_fraction"))
        ):
            if bag_size == 1 or fraction == 0:
                continue
            options = {"weights": weights or "uniform", "sides": sides or "full"}
            bag = BagSpec(bag_size=bag_size, bag_fraction=fraction, **options)
            yield RunSpec(**common, length=group.length, times=group.times, bags=(bag,), **given)


def _prefix(group: GroupSpec, run: RunSpec, several_groups: bool) -> list[str]:
    """How names of a group's runs begin; a baseline of another length says so."""
    if not several_groups:
        return []
    if group.name is None:
        return [group.size, run.length] + ([f"x{run.times:g}"] if run.times != 1 else [])
    other = [run.length] if run.length != group.length else []
    return [re.sub(r"[^A-Za-z0-9]+", "_", group.name), *other]


def what_sets_apart(run: RunSpec) -> list[str]:
    """``s4``, ``r0.3``, ``power``: what sets a run of a group apart, in words of a file name."""
    parts = [f"lr{run.learning_rate_times:g}x"] if run.learning_rate_times != 1 else []
    parts += [f"epochs{run.epochs:g}"] if run.epochs is not None else []
    if not run.bags:
        return [*parts, "baseline"]
    bag = run.bags[0]
    parts += [f"s{bag.bag_size}" if bag.bag_size else "tst"]
    parts += [f"r{bag.bag_fraction:g}"] if bag.bag_fraction is not None else []
    parts += [bag.weights] if isinstance(bag.weights, str) and bag.weights != "uniform" else []
    return parts + ([bag.sides] if bag.sides != "full" else [])


def label_of(run: RunSpec, group: GroupSpec) -> str:
    """``s = 4, r = 0.3, power``: the same for people; unique in the group."""
    parts = []
    if run.bags:
        bag = run.bags[0]
        parts += [f"s = {bag.bag_size}" if bag.bag_size else "TST"]
        parts += [f"r = {bag.bag_fraction:g}"] if bag.bag_fraction is not None else []
        parts += [str(bag.weights)] if bag.weights != "uniform" else []
        parts += [bag.sides.replace("_", " ")] if bag.sides != "full" else []
    else:
        parts += ["baseline"] + ([run.length.replace("_", " ")] if run.length != group.length else [])
    parts += [f"{run.learning_rate_times:g} x learning rate"] if run.learning_rate_times != 1 else []
    return ", ".join(parts + ([f"{run.epochs:g} epochs"] if run.epochs is not None else []))
