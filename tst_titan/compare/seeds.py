"""Differences between variants over several seeds, and whether they lie outside the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from tst_titan.compare.noise import t_quantile
from tst_titan.compare.numbers import ON_HELDOUT, Number, merge_sources, with_error
from tst_titan.compare.runs import RunData
from tst_titan.config.comparison import ComparisonOptions

SEED_METRICS = (f"{ON_HELDOUT}final_loss", "final_loss", "heldout_nats_per_token", "average_accuracy")
PAIRED = "paired"


def mean_over_seeds(numbers: Sequence[Number], confidence: float) -> Number:
    """Mean and Student's t interval over seeds, one number each; no interval for a single one."""
    values, n = np.array([number.number for number in numbers]), len(numbers)
    method = f"mean of {n} seed{'s' * (n > 1)}"
    stderr = float(stats.sem(values)) if n > 1 else None
    quantile, sources = t_quantile(confidence, n - 1), merge_sources(*numbers)
    return replace(with_error(float(values.mean()), stderr, quantile, numbers[0].unit, sources, method), n=n)


def difference_over_seeds(
    reference: Mapping[int, Number],
    run: Mapping[int, Number],
    confidence: float = 0.95,
    same_text: bool = True,
) -> tuple[Number, Number, Number]:
    """Compare two variants over seeds.

    A seed draws weights and data order for all runs alike, so runs of one seed are subtracted from each other where
    at least two seeds are common to both (paired t interval over those seeds). Otherwise, or where ``same_text`` is
    False, the means of all seeds are compared with Welch's interval. With one seed on either side there is no interval.

    Args:
        reference, run: metric by seed; at least one each.
        confidence: of the two-sided interval.
        same_text: whether both variants were measured on the same text (``measured_on_same_text``).

    Returns:
        The reference's mean, the run's, and run minus reference, whose ``note`` says whether it is paired.
    """
    common = sorted(set(reference) & set(run))
    paired = same_text and len(common) >= 2
    sides = [[part[seed] for seed in (common if paired else sorted(part))] for part in (reference, run)]
    a, b = (np.array([number.number for number in side]) for side in sides)
    means = [mean_over_seeds(side, confidence) for side in sides]
    stderr, dof = _error(a, b, paired)
    how = PAIRED if paired else "unpaired"
    gap = with_error(
        float(b.mean() - a.mean()), stderr, t_quantile(confidence, dof), means[0].unit, merge_sources(*means),
        f"run minus reference, {how} over seeds",
    )  # fmt: skip
    return means[0], means[1], replace(gap, note=how)


def measured_on_same_text(metric: str, reference: RunData, run: RunData) -> bool:
    """Whether a metric of both is of the same text: training losses only where both have read as much of it."""
    return metric != "final_loss" or reference.total("data_tokens") == run.total("data_tokens")


def over_seeds(
    pairs: Sequence[tuple[RunData, RunData]],
    runs: Sequence[RunData],
    say_single: bool,
    options: ComparisonOptions,
) -> Iterator[Number]:
    """Means over seeds for every pair of variants, which labels name.

    Args:
        pairs: (reference, run); pairs of the same two labels count once.
        say_single: whether a final loss of one seed is worth a row: of every cell of a sweep it is not.
    """
    chosen: dict[tuple[object, ...], tuple[RunData, RunData]] = {}
    for reference, run in pairs:
        key = (run.spec.group, run.facts.model, reference.spec.label, run.spec.label)
        chosen.setdefault(key, (reference, run))
    for reference, run in chosen.values():
        for metric in SEED_METRICS:
            a, b = (
                by_seed(
                    [one for one in runs if one.together_with(side) and one.spec.label == side.spec.label],
                    metric,
                )
                for side in (reference, run)
            )
            single = len(a) < 2 and len(b) < 2
            if not a or not b or (single and not (say_single and metric.endswith("final_loss"))):
                continue
            same_text = measured_on_same_text(metric, reference, run)
            found = difference_over_seeds(a, b, options.confidence, same_text)
            place = {"group": run.spec.group, "run": run.spec.label, "reference": reference.spec.label}
            for what, number in zip(("mean_reference", "mean_run", "difference"), found, strict=True):
                yield number.at("seeds", f"{metric}.{what}", **place)


def by_seed(runs: Sequence[RunData], metric: str) -> dict[int, Number]:
    """A metric of runs that differ in nothing but their seed, where it exists."""
    found = {run.spec.seed: run.metrics[metric] for run in runs if metric in run.metrics}
    return {seed: number for seed, number in found.items() if number.exists}


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
