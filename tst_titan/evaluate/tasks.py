"""Score an exported model with lm-eval: ``tst-titan evaluate tasks``.

The model is loaded once for all tasks. Offline unless asked: without its data at hand the harness would wait for a
network that is not there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tst_titan.config.experiment import EvaluationConfig
from tst_titan.config.load import load
from tst_titan.errors import UserError
from tst_titan.evaluate.harness import go_offline, load_tasks, task_manager
from tst_titan.evaluate.local_task import TASK
from tst_titan.files import write_if_changed
from tst_titan.models.exported import SHAPE_FILE


def evaluate(
    model_folder: Path, settings: EvaluationConfig, task_folders: list[Path], length: int
) -> dict[str, Any]:
    """Content of tasks.json.

    Args:
        model_folder: exported Hugging Face folder.
        settings: tasks, items per task and sequences per forward pass.
        task_folders: folders with lm-eval YAML of one's own; a later one wins.
        length: tokens of a sequence in training.

    Raises:
        UserError: no task is named, one is unknown or its data not at hand, or there is no exported model.
    """
    import lm_eval

    from tst_titan.evaluate.heldout import check_export
    from tst_titan.evaluate.scorer import Scorer

    check_export(model_folder)
    if (model_folder / SHAPE_FILE).is_file():
        raise UserError(
            f"{model_folder}: tasks need a model that transformers can load; this one is torchtitan's alone "
            "(hugging_face_config of the model file is missing)"
        )
    if not settings.tasks:
        raise UserError("evaluation.tasks: found none; name at least one task")
    manager = task_manager(settings.tasks, task_folders)
    tasks = load_tasks(manager, settings.tasks)
    model = Scorer(model_folder, length, settings.batch_size)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        num_fewshot=0,
        limit=settings.limit,
        bootstrap_iters=1000,
        log_samples=False,
        task_manager=manager,
    )
    assert found is not None  # only other ranks than the first get none
    return {
        "tasks": {name: _scores(dict(found), name, settings.limit) for name in found["results"]},
        "lm_eval_version": lm_eval.__version__,
        "batch_size": settings.batch_size,
        "add_bos": model.add_bos_token,
        "sequence_length": length,
        "cut_to_sequence_length": model.cut,
        "num_fewshot": 0,
        "model": str(model_folder),
    }


def _scores(found: dict[str, Any], name: str, limit: int | None) -> dict[str, Any]:
    """Scores of a task, or of a group over all its tasks; a group that has none of its own has its tasks' alone."""
    result: dict[str, float] = {}
    for key, value in found["results"][name].items():
        metric, _, of_filter = key.partition(",")
        if of_filter and isinstance(value, int | float):
            result.setdefault(metric, float(value))  # of several ways to read an answer, the task's first
    own = next((metric for metric in result if not metric.endswith("_stderr")), None)
    scores: dict[str, Any] = {
        key: result.get(key) for key in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")
    }
    if scores["acc"] is None and own is not None:
        better = found["higher_is_better"].get(name, {}).get(own)
        scores["metric"] = {
            "name": own,
            "value": result[own],
            "stderr": result.get(f"{own}_stderr"),
            "higher_is_better": better is not False,
        }
    return scores | {
        "version": found["versions"].get(name),
        "n": _items(found, name),
        "samples_limit": limit,
    }


def _items(found: dict[str, Any], name: str) -> int:
    """Items scored: of a group, those of its tasks."""
    if name in found["n-samples"]:
        return found["n-samples"][name]["effective"]
    return sum(_items(found, part) for part in found["group_subtasks"][name])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate tasks``."""
    parser.add_argument("--model", type=Path, required=True, help="exported Hugging Face folder")
    parser.add_argument(
        "--config", type=Path, required=True, help="evaluation.yaml: tasks, limit, batch_size"
    )
    parser.add_argument(
        "--task-folder", type=Path, action="append", default=[], help="folder of lm-eval YAML"
    )
    parser.add_argument(
        "--sequence-length",
        type=int,
        required=True,
        help="tokens of a sequence in training: the longest context",
    )
    parser.add_argument("--limit", type=int, help="items per task, instead of the config's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--online", action="store_true", help="let the harness fetch data")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score the model; leaves no trace in the user's cache if only the local task is asked for."""
    if not arguments.online:
        go_offline()
    settings = load(EvaluationConfig, arguments.config)
    if arguments.limit is not None:
        settings = EvaluationConfig.model_validate(settings.model_dump() | {"limit": arguments.limit})
    with tempfile.TemporaryDirectory() as cache:
        if set(settings.tasks) == {TASK}:
            import datasets

            # Not the environment: it may be imported already (run/warm.py).
            datasets.config.HF_DATASETS_CACHE = Path(cache)
        import torch

        torch.set_num_threads(arguments.threads)
        found = evaluate(arguments.model, settings, arguments.task_folder, arguments.sequence_length)
    write_if_changed(arguments.out, json.dumps(found, indent=2) + "\n")
    for task, scores in found["tasks"].items():
        own = scores.get("metric") or {"name": "acc", "value": scores["acc"]}
        if own["value"] is not None:
            print(f"{arguments.model}  {task}  {own['name']} {own['value']:.3f}", file=sys.stderr)
    return 0
