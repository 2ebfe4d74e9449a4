"""What is to be compared: the runs of one experiment, their files and the paper's version of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tst_titan import paper
from tst_titan.config.comparison import ComparisonOptions as Options
from tst_titan.config.load import parse_yaml
from tst_titan.errors import UserError

__all__ = ["ComparisonSpec", "Options", "PaperReference", "PublishedCell", "RunSpec", "load_spec"]

Kind = Literal["pair", "grid", "lr_sweep", "seeds", "data_bound", "curriculum", "feeding", "transfer"]
BASELINE = "baseline"

REQUIRED_AXES: dict[str, tuple[str, ...]] = {
    "grid": ("bag_size", "bag_fraction"),
    "lr_sweep": ("lr",),
    "data_bound": ("epochs",),
    "transfer": ("bag_size", "bag_fraction"),
}
"""Axes that every non-baseline run of a kind must name; ``MATCHED_AXES`` bind baselines as well."""

MATCHED_AXES: dict[str, tuple[str, ...]] = {"lr_sweep": ("lr",), "data_bound": ("epochs",)}
"""Axes on which two runs must agree to be compared."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedCell(_Strict):
    """Where the paper's version of a run is found: a row of its tables 1 to 3, or a cell of its sweeps."""

    model: str
    total_steps: int
    variant: Literal["baseline", "tst", "tst_reinitialized_io"] | None = None
    bag_weighting: Literal["uniform", "power_law"] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> PublishedCell:
        if (self.variant is None) == (self.bag_weighting is None):
            raise ValueError(
                "give variant (a row of tables 1 to 3) or bag_weighting (a cell of tables 4 to 28)"
            )
        return self


class RunSpec(_Strict):
    """One run: a path of stages, and the evaluations of its final model."""

    name: str = Field(min_length=1, description="unique in the comparison")
    label: str = Field(
        min_length=1, description="for people; equal labels in a group are replicates over seeds"
    )
    role: str = Field(min_length=1, description='"baseline", "tst" or any other name')
    seed: int = 0
    group: str = Field("", description="runs are compared inside their group")
    axes: dict[str, int | float | str] = {}
    stages: tuple[str, ...] = Field(min_length=1, description="stage folders, root first")
    heldout: str | None = Field(None, description="heldout.json of the final model")
    heldout_documents: str | None = Field(None, description="its loss document by document")
    tasks: str | None = None
    paper: PublishedCell | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with this run."""
        return self.role == BASELINE


class PaperReference(_Strict):
    """Which published figure or table the experiment repeats."""

    experiment: str


class TableReference(_Strict):
    """A table of the paper that is read from the runs of one group: a metric over bag size and bag fraction."""

    group: str
    weighting: str
    metric: str
    number: int | None = Field(None, description="of the paper's table; None where it is not the paper's")


class ComparisonSpec(_Strict):
    """The runs of one experiment at one scale."""

    experiment: str
    scale: str
    kind: Kind
    title: str = ""
    caveat: str | None = Field(
        None, description="what a reader must know before any number, e.g. at smoke scale"
    )
    paper: PaperReference | None = None
    metrics: tuple[str, ...] = Field((), description="metrics of grids, in order; accuracy is every task")
    tables: dict[str, TableReference] = {}
    options: Options = Options()
    runs: tuple[RunSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> ComparisonSpec:
        names = [run.name for run in self.runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"runs: name '{twice[0]}' is used twice; names must be unique")
        if self.paper is not None and self.paper.experiment not in paper.EXPERIMENTS:
            known = ", ".join(paper.EXPERIMENTS)
            raise ValueError(f"paper.experiment '{self.paper.experiment}' is unknown; known: {known}")
        for run in self.runs:
            wanted = REQUIRED_AXES.get(self.kind, ())
            if run.is_baseline:
                wanted = MATCHED_AXES.get(self.kind, ())
            lacking = [axis for axis in wanted if axis not in run.axes]
            if lacking:
                found = ", ".join(run.axes) or "none"
                raise ValueError(
                    f"runs: '{run.name}' lacks axes.{lacking[0]}, which kind '{self.kind}' needs; "
                    f"it has: {found}"
                )
        return self

    @classmethod
    def from_mapping(cls, mapping: Any, where: str = "comparison spec") -> ComparisonSpec:
        """Validate plain data.

        Raises:
            UserError: names the key, the value found and what is wrong with it.
        """
        try:
            return cls.model_validate(mapping)
        except ValidationError as error:
            problems = []
            for item in error.errors():
                key = ".".join(str(part) for part in item["loc"])
                shown = "" if item["type"] in ("missing", "value_error") else f" (found {item['input']!r})"
                problems.append(f"{key}: {item['msg']}{shown}".removeprefix(": "))
            raise UserError(f"{where}: " + "; ".join(problems)) from error

    def to_mapping(self) -> dict[str, Any]:
        """Plain types for JSON or YAML; ``from_mapping`` reads it back."""
        return self.model_dump(mode="json")


def load_spec(path: Path) -> ComparisonSpec:
    """Read a comparison spec from a JSON or YAML file.

    Raises:
        UserError: the file is missing, does not parse or does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
        mapping = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is neither valid JSON nor YAML: {error}") from error
    return ComparisonSpec.from_mapping(mapping, str(path))
