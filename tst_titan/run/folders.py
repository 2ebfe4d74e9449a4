"""Folders that Snakemake and the libraries write to without being asked."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path


def prepare_folders(command: list[str]) -> None:
    """See to the working directory and the user's cache before Snakemake makes its first folder (profiles/default).

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


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
