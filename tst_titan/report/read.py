"""What the report reads: a compare folder, a figures folder, JSON in general, each with errors that help."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tst_titan.errors import UserError

COMPARISON_FORMAT = 1
FIGURES_FORMAT = 1
_NEEDED = (
    "experiment", "scale", "kind", "title", "caveat", "options", "runs", "pairs", "seeds", "grids", "sweeps",
    "transfer", "verdict", "gaps", "files",
)  # fmt: skip
_CURVE_COLUMNS = (
    "run",
    "phase",
    "bag_size",
    "step",
    "data_tokens",
    "flops",
    "hours",
    "loss",
    "smoothed",
    "comparable",
)


@dataclass(frozen=True)
class Experiment:
    """One compare folder, as written by ``tst_titan.compare.write_comparison``.

    Attributes:
        folder: the folder, as given.
        content: all of comparison.json.
        curves: curves.csv, one row a thinned logged step of a run; ``group`` and ``label`` are text.
        table: table.csv, one row a run; empty text where a text cell is empty, NaN where a number is.
    """

    folder: Path
    content: dict[str, Any]
    curves: pd.DataFrame
    table: pd.DataFrame

    @property
    def name(self) -> str:
        """Name of the experiment, e.g. figure_3."""
        return str(self.content["experiment"])

    @property
    def scale(self) -> str:
        """Name of the scale."""
        return str(self.content["scale"])

    @property
    def kind(self) -> str:
        """pair, grid, lr_sweep, seeds, data_bound, curriculum, feeding or transfer."""
        return str(self.content["kind"])

    @property
    def title(self) -> str:
        """Title for people."""
        return str(self.content["title"] or self.name)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs, in the order of the experiment."""
        return list(self.content["runs"])

    @property
    def groups(self) -> list[str]:
        """Groups of runs in order; [""] where there is one unnamed group."""
        return list(dict.fromkeys(run["group"] for run in self.runs))

    def curve(self, run: str) -> pd.DataFrame:
        """Curve of one run."""
        return self.curves[self.curves["run"] == run]


def read_experiment(path: Path) -> Experiment:
    """Read a compare folder, or the comparison.json in it.

    Raises:
        UserError: a file is missing, malformed, of another format, or of another comparison.
    """
    path = path / "comparison.json" if path.is_dir() or path.suffix != ".json" else path
    content = read_json(path, "compare the experiment first")
    _check_format(content, path, COMPARISON_FORMAT)
    for key in _NEEDED:
        if key not in content:
            raise UserError(f"{path}: key '{key}' is missing; found: {', '.join(sorted(content))}")
    folder = path.parent
    curves = _read_csv(folder / content["files"]["curves"], _CURVE_COLUMNS)
    table = _read_csv(folder / content["files"]["table"], ("name", "label", "manifest"))
    wanted = {run["name"] for run in content["runs"]}
    for frame, column, name in ((curves, "run", "curves"), (table, "name", "table")):
        lacking = sorted(wanted ^ set(frame[column]))
        if lacking:
            raise UserError(
                f"{folder / content['files'][name]}: is not of the same comparison as {path}: run "
                f"'{lacking[0]}' is in one of them only; compare the experiment again"
            )
    return Experiment(folder, content, curves, table)


def read_figures(folder: Path) -> dict[str, Any]:
    """Read figures.json of a figures folder.

    Raises:
        UserError: it is missing, of another format, or names a file that does not exist.
    """
    path = folder / "figures.json"
    content = read_json(path, "draw the figures first")
    _check_format(content, path, FIGURES_FORMAT)
    for panel in content["panels"]:
        for kind in ("svg", "pdf", "csv"):
            name = panel[kind]
            if name is not None and not (folder / name).is_file():
                raise UserError(f"{path}: names {name}, which does not exist; draw the figures again")
    return content


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file cannot be read (``hint`` says what to do then) or does not hold an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {hint}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; an object was expected")
    return content


def relative_link(target: Path | str, page: Path) -> str:
    """Link from ``page`` to a file, with forward slashes, valid wherever the results folder is moved to."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def _check_format(content: dict[str, Any], path: Path, expected: int) -> None:
    found = content.get("format")
    if found != expected:
        raise UserError(f"{path}: format is {found!r}; this version reads format {expected}. Make it again")


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV with text columns as text and empty numbers as NaN."""
    text = dict.fromkeys(
        ("run", "name", "label", "role", "group", "phase", "stage", "manifest", "missing"), str
    )
    try:
        frame = pd.read_csv(path, dtype={**text, "bag_size": str})
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): compare the experiment again") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: is not a CSV file of the comparison: {error}") from error
    lacking = [column for column in columns if column not in frame]
    if lacking:
        raise UserError(f"{path}: column '{lacking[0]}' is missing; found: {', '.join(frame.columns)}")
    filled = [column for column in text if column in frame]
    return frame.assign(**{column: frame[column].fillna("") for column in filled})
