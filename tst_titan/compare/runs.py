"""One run as the comparison sees it: its stages, curve, numbers and the paper's version of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from tst_titan import paper
from tst_titan.compare.arithmetic import FinalLoss, final_loss
from tst_titan.compare.curves import heldout_curve, run_curve
from tst_titan.compare.elsewhere import axes_of, read_elsewhere
from tst_titan.compare.evaluations import read_heldout, read_tasks
from tst_titan.compare.metrics import METRICS, TASK
from tst_titan.compare.noise import MeanWithError, mean_of_windows
from tst_titan.compare.numbers import ON_HELDOUT, Number, missing, with_error
from tst_titan.compare.results import RunFacts
from tst_titan.compare.spec import PublishedCell, RunHeading, RunSpec
from tst_titan.compare.stages import Stage, StageFacts, read_path
from tst_titan.config.comparison import ComparisonOptions
from tst_titan.config.experiment import PublishedRun
from tst_titan.errors import UserError

LOSS_UNIT = METRICS["final_loss"].unit


@dataclass
class FileCache:
    """Stages and metrics already read: the runs of a sweep share most of them."""

    stages: dict[str, Stage] = field(default_factory=dict)
    metrics: dict[str, pd.DataFrame] = field(default_factory=dict)
    heldout: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    """One run, read and checked.

    Attributes:
        spec: what the experiment says of it.
        stages: root first.
        curve: see ``tst_titan.compare.curves``.
        heldout: its held-out curve, see there; None where none was measured.
        final: its final loss.
        metrics: every number of the run by metric, missing ones with their reason.
        published: the paper's numbers for it, by the same names.
        facts: the rest, as the table's readers see it.
    """

    spec: RunSpec
    stages: Sequence[Stage]
    curve: pd.DataFrame
    heldout: pd.DataFrame | None
    final: FinalLoss
    metrics: dict[str, Number]
    published: dict[str, Number]
    facts: RunFacts

    @property
    def name(self) -> str:
        """Unique name."""
        return self.spec.name

    @property
    def manifest(self) -> str:
        """Path of the last stage's manifest."""
        return self.facts.manifest

    @property
    def metrics_files(self) -> tuple[str, ...]:
        """The files behind its curve."""
        return tuple(stage.metrics for stage in self.facts.stages)

    @property
    def heldout_files(self) -> tuple[str, ...]:
        """The files behind its held-out curve."""
        stages = () if self.heldout is None else dict.fromkeys(self.heldout["stage"])
        return tuple(f"{stage}/heldout.jsonl" for stage in stages)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stages[-1].end_step

    def total(self, column: str) -> float:
        """Budget of the whole run: step, flops, data_tokens, latents, hours or device_hours."""
        return self.metrics["steps" if column == "step" else column].number

    def axis(self, name: str) -> float | int | str | None:
        """Value of one of the experiment's axes."""
        return self.spec.axes.get(name)

    def together_with(self, other: RunData) -> bool:
        """Whether two runs are of one group and one model."""
        return (self.spec.group, self.facts.model) == (other.spec.group, other.facts.model)

    def numbers(self) -> list[Number]:
        """Its rows of the table, the paper's below its own."""
        spec = self.spec
        axes = {name: spec.axes.get(name) for name in ("bag_size", "bag_fraction")}
        place = {name: float(value) for name, value in axes.items() if isinstance(value, int | float)}
        return [
            number.at(part, metric, group=spec.group, run=self.name, seed=spec.seed, **place)
            for part, numbers in (("run", self.metrics), ("paper", self.published))
            for metric, number in numbers.items()
        ]


