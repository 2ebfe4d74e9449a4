"""What is seen to before Snakemake reads its command line and makes its first folder (profiles/default), or trains."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from tst_titan.errors import EXIT_USER_ERROR
from tst_titan.text import in_bytes


def prepare_folders(command: list[str]) -> None:
    """See to the working directory and the user's cache, which Snakemake writes to without being asked.

    A cache that cannot be written is replaced by one in the working directory, for this process and all that it starts.

    Args:
        command: of Snakemake, with its name.

    Raises:
        SystemExit: nothing can be written here.
    """
    elsewhere = any(word.split("=")[0] in ("--directory", "-d") for word in command)
    if not elsewhere and not _writable(Path(".snakemake")):
        again = shlex.join(["snakemake", "-s", str(Path.cwd() / "Snakefile"), *command[1:]])
        sys.exit(
            f"{Path.cwd()}: cannot be written; go to a folder that can, for results/ too, and run: {again}"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not _writable(cache):
        instead = str(Path.cwd() / ".snakemake/cache")
        print(f"{cache}: cannot be written; {instead} takes its place", file=sys.stderr)
        os.environ["XDG_CACHE_HOME"] = instead
        os.environ.setdefault("TRITON_HOME", instead)


def check_order(command: list[str]) -> None:
    """Refuse targets behind ``--config``, which takes all words up to the next option as its keys.

    Args:
        command: of Snakemake, with its name.

    Raises:
        SystemExit: there are some; says how to type it.
    """
    after_config = False
    swallowed: list[str] = []
    kept: list[str] = []
    for word in command[1:]:
        if word.startswith("-"):
            after_config = word in ("--config", "-C")
        (swallowed if after_config and "=" not in word and not word.startswith("-") else kept).append(word)
    if swallowed:
        again = shlex.join(["snakemake", *swallowed, *kept])
        print(
            f"--config takes key=value, and {swallowed[0]!r} behind it is none. Targets come first: {again}",
            file=sys.stderr,
        )
        sys.exit(EXIT_USER_ERROR)


def warn_of_little_space(results: Path, needed: int) -> None:
    """Say if the checkpoints of the stages to be trained, ``needed`` bytes, will not all fit on the results' disk.

    Pruning in between may make room, so only a stage whose own do not fit is refused, when its turn comes.
    """
    there = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        print(
            f"{results}: the checkpoints of the stages to train take {in_bytes(needed)}, {in_bytes(free)} are free. "
            "`snakemake prune` in between makes room (docs/checkpoints.md)",
            file=sys.stderr,
        )


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
