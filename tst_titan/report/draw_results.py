"""Final numbers of runs as dots with intervals: losses, accuracies, differences over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tst_titan.paper import SEVEN_TASKS
from tst_titan.report.panels import Panel, number_rows, save_panel
from tst_titan.report.read import Experiment
from tst_titan.report.style import INK, MUTED, SERIES, Look, legend_below, looks_of
from tst_titan.report.text import interval_text, metric_name, number_text, signed_text

_LOSSES = ("final_loss", "heldout_nats_per_token")
_ROW = 0.3
_MOST_ROWS = 40
Run = dict[str, Any]


def draw_final_loss(experiment: Experiment, folder: Path) -> Panel | None:
    """Final and held-out losses, one row a label, beside the paper's; None where there are too many rows."""
    runs = experiment.runs
    rows = list(dict.fromkeys((run["group"], run["label"]) for run in runs))
    if len(rows) > _MOST_ROWS or all(run["bag_loss_only"] for run in runs):
        return None
    columns: list[tuple[str, str]] = [
        ("metrics", metric) for metric in _LOSSES if any(_value(run, "metrics", metric) for run in runs)
    ]
    columns += (
        [("published", "final_loss")] if any(_value(run, "published", "final_loss") for run in runs) else []
    )
    looks = looks_of(runs)
    figure, axes_row = plt.subplots(
        1, len(columns), figsize=(7.2, 1.1 + _ROW * len(rows)), sharey=True, squeeze=False
    )
    for axes, (where, metric) in zip(axes_row[0], columns, strict=True):
        for run in runs:
            row = rows.index((run["group"], run["label"]))
            seeds = [other["name"] for other in runs if (other["group"], other["label"]) == rows[row]]
            shift = 0.16 * (seeds.index(run["name"]) - (len(seeds) - 1) / 2)
            _dot(axes, run, (where, metric), row + max(-0.4, min(0.4, shift)), looks[run["name"]])
        axes.set_title(metric_name(metric) + ("" if where == "metrics" else ", the paper's"), color=INK)
        axes.set_xlabel("Nats per token")
    _row_labels(axes_row[0][0], [f"{label} [{group}]" if group else label for group, label in rows])
    data = number_rows([
        {"run": run["name"], "label": run["label"], "group": run["group"], "seed": run["seed"]}
        | {metric: run["metrics"][metric] for where, metric in columns if where == "metrics"}
        | ({"paper_final_loss": run["published"].get("final_loss", _nothing())} if len(columns) > 1 else {})
        for run in runs
    ])  # fmt: skip
    ends = "; ".join(f"{run['label']} {number_text(run['metrics']['final_loss'])}" for run in runs[:12])
    made = save_panel(
        figure, folder, "final_loss", "Final losses",
        "Loss at the end of every run. Filled: ours, with the interval of the mean of the last logged steps (final "
        "loss) or of the scored tokens (held-out loss); several dots in a row are seeds. Open: the paper's, at "
        "its sizes, on a scale of its own.",
        f"Dots with intervals, one row a run. Final losses in nats per token: {ends}.", data=data,
    )  # fmt: skip
    plt.close(figure)
    return made


def draw_accuracy(experiment: Experiment, folder: Path) -> Panel | None:
    """Accuracy of every task and run, the paper's in open markers; None where no task was scored."""
    runs = [run for run in experiment.runs if any(_value(run, "metrics", name) for name in _tasks(run))]
    if not runs or len({run["label"] for run in runs}) > 8 or experiment.kind == "grid":
        return None
    tasks = _ordered_tasks(runs)
    looks = looks_of(experiment.runs)
    labels = list(dict.fromkeys(run["label"] for run in runs))
    figure, axes = plt.subplots(figsize=(7.2, 1.2 + 0.42 * len(tasks)))
    for run in runs:
        shift = 0.5 * (labels.index(run["label"]) - (len(labels) - 1) / 2) / len(labels)
        for row, task in enumerate(tasks):
            for where in ("metrics", "published"):
                _dot(axes, run, (where, task), row + shift, looks[run["name"]])
    _row_labels(axes, [metric_name(task) for task in tasks])
    axes.set_xlabel("Accuracy, %")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", label=look.key)
        for look in dict.fromkeys(looks[run["name"]] for run in runs)
    ]
    if any(_value(run, "published", task) for run in runs for task in tasks):
        handles.append(
            Line2D([], [], color=MUTED, marker="o", linestyle="", markerfacecolor="none", label="the paper's")
        )
    legend_below(figure, handles)
    data = number_rows([
        {"run": run["name"], "label": run["label"], "task": metric_name(task),
         "accuracy": run["metrics"].get(task, _nothing()), "paper_accuracy": run["published"].get(task, _nothing())}
        for run in runs for task in tasks
    ])  # fmt: skip
    made = save_panel(
        figure, folder, "accuracy", "Downstream accuracy",
        "0-shot accuracy of the final models with the interval of the scored items. Open markers: the paper's, at its "
        "sizes.",
        "Dots with intervals, one row a task. "
        + "; ".join(
            f"{run['label']}: " + ", ".join(f"{metric_name(t)} {number_text(run['metrics'].get(t))}" for t in tasks)
            for run in runs[:6]
        ) + ".",
        data=data,
    )  # fmt: skip
    plt.close(figure)
    return made


