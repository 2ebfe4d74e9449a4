"""Writing files so that whoever reads them, or crashes, never meets half of one; and what a full disk does to that."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError
from tst_titan.text import in_bytes


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
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk's error names none
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


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file cannot be read (``hint`` says why that may be, or what to do) or does not hold an object.
    """
    return _object(_text(path, hint), str(path))


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects in the lines of a file, each with where it stands: "metrics.jsonl, line 3".

    Raises:
        UserError: the file cannot be read, or a line does not hold an object.
    """
    for number, line in enumerate(_text(path, "").splitlines(), 1):
        if line.strip():
            yield (where := f"{path}, line {number}"), _object(line, where)


def _text(path: Path, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({why})" + (f": {hint}" if hint else "")) from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds a {type(content).__name__}; an object was expected")
    return content


def allow_as_umask_says(path: Path) -> None:
    """Give a file the mode of any new file: mkstemp and safetensors make private ones, and results are shared."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def full_disk(error: BaseException | None, folder: Path, needed: int = 0) -> UserError | None:
    """The sentence for an error that a full disk or quota has caused, however often it was wrapped; None for others.

    Args:
        error: what was raised.
        folder: what was written to, unless the error names its file.
        needed: bytes that were to be written there, if that is known.
    """
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = Path(error.filename).parent if error.filename else folder
        takes = f", a checkpoint takes {in_bytes(needed)}" if needed else ""
        return UserError(
            f"{where}: the disk or your quota is full: {in_bytes(shutil.disk_usage(where).free)} are free{takes}. "
            "Free some (`snakemake prune`, docs/checkpoints.md), then type the same command again: it goes on"
        )
    # DCP gathers what the ranks raised.
    inner = [failure[0] for failure in getattr(error, "failures", {}).values()]
    found = (full_disk(one, folder, needed) for one in (*inner, error.__cause__, error.__context__))
    return next(filter(None, found), None)
