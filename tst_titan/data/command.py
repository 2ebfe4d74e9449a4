"""`tst-titan data STEP`: one step of one corpus. The rules call it; it can be called by hand.

What datatrove logs goes to standard error; one line a step goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tst_titan.data.settings import SETTINGS
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import write_atomically

if TYPE_CHECKING:
    from tst_titan.data.step import Step


def steps() -> dict[str, type[Step]]:
    """The steps that have settings, in the order in which they run."""
    # datatrove takes seconds to import, and the command line is read for every other command too.
    from tst_titan.data import deduplicate, filter, split, tokenizer, tokens

    kinds = (filter.Filter, deduplicate.Deduplicate, split.Split, tokenizer.MakeTokenizer, tokens.MakeTokens)
    return {step.kind.step: step for step in kinds}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tst-titan data`."""
    parser.add_argument("step", choices=[*SETTINGS, "manifest", "mutual_information", "prune"])
    parser.add_argument("--folder", type=Path, required=True, help="results/data/<corpus>")
    parser.add_argument("--workers", type=int, default=1, help="tasks run at the same time")
    parser.add_argument("--part", type=int, help="run this part of the tasks only, from 0")
    parser.add_argument("--parts", type=int, default=1, help="jobs that share the step's tasks")
    parser.add_argument("--done", type=Path, help="file to write: of a part, or of the statistics")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run one step; returns the exit status: 2 for what the user can mend."""
    prefix = f"data: {arguments.folder.name}: {arguments.step}:"
    try:
        print(prefix, _run(arguments), flush=True)
    except UserError as error:
        # Standard error is the log file of the rule; the terminal has to show it as well.
        print(prefix, error, file=sys.stderr)
        if not sys.stdout.isatty() or not sys.stderr.isatty():
            print(prefix, error, flush=True)
        return EXIT_USER_ERROR
    return 0


def _run(arguments: argparse.Namespace) -> str:
    """Run one step; returns one line on what it did."""
    step, folder = arguments.step, arguments.folder
    if step == "prune":
        from tst_titan.data.step import prune

        return ", ".join(path.name for path in prune(folder)) or "nothing to delete"
    if step == "manifest":
        from tst_titan.data.write_manifest import write_manifest

        manifest = write_manifest(folder, arguments.workers)
        shards = len(manifest.train.shards) + len(manifest.heldout.shards)
        return f"{shards} shards checked, identity {manifest.identity[:12]}"
    if step == "mutual_information":
        from tst_titan.data.mutual_information import write_statistics

        output = arguments.done or folder / "statistics" / "mutual_information.json"
        fit = write_statistics(folder / "manifest.json", output)["fits"]["grassberger"]
        return f"{fit['c0']:.3f} + {fit['a']:.3f} d^{fit['k']:.3f} nats ({output})"
    from tst_titan.data.pipelines import Part

    kind = steps()[step]
    done = kind(folder).run(arguments.workers, Part(arguments.part, arguments.parts))
    if done:
        return kind.summary(done.counts)
    if arguments.done:
        write_atomically(arguments.done, json.dumps({"step": step, "part": arguments.part}) + "\n")
    return f"part {arguments.part + 1} of {arguments.parts} done"
