"""Final loss along one axis, learning rate or epochs: one series a variant (figure 7, data_bound)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tst_titan.compare.measured import Measured, difference, merge_sources, missing
from tst_titan.compare.noise import t_quantile
from tst_titan.compare.runs import RunData
from tst_titan.compare.spec import BASELINE, Options


@dataclass(frozen=True)
class SweepPoint:
    """One run of a series."""

    x: float
    value: Measured
    run: str


@dataclass(frozen=True)
class Series:
    """One variant along the axis, in the order of x.

    Attributes:
        best: the point with the lowest loss; None if no point has one.
        best_at_edge: whether the best is the first or last of at least three points: the optimum may lie
            outside what was tried.
    """

    name: str
    role: str
    points: list[SweepPoint]
    best: SweepPoint | None
    best_at_edge: bool


@dataclass(frozen=True)
class SweepDifference:
    """A series minus the baseline's at one x."""

    series: str
    x: float
    difference: Measured


@dataclass(frozen=True)
class Sweep:
    """All series of one group."""

    group: str
    axis: str
    series: list[Series]
    differences: list[SweepDifference]
    best_against_best: dict[str, Measured]


def make_sweeps(runs: Sequence[RunData], axis: str, options: Options) -> list[Sweep]:
    """One sweep per group and model over ``axis``; runs that differ in other axes or in seed make separate series."""
    sweeps = []
    places = dict.fromkeys((run.spec.group, run.model) for run in runs)
    for group, model in places:
        members = [
            run
            for run in runs
            if (run.spec.group, run.model) == (group, model) and run.axis(axis) is not None
        ]
        if not members:
            continue
        by_series: dict[tuple[object, ...], list[RunData]] = {}
        for run in members:
            by_series.setdefault(_key(run, axis), []).append(run)
        names = _names(list(by_series))
        series = [_series(names[key], part, axis) for key, part in by_series.items()]
        baseline = next((item for item in series if item.role == BASELINE), None)
        others = [item for item in series if item.role != BASELINE]
        quantile = t_quantile(options.confidence, _dof(members))
        sweeps.append(
            Sweep(
                group,
                axis,
                series,
                [gap for item in others for gap in _differences(item, baseline, quantile)],
                {item.name: _best_gap(item, baseline, quantile) for item in others},
            )
        )
    return sweeps


def _key(run: RunData, axis: str) -> tuple[object, ...]:
    """What makes a series: role, seed and the other axes (a baseline's bag axes say nothing)."""
    ignored = {axis} | ({"bag_size", "bag_fraction"} if run.spec.is_baseline else set())
    rest = tuple(sorted((name, str(value)) for name, value in run.spec.axes.items() if name not in ignored))
    return (run.spec.role, run.spec.seed, rest)


def _names(keys: Sequence[tuple[object, ...]]) -> dict[tuple[object, ...], str]:
    """The role alone where that is unique, else the role with what tells the series apart."""
    roles = [str(key[0]) for key in keys]
    names = {}
    for key, role in zip(keys, roles, strict=True):
        if roles.count(role) == 1:
            names[key] = role
            continue
        rest = key[2]
        assert isinstance(rest, tuple)
        names[key] = f"{role} (" + ", ".join([*(f"{a}={b}" for a, b in rest), f"seed={key[1]}"]) + ")"
    return names


def _series(name: str, runs: Sequence[RunData], axis: str) -> Series:
    """One series, sorted along the axis."""
    points = [SweepPoint(float(run.spec.axes[axis]), run.metrics["final_loss"], run.name) for run in runs]
    points.sort(key=lambda point: point.x)
    known = [point for point in points if point.value.exists]
    best = min(known, key=lambda point: point.value.number) if known else None
    edge = len(known) > 2 and best in (known[0], known[-1])
    return Series(name, runs[0].spec.role, points, best, edge)


def _differences(series: Series, baseline: Series | None, quantile: float) -> list[SweepDifference]:
    """Series minus baseline wherever both have a point."""
    if baseline is None:
        return []
    theirs = {point.x: point.value for point in baseline.points}
    return [
        SweepDifference(
            series.name, point.x, difference(point.value, theirs[point.x], quantile, "minus baseline")
        )
        for point in series.points
        if point.x in theirs
    ]


def _best_gap(series: Series, baseline: Series | None, quantile: float) -> Measured:
    """Best of the series minus best of the baseline, each at its own x."""
    if baseline is None or baseline.best is None or series.best is None:
        return missing("no baseline, or no token loss", "nats/token")
    gap = difference(series.best.value, baseline.best.value, quantile, "best minus the baseline's best")
    return gap.with_sources(merge_sources(series.best.value, baseline.best.value))


def _dof(runs: Sequence[RunData]) -> int:
    """Smallest number of degrees of freedom behind the runs' errors."""
    return min((run.final.mean.dof for run in runs if run.final.mean.stderr is not None), default=1)
