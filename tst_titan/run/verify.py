"""``tst-titan verify``: read all token shards and checkpoints, and hold them against their checksums."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tst_titan.data.shards import verify_shards
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.run.lock import writer_of
from tst_titan.run.prune import Pruning
from tst_titan.tree.checkpoint import damage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan verify``."""
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="default: results")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a corpus and a checkpoint; 2 if one of them is damaged.

    Raises:
        UserError: there is neither.
    """
    bad = found = 0
    for name, problem in problems(arguments.results):
        found += 1
        bad += problem is not None
        print(f"{name}  {problem or 'whole'}", flush=True)
    if not found:
        raise UserError(f"{arguments.results}: no corpus and no checkpoint lies there")
    return EXIT_USER_ERROR if bad else 0


def problems(results: Path) -> Iterator[tuple[str, str | None]]:
    """Every corpus and every checkpoint with what is wrong with it."""
    for path in sorted(results.glob("data/*/manifest.json")):
        try:
            verify_shards(path)
            yield f"corpus {path.parent.name}", None
        except UserError as error:
            yield f"corpus {path.parent.name}", str(error)
    for checkpoint in Pruning(results, "all").checkpoints:
        if checkpoint.path.name.startswith("step-") and writer_of(checkpoint.stage) is None:
            name = f"{checkpoint.stage.title} {checkpoint.path.name}"
            yield name, damage(checkpoint.path, contents=True)
