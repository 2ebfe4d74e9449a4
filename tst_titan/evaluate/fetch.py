"""Fetch the data of an lm-eval task into Hugging Face's cache: ``tst-titan evaluate fetch``.

The one step of evaluation that wants a network. What the cache (``HF_HOME``) already holds is taken from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tst_titan.evaluate.harness import add_arguments_of_a_task, parts_of
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

    return {
        "task": task,
        "parts": {
            part.task_name: {
                "version": part.VERSION,
                "dataset": part.DATASET_PATH,
                "dataset_name": part.DATASET_NAME,
                "items": len(part.eval_docs),
            }
            for part in parts_of(task, folders)
        },
        "cache": str(datasets.config.HF_DATASETS_CACHE),
        "lm_eval_version": lm_eval.__version__,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate fetch``."""
    add_arguments_of_a_task(parser, "JSON that says what was fetched")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fetch the data and say what it is."""
    found = fetch(arguments.task, arguments.task_folder)
    write_if_changed(arguments.out, json.dumps(found, indent=2) + "\n")
    items = sum(part["items"] for part in found["parts"].values())
    print(f"{arguments.task}  {items} items in {found['cache']}", file=sys.stderr)
    return 0
