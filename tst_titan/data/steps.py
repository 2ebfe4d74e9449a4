"""Command line of the data pipeline: one step of one corpus. The rules call it; it can be called by hand.

    python -m tst_titan.data.steps filter --folder results/data/packages --workers 2

What datatrove logs goes to standard error; one line a step goes to standard output.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tst_titan.data import documents, publish, tokenizer, tokens
from tst_titan.data.stages import Part
from tst_titan.data.work import Done, prune
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import write_atomically

SHARED_STEPS: dict[str, Callable[[Path, int, Part], Done | None]] = {
    "filter": documents.filter_documents,
    "deduplicate": documents.deduplicate,
    "split": documents.split_documents,
    "tokens": tokens.make_tokens,
}
SINGLE_STEPS: dict[str, Callable[[Path, int], Any]] = {
    "tokenizer": tokenizer.make_tokenizer,
    "manifest": publish.write_manifest,
}


def summary(step: str, result: Any) -> str:
    """One line on what a step did."""
    if step == "filter":
        dropped = ", ".join(f"{sum(v.values()):,} by {k}" for k, v in result.counts["dropped"].items())
        read, kept = result.counts["read"], result.counts["kept"]
        found = f"{read:,} documents read, {dropped or 'none'} dropped, {kept:,} kept"
    elif step == "deduplicate":
        found = (
            ", ".join(f"{value:,} {kind} duplicates" for kind, value in result.counts.items()) or "kept all"
        )
    elif step == "split":
        parts = (f"{sum(v['documents'].values()):,} documents for {k}" for k, v in result.counts.items())
        found = ", ".join(parts)
    elif step == "tokenizer":
        found = f"{result.counts['source']}: {result.counts['vocab_size']:,} tokens"
    elif step == "tokens":
        found = ", ".join(f"{result.counts[name]['tokens']:,} tokens for {name}" for name in tokens.SPLITS)
    else:
        shards = len(result.train.shards) + len(result.heldout.shards)
        found = f"{shards} shards checked, identity {result.identity[:12]}"
    return found


def main(argv: list[str] | None = None) -> int:
    """Run one step; returns the exit status: 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description="Run one step of the data pipeline.")
    parser.add_argument("step", choices=[*SHARED_STEPS, *SINGLE_STEPS, "mutual_information", "prune"])
    parser.add_argument("--folder", type=Path, required=True, help="results/data/<corpus>")
    parser.add_argument("--workers", type=int, default=1, help="tasks run at the same time")
    parser.add_argument("--part", type=int, help="run this part of the tasks only, from 0")
    parser.add_argument("--parts", type=int, default=1, help="jobs that share the step's tasks")
    parser.add_argument("--done", type=Path, help="file to write: of a part, or of the statistics")
    arguments = parser.parse_args(argv)
    try:
        _run(arguments)
    except UserError as error:
        # Standard error is the log file of the rule; the terminal has to show it as well.
        message = f"data: {arguments.folder.name}: {arguments.step}: {error}"
        print(message, file=sys.stderr)
        if not sys.stdout.isatty() or not sys.stderr.isatty():
            print(message, flush=True)
        return EXIT_USER_ERROR
    return 0


def _run(arguments: argparse.Namespace) -> None:
    step, folder = arguments.step, arguments.folder
    prefix = f"data: {folder.name}: {step}:"
    if step == "prune":
        print(prefix, ", ".join(path.name for path in prune(folder)) or "nothing to delete")
        return
    if step == "mutual_information":
        from tst_titan.data import mutual_information  # scipy takes longer to import than most steps need

        output = arguments.done or folder / "statistics" / "mutual_information.json"
        found = mutual_information.write_statistics(folder / publish.MANIFEST_FILE, output)
        fit = found["fits"]["grassberger"]
        print(prefix, f"{fit['c0']:.3f} + {fit['a']:.3f} d^{fit['k']:.3f} nats ({output})", flush=True)
        return
    if step in SINGLE_STEPS:
        result = SINGLE_STEPS[step](folder, arguments.workers)
    else:
        result = SHARED_STEPS[step](folder, arguments.workers, Part(arguments.part, arguments.parts))
    if result is None:
        text = f"part {arguments.part + 1} of {arguments.parts} done"
        if arguments.done:
            write_atomically(arguments.done, json.dumps({"step": step, "part": arguments.part}) + "\n")
    else:
        text = summary(step, result)
    print(prefix, text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
