"""One experiment, compared: its numbers (table.csv), its facts (comparison.json) and its curves (curves.csv)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tst_titan.compare.numbers import ON_HELDOUT, Number, from_csv, to_csv
from tst_titan.compare.spec import Heading, RunHeading
from tst_titan.compare.stages import StageFacts
from tst_titan.config.load import parse
from tst_titan.config.schema import Strict
from tst_titan.errors import UserError
from tst_titan.files import read_object, write_atomically

FORMAT = 2
CURVE_HEAD = ("run", "label", "role", "seed", "group", "measured_on")
TRAINING, HELDOUT = "training", "heldout"
_DRAWN = ("phase", "bag_size", "step", "data_tokens", "flops", "hours", "loss", "smoothed", "comparable")


class RunFacts(RunHeading):
    """What is known of a run besides numbers.

    Attributes:
        bag_sizes: of its bag stages, in order, each change once.
        bag_loss_only: it ends in its bag phase: it has no loss that others can be compared with.
        parameters: of its model, from the manifest; None where that does not say.
        limited: tasks that were scored on a part of their items.
    """

    bag_sizes: tuple[int, ...]
    bag_loss_only: bool
    stages: tuple[StageFacts, ...]
    parameters: int | None
    device: str
    data_identity: str
    limited: tuple[str, ...] = ()

    @property
    def manifest(self) -> str:
        """Path of the last stage's manifest."""
        return self.stages[-1].manifest

    @property
    def model(self) -> tuple[object, ...]:
        """What tells models apart: parameters and width. Runs of two models are never compared."""
        return (self.parameters, self.axes.get("width"))


SentenceKind = Literal["caveat", "result", "reproduction", "noise", "warning", "gap"]


class Sentence(Strict):
    """One sentence of the verdict and what sort of statement it is."""

    kind: SentenceKind
    text: str


class Facts(Heading):
    """comparison.json: everything that is no number."""

    format: Literal[2] = 2
    runs: tuple[RunFacts, ...]
    answer: str = ""
    verdict: tuple[Sentence, ...] = ()


@dataclass(frozen=True)
class Results:
    """One experiment, compared.

    Attributes:
        numbers: the table, see ``tst_titan.compare.numbers``.
        curves: one row a thinned logged step or a measurement on held-out text, as ``measured_on`` says:
            ``CURVE_HEAD``, the columns of ``tst_titan.compare.curves``, and the ``smoothed`` loss.
        folder: where its files lie.
    """

    facts: Facts
    numbers: Sequence[Number]
    curves: pd.DataFrame
    folder: Path = Path()

    @property
    def name(self) -> str:
        """Name of the experiment, e.g. figure_3."""
        return self.facts.experiment

    @property
    def scale(self) -> str:
        """Name of the scale."""
        return self.facts.scale

    @property
    def title(self) -> str:
        """Title for people."""
        return self.facts.title or self.name

    @property
    def runs(self) -> tuple[RunFacts, ...]:
        """The runs, in the order of the experiment."""
        return self.facts.runs

    @cached_property
    def run_named(self) -> dict[str, RunFacts]:
        """The runs by name."""
        return {run.name: run for run in self.runs}

    @property
    def groups(self) -> list[str]:
        """Groups of runs in order; [""] where there is one unnamed group."""
        return list(dict.fromkeys(run.group for run in self.runs))

    def select(self, part: str, **place: Any) -> list[Number]:
        """Rows of a part in order, those with these values in these columns."""
        return [
            number
            for number in self._parts.get(part, ())
            if all(getattr(number, column) == value for column, value in place.items())
        ]

    def best(self, part: str, **place: Any) -> list[Number]:
        """The same, without the numbers of training losses that there are of held-out losses too."""
        rows = self.select(part, **place)
        better = {(row.group, row.run, row.reference, row.base) for row in rows if row.on_heldout}
        return [row for row in rows if (row.group, row.run, row.reference, row.metric) not in better]

    def of_pair(self, run: str, reference: str) -> dict[str, Number]:
        """What is known best of a pair, by metric."""
        return {row.base: row for row in self.best("pair", run=run, reference=reference)}

    def get(self, part: str, run: str, metric: str, reference: str = "") -> Number | None:
        """The number of a run (or variant), against a reference if the part has any; None if there is no such row."""
        return self._index.get((part, run, reference, metric))

    def metrics(self, run: str, part: str = "run") -> dict[str, Number]:
        """All numbers of a run by metric, or the paper's for it."""
        return self._of_run.get((part, run), {})

    def value(self, run: str, metric: str) -> float | None:
        """A run's own number; None where there is none."""
        number = self.get("run", run, metric)
        return None if number is None else number.value

    def pairs(self) -> list[tuple[RunFacts, RunFacts]]:
        """(reference, run) of every pair that was compared, in order."""
        found = dict.fromkeys((number.reference, number.run) for number in self._parts.get("pair", ()))
        return [(self.run_named[reference], self.run_named[run]) for reference, run in found]

    def curve(self, run: str, measured_on: str = TRAINING) -> pd.DataFrame:
        """Curve of one run."""
        return self.curves[(self.curves["run"] == run) & (self.curves["measured_on"] == measured_on)]

    def measured_on(self, runs: Iterable[RunFacts]) -> str:
        """The losses that the curves of these runs are read by: held-out ones where all of them have some."""
        return HELDOUT if all(len(self.curve(run.name, HELDOUT)) for run in runs) else TRAINING

    def final_loss(self, runs: Iterable[RunFacts]) -> str:
        """The metric of these runs' final losses, of the same kind as their curves."""
        return f"{ON_HELDOUT}final_loss" if self.measured_on(runs) == HELDOUT else "final_loss"

    @cached_property
    def _parts(self) -> dict[str, list[Number]]:
        found: dict[str, list[Number]] = {}
        for number in self.numbers:
            found.setdefault(number.part, []).append(number)
        return found

    @cached_property
    def _index(self) -> dict[tuple[str, str, str, str], Number]:
        return {(n.part, n.run, n.reference, n.metric): n for n in reversed(self.numbers)}

    @cached_property
    def _of_run(self) -> dict[tuple[str, str], dict[str, Number]]:
        found: dict[tuple[str, str], dict[str, Number]] = {}
        for number in self.numbers:
            if number.part in ("run", "paper"):
                found.setdefault((number.part, number.run), {})[number.metric] = number
        return found