def load_run(spec: RunSpec, options: ComparisonOptions, cache: FileCache) -> RunData:
    """Read a run's files and compute its own numbers.

    Raises:
        UserError: a file is missing, malformed or of another run (see stages, curves, evaluations).
    """
    if spec.made_elsewhere is None:
        stages = read_path(spec.stages, cache.stages)
    else:
        stages = read_elsewhere(spec.made_elsewhere)
        spec = spec.model_copy(update={"axes": axes_of(stages) | spec.axes})
    curve = run_curve(stages, cache.metrics)
    heldout = heldout_curve(stages, curve, cache.heldout)
    final = final_loss(curve, options.last_k)
    _check_final(stages[-1], curve, final)
    metrics = budget_metrics(stages) | loss_metrics(stages[-1], final, options.confidence)
    if heldout is not None:
        last, of = mean_of_windows(heldout["windows"].iloc[-1]), (f"{stages[-1].directory}/heldout.jsonl",)
        metrics[f"{ON_HELDOUT}final_loss"] = measured_mean(last, options.confidence, of)
    metrics |= read_heldout(spec.heldout, stages[-1].manifest, options.confidence)
    accuracies, limited = read_tasks(spec.tasks, options.accuracy, options.confidence)
    facts = _facts(spec, stages, final, limited)
    return RunData(spec, stages, curve, heldout, final, metrics | accuracies, published_metrics(spec), facts)


def budget_metrics(stages: Sequence[Stage]) -> dict[str, Number]:
    """What a run cost and read, from its manifests."""
    last, every = stages[-1], tuple(stage.manifest for stage in stages)
    bag = [stage for stage in stages if not stage.is_comparable]
    of_bags = tuple(stage.manifest for stage in bag) or every[-1:]
    device_seconds = sum(stage.stage_seconds * stage.world_size for stage in stages)
    time = "training time alone"
    return {
        "steps": Number(last.end_step, "steps", every[-1:]),
        "bag_steps": Number(sum(stage.end_step - stage.start_step for stage in bag), "steps", of_bags),
        **{
            name: Number(getattr(last, key), METRICS[name].unit, every[-1:])
            for name, key in (("latents",) * 2, ("data_tokens",) * 2, ("unique_data_tokens",) * 2,
                              ("epochs", "epochs_read"), ("flops",) * 2)
        },
        "hours": Number(last.seconds / 3600, "hours", every[-1:], method=time),
        "device_hours": Number(device_seconds / 3600, "device-hours", every, method=time),
    }  # fmt: skip


def loss_metrics(last: Stage, final: FinalLoss, confidence: float) -> dict[str, Number]:
    """Final training losses; a run that ends in its bag phase has a bag loss instead."""
    source = (last.metrics,)
    mean = measured_mean(final.mean, confidence, source)
    if final.comparable:
        newest = Number(final.last, LOSS_UNIT, source, method="last logged step")
        return {"final_loss": mean, "final_loss_last": newest}
    reason = f"the run ends in its bag phase: {final.mean.mean:.4f} is a bag loss, not a token loss"
    gap = missing(reason, LOSS_UNIT, source)
    return {"final_loss": gap, "final_loss_last": gap, "final_bag_loss": mean}


def measured_mean(
    mean: MeanWithError, confidence: float, sources: tuple[str, ...], where: str = ""
) -> Number:
    """A mean over logged steps or held-out windows with its interval; ``where`` in a curve, e.g. "at step 9"."""
    method = (
        f"mean of the last {mean.n} logged steps"
        if mean.windows is None
        else f"mean of {mean.n} held-out windows"
    )
    method += (f" {where}" if where else "") + ("; too few for an error" if mean.stderr is None else "")
    return with_error(mean.mean, mean.stderr, mean.quantile(confidence), LOSS_UNIT, sources, method)


