"""Which of the paper's numbers stand beside a run of ours."""

from __future__ import annotations

from typing import Any

from tst_titan.config.experiment import ExperimentConfig
from tst_titan.tree.resolve import Run

MODEL_OF_SIZE = {"small": "270M", "medium": "600M", "large": "3B", "moe": "10B-A1B"}
SWEPT_STEPS = {("small", "short"): 20000, ("small", "long"): 100000, ("medium", "short"): 20000}
SWEPT_WEIGHTS = {"uniform": "uniform", "power": "power_law"}


def published_experiment(experiment: ExperimentConfig) -> str | None:
    """The first figure or table of the paper that the experiment repeats."""
    return experiment.paper[0] if experiment.paper else None


def published_tables(experiment: ExperimentConfig) -> dict[str, dict[str, Any]]:
    """The tables of the paper that are read from an experiment: the cells that each takes, and its number."""
    return {
        name: {
            "group": f"{table.size}-{table.length}",
            "weighting": table.weights,
            "metric": table.metric,
            "number": int(name.removeprefix("table_")) if name.removeprefix("table_").isdigit() else None,
        }
        for name, table in experiment.tables.items()
    }


def published_cell(experiment: ExperimentConfig, run: Run) -> dict[str, Any] | None:
    """The row of tables 1 to 3, or the cell of tables 4 to 28, of a run; None where the paper has none."""
    spec = experiment.runs.get(run.name.removesuffix(f"-seed{run.seed}"))
    if spec is not None:
        return spec.paper.model_dump(mode="json") if spec.paper else None
    if experiment.kind not in ("grid", "transfer") or not experiment.paper or run.axes["sides"] != "full":
        return None
    length = run.length
    steps = SWEPT_STEPS.get((run.size, length))
    weighting = SWEPT_WEIGHTS.get(run.axes["weighting"])
    if steps is None or weighting is None:
        return None
    return {"model": MODEL_OF_SIZE[run.size], "total_steps": steps, "bag_weighting": weighting}
