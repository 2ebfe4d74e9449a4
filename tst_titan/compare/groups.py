"""Which runs are compared with which, and the means over seeds of every such pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tst_titan.compare.measured import Measured, merge_sources
from tst_titan.compare.runs import RunData
from tst_titan.compare.seeds import difference_over_seeds
from tst_titan.compare.spec import MATCHED_AXES, Kind, Options

SEED_METRICS = ("final_loss", "heldout_nats_per_token", "average_accuracy")
_SAME_FAMILY = ("lr", "epochs")
_ONE_SEED_IS_WORTH_SAYING = ("pair", "seeds", "curriculum", "feeding")


@dataclass(frozen=True)
class SeedResult:
    """A variant against a reference over seeds; labels name variants, as in ``RunSpec.label``."""

    group: str
    reference: str
    run: str
    metric: str
    n_reference: int
    n_run: int
    paired: bool
    mean_reference: Measured
    mean_run: Measured
    difference: Measured
    outside_noise: bool | None
    statement: str


def references_of(run: RunData, runs: Sequence[RunData], kind: Kind) -> list[RunData]:
    """The runs that ``run`` is compared with.

    Inside its group and of its model: a run of role "curriculum" with every run of another role; in kind
    "feeding" every run with those before it; any other run with the baselines that agree on the kind's matched
    axes (learning rate, epochs). Runs of the same seed are preferred; only where there are none, other seeds
    stand in.
    """
    group = [other for other in runs if _together(other, run) and other is not run]
    if kind == "curriculum" and run.spec.role == "curriculum":
        found = [other for other in group if other.spec.role != "curriculum"]
    elif kind == "feeding":
        names = [other.name for other in runs]
        found = [other for other in group if names.index(other.name) < names.index(run.name)]
        found = [other for other in found if other.spec.label != run.spec.label]
    elif run.spec.is_baseline:
        return []
    else:
        found = [other for other in group if other.spec.is_baseline]
    for axis in MATCHED_AXES.get(kind, ()):
        found = [other for other in found if other.axis(axis) == run.axis(axis)]
    same_seed = [other for other in found if other.spec.seed == run.spec.seed]
    return same_seed or found


def family_of(reference: RunData, runs: Sequence[RunData]) -> list[RunData]:
    """Baselines that differ from a baseline in length only, itself among them; [reference] for others."""
    if not reference.spec.is_baseline:
        return [reference]
    return [
        other
        for other in runs
        if other is reference
        or (
            other.spec.is_baseline
            and _together(other, reference)
            and other.spec.seed == reference.spec.seed
            and other.steps != reference.steps
            and all(other.axis(axis) == reference.axis(axis) for axis in _SAME_FAMILY)
        )
    ]


def over_seeds(
    pairs: Sequence[tuple[RunData, RunData]], runs: Sequence[RunData], kind: Kind, options: Options
) -> list[SeedResult]:
    """Means over seeds for every pair of variants.

    Args:
        pairs: (reference, run); pairs of the same two labels count once.

    Returns:
        One entry a pair of labels and metric that both have. Sweeps with one seed give none: there, nothing
        could be said for every cell.
    """
    chosen: dict[tuple[object, ...], tuple[RunData, RunData]] = {}
    for reference, run in pairs:
        key = (run.spec.group, run.model, reference.spec.label, run.spec.label)
        chosen.setdefault(key, (reference, run))
    results = []
    for reference, run in chosen.values():
        for metric in SEED_METRICS:
            a, b = _by_seed(reference, runs, metric), _by_seed(run, runs, metric)
            single = len(a) < 2 and len(b) < 2
            worth_saying = kind in _ONE_SEED_IS_WORTH_SAYING and metric == "final_loss"
            if not a or not b or (single and not worth_saying):
                continue
            results.append(_result(reference, run, metric, a, b, options))
    return results


def replicates(run: RunData, runs: Sequence[RunData]) -> list[RunData]:
    """Runs of the same group, model and label, over seeds, ``run`` among them."""
    return [other for other in runs if _together(other, run) and other.spec.label == run.spec.label]


def _together(first: RunData, second: RunData) -> bool:
    """Whether two runs are of one group and one model."""
    return first.spec.group == second.spec.group and first.model == second.model


def _by_seed(run: RunData, runs: Sequence[RunData], metric: str) -> dict[int, Measured]:
    """A metric of a variant by seed, where it exists."""
    found = {other.spec.seed: other.metrics[metric] for other in replicates(run, runs)}
    return {seed: number for seed, number in found.items() if number.exists}


def _result(
    reference: RunData,
    run: RunData,
    metric: str,
    a: dict[int, Measured],
    b: dict[int, Measured],
    options: Options,
) -> SeedResult:
    """One entry of ``over_seeds``."""
    unit = next(iter(b.values())).unit
    found = difference_over_seeds(
        {seed: number.number for seed, number in a.items()},
        {seed: number.number for seed, number in b.items()},
        options.confidence,
        unit,
    )
    from_a, from_b = merge_sources(*a.values()), merge_sources(*b.values())
    how = "paired" if found.paired else "unpaired"

    def mean(
        value: float, n: int, ends: tuple[float | None, float | None], from_: tuple[str, ...]
    ) -> Measured:
        return Measured(value, unit, from_, None, *ends, f"mean of {n} seed{'s' * (n > 1)}")

    ends_a, ends_b = (found.low_reference, found.high_reference), (found.low_run, found.high_run)
    return SeedResult(
        group=run.spec.group, reference=reference.spec.label, run=run.spec.label, metric=metric,
        n_reference=found.n_reference, n_run=found.n_run, paired=found.paired,
        mean_reference=mean(found.mean_reference, found.n_reference, ends_a, from_a),
        mean_run=mean(found.mean_run, found.n_run, ends_b, from_b),
        difference=Measured(found.difference, unit, merge_sources(from_a, from_b), found.stderr, found.low,
                            found.high, f"run minus reference, {how} over seeds"),
        outside_noise=found.outside_noise, statement=found.statement,
    )  # fmt: skip
