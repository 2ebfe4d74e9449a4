"""Tables of the page: runs beside the paper's, pairs, grids; each cell with its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tst_titan.paper import SEVEN_TASKS, SOURCE_SHORT
from tst_titan.report.read import Experiment
from tst_titan.report.text import (
    GAP,
    cell_note,
    interval_text,
    metric_name,
    metric_rank,
    number_text,
    signed_text,
    value_text,
)

_BUDGETS = ("steps", "bag_steps")
_READ = ("latents", "data_tokens", "unique_data_tokens", "epochs", "flops", "hours", "device_hours")
_LOSSES = ("final_loss", "heldout_nats_per_token", "heldout_bits_per_byte")
_HEADS = {
    "bag_steps": "Bag steps", "unique_data_tokens": "Unique tokens", "hours": "Time", "device_hours": "Device time",
    "heldout_nats_per_token": "Held-out loss", "heldout_bits_per_byte": "Bits per byte",
    "average_accuracy": "Average of 7",
}  # fmt: skip
_WINNERS = {"run": "run ahead", "reference": "reference ahead", "undecided": "undecided"}
Number = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One table cell.

    Attributes:
        text: what is shown.
        value: the exact value, for scripts and tests; None where there is none.
        note: shown on hover: exact value, interval, method, files.
        small: shown below in small type.
        lines: further lines of a cell that says several things.
        gap: number of the gap's reason below the table; None where the cell has a value.
        metric: name in comparison.json.
    """

    text: str
    value: float | None = None
    note: str = ""
    small: str = ""
    lines: tuple[str, ...] = ()
    gap: int | None = None
    metric: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its head, where its numbers come from, its cells; ``kind`` is "run" or "published"."""

    kind: str
    head: str
    sources: tuple[str, ...]
    cells: list[Cell]
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        reasons: why cells are empty, in the order of ``Cell.gap`` (1 is the first).
        methods: how each column was computed, where a number says so.
    """

    heads: list[str]
    rows: list[Row]
    reasons: list[str]
    methods: list[tuple[str, str]]


def run_table(experiment: Experiment) -> Table:
    """All runs, like the paper's tables 1 and 3, each followed by the paper's numbers for it."""
    runs = experiment.runs
    metrics = _metrics(runs)
    several_groups, several_seeds = len(experiment.groups) > 1, len({run["seed"] for run in runs}) > 1
    reasons: list[str] = []
    rows = []
    for run in runs:
        head = run["label"] + (f" · {run['group']}" if several_groups and run["group"] else "")
        head += f" · seed {run['seed']}" if several_seeds else ""
        cells = [_bag_size_cell(run) if name == "bag_size" else _cell(run, name, reasons) for name in metrics]
        rows.append(Row("run", head, (run["manifest"],), cells, run["name"]))
        if run["published"]:
            cells = [_published_cell(run, name) for name in metrics]
            sources = _published_sources(run, metrics)
            rows.append(Row("published", "the paper's, at its size", sources, cells, run["name"]))
    heads = ["Bag size" if name == "bag_size" else _HEADS.get(name, metric_name(name)) for name in metrics]
    return Table(heads, rows, reasons, _methods(runs, metrics))


def pair_table(experiment: Experiment) -> Table | None:
    """Every run against its references: equal FLOPs, data and loss, evaluations, the switch; None without pairs."""
    pairs = experiment.content["pairs"]
    if not pairs:
        return None
    labels = {run["name"]: run["label"] for run in experiment.runs}
    names = {run["name"]: run for run in experiment.runs}
    repeated = len(set(labels.values())) < len(labels)
    rows = []
    for pair in pairs:
        who = (
            [pair["run"], pair["reference"]] if repeated else [labels[pair["run"]], labels[pair["reference"]]]
        )
        cells = [
            _budget_cell(pair["equal_flops"], "equal_flops"),
            _budget_cell(pair["equal_data"], "equal_data"),
            _equal_loss_cell(pair["equal_loss"]),
            _scored_cell(pair["heldout"], "heldout"),
            _scored_cell(pair["accuracy"], "accuracy"),
            _switch_cell(pair["switch"]),
        ]
        manifests = (names[pair["run"]]["manifest"], names[pair["reference"]]["manifest"])
        rows.append(Row("run", f"{who[0]} against {who[1]}", manifests, cells))
    heads = ["Equal FLOPs", "Equal data", "Equal loss: speed-up", "Held-out loss", "Average of 7", "Switch"]
    return _without_empty(Table(heads, rows, [], []))


