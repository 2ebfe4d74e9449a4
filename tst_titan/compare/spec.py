"""What is to be compared: the runs of one experiment, their files and the paper's version of them (spec.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from tst_titan import paper
from tst_titan.config.comparison import ComparisonOptions
from tst_titan.config.experiment import Kind, PublishedRun
from tst_titan.config.load import load
from tst_titan.config.schema import Strict

BASELINE = "baseline"


class PublishedCell(Strict):
    """The grid of the paper's tables 4 to 28 that a run is a cell of; bag size and bag fraction are the run's."""

    model: str
    total_steps: int
    bag_weighting: Literal["uniform", "power_law"]


class RunHeading(Strict):
    """What an experiment says of a run."""

    name: str = Field(min_length=1, description="unique in the comparison")
    label: str = Field(
        min_length=1, description="for people; equal labels in a group are replicates over seeds"
    )
    role: str = Field(min_length=1, description='"baseline", "tst" or any other name')
    seed: int = 0
    group: str = Field("", description="runs are compared inside their group")
    axes: dict[str, int | float | str] = Field({})
    paper: PublishedRun | PublishedCell | None = Field(None, description="the paper's version of the run")

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with this run."""
        return self.role == BASELINE


class RunSpec(RunHeading):
    """One run: a path of stages, and the evaluations of its final model."""

    stages: tuple[str, ...] = Field((), description="stage folders, root first")
    made_elsewhere: str | None = Field(
        None,
        description="instead of stages: folder of a run that another trainer made",
        exclude_if=lambda value: value is None,
    )
    heldout: str | None = Field(None, description="heldout.json of the final model")
    heldout_documents: str | None = Field(None, description="its loss document by document")
    tasks: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> RunSpec:
        if bool(self.stages) == (self.made_elsewhere is not None):
            raise ValueError("give either stages or made_elsewhere")
        return self


class TableReference(Strict):
    """A table of the paper that is read from the runs of one group: a metric over bag size and bag fraction."""

    group: str
    weighting: str
    metric: str
    number: int | None = Field(None, description="of the paper's table; None where it is not the paper's")


class Heading(Strict):
    """What a comparison is about."""

    experiment: str
    scale: str
    kind: Kind
    title: str = ""
    question: str = Field("", description="the question that the experiment asks")
    caveat: str | None = Field(
        None, description="what a reader must know before any number, e.g. at smoke scale"
    )
    paper: str | None = Field(None, description="the figure or table of the paper that it repeats")
    tables: dict[str, TableReference] = Field({})
    options: ComparisonOptions = ComparisonOptions()


class ComparisonSpec(Heading):
    """The runs of one experiment at one scale."""

    metrics: tuple[str, ...] = Field((), description="metrics of grids, in order; accuracy is every task")
    runs: tuple[RunSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> ComparisonSpec:
        names = [run.name for run in self.runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"runs: name '{twice[0]}' is used twice; names must be unique")
        if self.paper is not None and self.paper not in paper.EXPERIMENTS:
            raise ValueError(f"paper '{self.paper}' is unknown; known: {', '.join(paper.EXPERIMENTS)}")
        return self


def load_spec(path: Path) -> ComparisonSpec:
    """Read a spec.yaml.

    Raises:
        UserError: the file is missing, does not parse or does not fit.
    """
    return load(ComparisonSpec, path)
