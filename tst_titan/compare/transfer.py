"""What one bag step is worth: the number of token steps that it replaces.

With N the steps of a baseline that ends at the run's final loss (interpolated between baselines of several
lengths), T the run's token steps and B its bag steps:

    worth = (N - T) / B

1 means that a bag step does as much as a token step at the same FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tst_titan import paper
from tst_titan.compare.arithmetic import length_crossing
from tst_titan.compare.equal_loss import by_length
from tst_titan.compare.groups import family_of
from tst_titan.compare.measured import Measured, merge_sources, missing
from tst_titan.compare.noise import MeanWithError
from tst_titan.compare.runs import RunData
from tst_titan.compare.spec import Options

UNIT = "token steps per bag step"


@dataclass(frozen=True)
class Worth:
    """What a bag step of one run is worth.

    Attributes:
        bound: "at_least" or "at_most" where the run's loss lies outside those of the baselines.
        baseline_steps: steps of a baseline that ends at the run's final loss.
        published: the same from the paper's numbers for the run's cell, where its model has baselines of
            several lengths.
    """

    group: str
    run: str
    bag_size: float
    bag_fraction: float
    width: float | int | str | None
    baseline_steps: Measured
    token_steps_per_bag_step: Measured
    status: Literal["reached", "not_reached"]
    bound: Literal["at_least", "at_most"] | None
    published: Measured | None


def make_transfer(runs: Sequence[RunData], options: Options) -> list[Worth]:
    """The worth of a bag step for every run that has both phases."""
    found = []
    for run in runs:
        if run.spec.is_baseline or not run.final.comparable or run.metrics["bag_steps"].number == 0:
            continue
        found.append(_worth(run, baselines_of(run, runs), options))
    return found


def baselines_of(run: RunData, runs: Sequence[RunData]) -> list[RunData]:
    """Baselines of the run's group, model and, where there are any, seed; one a length, shortest first."""
    baselines = [
        other
        for other in runs
        if other.spec.is_baseline and other.spec.group == run.spec.group and other.model == run.model
    ]
    same_seed = [other for other in baselines if other.spec.seed == run.spec.seed] or baselines
    return by_length(family_of(same_seed[0], same_seed)) if same_seed else []


def _worth(run: RunData, family: Sequence[RunData], options: Options) -> Worth:
    """Worth of a bag step of one run, read off its baselines."""
    bag, whole = run.metrics["bag_steps"].number, run.steps
    token = whole - bag
    sources = merge_sources(run.metrics["final_loss"], *(item.metrics["final_loss"] for item in family))
    status: Literal["reached", "not_reached"] = "not_reached"
    bound: Literal["at_least", "at_most"] | None = None
    if len(family) < 2:
        reason = f"{len(family)} baseline lengths in this group; two are needed"
        steps, worth = missing(reason, "steps", sources), missing(reason, UNIT, sources)
    else:
        found = length_crossing(
            np.array([item.steps for item in family]), [item.final.mean for item in family], run.final.mean,
            options.confidence, options.bootstrap_samples, options.bootstrap_seed,
        )  # fmt: skip
        if found.position is not None:
            status = "reached"
            steps = Measured(
                found.position, "steps", sources, None, found.low, found.high, "interpolated final losses"
            )
            ends = [
                None if end is None else (end - token) / bag
                for end in (found.position, found.low, found.high)
            ]
            worth = Measured(ends[0], UNIT, sources, None, ends[1], ends[2], "(N - T) / B")
        else:
            nearest = family[-1] if found.status == "never" else family[0]
            bound = "at_least" if found.status == "never" else "at_most"
            steps = missing(
                f"outside the baselines: {bound.replace('_', ' ')} {nearest.steps}", "steps", sources
            )
            worth = Measured((nearest.steps - token) / bag, UNIT, sources, method=bound.replace("_", " "))
    return Worth(
        group=run.spec.group, run=run.name, bag_size=float(run.axis("bag_size") or 0),
        bag_fraction=float(run.axis("bag_fraction") or 0), width=run.axis("width"), baseline_steps=steps,
        token_steps_per_bag_step=worth, status=status, bound=bound, published=_published_worth(run),
    )  # fmt: skip


def _published_worth(run: RunData) -> Measured | None:
    """The paper's version, from its baselines of several lengths (no error: one run each)."""
    target = run.published.get("final_loss")
    if target is None or run.spec.paper is None:
        return None
    cell = run.spec.paper
    baselines = published_baselines(cell.model)
    fraction = run.axis("bag_fraction")
    if len(baselines) < 2 or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        return None
    return worth_of(target, baselines, cell.total_steps, float(fraction))


def published_baselines(model: str) -> dict[int, Measured]:
    """Final losses of the paper's baselines of a model by steps, shortest first.

    Tables 4 to 6 (four digits) take precedence over tables 1 and 3 (three digits).
    """
    rows = paper.published_runs(variant="baseline")
    found = {
        int(row["total_steps"]): Measured(float(row["final_loss"]), "nats/token", (row["source"],))
        for row in rows[rows["model"] == model].to_dict("records")
    }
    cells = paper.published_sweeps(metric="loss", bag_weighting="uniform")
    cells = cells[(cells["model"] == model) & (cells["bag_size"] == 1)]
    for row in cells.to_dict("records"):
        found[int(row["total_steps"])] = Measured(float(row["value"]), "nats/token", (row["source"],))
    return dict(sorted(found.items()))


def worth_of(
    target: Measured, baselines: dict[int, Measured], total_steps: int, bag_fraction: float
) -> Measured:
    """Worth of a bag step for numbers without errors, e.g. the paper's.

    Args:
        target: final loss of the run.
        baselines: final losses by steps, at least two, shortest first.
        total_steps, bag_fraction: of the run.
    """
    sources = merge_sources(target, *baselines.values())
    exact = [MeanWithError(item.number, 1, None, 0, 0.0) for item in baselines.values()]
    goal = MeanWithError(target.number, 1, None, 0, 0.0)
    found = length_crossing(np.array(list(baselines)), exact, goal, 0.95, 20, 0)
    bag = bag_fraction * total_steps
    token = total_steps - bag
    steps = list(baselines)
    if found.position is not None:
        return Measured((found.position - token) / bag, UNIT, sources, method="(N - T) / B, published losses")
    end, bound = (steps[-1], "at least") if found.status == "never" else (steps[0], "at most")
    return Measured((end - token) / bag, UNIT, sources, method=f"{bound}, published losses")
