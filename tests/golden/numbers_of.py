"""Comparisons as flat rows, and the golden files: ``python tests/golden/numbers_of.py RESULTS`` makes them.

``results.tar.xz`` holds what comparisons read; ``numbers.csv.xz`` one row a number, in no program's own format.
Both were made from what commit 6d325f6 left: all experiments at scale smoke, and the demo.
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
from pathlib import Path
from typing import Any

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
    """One row; ``number`` is a number of comparison.json or a plain one."""
    row: Row = dict.fromkeys(COLUMNS, "") | {
        "experiment": experiment,
        "part": part,
        "metric": metric,
        "text": text,
    }
    row |= {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in where.items()}
    if isinstance(number, dict):
        row |= {key: number[key] for key in (*NUMBERS, "unit", "reason")}
        row["sources"] = "|".join(sorted(number["sources"]))
    else:
        row["value"] = number
    return row


def rows_of(folder: Path) -> Iterator[Row]:
    """Every number of one comparison."""
    found = json.loads((folder / "comparison.json").read_text())
    name = f"{found['scale']}/{found['experiment']}"
    for run in found["runs"]:
        for part, metrics in (("run", run["metrics"]), ("paper", run["published"])):
            for metric, number in metrics.items():
                yield place(name, part, metric, number, group=run["group"], run=run["name"])
    for pair in found["pairs"]:
        yield from pair_rows(name, pair)
    for item in found["seeds"]:
        where = {key: item[key] for key in ("group", "run", "reference")}
        for key in ("mean_reference", "mean_run", "difference"):
            n = {
                "mean_reference": item["n_reference"],
                "mean_run": item["n_run"],
                "difference": item["paired"],
            }[key]
            yield place(name, "seeds", f"{item['metric']}.{key}", item[key], str(n), **where)
    for grid in found["grids"]:
        yield from grid_rows(name, grid)
    for sweep in found["sweeps"]:
        group = sweep["group"]
        for series in sweep["series"]:
            for point in series["points"]:
                text = point["run"] + (" best" if point == series["best"] else "")
                text += " at the edge" if point == series["best"] and series["best_at_edge"] else ""
                where = {"group": group, "run": series["name"], "x": float(point["x"])}
                yield place(name, "sweep", "final_loss", point["value"], text, **where)
        for gap in sweep["differences"]:
            where = {"group": group, "run": gap["series"], "x": float(gap["x"])}
            yield place(name, "sweep", "difference", gap["difference"], **where)
        for series, number in sweep["best_against_best"].items():
            yield place(name, "sweep", "best_difference", number, group=group, run=series)
    for item in found["transfer"]:
        where = {"group": item["group"], "run": item["run"], "x": item["bag_size"], "y": item["bag_fraction"]}
        yield place(name, "transfer", "baseline_steps", item["baseline_steps"], **where)
        worth = item["token_steps_per_bag_step"]
        yield place(name, "transfer", "worth", worth, item["bound"] or item["status"], **where)
        if item["published"]:
            yield place(name, "transfer", "paper.worth", item["published"], **where)
    for number, sentence in enumerate(found["verdict"]):
        said = " ".join(numbers_in(sentence["text"]))
        yield place(name, "verdict", sentence["kind"], None, said, x=number)


def pair_rows(name: str, pair: dict[str, Any]) -> Iterator[Row]:
    """Every number of a run against a reference."""
    where = {key: pair[key] for key in ("group", "run", "reference")}

    def row(metric: str, number: Any, text: Any = "") -> Row:
        return place(name, "pair", metric, number, str(text), **where)

    for what in ("equal_flops", "equal_data"):
        found = pair[what]
        for key in ("reference_loss", "run_loss", "difference", "ratio"):
            said = f"{found['winner']} fair={found['fair']}" if key == "difference" else ""
            yield row(f"{what}.{key}", found[key], said)
    for what, short in (("equal_loss", "equal_loss"), ("run_reaches_reference", "reaches")):
        if pair[what] is not None:
            for kind in ("at", "speedup"):
                for budget, number in pair[what][kind].items():
                    said = f"{pair[what]['bound']} {pair[what]['status']}"
                    yield row(f"{short}.{kind}.{budget}", number, said)
    yield row("heldout.difference", pair["heldout"]["difference"], pair["heldout"]["winner"])
    yield row("accuracy.difference", pair["accuracy"]["difference"], pair["accuracy"]["winner"])
    for key, number in (pair["switch"] or {}).items():
        yield row(f"switch.{key}", number)


def grid_rows(name: str, grid: dict[str, Any]) -> Iterator[Row]:
    """Every number of a grid."""
    metric, group = grid["metric"], grid["group"]

    def row(what: str, number: Any, text: str = "", **where: Any) -> Row:
        return place(name, "grid", f"{metric}{what}", number, text, group=group, **where)

    for what, key in (("", "baseline"), (".paper", "published_baseline")):
        if grid[key] is not None:
            yield row(what, grid[key], x=1.0, y=0.0)
    for cell in grid["cells"]:
        where = {"x": cell["bag_size"], "y": cell["bag_fraction"]}
        text = " ".join(cell["runs"]) + (" bag" if cell["bag_loss_only"] else "")
        yield row("", cell["value"], text, **where)
        for what, key in ((".gain", "gain"), (".paper", "published"), (".paper_gain", "published_gain")):
            if cell[key] is not None:
                yield row(what, cell[key], **where)
    for what, key in ((".best", "best"), (".paper_best", "published_best")):
        if grid[key] is not None:
            yield row(what, None, x=grid[key]["bag_size"], y=grid[key]["bag_fraction"])
    yield row(".rank_correlation", grid["rank_correlation"])
    yield row(".cells_in_common", grid["cells_in_common"])
    for key, number in (grid["beats_baseline"] or {}).items():
        yield row(f".beats.{key}", number)


def table_rows(path: Path) -> Iterator[Row]:
    """Every cell of one of the paper's tables."""
    for cell in csv.DictReader(io.StringIO(path.read_text())):
        where: Row = {"run": cell["runs"], "x": float(cell["bag_size"]), "y": float(cell["bag_fraction"])}
        found = {key: float(cell[key]) if cell.get(key) else None for key in NUMBERS}
        number = found | {
            "unit": cell["unit"],
            "reason": cell["reason"],
            "sources": cell["sources"].split("; "),
        }
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
