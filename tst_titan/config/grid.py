"""Expand an experiment's grid into runs, thinned by the scale."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from tst_titan.config.experiment import BagSpec, ExperimentConfig, GridLimits, GridSpec, RunSpec


def all_runs(experiment: ExperimentConfig, limits: GridLimits) -> Iterator[tuple[str, RunSpec]]:
    """The named runs, then those of the grid."""
    yield from experiment.runs.items()
    if experiment.grid is not None:
        yield from _grid_runs(experiment.grid, limits)


def _grid_runs(grid: GridSpec, limits: GridLimits) -> Iterator[tuple[str, RunSpec]]:
    """The product of the axes; the baseline of every (size, length, ...) appears once."""

    def axis(name: str, absent: Any) -> Sequence[Any]:
        wanted = getattr(grid, name)
        return (getattr(limits, name) or wanted) if wanted else (absent,)

    seen = set()
    for size, length, rate, epochs, weights, bag_size, fraction in itertools.product(
        axis("size", None),
        axis("length", "short"),
        axis("learning_rate_times", 1.0),
        axis("epochs", None),
        axis("weights", "uniform"),
        (1, *axis("bag_size", 1)) if grid.bag_size else (1, None),
        axis("bag_fraction", None),
    ):
        is_baseline = bag_size == 1 or fraction == 0
        bags = () if is_baseline else (BagSpec(bag_size=bag_size, bag_fraction=fraction, weights=weights),)
        spec = RunSpec(size=size, length=length, learning_rate_times=rate, epochs=epochs, bags=bags)
        parts = [size, length if grid.length else None]
        parts += [f"lr{rate:g}x" if grid.learning_rate_times else None]
        parts += [f"epochs{epochs:g}" if epochs else None]
        if is_baseline:
            parts.append("baseline")
        else:
            parts += [f"s{bag_size}" if bag_size else "tst", f"r{fraction:g}" if fraction else None]
            parts += [weights if weights != "uniform" else None]
        name = "-".join(part for part in parts if part)
        if name not in seen:
            seen.add(name)
            yield name, spec
