"""Writing files so that whoever reads them, or crashes, never meets half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, and the folders above it: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        allow_as_umask_says(Path(name))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_if_changed(path: Path, text: str) -> bool:
    """Write atomically, and only if the content differs, so that timestamps mean changes. True if written."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_atomically(path, text)
    return True


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file; ``default`` where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return default


def allow_as_umask_says(path: Path) -> None:
    """Give a file the mode of any new file: mkstemp and safetensors make private ones, and results are shared."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
