"""From a resolved experiment to the spec.yaml of its comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tst_titan.compare.elsewhere import FILES
from tst_titan.compare.kinds import kind_of
from tst_titan.compare.spec import ComparisonSpec, PublishedCell, RunSpec, TableReference
from tst_titan.config.experiment import PublishedRun
from tst_titan.config.experiment import RunSpec as Spec
from tst_titan.config.load import dump
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Experiment, Run

EVALUATIONS = {
    "heldout": ("heldout", "heldout.json"),
    "heldout_documents": ("heldout", "heldout_documents.csv"),
    "tasks": ("tasks", "tasks.json"),
}
"""Evaluations of a final model by their key in ``RunSpec``: what an experiment asks for, and the file."""

MODEL_OF_SIZE = {"small": "270M", "medium": "600M", "large": "3B", "moe": "10B-A1B"}
SWEPT_STEPS = {("small", "short"): 20000, ("small", "long"): 100000, ("medium", "short"): 20000}
SWEPT_WEIGHTS: dict[str, Literal["uniform", "power_law"]] = {"uniform": "uniform", "power": "power_law"}


def write_specs(project: Project) -> None:
    """Write the spec.yaml of every wanted experiment that trains, only where its content changed."""
    for experiment in project.wanted():
        if experiment.runs:
            folder = Path(project.results, "compare", project.scale_name, experiment.name)
            write_if_changed(folder / "spec.yaml", dump(make_spec(project, experiment)))


def make_spec(project: Project, experiment: Experiment) -> ComparisonSpec:
    """What the comparison of a resolved experiment reads."""
    config, scale = experiment.config, project.scale()
    caveat = None
    if not scale.means_something:
        caveat = f"Scale {project.scale_name}: {scale.description} These numbers test the plumbing and mean nothing."
    tables = {
        name: TableReference(
            group=f"{table.size}-{table.length}", weighting=table.weights, metric=table.metric,
            number=int(name.removeprefix("table_")) if name.removeprefix("table_").isdigit() else None,
        )
        for name, table in config.tables.items()
    }  # fmt: skip
    spec = ComparisonSpec(
        experiment=experiment.name, scale=project.scale_name, kind=config.kind, title=config.title,
        question=config.shows, caveat=caveat,
        paper=config.paper[0] if config.paper else None, metrics=config.metrics, tables=tables,
        options=project.config.comparison,
        runs=(*(_run_spec(project, experiment, run) for run in experiment.runs),
              *(_elsewhere(experiment.name, name, run) for name, run in experiment.elsewhere.items())),
    )  # fmt: skip
    kind_of(spec)
    return spec


def _run_spec(project: Project, experiment: Experiment, run: Run) -> RunSpec:
    folder = f"{project.results}/evaluate/{run.recipe}/{run.lineage}"
    files = {
        key: f"{folder}/{name}"
        for key, (what, name) in EVALUATIONS.items()
        if project.evaluates(what, experiment.name, project.scale_name)
    }
    stages = tuple(f"{project.results}/train/{stage.path}" for stage in run.stages)
    return RunSpec(
        name=run.name, label=run.label, role=run.role, seed=run.seed, group=run.group, axes=run.axes, stages=stages,
        paper=_published(experiment, run), **files,
    )  # fmt: skip


def _elsewhere(experiment: str, name: str, run: Spec) -> RunSpec:
    """A run that another trainer made.

    Raises:
        UserError: its folder lacks a file.
    """
    folder = str(run.made_elsewhere).rstrip("/")
    for file in FILES:
        if not Path(folder, file).is_file():
            raise UserError(
                f"configs/experiments/{experiment}.yaml: key runs.{name}.made_elsewhere: {folder}/{file} is missing; "
                f"such a run has {' and '.join(FILES)} (docs/use-in-your-trainer.md)"
            )
    evaluated = {
        key: f"{folder}/{file}" for key, (_, file) in EVALUATIONS.items() if Path(folder, file).is_file()
    }
    return RunSpec(
        name=name, label=run.label or name, role=run.resolved_role, group=run.group or "", made_elsewhere=folder,
        **evaluated,
    )  # fmt: skip


def _published(experiment: Experiment, run: Run) -> PublishedRun | PublishedCell | None:
    """The row of tables 1 to 3, or the grid of tables 4 to 28, of a run; None where the paper has none."""
    config = experiment.config
    if run.spec in config.runs.values():
        return run.spec.paper
    if config.kind not in ("grid", "transfer") or not config.paper or run.axes["sides"] != "full":
        return None
    steps, weighting = SWEPT_STEPS.get((run.size, run.length)), SWEPT_WEIGHTS.get(run.axes["weighting"])
    if steps is None or weighting is None:
        return None
    return PublishedCell(model=MODEL_OF_SIZE[run.size], total_steps=steps, bag_weighting=weighting)
