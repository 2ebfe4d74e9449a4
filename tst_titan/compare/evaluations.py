"""Evaluations of a run's final model: held-out loss and accuracies, with errors and gaps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from tst_titan.compare.metrics import HELDOUT, HIGHER, LOWER, METRICS, TASK
from tst_titan.compare.noise import LARGE, t_quantile
from tst_titan.compare.numbers import Number, merge_sources, missing, with_error
from tst_titan.errors import UserError
from tst_titan.files import read_object
from tst_titan.paper import SEVEN_TASKS

NOT_ASKED = "not evaluated: the experiment asks for none"
NOT_SCORED = "not among this run's evaluated tasks"


def read_heldout(path: str | None, manifest: str, confidence: float) -> dict[str, Number]:
    """Held-out loss of a run's final model, in nats per token and in bits per byte, and of each source of the corpus.

    Args:
        path: heldout.json, or None where it was not asked for.
        manifest: path of the run's last manifest; the file must name the same.

    Returns:
        Numbers by metric; the interval is that of the scored tokens alone.

    Raises:
        UserError: the file is unreadable, lacks a key, or belongs to another stage.
    """
    if path is None:
        return {name: missing(NOT_ASKED, METRICS[name].unit) for name in HELDOUT}
    found = read_object(Path(path), "the held-out evaluation has not finished")
    named = found.get("manifest")
    if isinstance(named, str) and not _same_file(named, manifest):
        raise UserError(f"{path}: scores the model of {named}, but the run ends with {manifest}")
    quantile = t_quantile(confidence, LARGE)
    numbers = {}
    for source, part in {"": found, **found.get("by_source", {})}.items():
        where = f"{path}, source '{source}'" if source else path
        nats, bits = _number(part, "nats_per_token", where), _number(part, "bits_per_byte", where)
        stderr = part.get("stderr_nats_per_token")
        units = f"{part.get('documents', '?')} documents as units"
        method = f"all {part.get('tokens', '?')} held-out tokens scored, {units}"
        values = {HELDOUT[0]: (nats, stderr), HELDOUT[1]: (bits, stderr * bits / nats if stderr else None)}
        for name, value in values.items():
            number = with_error(*value, quantile, METRICS[name].unit, (path,), method)
            numbers[f"{name}/{source}" if source else name] = number
    return numbers


def read_tasks(
    path: str | None, rule: Literal["acc_norm_first", "acc"], confidence: float
) -> tuple[dict[str, Number], tuple[str, ...]]:
    """Accuracies of a run's final model in percent; of a task that has none, its own metric as the harness gives it.

    Args:
        path: tasks.json, or None where it was not asked for.
        rule: "acc_norm_first" takes acc_norm where a task has it (the paper's numbers are of that size), else
            acc; "acc" takes acc always.

    Returns:
        Numbers by metric: every task of the file but MMLU's subjects, the average over the paper's seven (missing,
        with the reason, unless all are there: a partial mean compares with nothing) and MMLU. Then the tasks that
        were scored on a part of their items.

    Raises:
        UserError: the file is unreadable or lacks a key.
    """
    if path is None:
        return {name: missing(NOT_ASKED, "%") for name in ("average_accuracy", "mmlu")}, ()
    tasks = read_object(Path(path), "the task evaluation has not finished").get("tasks")
    if not isinstance(tasks, dict):
        raise UserError(f"{path}: key 'tasks' is {type(tasks).__name__}; an object of tasks was expected")
    quantile = t_quantile(confidence, LARGE)
    scored = {name: entry for name, entry in tasks.items() if not name.startswith("mmlu_")}
    own = {name: entry for name, entry in scored.items() if isinstance(entry, dict) and entry.get("metric")}
    found = {
        name: _accuracy(name, entry, rule, quantile, path)
        for name, entry in scored.items()
        if name not in own
    }
    numbers = {TASK + name: number for name, number in found.items() if name != "mmlu"}
    numbers |= dict(_own_metric(name, entry, quantile, path) for name, entry in own.items())
    numbers["mmlu"] = found.get("mmlu", missing("mmlu is not among the evaluated tasks", "%", (path,)))
    numbers["average_accuracy"] = _average(found, path, quantile)
    return numbers, tuple(name for name, entry in tasks.items() if entry.get("samples_limit") is not None)


def _average(found: dict[str, Number], path: str, quantile: float) -> Number:
    """Mean over the paper's seven tasks."""
    if absent := [task for task in SEVEN_TASKS if task not in found]:
        return missing(
            f"needs all of the paper's seven tasks; not evaluated: {', '.join(absent)}", "%", (path,)
        )
    chosen = [found[task] for task in SEVEN_TASKS]
    errors = [number.stderr for number in chosen if number.stderr is not None]
    stderr = sum(error**2 for error in errors) ** 0.5 / len(chosen) if len(errors) == len(chosen) else None
    value = sum(number.number for number in chosen) / len(chosen)
    method = "mean of " + ", ".join(SEVEN_TASKS)
    return with_error(value, stderr, quantile, "%", merge_sources(*chosen), method)


def _accuracy(name: str, entry: Any, rule: str, quantile: float, path: str) -> Number:
    """One task's accuracy in percent."""
    if not isinstance(entry, dict):
        raise UserError(f"{path}: task '{name}' is {entry!r}; an object was expected")
    key = "acc_norm" if rule == "acc_norm_first" and entry.get("acc_norm") is not None else "acc"
    if "metric" not in entry and entry.get(key, 0) is None:
        return missing("a group of tasks without a score of its own", "%", (path,))
    value = _number(entry, key, f"{path}, task '{name}'")
    items, stderr, limit = entry.get("n"), entry.get(f"{key}_stderr"), entry.get("samples_limit")
    if stderr is None and items:
        # That of a proportion over n items.
        stderr = (value * (1 - value) / max(items - 1, 1)) ** 0.5
    method = key + (f", first {limit} items only" if limit is not None else "")
    return with_error(100 * value, None if stderr is None else 100 * stderr, quantile, "%", (path,), method)


def _own_metric(name: str, entry: dict[str, Any], quantile: float, path: str) -> tuple[str, Number]:
    """The metric of a task without an accuracy, with its name in the table."""
    metric, limit = entry["metric"], entry.get("samples_limit")
    where = f"{path}, task '{name}', metric"
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserError(f"{where}: found {metric!r}; an object with a name was expected")
    value, unit = _number(metric, "value", where), metric["name"]
    key = f"{HIGHER if metric.get('higher_is_better') else LOWER}{name}/{unit}"
    if not math.isfinite(value):
        return key, missing(f"{unit} is {value}", unit, (path,))
    method = "as the harness gives it" + (f", first {limit} items only" if limit is not None else "")
    return key, with_error(value, metric.get("stderr"), quantile, unit, (path,), method)


def _number(found: dict[str, Any], key: str, where: str) -> float:
    """A required number of a file."""
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: '{key}' is {value!r}; a number was expected")
    return float(value)


def _same_file(first: str, second: str) -> bool:
    """Whether two paths name one file when one of them may be relative to an unknown folder."""
    a, b = Path(first).parts, Path(second).parts
    shared = min(len(a), len(b))
    return a[-shared:] == b[-shared:]