def write_results(results: Results, folder: Path) -> None:
    """Write table.csv, curves.csv and, last, comparison.json; each appears whole or not at all."""
    write_atomically(folder / "table.csv", to_csv(results.numbers))
    write_atomically(folder / "curves.csv", results.curves.to_csv(index=False, float_format="%.8g"))
    text = json.dumps(results.facts.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(folder / "comparison.json", text + "\n")


def read_results(path: Path) -> Results:
    """Read a compare folder, or the comparison.json in it.

    Raises:
        UserError: a file is missing, malformed, of another format, or of another comparison.
    """
    path = path / "comparison.json" if path.is_dir() or path.suffix != ".json" else path
    content = read_object(path, "compare the experiment first")
    check_format(content, path, FORMAT)
    facts = parse(Facts, content, path)
    folder = path.parent
    curves = _read(folder / "curves.csv", _read_curves)
    numbers = _read(folder / "table.csv", lambda file: from_csv(file.read_text(encoding="utf-8")))
    wanted = {run.name for run in facts.runs}
    there = {"curves.csv": set(curves["run"]), "table.csv": {n.run for n in numbers if n.part == "run"}}
    for name, found in there.items():
        if lacking := sorted(wanted ^ found):
            raise UserError(
                f"{folder / name}: is not of the same comparison as {path}: run '{lacking[0]}' is in one of them "
                "only; compare the experiment again"
            )
    return Results(facts, numbers, curves, folder)


def check_format(content: dict[str, Any], path: Path, expected: int) -> None:
    """Refuse a file of another version of this program."""
    if (found := content.get("format")) != expected:
        raise UserError(f"{path}: format is {found!r}; this version reads format {expected}. Make it again")


def _read(path: Path, reader: Any) -> Any:
    """What ``reader`` makes of a file."""
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): compare the experiment again") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is not a file of the comparison: {error}") from error


def _read_curves(path: Path) -> pd.DataFrame:
    text = ("run", "label", "role", "group", "measured_on", "phase", "stage")
    frame = pd.read_csv(
        path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values={"lr": "", "grad_norm": ""}
    )
    if "measured_on" not in frame:  # written before stages measured held-out losses
        frame["measured_on"] = TRAINING
    if lacking := [column for column in (*CURVE_HEAD, *_DRAWN) if column not in frame]:
        raise ValueError(f"column '{lacking[0]}' is missing; found: {', '.join(frame.columns)}")
    return frame
