"""Write what an lm-eval task asks as text: ``tst-titan evaluate items``, for the decontamination of a corpus."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_titan.evaluate.harness import add_arguments_of_a_task, parts_of
from tst_titan.files import write_atomically


def item_texts(task: str, folders: list[Path]) -> Iterator[str]:
    """Every text that the harness makes of a task's items, without examples before it: context and each ending.

    Args:
        task: name of a task, group or tag.
        folders: folders with lm-eval YAML of one's own.

    Raises:
        UserError: the task is unknown or its data is not at hand.
    """
    for part in parts_of(task, folders):
        part.set_config(key="num_fewshot", value=0)
        part.build_all_requests()
        for instance in part.instances:
            yield "".join(text for text in _with_answer(part, instance) if isinstance(text, str))


def _with_answer(part: Any, instance: Any) -> tuple[Any, ...]:
    """The parts of a request; where the model has to find the answer, followed by it."""
    if instance.request_type != "generate_until":
        return instance.arguments
    return *instance.arguments, " ", part.doc_to_target(instance.doc)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate items``."""
    add_arguments_of_a_task(parser, "JSON lines, a text each")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the texts, each once."""
    texts = list(dict.fromkeys(item_texts(arguments.task, arguments.task_folder)))
    write_atomically(arguments.out, "".join(json.dumps({"text": text}) + "\n" for text in texts))
    print(f"{arguments.task}  {len(texts)} texts", file=sys.stderr)
    return 0
