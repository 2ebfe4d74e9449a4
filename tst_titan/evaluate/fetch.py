"""Fetch the data of an lm-eval task into Hugging Face's cache: ``tst-titan evaluate fetch``.

The one step of evaluation that wants a network. What the cache (``HF_HOME``) already holds is taken from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tst_titan.evaluate.harness import load_tasks, task_manager
from tst_titan.files import write_if_changed


def fetch(task: str, folders: list[Path]) -> dict[str, Any]:
    """Load a task, so that its data lands in the cache.

    Args:
        task: name of a task, group or tag.
        folders: folders with lm-eval YAML of one's own.

    Returns:
        The task's name, where the cache is, and version, data set and number of items of all its tasks.

    Raises:
        UserError: the task is unknown or its data cannot be had.
    """
    import datasets
    import lm_eval

    manager = task_manager([task], folders)
    parts: list[Any] = []
    for found in load_tasks(manager, [task]):
        parts += found.get_all_tasks() if hasattr(found, "get_all_tasks") else [found]
    return {
        "task": task,
        "parts": {
            part.task_name: {
                "version": part.VERSION,
                "dataset": part.DATASET_PATH,
                "dataset_name": part.DATASET_NAME,
                "items": len(part.eval_docs),
            }
            for part in parts
        },
        "cache": str(datasets.config.HF_DATASETS_CACHE),
        "lm_eval_version": lm_eval.__version__,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate fetch``."""
    parser.add_argument("--task", required=True, help="name of a task, group or tag")
    parser.add_argument(
        "--task-folder", type=Path, action="append", default=[], help="folder of lm-eval YAML"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON that says what was fetched")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fetch the data and say what it is."""
    found = fetch(arguments.task, arguments.task_folder)
    write_if_changed(arguments.out, json.dumps(found, indent=2) + "\n")
    items = sum(part["items"] for part in found["parts"].values())
    print(f"{arguments.task}  {items} items in {found['cache']}", file=sys.stderr)
    return 0
