"""Which files of configs/ are the project's: a user's own lie beside them, and are not the suite's to judge."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def shipped() -> frozenset[Path]:
    """Files of configs/ that git tracks; all of them where git knows nothing, as in an unpacked archive."""
    command = ["git", "ls-files", "-z", "--", "configs"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    tracked = frozenset(Path(name) for name in listed.split("\0") if name and (ROOT / name).exists())
    return tracked or frozenset(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


def shipped_names(kind: str) -> list[str]:
    """Names of the shipped files of configs/<kind>, sorted."""
    return sorted(path.stem for path in shipped() if path.parent == Path("configs", kind))


def shipped_paths(kind: str) -> list[Path]:
    """The shipped files of configs/<kind>, sorted."""
    return [ROOT / "configs" / kind / f"{name}.yaml" for name in shipped_names(kind)]