def grid_tables(experiment: Experiment) -> list[dict[str, Any]]:
    """One table a group and metric: bag sizes down, bag fractions across, the paper's value below ours."""
    tables = []
    for grid in sorted(experiment.content["grids"], key=lambda grid: metric_rank(grid["metric"])):
        sizes = sorted({cell["bag_size"] for cell in grid["cells"]})
        fractions = sorted({cell["bag_fraction"] for cell in grid["cells"]})
        cells = {(cell["bag_size"], cell["bag_fraction"]): cell for cell in grid["cells"]}
        best = grid["best"] and (grid["best"]["bag_size"], grid["best"]["bag_fraction"])
        rows = [
            {"head": f"{size:g}", "cells": [_grid_cell(cells.get((size, r))) for r in fractions],
             "best": [(size, r) == best for r in fractions]}
            for size in sizes
        ]  # fmt: skip
        tables.append(
            {
                "title": metric_name(grid["metric"]) + (f" · {grid['group']}" if grid["group"] else ""),
                "metric": grid["metric"],
                "fractions": [f"{r:g}" for r in fractions],
                "rows": rows,
                "baseline": _plain_cell(grid["baseline"]),
                "published_baseline": number_text(grid["published_baseline"]),
                "paper": sorted(
                    {s for c in grid["cells"] if c["published"] for s in c["published"]["sources"]}
                ),
                "gaps": sorted({c["value"]["reason"] for c in grid["cells"] if c["value"]["value"] is None}),
            }
        )
    return tables