def published_metrics(spec: RunSpec) -> dict[str, Number]:
    """The paper's numbers for a run, by our names; {} where it has none.

    Raises:
        UserError: the paper's tables have no such run or cell.
    """
    match spec.paper:
        case None:
            return {}
        case PublishedRun() as wanted:
            rows = paper.published_runs(wanted.model, wanted.variant)
            rows = rows[rows["total_steps"] == wanted.total_steps]
            if rows.empty:
                raise UserError(
                    f"the paper's tables 1 to 3 have no {wanted.variant} of {wanted.model} with "
                    f"{wanted.total_steps} steps"
                )
            return _published_run(rows.iloc[0])
        case PublishedCell() as wanted:
            return _published_cell(spec, wanted)


def _published_run(row: pd.Series) -> dict[str, Number]:
    """A row of the paper's tables 1 to 3."""
    columns = {
        "final_loss": "final_loss", "data_tokens": "total_tokens", "device_hours": "b200_hours", "steps": "total_steps",
        "average_accuracy": "average_accuracy", "mmlu": "mmlu", **{TASK + task: task for task in paper.SEVEN_TASKS},
    }  # fmt: skip
    units = {name: METRICS[name].unit if name in METRICS else "%" for name in columns} | {
        "device_hours": "B200-hours"
    }
    return {
        name: Number(float(row[column]), units[name], (row["source"],), method="published")
        for name, column in columns.items()
        if not pd.isna(row[column])
    }


def _published_cell(spec: RunSpec, wanted: PublishedCell) -> dict[str, Number]:
    """Cells of the paper's tables 4 to 28 at the run's bag size and bag fraction."""
    bag_size, fraction = spec.axes.get("bag_size"), spec.axes.get("bag_fraction")
    if spec.is_baseline:
        bag_size, fraction = 1, 0.0
    if not isinstance(bag_size, int | float) or not isinstance(fraction, int | float):
        raise UserError(
            f"run '{spec.name}': paper.bag_weighting needs numbers for axes.bag_size and axes.bag_fraction"
        )
    cells = paper.published_sweeps(
        model=wanted.model, total_steps=wanted.total_steps, bag_weighting=wanted.bag_weighting
    )
    cells = cells[(cells["bag_size"] == bag_size) & ((cells["bag_step_ratio"] - fraction).abs() < 1e-6)]
    names = {"loss": "final_bag_loss" if fraction == 1 else "final_loss", "mmlu": "mmlu"}
    rows = [(names.get(row["metric"], f"{TASK}{row['metric']}"), row) for row in cells.to_dict("records")]
    rows += [("average_accuracy", row) for row in paper.average_accuracy(cells).to_dict("records")]
    return {
        name: Number(float(row["value"]), row["unit"], (row["source"],), method="published")
        for name, row in rows
    }


def _facts(spec: RunSpec, stages: Sequence[Stage], final: FinalLoss, limited: tuple[str, ...]) -> RunFacts:
    """What is known of a run besides numbers."""
    sizes: list[int] = []
    for stage in stages:
        if not stage.is_comparable and sizes[-1:] != [stage.bag_size]:
            sizes.append(stage.bag_size)
    last = stages[-1]
    return RunFacts(
        **{name: getattr(spec, name) for name in RunHeading.model_fields},
        bag_sizes=tuple(sizes), bag_loss_only=not final.comparable, limited=limited,
        parameters=(last.parameters or {}).get("total"), device=str((last.machine or {}).get("device")),
        data_identity=str(last.data_identity),
        stages=tuple(
            StageFacts(**{name: getattr(stage, name) for name in StageFacts.model_fields}) for stage in stages
        ),
    )  # fmt: skip


def _check_final(last: Stage, curve: pd.DataFrame, final: FinalLoss) -> None:
    """Refuse a manifest whose final loss is not the one that metrics.jsonl ends with."""
    claimed = last.final_loss
    if claimed is None or curve["step"].iloc[-1] != last.end_step:
        return
    if abs(claimed - final.last) > 1e-3 * max(abs(claimed), 1.0):
        raise UserError(
            f"{last.manifest}: final_loss is {claimed}, but {last.metrics} ends with {final.last}; "
            "the files are not of the same run"
        )
