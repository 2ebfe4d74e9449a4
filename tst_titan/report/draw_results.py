"""Final numbers of runs as dots with intervals: losses, accuracies, differences over seeds."""

from __future__ import annotations

from pathlib import Path

from tst_titan.compare import drawing
from tst_titan.compare.drawing import Panel
from tst_titan.compare.drawing.style import INK, MUTED, SERIES, Look, looks_of
from tst_titan.compare.kinds import kind_named
from tst_titan.compare.metrics import TASK, metric_of, task_order
from tst_titan.compare.numbers import ON_HELDOUT, Number
from tst_titan.compare.results import Results
from tst_titan.report.text import interval_text, number_text, signed_text

# The held-out loss of the whole evaluation says what that of the windows says, and better.
_LOSSES = ("heldout_nats_per_token", f"{ON_HELDOUT}final_loss", "final_loss")
_ROW = 0.3
_MOST_ROWS = 40
_MOST_LABELS = 8


def draw_final_loss(experiment: Results, folder: Path) -> Panel | None:
    """Final and held-out losses, one row a label, beside the paper's; None where there are too many rows."""
    runs = experiment.runs
    rows = list(dict.fromkeys((run.group, run.label) for run in runs))
    if len(rows) > _MOST_ROWS or all(run.bag_loss_only for run in runs):
        return None
    columns = [("run", metric) for metric in _LOSSES] + [("paper", "final_loss")]
    numbers = {
        column: {
            run.name: number for run in runs if (number := experiment.get(column[0], run.name, column[1]))
        }
        for column in columns
    }
    numbers = {
        column: part for column, part in numbers.items() if any(number.exists for number in part.values())
    }
    if ("run", _LOSSES[0]) in numbers:
        numbers.pop(("run", _LOSSES[1]), None)
    looks = looks_of(runs)
    figure, (places,) = drawing.figure_of(1, len(numbers), row_height=_ROW * len(rows), base=1.1, sharey=True)
    for axes, ((part, metric), found) in zip(places, numbers.items(), strict=True):
        for row, place in enumerate(rows):
            seeds = [run.name for run in runs if (run.group, run.label) == place]
            for index, name in enumerate(seeds):
                shift = max(-0.4, min(0.4, 0.16 * (index - (len(seeds) - 1) / 2)))
                drawing.dot(axes, found.get(name), row + shift, looks[name], hollow=part == "paper")
        axes.set_title(metric_of(metric).label + (", the paper's" if part == "paper" else ""), color=INK)
        axes.set_xlabel("Nats per token")
    drawing.row_labels(places[0], [f"{label} [{group}]" if group else label for group, label in rows])
    ends = "; ".join(
        f"{run.label} {number_text(experiment.get('run', run.name, 'final_loss'))}" for run in runs[:12]
    )
    return drawing.finish(
        figure, folder, "final_loss", "Final losses",
        "Loss at the end of every run. Filled: ours, with the interval of the mean of the last logged steps (final "
        "loss) or of the scored tokens (held-out loss); several dots in a row are seeds. Open: the paper's, at "
        "its sizes, on a scale of its own.",
        f"Dots with intervals, one row a run. Final losses in nats per token: {ends}.",
        [number for part in numbers.values() for number in part.values()],
    )  # fmt: skip


def draw_accuracy(experiment: Results, folder: Path) -> Panel | None:
    """Accuracy of every task and run, the paper's in open markers; None where no task was scored."""
    scored = [
        number for number in experiment.select("run") if number.metric.startswith(TASK) and number.exists
    ]
    names = {number.run for number in scored}
    runs = [run for run in experiment.runs if run.name in names]
    labels = list(dict.fromkeys(run.label for run in runs))
    if not runs or len(labels) > _MOST_LABELS or kind_named(experiment.facts.kind).draws_metrics:
        return None
    tasks = task_order({number.metric for number in scored})
    tasks += [
        name
        for name in ("mmlu", "average_accuracy")
        if any(experiment.value(run.name, name) is not None for run in runs)
    ]
    looks = looks_of(experiment.runs)
    figure, ((axes,),) = drawing.figure_of(1, 1, row_height=0.42 * len(tasks), base=1.2)
    drawn: list[Number] = []
    for run in runs:
        shift = 0.5 * (labels.index(run.label) - (len(labels) - 1) / 2) / len(labels)
        for row, task in enumerate(tasks):
            for part in ("run", "paper"):
                number = experiment.get(part, run.name, task)
                drawing.dot(axes, number, row + shift, looks[run.name], hollow=part == "paper")
                drawn += [number] if number is not None else []
    drawing.row_labels(axes, [metric_of(task).label for task in tasks])
    axes.set_xlabel("Accuracy, %")
    theirs = drawing.key("the paper's", MUTED, hollow=True, marker="o")
    has_theirs = any(number.part == "paper" for number in drawn)
    drawing.legend(figure, (looks[run.name] for run in runs), [theirs] if has_theirs else [], linestyle="")
    said = "; ".join(
        f"{run.label}: "
        + ", ".join(f"{metric_of(t).label} {number_text(experiment.get('run', run.name, t))}" for t in tasks)
        for run in runs[:6]
    )
    return drawing.finish(
        figure, folder, "accuracy", "Downstream accuracy",
        "0-shot accuracy of the final models with the interval of the scored items. Open markers: the paper's, at its "
        "sizes.",
        f"Dots with intervals, one row a task. {said}.", drawn,
    )  # fmt: skip


def draw_seeds(experiment: Results, folder: Path) -> Panel | None:
    """Mean differences over seeds with their intervals; None where there is one seed only."""
    gaps = [row for row in experiment.select("seeds") if row.metric.endswith(".difference") and row.interval]
    if not gaps:
        return None
    by_unit: dict[str, list[Number]] = {}
    for gap in gaps:
        by_unit.setdefault(gap.unit, []).append(gap)
    figure, places = drawing.figure_of(
        len(by_unit), 1, row_height=0.9 + _ROW * len(gaps) / len(by_unit), base=0.0,
        height_ratios=[len(items) + 1 for items in by_unit.values()],
    )  # fmt: skip
    for axes, (unit, items) in zip(places[:, 0], by_unit.items(), strict=True):
        axes.axvline(0.0, color=INK, linewidth=0.8)
        for row, gap in enumerate(items):
            drawing.dot(axes, gap, row, Look("", SERIES[0], "o"), hollow=not gap.excludes_zero, width=1.4)
        drawing.row_labels(axes, [_seed_label(experiment, gap) for gap in items])
        axes.set_xlabel(f"Difference, {'percentage points' if unit == '%' else unit}")
    said = "; ".join(
        f"{_seed_label(experiment, gap)} {signed_text(gap)} ({interval_text(gap)})" for gap in gaps
    )
    return drawing.finish(
        figure, folder, "seeds", "Differences over seeds",
        f"Run minus reference, mean over seeds, with its {experiment.facts.options.confidence:.0%} interval. Filled: "
        "the interval excludes 0, the difference is outside the noise over seeds; open: it is not.",
        f"Dots with intervals around zero: {said}.", gaps,
    )  # fmt: skip


def _seed_label(experiment: Results, gap: Number) -> str:
    name = gap.metric.removesuffix(".difference")
    place = {"group": gap.group, "run": gap.run, "reference": gap.reference}
    (mean,) = experiment.select("seeds", metric=f"{name}.mean_run", **place)
    group = f"{gap.group}: " if gap.group else ""
    return f"{group}{gap.run} − {gap.reference}\n{metric_of(name).label}, n = {mean.n}"
