"""One of the paper's tables over bag size and bag fraction, ours beside its cells, as CSV and as a page of its own."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tst_titan import paper
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import write_atomically
from tst_titan.report.read import read_json
from tst_titan.report.text import GAP, cell_note, metric_name, number_text, value_text

_HERE = Path(__file__).parent
NOT_RUN = "not in this scale's grid"
_COLUMNS = (
    "bag_size", "bag_fraction", "value", "low", "high", "unit", "bag_loss", "published", "reason", "runs", "sources",
)  # fmt: skip
Place = tuple[float, float]


@dataclass(frozen=True)
class Entry:
    """One cell: our number (a mapping of comparison.json, its value None for a gap), and the paper's."""

    place: Place
    ours: dict[str, Any] | None
    published: float | None
    unit: str
    bag_loss: bool
    runs: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why there is no number of ours; empty where there is one."""
        if self.ours is None:
            return NOT_RUN
        return "" if self.ours["value"] is not None else str(self.ours["reason"])

    def row(self) -> dict[str, Any]:
        """As a row of the CSV."""
        ours = self.ours or {"value": None, "low": None, "high": None, "sources": ()}
        return {
            "bag_size": f"{self.place[0]:g}", "bag_fraction": f"{self.place[1]:g}", "value": ours["value"],
            "low": ours["low"], "high": ours["high"], "unit": self.unit, "bag_loss": self.bag_loss,
            "published": self.published, "reason": self.reason, "runs": " ".join(self.runs),
            "sources": "; ".join(ours["sources"]),
        }  # fmt: skip


def entries(content: dict[str, Any], name: str) -> list[Entry]:
    """The cells of a table, ours and the paper's, in the order of bag size and bag fraction.

    Raises:
        UserError: the comparison has no such table.
    """
    tables = content["tables"]
    if name not in tables:
        raise UserError(
            f"{content['experiment']} has no {name}; it has: {', '.join(tables) or 'no tables of the paper'}"
        )
    table = tables[name]
    ours = _ours(content, table)
    published = _published(table["number"])
    found = []
    for place in sorted({*ours, *published}):
        number, bag_loss, runs = ours.get(place, (None, False, ()))
        value, unit = published.get(place, (None, number["unit"] if number else ""))
        found.append(Entry(place, number, value, unit, bag_loss, runs))
    return found


def _ours(
    content: dict[str, Any], table: dict[str, Any]
) -> dict[Place, tuple[dict[str, Any], bool, tuple[str, ...]]]:
    """Our numbers by place: the means of the comparison's grid, or each run's gap where it has none."""
    metric = table["metric"]
    runs = {
        run["name"]: run
        for run in content["runs"]
        if run["group"] == table["group"]
        and (run["role"] == "baseline" or run["axes"].get("weighting", "uniform") == table["weighting"])
    }
    found: dict[Place, tuple[dict[str, Any], bool, tuple[str, ...]]] = {}
    for run in runs.values():
        baseline = run["role"] == "baseline"
        place = (1.0, 0.0) if baseline else (run["axes"]["bag_size"], run["axes"]["bag_fraction"])
        bag_loss = run["bag_loss_only"] and metric == "final_loss"
        number = run["metrics"].get("final_bag_loss" if bag_loss else metric)
        missing: dict[str, Any] = {
            "value": None,
            "low": None,
            "high": None,
            "unit": "",
            "method": "",
            "sources": [],
        }
        missing["reason"] = "not among this run's evaluated tasks"
        found.setdefault(place, (number or missing, bag_loss, (run["name"],)))
    for grid in content["grids"]:
        if grid["metric"] != metric or not all(
            name in runs for cell in grid["cells"] for name in cell["runs"]
        ):
            continue
        for cell in grid["cells"]:
            place = (cell["bag_size"], cell["bag_fraction"])
            bag_loss = cell["bag_loss_only"] and metric == "final_loss"
            if cell["value"]["value"] is not None:
                found[place] = (cell["value"], bag_loss, tuple(cell["runs"]))
        if grid["baseline"] is not None:
            found[(1.0, 0.0)] = (grid["baseline"], False, found[(1.0, 0.0)][2])
    return found


def _published(number: int | None) -> dict[Place, tuple[float, str]]:
    """The paper's cells by place, with their unit."""
    if number is None:
        return {}
    rows = paper.published_sweeps(table=number).to_dict("records")
    return {(float(r["bag_size"]), float(r["bag_step_ratio"])): (float(r["value"]), r["unit"]) for r in rows}


def as_csv(cells: Sequence[Entry]) -> str:
    """One row a cell; numbers as they are, gaps empty with their reason."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(cell.row() for cell in cells)
    return text.getvalue()


def as_html(content: dict[str, Any], name: str, cells: Sequence[Entry]) -> str:
    """A page with the table: bag sizes down, bag fractions across, the paper's number below ours."""
    table = content["tables"][name]
    baseline = next((cell for cell in cells if cell.place == (1.0, 0.0)), None)
    swept = [cell for cell in cells if cell.place != (1.0, 0.0)]
    fractions = sorted({cell.place[1] for cell in swept})
    places = {cell.place: cell for cell in swept}
    sizes = sorted({size for size, _ in places})
    rows = [(f"{size:g}", [_shown(places.get((size, fraction))) for fraction in fractions]) for size in sizes]
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.ours is not None and cell.reason)
    ours = sum(cell.ours is not None and cell.ours["value"] is not None for cell in swept)
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("published_table.html").render(
        css=Markup(_HERE.joinpath("page.css").read_text(encoding="utf-8")),
        title=f"{name.replace('_', ' ').capitalize()}: {metric_name(table['metric']).lower()}",
        content=content,
        table=table,
        name=name,
        source=f"{paper.SOURCE_SHORT}, table {table['number']}" if table["number"] else None,
        theirs=_theirs(table["number"]),
        baseline=_shown(baseline),
        fractions=[f"{fraction:g}" for fraction in fractions],
        rows=rows,
        reasons=list(reasons),
        counts=(ours, sum(cell.published is not None for cell in swept)),
    )


def _theirs(number: int | None) -> str:
    """The paper's model and length of a table."""
    if number is None:
        return ""
    first = paper.published_sweeps(table=number).iloc[0]
    return f"{first['model']}, {first['total_steps']:,} steps"


def _shown(cell: Entry | None) -> dict[str, str]:
    """Text of a cell, the paper's below it, and what it says on hover."""
    if cell is None:
        return {"text": "", "paper": "", "note": ""}
    text = "" if cell.ours is None else number_text(cell.ours)
    if cell.bag_loss and text not in ("", GAP):
        text += " (bag)"
    published = value_text(cell.published, cell.unit) if cell.published is not None else ""
    return {"text": text, "paper": published, "note": NOT_RUN if cell.ours is None else cell_note(cell.ours)}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        description="Write one of the paper's tables with our numbers beside its own."
    )
    parser.add_argument(
        "comparison", type=Path, help="comparison.json of the experiment that it is read from"
    )
    parser.add_argument("table", help="its name, e.g. table_4")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--html", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        content = read_json(arguments.comparison, "compare the experiment first")
        cells = entries(content, arguments.table)
        write_atomically(arguments.csv, as_csv(cells))
        write_atomically(arguments.html, as_html(content, arguments.table, cells))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