def draw_seeds(experiment: Experiment, folder: Path) -> Panel | None:
    """Mean differences over seeds with their intervals; None where there is one seed only."""
    entries = [item for item in experiment.content["seeds"] if item["difference"]["low"] is not None]
    if not entries:
        return None
    units = list(dict.fromkeys(item["difference"]["unit"] for item in entries))
    by_unit = [[item for item in entries if item["difference"]["unit"] == unit] for unit in units]
    figure, axes_rows = plt.subplots(
        len(units), 1, figsize=(7.2, 0.9 * len(units) + _ROW * len(entries)), squeeze=False,
        height_ratios=[len(items) + 1 for items in by_unit],
    )  # fmt: skip
    for axes, unit, items in zip(axes_rows[:, 0], units, by_unit, strict=True):
        axes.axvline(0.0, color=INK, linewidth=0.8)
        for row, item in enumerate(items):
            number = item["difference"]
            axes.plot([number["low"], number["high"]], [row, row], color=SERIES[0], linewidth=1.4)
            face = SERIES[0] if item["outside_noise"] else "none"
            axes.plot(number["value"], row, "o", color=SERIES[0], markerfacecolor=face)
        _row_labels(axes, [_seed_label(item) for item in items])
        axes.set_xlabel(f"Difference, {'percentage points' if unit == '%' else unit}")
    made = save_panel(
        figure, folder, "seeds", "Differences over seeds",
        "Run minus reference, mean over seeds, with its "
        f"{experiment.content['options']['confidence']:.0%} interval. Filled: the interval excludes 0, the "
        "difference is outside the noise over seeds; open: it is not.",
        "Dots with intervals around zero: "
        + "; ".join(
            f"{_seed_label(item)} {signed_text(item['difference'])} ({interval_text(item['difference'])})"
            for item in entries
        ) + ".",
        data=number_rows([
            {key: item[key] for key in ("group", "reference", "run", "metric", "n_reference", "n_run", "paired",
                                        "outside_noise", "difference")} for item in entries
        ]),
    )  # fmt: skip
    plt.close(figure)
    return made


def _dot(axes: Axes, run: Run, key: tuple[str, str], row: float, look: Look) -> None:
    """One number of a run: filled with its interval if ours, open if published."""
    where, metric = key
    number = run[where].get(metric)
    if number is None or number["value"] is None:
        return
    if number["low"] is not None and number["high"] is not None:
        axes.plot([number["low"], number["high"]], [row, row], color=look.colour, linewidth=1.2)
    face = look.colour if where == "metrics" else "none"
    axes.plot(number["value"], row, color=look.colour, marker=look.marker, markersize=6, markerfacecolor=face)


def _row_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Rows from the top down, without lines across."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.locator_params(axis="x", nbins=4)


def _value(run: Run, where: str, metric: str) -> bool:
    """Whether a run has a number."""
    number = run[where].get(metric)
    return number is not None and number["value"] is not None


def _tasks(run: Run) -> list[str]:
    return [name for name in run["metrics"] if name.startswith("accuracy/")]


def _ordered_tasks(runs: Sequence[Run]) -> list[str]:
    """The paper's seven, other tasks by name, MMLU and the average; those that any run has."""
    found = {task for run in runs for task in _tasks(run)}
    seven = [f"accuracy/{task}" for task in SEVEN_TASKS]
    ordered = (
        [task for task in seven if task in found] + sorted(found - set(seven)) + ["mmlu", "average_accuracy"]
    )
    return [task for task in ordered if any(_value(run, "metrics", task) for run in runs)]


def _seed_label(item: dict[str, Any]) -> str:
    group = f"{item['group']}: " if item["group"] else ""
    return f"{group}{item['run']} − {item['reference']}\n{metric_name(item['metric'])}, n = {item['n_run']}"


def _nothing() -> dict[str, Any]:
    """A number that does not exist, for a CSV cell."""
    return {"value": None, "low": None, "high": None, "sources": []}
