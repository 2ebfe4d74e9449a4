"""One run as the comparison sees it: its stages, curve, metrics and the paper's version of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tst_titan import paper
from tst_titan.compare.arithmetic import FinalLoss, final_loss
from tst_titan.compare.curves import run_curve
from tst_titan.compare.evaluations import limited_tasks, read_heldout, read_tasks
from tst_titan.compare.measured import Measured, missing
from tst_titan.compare.noise import MeanWithError
from tst_titan.compare.spec import Options, PublishedCell, RunSpec
from tst_titan.compare.stages import Stage, read_path
from tst_titan.errors import UserError

LOSS_UNIT = "nats/token"


@dataclass
class FileCache:
    """Stages and metrics already read: the runs of a sweep share most of them."""

    stages: dict[str, Stage] = field(default_factory=dict)
    metrics: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    """One run, read and checked.

    Attributes:
        spec: what the experiment says of it.
        stages: root first.
        curve: see ``tst_titan.compare.curves``.
        final: its final loss.
        metrics: every number of the run by name, missing ones with their reason.
        published: the paper's numbers for it, by the same names.
        limited: tasks that were scored on a part of their items.
    """

    spec: RunSpec
    stages: Sequence[Stage]
    curve: pd.DataFrame
    final: FinalLoss
    metrics: dict[str, Measured]
    published: dict[str, Measured]
    limited: Sequence[str]

    @property
    def name(self) -> str:
        """Unique name."""
        return self.spec.name

    @property
    def manifest(self) -> str:
        """Path of the last stage's manifest."""
        return self.stages[-1].manifest_path

    @property
    def bag_sizes(self) -> list[int]:
        """Bag sizes of its bag stages, in order, each change once."""
        sizes: list[int] = []
        for stage in self.stages:
            if not stage.is_comparable and (not sizes or sizes[-1] != stage.bag_size):
                sizes.append(stage.bag_size)
        return sizes

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stages[-1].end_step

    def total(self, column: str) -> float:
        """Budget of the whole run: step, flops, data_tokens, latents, hours or device_hours."""
        return self.metrics["steps" if column == "step" else column].number

    @property
    def model(self) -> tuple[object, ...]:
        """What tells models apart: parameters, from the manifest, and width. Runs of two models never pair."""
        parameters = self.stages[-1].manifest.get("parameters")
        total = parameters.get("total") if isinstance(parameters, dict) else None
        return (total, self.axis("width"))

    def axis(self, name: str) -> float | int | str | None:
        """Value of one of the experiment's axes."""
        return self.spec.axes.get(name)


def load_run(spec: RunSpec, options: Options, cache: FileCache) -> RunData:
    """Read a run's files and compute its own numbers.

    Raises:
        UserError: a file is missing, malformed or of another run (see stages, curves, evaluations).
    """
    stages = read_path(spec.stages, cache.stages)
    curve = run_curve(stages, cache.metrics)
    final = final_loss(curve, options.last_k)
    _check_final(stages[-1], curve, final)
    metrics = budget_metrics(stages) | loss_metrics(stages[-1], final, options.confidence)
    manifest = stages[-1].manifest_path
    metrics |= read_heldout(spec.heldout, manifest, options.confidence)
    metrics |= read_tasks(spec.tasks, options.accuracy, options.confidence)
    return RunData(spec, stages, curve, final, metrics, published_metrics(spec), limited_tasks(spec.tasks))


def budget_metrics(stages: Sequence[Stage]) -> dict[str, Measured]:
    """What a run cost and read, from its manifests."""
    last = stages[-1]
    source = (last.manifest_path,)
    every = tuple(stage.manifest_path for stage in stages)
    bag = [stage for stage in stages if not stage.is_comparable]
    device_seconds = sum(stage.number("stage_seconds") * stage.number("world_size") for stage in stages)
    return {
        "steps": Measured(last.end_step, "steps", source),
        "bag_steps": Measured(
            sum(stage.end_step - stage.start_step for stage in bag),
            "steps",
            tuple(stage.manifest_path for stage in bag) or source,
        ),
        "latents": Measured(last.number("latents"), "latents", source),
        "data_tokens": Measured(last.number("data_tokens"), "tokens", source),
        "unique_data_tokens": Measured(last.number("unique_data_tokens"), "tokens", source),
        "epochs": Measured(last.number("epochs_read"), "epochs", source),
        "flops": Measured(last.number("flops"), "FLOPs", source),
        "hours": Measured(last.number("seconds") / 3600, "hours", source, method="training time alone"),
        "device_hours": Measured(device_seconds / 3600, "device-hours", every, method="training time alone"),
    }