def _metrics(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Columns in the order of the paper's tables; evaluations that no run has are left out."""
    found = {name for run in runs for name, number in run["metrics"].items() if number["value"] is not None}
    tasks = {name for name in found if name.startswith("accuracy/")}
    seven = [f"accuracy/{task}" for task in SEVEN_TASKS]
    ordered = [name for name in seven if name in tasks] + sorted(tasks - set(seven))
    losses = [*_LOSSES[:1], *(["final_bag_loss"] if "final_bag_loss" in found else []), *_LOSSES[1:]]
    return [
        *_BUDGETS,
        "bag_size",
        *(name for name in _READ if _says_more(runs, name)),
        *losses,
        *(m for m in ("average_accuracy", *ordered, "mmlu") if m in found),
    ]


def _published_sources(run: dict[str, Any], metrics: Sequence[str]) -> tuple[str, ...]:
    """Where the paper's numbers of a row are from, the paper named once: "arXiv ..., table 4", "table 8"."""
    shown = [number for name, number in run["published"].items() if name in metrics]
    sources = list(dict.fromkeys(source for number in shown for source in number["sources"]))
    first = sources[:1]
    return tuple(first + [source.removeprefix(f"{SOURCE_SHORT}, ") for source in sources[1:]])


def _says_more(runs: Sequence[dict[str, Any]], metric: str) -> bool:
    """Whether a column differs from the one that it would repeat: unique from data tokens, device time from time."""
    repeats = {"unique_data_tokens": "data_tokens", "epochs": "data_tokens", "device_hours": "hours"}
    if metric not in repeats:
        return True
    if metric == "epochs":
        return any(run["metrics"][metric]["value"] > 1 for run in runs)
    return any(run["metrics"][metric]["value"] != run["metrics"][repeats[metric]]["value"] for run in runs)


def _cell(run: dict[str, Any], metric: str, reasons: list[str]) -> Cell:
    """One number of a run; a gap is numbered and its reason collected."""
    number = run["metrics"].get(metric)
    if number is not None and number["value"] is not None:
        return _plain_cell(number, metric)
    if metric == "final_bag_loss":
        return Cell("", metric=metric)
    reason = "not among this run's evaluated tasks" if number is None else number["reason"]
    if reason not in reasons:
        reasons.append(reason)
    return Cell(GAP, None, f"no value: {reason}", gap=reasons.index(reason) + 1, metric=metric)


def _plain_cell(number: Number | None, metric: str = "") -> Cell:
    """A number with its error below it where it has one."""
    if number is None:
        return Cell(GAP, None, "", metric=metric)
    small = "" if number["stderr"] is None else f"± {value_text(number['stderr'], number['unit'])}"
    return Cell(number_text(number), number["value"], cell_note(number), small, metric=metric)


def _bag_size_cell(run: dict[str, Any]) -> Cell:
    """Bag sizes in the order in which they were trained; 1 for a baseline."""
    sizes = " → ".join(f"{size:g}" for size in run["bag_sizes"]) or "1"
    return Cell(sizes, None, f"bag sizes of the stages of {run['manifest']}", metric="bag_size")


def _published_cell(run: dict[str, Any], metric: str) -> Cell:
    """The paper's number; empty where it gives none."""
    number = run["published"].get(metric)
    if metric == "hours" and number is None:
        number = run["published"].get("device_hours")  # its unit, B200-hours, is written out
    return Cell("", metric=metric) if number is None else _plain_cell(number, metric)


def _methods(runs: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[tuple[str, str]]:
    """How the columns were computed, by the first run that says so."""
    found = []
    for metric in metrics:
        numbers = [run["metrics"][metric] for run in runs if metric in run["metrics"]]
        methods = list(dict.fromkeys(number["method"] for number in numbers if number["method"]))
        if methods:
            found.append((metric_name(metric), "; ".join(methods[:3])))
    return found


def _budget_cell(found: dict[str, Any], metric: str) -> Cell:
    """Difference at equal FLOPs or data, both losses below it."""
    number = found["difference"]
    if number["value"] is None:
        return Cell(GAP, None, number["reason"] or "", lines=(number["reason"] or "",), metric=metric)
    lines = [f"{number_text(found['run_loss'])} against {number_text(found['reference_loss'])}"]
    lines += [interval_text(number)] if interval_text(number) else []
    if not found["fair"]:
        lines.append("read inside a curve: favours the shorter run")
    lines.append(_WINNERS.get(found["winner"] or "undecided", ""))
    note = f"{found['note']}; {cell_note(number)}"
    return Cell(signed_text(number), number["value"], note, lines=tuple(lines), metric=metric)


def _equal_loss_cell(found: dict[str, Any] | None) -> Cell:
    """The speed-up in every budget, or plainly "not reached"."""
    if found is None:
        return Cell("", metric="equal_loss")
    bound = {"at_least": "at least ", "at_most": "at most ", None: ""}[found["bound"]]
    known = {name: number for name, number in found["speedup"].items() if number["value"] is not None}
    steps = found["speedup"]["steps"]
    lines = []
    for name, number in known.items():
        interval = f" ({interval_text(number)})" if interval_text(number) else ""
        words = {"steps": "steps", "flops": "FLOPs", "data_tokens": "data tokens", "hours": "hours"}[name]
        lines.append(f"{bound}{number_text(number)} in {words}{interval}")
    text = f"{bound}{number_text(steps)}" if found["status"] == "reached" else "not reached"
    note = f"{found['note']}; {cell_note(steps)}"
    return Cell(text, steps["value"], note, lines=tuple(lines), metric="equal_loss")


def _scored_cell(found: dict[str, Any], metric: str) -> Cell:
    """Difference of an evaluation."""
    number = found["difference"]
    if number["value"] is None:
        return Cell(GAP, None, cell_note(number), metric=metric)
    lines = [interval_text(number)] if interval_text(number) else []
    lines.append(_WINNERS.get(found["winner"] or "undecided", ""))
    return Cell(signed_text(number), number["value"], cell_note(number), lines=tuple(lines), metric=metric)


def _switch_cell(found: dict[str, Any] | None) -> Cell:
    """Height of the spike at the switch and the steps to recover."""
    if found is None:
        return Cell("", metric="switch")
    height, recovered = found["height_over_reference"], found["steps_to_recover"]
    lines = [f"at step {found['step']:,}"]
    if recovered["value"] is None:
        lines.append(f"not recovered: {recovered['reason']}")
    else:
        lines.append(f"recovers after {number_text(recovered)} steps")
    return Cell(signed_text(height), height["value"], cell_note(height), lines=tuple(lines), metric="switch")


def _grid_cell(cell: dict[str, Any] | None) -> Cell:
    """Ours, and the paper's below it."""
    if cell is None:
        return Cell("")
    small = f"paper {number_text(cell['published'])}" if cell["published"] is not None else ""
    note = cell_note(cell["value"]) + ("; a bag loss: not comparable" if cell["bag_loss_only"] else "")
    text = number_text(cell["value"]) + (" (bag)" if cell["bag_loss_only"] and cell["value"]["value"] else "")
    return Cell(text, cell["value"]["value"], note, small)


def _without_empty(table: Table) -> Table:
    """The table without columns in which no row says anything."""
    kept = [
        i
        for i in range(len(table.heads))
        if any(row.cells[i].text not in ("", GAP) or row.cells[i].lines for row in table.rows)
    ]
    rows = [Row(r.kind, r.head, r.sources, [r.cells[i] for i in kept], r.name) for r in table.rows]
    return Table([table.heads[i] for i in kept], rows, table.reasons, table.methods)
