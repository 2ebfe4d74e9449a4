"""Evaluations of a run's final model: held-out loss and accuracies, with errors and gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tst_titan.compare.measured import Measured, merge_sources, missing
from tst_titan.compare.noise import t_quantile
from tst_titan.compare.stages import read_json
from tst_titan.errors import UserError
from tst_titan.paper import SEVEN_TASKS

HELDOUT = {"heldout_nats_per_token": "nats/token", "heldout_bits_per_byte": "bits/byte"}
AVERAGE_METHOD = "mean of " + ", ".join(SEVEN_TASKS)
_LARGE = 10**6  # degrees of freedom of a normal distribution


def read_heldout(path: str | None, manifest: str, confidence: float) -> dict[str, Measured]:
    """Held-out loss of a run's final model.

    Args:
        path: heldout.json, or None where it was not asked for.
        manifest: path of the run's last manifest; the file must name the same.

    Returns:
        heldout_nats_per_token and heldout_bits_per_byte; the interval is that of the scored tokens alone.

    Raises:
        UserError: the file is unreadable, lacks a key, or belongs to another stage.
    """
    if path is None:
        return {
            name: missing("not evaluated: the experiment asks for none", HELDOUT[name]) for name in HELDOUT
        }
    found = read_json(Path(path), "the held-out evaluation has not finished")
    named = found.get("manifest")
    if isinstance(named, str) and not _same_file(named, manifest):
        raise UserError(f"{path}: scores the model of {named}, but the run ends with {manifest}")
    nats = _number(found, "nats_per_token", path)
    bits = _number(found, "bits_per_byte", path)
    stderr = found.get("stderr_nats_per_token")
    method = f"all {found.get('tokens', '?')} held-out tokens scored, {found.get('documents', '?')} documents as units"
    quantile = t_quantile(confidence, _LARGE)
    return {
        "heldout_nats_per_token": _with_error(nats, stderr, quantile, "nats/token", path, method),
        "heldout_bits_per_byte": _with_error(
            bits, stderr * bits / nats if stderr else None, quantile, "bits/byte", path, method
        ),
    }


def read_tasks(
    path: str | None, rule: Literal["acc_norm_first", "acc"], confidence: float
) -> dict[str, Measured]:
    """Accuracies of a run's final model in percent.

    Args:
        path: tasks.json, or None where it was not asked for.
        rule: "acc_norm_first" takes acc_norm where a task has it (the paper's numbers are of that size), else
            acc; "acc" takes acc always.

    Returns:
        "accuracy/<task>" for every task of the file but MMLU's subjects, "average_accuracy" over the paper's
        seven tasks (missing, with the reason, unless all are there) and "mmlu".

    Raises:
        UserError: the file is unreadable or lacks a key.
    """
    if path is None:
        reason = "not evaluated: the experiment asks for none"
        return {name: missing(reason, "%") for name in ("average_accuracy", "mmlu")}
    found = read_json(Path(path), "the task evaluation has not finished")
    tasks = found.get("tasks")
    if not isinstance(tasks, dict):
        raise UserError(f"{path}: key 'tasks' is {type(tasks).__name__}; an object of tasks was expected")
    quantile = t_quantile(confidence, _LARGE)
    accuracies = {
        name: _accuracy(name, entry, rule, quantile, path)
        for name, entry in tasks.items()
        if not name.startswith("mmlu_")
    }
    result = {f"accuracy/{name}": number for name, number in accuracies.items() if name != "mmlu"}
    result["mmlu"] = accuracies.get("mmlu", missing("mmlu is not among the evaluated tasks", "%", (path,)))
    result["average_accuracy"] = average_of_seven(accuracies, path, quantile)
    return result


def limited_tasks(path: str | None) -> list[str]:
    """Tasks of a tasks.json that were scored on a part of their items only."""
    if path is None:
        return []
    tasks = read_json(Path(path), "the task evaluation has not finished").get("tasks", {})
    return [name for name, entry in tasks.items() if entry.get("samples_limit") is not None]


def average_of_seven(accuracies: dict[str, Measured], path: str, quantile: float) -> Measured:
    """Mean over the paper's seven tasks; a partial mean would not be comparable, so it is never given."""
    absent = [task for task in SEVEN_TASKS if task not in accuracies]
    if absent:
        return missing(
            f"needs all of the paper's seven tasks; not evaluated: {', '.join(absent)}", "%", (path,)
        )
    chosen = [accuracies[task] for task in SEVEN_TASKS]
    value = sum(number.number for number in chosen) / len(chosen)
    errors = [number.stderr for number in chosen if number.stderr is not None]
    stderr = sum(error**2 for error in errors) ** 0.5 / len(chosen) if len(errors) == len(chosen) else None
    return _with_error(value, stderr, quantile, "%", merge_sources(*chosen), AVERAGE_METHOD)


def _accuracy(name: str, entry: Any, rule: str, quantile: float, path: str) -> Measured:
    """One task's accuracy in percent."""
    if not isinstance(entry, dict):
        raise UserError(f"{path}: task '{name}' is {entry!r}; an object was expected")
    key = "acc_norm" if rule == "acc_norm_first" and entry.get("acc_norm") is not None else "acc"
    value = _number(entry, key, f"{path}, task '{name}'")
    items = entry.get("n")
    stderr = entry.get(f"{key}_stderr")
    if stderr is None and items:
        # That of a proportion over n items.
        stderr = (value * (1 - value) / max(items - 1, 1)) ** 0.5
    limit = entry.get("samples_limit")
    method = key + (f", first {limit} items only" if limit is not None else "")
    return _with_error(100 * value, None if stderr is None else 100 * stderr, quantile, "%", path, method)


def _with_error(
    value: float,
    stderr: float | None,
    quantile: float,
    unit: str,
    sources: str | tuple[str, ...],
    method: str,
) -> Measured:
    """A number with a symmetric interval where its standard error is known."""
    names = (sources,) if isinstance(sources, str) else sources
    if stderr is None:
        return Measured(value, unit, names, method=method)
    return Measured(value, unit, names, stderr, value - quantile * stderr, value + quantile * stderr, method)


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
