"""One of the paper's tables over bag size and bag fraction, ours beside its cells, as CSV and as a page of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan import paper
from tst_titan.compare.evaluations import NOT_SCORED
from tst_titan.compare.kinds.grid import BAG_LOSS, grids_of
from tst_titan.compare.metrics import metric_of
from tst_titan.compare.numbers import Number, missing
from tst_titan.compare.results import Results
from tst_titan.compare.spec import TableReference
from tst_titan.errors import UserError
from tst_titan.report.html import template
from tst_titan.report.tables import Grid, grid_cell
from tst_titan.report.text import number_text

NOT_RUN = "not in this scale's grid"
_COLUMNS = (
    "bag_size", "bag_fraction", "value", "low", "high", "unit", "bag_loss", "published", "reason", "runs", "sources",
)  # fmt: skip
Place = tuple[float, float]
BASELINE_PLACE = (1.0, 0.0)


@dataclass(frozen=True)
class Entry:
    """One cell: our number, None where no run of ours has the place, and the paper's."""

    place: Place
    ours: Number | None
    published: Number | None

    @property
    def bag_loss(self) -> bool:
        """Whether ours is a bag loss."""
        return self.ours is not None and self.ours.note == BAG_LOSS

    @property
    def reason(self) -> str:
        """Why there is no number of ours; empty where there is one."""
        return NOT_RUN if self.ours is None else self.ours.reason

    def row(self) -> dict[str, Any]:
        """As a row of the CSV."""
        ours = self.ours or missing(NOT_RUN)
        return {
            "bag_size": f"{self.place[0]:g}", "bag_fraction": f"{self.place[1]:g}", "value": ours.value,
            "low": ours.low, "high": ours.high, "unit": (self.published or ours).unit, "bag_loss": self.bag_loss,
            "published": self.published and self.published.value, "reason": self.reason, "runs": " ".join(ours.runs),
            "sources": "; ".join(ours.sources),
        }  # fmt: skip


def entries(experiment: Results, name: str) -> list[Entry]:
    """The cells of a table, ours and the paper's, in the order of bag size and bag fraction.

    Raises:
        UserError: the comparison has no such table.
    """
    tables = experiment.facts.tables
    if name not in tables:
        known = ", ".join(tables) or "no tables of the paper"
        raise UserError(f"{experiment.name} has no {name}; it has: {known}")
    ours = _ours(experiment, tables[name])
    published = {}
    if (number := tables[name].number) is not None:
        published = {
            (float(cell["bag_size"]), float(cell["bag_step_ratio"])): Number(
                float(cell["value"]), cell["unit"]
            )
            for cell in paper.published_sweeps(table=number).to_dict("records")
        }
    return [Entry(place, ours.get(place), published.get(place)) for place in sorted({*ours, *published})]


def _ours(experiment: Results, table: TableReference) -> dict[Place, Number]:
    """Our numbers by place: the means of the comparison's grid, or each run's gap where it has none."""
    metric, found = table.metric, dict[Place, Number]()
    runs = [
        run
        for run in experiment.runs
        if run.group == table.group
        and (run.is_baseline or run.axes.get("weighting", "uniform") == table.weighting)
    ]
    for run in runs:
        place = BASELINE_PLACE
        if not run.is_baseline:
            place = (float(run.axes["bag_size"]), float(run.axes["bag_fraction"]))
        is_bag = run.bag_loss_only and metric == "final_loss"
        number = experiment.get("run", run.name, "final_bag_loss" if is_bag else metric) or missing(
            NOT_SCORED
        )
        note = BAG_LOSS if is_bag else number.note
        found.setdefault(place, number.at("run", metric, runs=(run.name,), note=note))
    names = {run.name for run in runs}
    for group, other in grids_of(experiment):
        rows = experiment.select("grid", group=group, metric=metric) if other == metric else []
        if not all(name in names for row in rows if row.bag_size != 1 for name in row.runs):
            continue
        for row in rows:
            place = (row.bag_size or 0.0, row.bag_fraction or 0.0)
            if place == BASELINE_PLACE:
                found[place] = row.at("grid", metric, runs=found[place].runs)
            elif row.exists:
                found[place] = row
    return found


def as_csv(cells: Sequence[Entry]) -> str:
    """One row a cell; numbers as they are, gaps empty with their reason."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(cell.row() for cell in cells)
    return text.getvalue()


def as_html(experiment: Results, name: str, cells: Sequence[Entry], page: Path) -> str:
    """A page with the table: bag sizes down, bag fractions across, the paper's number below ours."""
    table = experiment.facts.tables[name]
    swept = {cell.place: cell for cell in cells if cell.place != BASELINE_PLACE}
    baseline = next(
        (cell for cell in cells if cell.place == BASELINE_PLACE), Entry(BASELINE_PLACE, None, None)
    )
    model = ""
    if table.number is not None:
        first = paper.published_sweeps(table=table.number).iloc[0]
        model = f"{first['model']}, {first['total_steps']:,} steps"
    grid = Grid(
        title=f"{name.replace('_', ' ').capitalize()}: {metric_of(table.metric).label.lower()}",
        metric=table.metric,
        cells={place: grid_cell(cell.ours, cell.published, whose="") for place, cell in swept.items()},
        best=None,
        baseline="not run" if baseline.ours is None else number_text(baseline.ours),
        published_baseline=number_text(baseline.published),
        paper=[f"{model}: {paper.SOURCE_SHORT}, table {table.number}"] if model else [],
        gaps=list(dict.fromkeys(cell.reason for cell in cells if cell.ours is not None and cell.reason)),
    )
    return template("published_table.html", page).render(
        grid=grid,
        content=experiment.facts,
        group=table.group,
        name=name,
        ours=sum(cell.ours is not None and cell.ours.exists for cell in swept.values()),
        theirs=sum(cell.published is not None for cell in swept.values()),
    )
