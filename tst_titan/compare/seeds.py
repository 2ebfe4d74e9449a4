"""Differences between runs over several seeds, and whether they lie outside the noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class SeedDifference:
    """Mean of one variant minus mean of another over seeds.

    Attributes:
        n_reference, n_run: seeds behind each mean (paired: the seeds that both have).
        paired: whether runs of the same seed were subtracted from each other.
        mean_reference, mean_run, difference: in the unit of the metric; difference is run minus reference.
        stderr, low, high: of the difference; None where there is one seed only.
        low_reference, high_reference, low_run, high_run: interval of each mean; None for a single seed.
        outside_noise: whether the interval excludes 0; None where nothing can be said.
        statement: the same as a sentence.
    """

    n_reference: int
    n_run: int
    paired: bool
    mean_reference: float
    mean_run: float
    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    low_reference: float | None
    high_reference: float | None
    low_run: float | None
    high_run: float | None
    outside_noise: bool | None
    statement: str


def mean_interval(values: np.ndarray, confidence: float) -> tuple[float, float | None, float | None]:
    """Mean and Student's t interval over seeds: (mean, low, high); no interval for a single value."""
    mean = float(values.mean())
    if values.size < 2:
        return mean, None, None
    half = float(stats.sem(values)) * _t(confidence, values.size - 1)
    return mean, mean - half, mean + half


def difference_over_seeds(
    reference: Mapping[int, float],
    run: Mapping[int, float],
    confidence: float = 0.95,
    unit: str = "nats/token",
    same_data_order: bool = True,
) -> SeedDifference:
    """Compare two variants over seeds.

    Runs of one seed share their data order and are subtracted from each other where at least two seeds are
    common to both (paired t interval over those seeds). Otherwise, or where ``same_data_order`` is False, the
    means of all seeds are compared with Welch's interval. With one seed on either side there is no interval.

    Args:
        reference, run: metric by seed; at least one each.
        confidence: of the two-sided interval.
        unit: for the sentence.
    """
    common = sorted(set(reference) & set(run))
    paired = same_data_order and len(common) >= 2
    if paired:
        a = np.array([reference[seed] for seed in common], dtype=float)
        b = np.array([run[seed] for seed in common], dtype=float)
    else:
        a, b = (np.array([part[seed] for seed in sorted(part)], dtype=float) for part in (reference, run))
    difference = float(b.mean() - a.mean())
    stderr, dof = _error(a, b, paired)
    low = high = outside = None
    if stderr is not None:
        half = stderr * _t(confidence, dof)
        low, high = difference - half, difference + half
        outside = bool(low > 0 or high < 0)
    mean_a, low_a, high_a = mean_interval(a, confidence)
    mean_b, low_b, high_b = mean_interval(b, confidence)
    return SeedDifference(
        n_reference=a.size, n_run=b.size, paired=paired, mean_reference=mean_a, mean_run=mean_b,
        difference=difference, stderr=stderr, low=low, high=high, low_reference=low_a, high_reference=high_a,
        low_run=low_b, high_run=high_b, outside_noise=outside,
        statement=_statement(a.size, b.size, paired, difference, low, high, confidence, unit),
    )  # fmt: skip


def _t(confidence: float, dof: float) -> float:
    """Student's t quantile of a two-sided interval."""
    return float(stats.t.ppf(0.5 + confidence / 2, dof))


def _error(a: np.ndarray, b: np.ndarray, paired: bool) -> tuple[float | None, float]:
    """Standard error of the difference and its degrees of freedom (Welch-Satterthwaite if unpaired)."""
    if paired:
        return float(stats.sem(b - a)), a.size - 1
    if a.size < 2 or b.size < 2:
        return None, 0.0
    part_a, part_b = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    total = float(part_a + part_b)
    if total == 0:
        return 0.0, float(a.size + b.size - 2)
    dof = total**2 / (part_a**2 / (a.size - 1) + part_b**2 / (b.size - 1))
    return total**0.5, float(dof)


def _statement(
    n_a: int, n_b: int, paired: bool, difference: float, low: Any, high: Any, confidence: float, unit: str
) -> str:
    """The plain sentence."""
    if low is None or high is None:
        return (
            f"One seed only ({n_a} against {n_b}): the difference of {difference:+.4g} {unit} cannot be told "
            "from the noise over seeds."
        )
    how = f"paired over {n_a} seeds" if paired else f"{n_a} against {n_b} seeds, unpaired"
    verdict = "outside" if low > 0 or high < 0 else "within"
    return (
        f"The mean difference is {difference:+.4g} {unit} ({confidence:.0%} interval {low:+.4g} to "
        f"{high:+.4g}, {how}): {verdict} the noise over seeds."
    )
