"""Comparisons as flat rows, and the golden files: ``python tests/golden/numbers_of.py RESULTS`` makes them.

``results.tar.xz`` holds what comparisons read; ``numbers.csv.xz`` one row a number, in no program's own format.
Both were made from what commit 6d325f6 left: all experiments at scale smoke, and the demo. Changed since, because it
was wrong: training losses over seeds, which end on different text, are no longer paired (smoke/seeds).
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tst_titan.compare import read_results
from tst_titan.compare.kinds.grid import grids_of
from tst_titan.compare.numbers import Number

HERE = Path(__file__).parent
INPUTS = (
    "manifest.json", "stage.yaml", "metrics.jsonl", "heldout.json", "heldout_documents.csv", "tasks.json", "spec.yaml",
    "mutual_information.json",
)  # fmt: skip
COLUMNS = (
    "experiment", "part", "group", "run", "reference", "x", "y", "metric", "value", "stderr", "low", "high", "unit",
    "reason", "text", "sources",
)  # fmt: skip
NUMBERS = ("value", "stderr", "low", "high")
KEY = ("experiment", "part", "group", "run", "reference", "x", "y", "metric")
Row = dict[str, Any]


def place(experiment: str, part: str, metric: str, number: Any = None, text: str = "", **where: Any) -> Row:
    """One row; ``number`` is a row of the table or a plain number."""
    row: Row = dict.fromkeys(COLUMNS, "") | {
        "experiment": experiment,
        "part": part,
        "metric": metric,
        "text": text,
    }
    row |= {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in where.items()}
    if isinstance(number, Number):
        row |= {key: getattr(number, key) for key in (*NUMBERS, "unit", "reason")}
        row["sources"] = "|".join(sorted(number.sources))
    else:
        row["value"] = number
    return row


def rows_of(folder: Path) -> Iterator[Row]:
    """Every number of one comparison."""
    results = read_results(folder)
    name = f"{results.facts.scale}/{results.facts.experiment}"
    grids = grids_of(results)
    for number in results.numbers:
        where: Row = {"group": number.group, "run": number.run, "reference": number.reference}
        if number.part in ("grid", "sweep", "transfer"):
            first = number.x if number.part == "sweep" else number.bag_size
            where |= {"x": "" if first is None else first}
            where |= {"y": "" if number.bag_fraction is None else number.bag_fraction}
        shown: Any = number
        text = ""
        metric = number.metric
        if number.part == "pair":
            what, _, key = metric.partition(".")
            if what in ("equal_flops", "equal_data") and key == "difference":
                text = f"{number.winner or None} fair={number.exists and not number.bound}"
            elif what in ("equal_loss", "reaches"):
                at = results.get("pair", number.run, f"{what}.at.steps", number.reference)
                text = f"{number.bound or None} {'reached' if at and at.exists else 'not_reached'}"
            elif what in ("heldout", "accuracy"):
                text = str(number.winner or None)
            if key in ("ratio", "step"):
                shown = number.value
        elif number.part == "seeds":
            text = str(number.note == "paired")
            if not metric.endswith(".difference"):
                text, shown = str(number.n), replace(number, stderr=None)  # which 6d325f6 did not write
        elif number.part == "grid":
            if metric.endswith((".best", ".paper_best")):
                shown = None
            elif number.unit == "cells":
                shown = number.value
            elif (number.group, metric) in grids and number.bag_size != 1:
                text = " ".join(number.runs)
                text += " bag" if results.run_named[number.runs[0]].bag_loss_only else ""
        elif number.part == "sweep":
            if metric == "best":
                continue
            if metric == "final_loss":
                (best,) = results.select("sweep", group=number.group, run=number.run, metric="best") or (
                    None,
                )
                is_best = best is not None and best.x == number.x
                text = number.runs[0] + (" best" if is_best else "")
                text += " at the edge" if is_best and best is not None and best.note else ""
        elif metric == "worth":
            at = results.get("transfer", number.run, "baseline_steps")
            text = number.bound or ("reached" if at and at.exists else "not_reached")
        yield place(name, number.part, metric, shown, text, **where)
    for position, sentence in enumerate(results.facts.verdict):
        said = " ".join(numbers_in(sentence.text))
        yield place(name, "verdict", sentence.kind, None, said, x=position)


def table_rows(path: Path) -> Iterator[Row]:
    """Every cell of one of the paper's tables."""
    for cell in csv.DictReader(io.StringIO(path.read_text())):
        where: Row = {"run": cell["runs"], "x": float(cell["bag_size"]), "y": float(cell["bag_fraction"])}
        found: Row = {key: float(cell[key]) if cell.get(key) else None for key in NUMBERS}
        reason = cell["reason"] or ("" if cell["value"] else "none")
        number = Number(**found, unit=cell["unit"], reason=reason, sources=tuple(cell["sources"].split("; ")))
        table = f"{path.parent.name}/{path.stem}"
        yield place(table, "table", "value", number, cell["bag_loss"], **where)
        yield place(
            table, "table", "published", float(cell["published"]) if cell["published"] else None, **where
        )


def panel_rows(path: Path) -> Iterator[Row]:
    """The numbers that the captions of a figure without runs give."""
    found = json.loads(path.read_text())
    for panel in found["panels"]:
        said = " ".join(numbers_in(panel["caption"] + panel["alt"]))
        yield place(f"{found['scale']}/{found['experiment']}", "panel", panel["name"], None, said)


def numbers_in(text: str) -> list[str]:
    """The numbers of a sentence, as written."""
    return re.findall(r"\d+(?:[.,]\d+)*(?:e[+-]\d+)?", text)


def compared(results: Path) -> Iterator[Row]:
    """Every number of a results folder that holds comparisons and tables."""
    for path in sorted(results.glob("compare/*/*/comparison.json")):
        yield from rows_of(path.parent)
    for path in sorted(results.glob("tables/*/*.csv")):
        yield from table_rows(path)
    for path in sorted(results.glob("figures/*/figure_10/figures.json")):
        yield from panel_rows(path)


def make(results: Path) -> None:
    """Write the golden files from a results folder, as ``snakemake`` left it."""
    files = sorted(
        path for path in results.rglob("*") if path.name in INPUTS and "checkpoint" not in path.parts
    )
    with tarfile.open(HERE / "results.tar.xz", "w:xz", preset=9) as archive:
        for path in files:
            if path.name == "spec.yaml" and not (path.parent / "comparison.json").exists():
                continue
            info = tarfile.TarInfo(f"results/{path.relative_to(results).as_posix()}")
            info.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(info, content)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(compared(results))
    (HERE / "numbers.csv.xz").write_bytes(lzma.compress(text.getvalue().encode(), preset=9))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