def loss_metrics(last: Stage, final: FinalLoss, confidence: float) -> dict[str, Measured]:
    """Final training losses; a run that ends in its bag phase has a bag loss instead."""
    source = (last.metrics_path,)
    mean = measured_mean(final.mean, confidence, source, "logged steps")
    newest = Measured(final.last, LOSS_UNIT, source, method="last logged step")
    if final.comparable:
        return {"final_loss": mean, "final_loss_last": newest}
    reason = f"the run ends in its bag phase: {final.mean.mean:.4f} is a bag loss, not a token loss"
    gap = missing(reason, LOSS_UNIT, source)
    return {"final_loss": gap, "final_loss_last": gap, "final_bag_loss": mean}


def measured_mean(
    mean: MeanWithError, confidence: float, sources: tuple[str, ...], what: str = "logged steps"
) -> Measured:
    """A mean over logged steps as a number with its interval."""
    method = f"mean of the last {mean.n} {what}"
    if mean.stderr is None:
        return Measured(mean.mean, LOSS_UNIT, sources, method=method + "; too few for an error")
    half = mean.stderr * mean.quantile(confidence)
    return Measured(mean.mean, LOSS_UNIT, sources, mean.stderr, mean.mean - half, mean.mean + half, method)


def published_metrics(spec: RunSpec) -> dict[str, Measured]:
    """The paper's numbers for a run, by our names; {} where it has none."""
    if spec.paper is None:
        return {}
    if spec.paper.variant is not None:
        return _published_run(spec.paper)
    return _published_cell(spec, spec.paper)


def _published_run(cell: PublishedCell) -> dict[str, Measured]:
    """A row of the paper's tables 1 to 3."""
    rows = paper.published_runs(cell.model, cell.variant)
    rows = rows[rows["total_steps"] == cell.total_steps]
    if rows.empty:
        raise UserError(
            f"the paper's tables 1 to 3 have no {cell.variant} of {cell.model} with {cell.total_steps} steps"
        )
    row = rows.iloc[0]
    found = {
        "final_loss": (row["final_loss"], LOSS_UNIT),
        "data_tokens": (row["total_tokens"], "tokens"),
        "device_hours": (row["b200_hours"], "B200-hours"),
        "steps": (row["total_steps"], "steps"),
        "average_accuracy": (row["average_accuracy"], "%"),
        "mmlu": (row["mmlu"], "%"),
    } | {f"accuracy/{task}": (row[task], "%") for task in paper.SEVEN_TASKS}
    return {
        name: Measured(float(value), unit, (row["source"],), method="published")
        for name, (value, unit) in found.items()
        if not pd.isna(value)
    }


def _published_cell(spec: RunSpec, cell: PublishedCell) -> dict[str, Measured]:
    """Cells of the paper's tables 4 to 28 at the run's bag size and bag fraction."""
    bag_size, fraction = spec.axes.get("bag_size"), spec.axes.get("bag_fraction")
    if spec.is_baseline:
        bag_size, fraction = 1, 0.0
    if not isinstance(bag_size, int | float) or not isinstance(fraction, int | float):
        raise UserError(
            f"run '{spec.name}': paper.bag_weighting needs numbers for axes.bag_size and axes.bag_fraction"
        )
    cells = paper.published_sweeps(
        model=cell.model, total_steps=cell.total_steps, bag_weighting=cell.bag_weighting
    )
    here = (cells["bag_size"] == bag_size) & ((cells["bag_step_ratio"] - fraction).abs() < 1e-6)
    cells = cells[here]
    names = {"loss": "final_bag_loss" if fraction == 1 else "final_loss", "mmlu": "mmlu"}
    found = {
        names.get(row["metric"], f"accuracy/{row['metric']}"): _published(row)
        for row in cells.to_dict("records")
    }
    for row in paper.average_accuracy(cells).to_dict("records"):
        found["average_accuracy"] = _published(row)
    return found


def _published(row: dict[Hashable, Any]) -> Measured:
    """A cell of the paper's sweeps as a number."""
    return Measured(float(row["value"]), row["unit"], (row["source"],), method="published")


def _check_final(last: Stage, curve: pd.DataFrame, final: FinalLoss) -> None:
    """Refuse a manifest whose final loss is not the one that metrics.jsonl ends with."""
    claimed = last.manifest.get("final_loss")
    if claimed is None or curve["step"].iloc[-1] != last.end_step:
        return
    if abs(claimed - final.last) > 1e-3 * max(abs(claimed), 1.0):
        raise UserError(
            f"{last.manifest_path}: final_loss is {claimed}, but {last.metrics_path} ends with {final.last}; "
            "the files are not of the same run"
        )
