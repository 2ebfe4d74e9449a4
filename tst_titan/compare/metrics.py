"""Every metric of a run, once: its unit, its names for people and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from tst_titan.compare.numbers import ON_HELDOUT
from tst_titan.paper import SEVEN_TASKS

TASK = "accuracy/"
"""Prefix of a task's accuracy: ``accuracy/arc_easy``."""
HIGHER, LOWER = "higher/", "lower/"
"""Prefixes of the own metric of a task without an accuracy, by what is better: ``lower/wikitext/word_perplexity``."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        label: for figures and the page.
        head: of a table's column, where the label is too long.
        words: inside a sentence; "" where no sentence is about it.
        tie: published differences smaller than this say nothing: neighbouring cells of the paper's grids scatter by
            as much; None where it is not held against the paper's.
        measured: whether it tells how good a model is, rather than what it cost; such metrics make grids.
    """

    name: str
    label: str
    unit: str
    head: str = ""
    words: str = ""
    lower_is_better: bool = False
    tie: float | None = None
    measured: bool = False

    @property
    def column(self) -> str:
        """Head of its column."""
        return self.head or self.label

    @property
    def difference_unit(self) -> str:
        """Unit of a difference."""
        return "points" if self.unit == "%" else self.unit


def _loss(name: str, label: str, unit: str = "nats/token", **more: object) -> Metric:
    return Metric(name, label, unit, lower_is_better=True, **more)  # type: ignore[arg-type]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("steps", "Steps", "steps"),
        Metric("bag_steps", "Bag steps", "steps"),
        Metric("latents", "Latents", "latents"),
        Metric("data_tokens", "Data tokens", "tokens"),
        Metric("unique_data_tokens", "Unique tokens", "tokens"),
        Metric("epochs", "Epochs", "epochs"),
        Metric("flops", "FLOPs", "FLOPs"),
        Metric("hours", "Training time", "hours", head="Time"),
        Metric("device_hours", "Device time", "device-hours"),
        _loss(f"{ON_HELDOUT}final_loss", "Final loss on held-out windows", words="final loss on held-out windows",
              tie=0.003, measured=True),
        _loss("final_loss", "Final loss", words="final loss", tie=0.003, measured=True),
        _loss("final_loss_last", "Last logged loss"),
        _loss("final_bag_loss", "Final bag loss"),
        _loss("heldout_nats_per_token", "Held-out loss", words="held-out loss", measured=True),
        _loss("heldout_bits_per_byte", "Held-out bits per byte", "bits/byte", head="Bits per byte",
              words="held-out bits per byte", measured=True),
        Metric("average_accuracy", "Average of the seven tasks", "%", head="Average of 7", words="average accuracy",
               tie=0.3, measured=True),
        Metric("mmlu", "MMLU", "%", measured=True),
    )
}  # fmt: skip
BUDGETS = ("steps", "bag_steps")
READ = ("latents", "data_tokens", "unique_data_tokens", "epochs", "flops", "hours", "device_hours")
LOSSES = ("final_loss", f"{ON_HELDOUT}final_loss", "heldout_nats_per_token", "heldout_bits_per_byte")
HELDOUT = ("heldout_nats_per_token", "heldout_bits_per_byte")
"""Of all held-out documents; with ``/<source>`` behind them, of those of one source of the corpus."""


def metric_of(name: str) -> Metric:
    """A metric by name; a task's accuracy is named after the task, the loss on a source after the source."""
    if name in METRICS:
        return METRICS[name]
    if is_own(name):
        _, task, metric = name.split("/", 2)
        lower = name.startswith(LOWER)
        label = f"{task}, {metric} ({'lower' if lower else 'higher'} is better)"
        return Metric(
            name, label, metric, head=f"{task} {'↓' if lower else '↑'}", lower_is_better=lower, measured=True
        )
    if name.startswith(HELDOUT):
        whole, source = name.split("/", 1)
        of = METRICS[whole]
        return _loss(name, f"{of.label}, {source}", of.unit, head=source)
    return Metric(name, name.removeprefix(TASK), "%", measured=name.startswith(TASK))


def is_own(name: str) -> bool:
    """Whether a metric is a task's own, not an accuracy."""
    return name.startswith((HIGHER, LOWER))


def metric_rank(name: str) -> int:
    """Order in which metrics are shown: losses, averages, then single tasks."""
    first = [metric.name for metric in METRICS.values() if metric.measured]
    return first.index(name) if name in first else len(first)


def task_order(names: set[str]) -> list[str]:
    """Tasks in the order of a table: the accuracies of the paper's seven, then the others by name."""
    seven = [TASK + task for task in SEVEN_TASKS]
    return [name for name in seven if name in names] + sorted(names - set(seven))
