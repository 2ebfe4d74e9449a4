"""The table of all runs, like the paper's tables 1 and 3: as a data frame, for CSV, and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from tst_titan.compare.runs import RunData
from tst_titan.paper import SEVEN_TASKS

_BUDGETS = ("steps", "bag_steps")
_READ = ("latents", "data_tokens", "unique_data_tokens", "epochs", "flops", "hours", "device_hours")
_LOSSES = ("final_loss", "final_loss_last", "heldout_nats_per_token", "heldout_bits_per_byte")
_WHOLE = ("steps", "bag_steps", "latents", "data_tokens", "unique_data_tokens")
GAP = "-"


def run_table(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row a run; a number that does not exist is NaN, and ``missing`` says why.

    Columns: group, name, label, role, seed, steps, bag_steps, bag_size (text: "16>8>4" for a curriculum),
    latents, data_tokens, unique_data_tokens, epochs, flops, hours, device_hours, final_loss,
    final_loss_stderr, final_loss_last (nats/token), heldout_nats_per_token, heldout_bits_per_byte,
    average_accuracy, one column a task, mmlu (percent), paper_final_loss, paper_average_accuracy, missing,
    manifest.
    """
    tasks = _tasks(runs)
    rows = [_row(run, tasks) for run in runs]
    frame = pd.DataFrame(rows)
    # Counts stay whole numbers in the CSV, whatever their size.
    for column in _WHOLE:
        frame[column] = frame[column].astype("int64")
    return frame


def gaps(runs: Sequence[RunData]) -> list[dict[str, str]]:
    """Every number that a run lacks: run, metric and reason."""
    tasks = _tasks(runs)
    return [
        {"run": run.name, "metric": column, "reason": reason}
        for run in runs
        for column, reason in _missing(run, tasks).items()
    ]


def table_text(frame: pd.DataFrame) -> str:
    """The table for a terminal: fixed width, gaps as "-", their reasons and the manifests below."""
    shown: list[tuple[str, list[str], bool]] = [("run", [str(name) for name in frame["label"]], False)]
    if frame["seed"].nunique() > 1:
        shown.append(("seed", [str(seed) for seed in frame["seed"]], True))
    if frame["group"].nunique() > 1:
        shown.insert(0, ("group", [str(group) for group in frame["group"]], False))
    for column, (title, form) in _TERMINAL.items():
        if column in frame and not frame[column].isna().all():
            shown.append((title, [_cell(value, form) for value in frame[column]], True))
    lines = _aligned(shown)
    notes = _folded(frame)
    if notes:
        lines += ["", "Not available:", *notes]
    lines += ["", "From:"] + [f"  {row['name']}: {row['manifest']}" for row in frame.to_dict("records")]
    return "\n".join(lines)


def scaled(value: float) -> str:
    """A large count in three digits: 1.05T, 42.0B, 7.5M, 812."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def _row(run: RunData, tasks: Sequence[str]) -> dict[str, object]:
    """One row of the table."""
    lacks = _missing(run, tasks)

    def number(name: str) -> float:
        found = run.metrics.get(name)
        return math.nan if found is None or found.value is None else found.value

    loss = run.metrics["final_loss"]
    row: dict[str, object] = {
        "group": run.spec.group, "name": run.name, "label": run.spec.label, "role": run.spec.role,
        "seed": run.spec.seed,
    } | {name: number(name) for name in _BUDGETS}  # fmt: skip
    row["bag_size"] = ">".join(str(size) for size in run.bag_sizes) or "1"
    row |= {name: number(name) for name in _READ}
    row["final_loss"] = number("final_loss")
    row["final_loss_stderr"] = math.nan if loss.stderr is None else loss.stderr
    row |= {name: number(name) for name in _LOSSES[1:]}
    row["average_accuracy"] = number("average_accuracy")
    row |= {task: number(f"accuracy/{task}") for task in tasks}
    row["mmlu"] = number("mmlu")
    for name in ("final_loss", "average_accuracy"):
        published = run.published.get(name)
        row[f"paper_{name}"] = math.nan if published is None else published.number
    row["missing"] = "; ".join(f"{column}: {reason}" for column, reason in lacks.items())
    row["manifest"] = run.manifest
    return row


def _tasks(runs: Sequence[RunData]) -> list[str]:
    """Tasks that any run was evaluated on: the paper's seven first, then the others by name."""
    found = {name.removeprefix("accuracy/") for run in runs for name in run.metrics if "/" in name}
    return [task for task in SEVEN_TASKS if task in found] + sorted(found - set(SEVEN_TASKS))


