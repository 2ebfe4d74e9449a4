"""What is measured on an exported model: ``tst-titan evaluate heldout | tasks | local-task | fetch | items``."""

from __future__ import annotations

import argparse
from typing import Any

PARTS = {
    "heldout": ("heldout", "loss on the held-out documents"),
    "tasks": ("tasks", "lm-eval tasks, 0-shot"),
    "local-task": ("local_task", "make a multiple-choice task from held-out documents"),
    "fetch": ("fetch", "fetch the data of an lm-eval task into Hugging Face's cache"),
    "items": ("items", "write what an lm-eval task asks, for the decontamination of a corpus"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate``: a part, whose module is imported once it is named."""
    parts: Any = parser.add_subparsers(required=True, metavar="PART")
    for name, (module, what) in PARTS.items():
        parts.add_parser(name, help=what, description=what).module = f"{__name__}.{module}"