def _missing(run: RunData, tasks: Sequence[str]) -> dict[str, str]:
    """Empty cells of a row and the reason for each."""
    wanted = {name: name for name in (*_LOSSES, "average_accuracy", "mmlu")}
    wanted |= {task: f"accuracy/{task}" for task in tasks}
    reasons = {}
    for column, name in wanted.items():
        found = run.metrics.get(name)
        if found is None:
            reasons[column] = "not among this run's evaluated tasks"
        elif found.value is None:
            reasons[column] = found.reason or ""
    return reasons


def _number(digits: int) -> Callable[[float], str]:
    """Format with a fixed number of decimals."""
    return lambda value: f"{value:.{digits}f}"


def _hours(value: float) -> str:
    """Hours with the digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


_TERMINAL: dict[str, tuple[str, Callable[..., str]]] = {
    "steps": ("steps", "{:,}".format),
    "bag_steps": ("bag steps", "{:,}".format),
    "bag_size": ("s", str),
    "latents": ("latents", scaled),
    "data_tokens": ("data tokens", scaled),
    "unique_data_tokens": ("unique", scaled),
    "epochs": ("epochs", _number(2)),
    "flops": ("FLOPs", "{:.3g}".format),
    "hours": ("hours", _hours),
    "final_loss": ("loss", _number(4)),
    "final_loss_stderr": ("+-", _number(4)),
    "heldout_nats_per_token": ("held-out", _number(4)),
    "heldout_bits_per_byte": ("bits/byte", _number(4)),
    "average_accuracy": ("avg of 7", _number(1)),
    "mmlu": ("mmlu", _number(1)),
    "paper_final_loss": ("paper's loss", _number(4)),
    "paper_average_accuracy": ("paper's avg", _number(1)),
}
"""Columns of the terminal's table; other tasks than the seven follow in ``table.csv`` only."""


def _cell(value: object, form: Callable[..., str]) -> str:
    """One cell of the terminal's table."""
    return GAP if isinstance(value, float) and math.isnan(value) else form(value)


def _aligned(columns: Sequence[tuple[str, list[str], bool]]) -> list[str]:
    """Header, rule and rows; numbers to the right, text to the left."""
    widths = [max(len(title), *(len(cell) for cell in cells)) for title, cells, _ in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, (_, _, right) in zip(cells, widths, columns, strict=True)
        ]
        return "  ".join(padded).rstrip()

    header = line([title for title, _, _ in columns])
    rows = [line(cells) for cells in zip(*(cells for _, cells, _ in columns), strict=True)]
    return [header, "-" * len(header), *rows]


def _folded(frame: pd.DataFrame) -> list[str]:
    """Gaps and their reasons; what several runs or columns lack for one reason shares a line."""
    by_reason: dict[str, tuple[list[str], list[str]]] = {}
    for row in frame.to_dict("records"):
        for entry in filter(None, str(row["missing"]).split("; ")):
            column, _, reason = entry.partition(": ")
            columns, names = by_reason.setdefault(reason, ([], []))
            columns += [column] if column not in columns else []
            names += [str(row["name"])] if row["name"] not in names else []
    return [
        f"  {', '.join(columns)} ({'all runs' if len(names) == len(frame) else ', '.join(names)}): {reason}"
        for reason, (columns, names) in by_reason.items()
    ]
