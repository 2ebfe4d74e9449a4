"""What a corpus's sources hold: checked before anything long starts, and accounted for when they are read."""

import math
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.io import DataFolder, get_datafolder
from datatrove.pipeline.readers import JsonlReader
from fsspec.utils import compressions

from tst_titan.config.corpus import FileSource, InstalledPackages, RecordSource
from tst_titan.data.documents import by_prefix
from tst_titan.data.packages import check_installed
from tst_titan.data.readers import (
    EXAMPLES,
    FILE_BYTES,
    FILES,
    FILES_WITHOUT_TEXT,
    RECORDS,
    UNREADABLE,
    WITHOUT_TEXT,
    UnreadableError,
    open_lines,
    parse_line,
)
from tst_titan.errors import UserError

# Enough to know the keys, few enough to be read from a remote file in a moment.
_FIRST_LINES = 100
_KINDS_OF_FILES = 10


def check_source(source: InstalledPackages | FileSource, tasks: int, versions: dict[str, str]) -> list[str]:
    """Look whether a source can be read; returns warnings.

    Args:
        source: the source, with its packages resolved.
        tasks: datatrove tasks that share its files.
        versions: pinned version of every package of the corpus.

    Raises:
        UserError: nothing is there, or a key is not in the data.
    """
    if isinstance(source, InstalledPackages):
        return check_installed({package: versions[package] for package in source.packages})
    name, pattern = source.label, source.pattern
    try:
        folder = get_datafolder(source.path)
        files = folder.list_files(glob_pattern=pattern)
        if not files:
            raise UserError(f"source {name}: path: no file matches {pattern!r} in {source.path}")
        keys = _first_keys(folder, files[0], source.kind) if isinstance(source, RecordSource) else None
    except UserError:
        raise
    except Exception as error:  # whatever a remote file system raises
        raise UserError(f"source {name}: path: cannot read {source.path}: {error}") from error
    wanted = (
        [("text_key", source.text_key), *(("metadata", key) for key in source.metadata)]
        if isinstance(source, RecordSource)
        else []
    )
    for setting, key in wanted:
        if keys is not None and key not in keys:
            raise UserError(
                f"source {name}: {setting}: {key!r} is not in {files[0]}; there are: {', '.join(keys)}"
            )
    if len(files) < tasks:
        return [f"source {name}: {len(files)} files for {tasks} tasks: some tasks have nothing to read"]
    return []


def _first_keys(folder: DataFolder, path: str, kind: str) -> list[str] | None:
    """Columns of a parquet file, or the keys on the first lines of JSON; None if it has no line.

    Raises:
        UserError: none of the lines is a JSON object.
    """
    if kind == "parquet":
        with folder.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            return list(parquet.schema_arrow.names)
    keys: dict[str, None] = {}
    refused: UnreadableError | None = None
    with open_lines(folder, path) as file:
        for line in islice(file, _FIRST_LINES):
            try:
                keys |= dict.fromkeys([] if line.isspace() else parse_line(line))
            except UnreadableError as error:
                refused = refused or error
    if keys or not refused:
        return list(keys) or None
    array = refused.shown.startswith("[")
    hint = "; one array of all documents is not JSON lines: `jq -c '.[]'` makes them of it" if array else ""
    raise UserError(f"{path}: the first line is not a JSON object: {refused.shown!r}{hint}")


def not_read(source: FileSource, files_read: int) -> dict[str, int]:
    """Files below the source's path that were not read, by the ending, or by what they are.

    Args:
        source: the source.
        files_read: how many were.
    """
    folder = get_datafolder(source.path)
    asked_for = set(folder.list_files(glob_pattern=source.pattern))
    found = Counter(_kind_of_file(source.path, name) for name in set(folder.list_files()) - asked_for)
    kinds = dict(found.most_common(_KINDS_OF_FILES))
    if others := found.total() - sum(kinds.values()):
        kinds["other endings"] = others
    if len(asked_for) > files_read:
        kinds["after limit_per_task"] = len(asked_for) - files_read
    return kinds


def _kind_of_file(path: str, name: str) -> str:
    if "://" not in path and (Path(path) / name).is_dir():
        return "linked folder"
    endings = Path(name).suffixes
    return "".join(endings[-2 if endings[-1][1:] in compressions else -1 :]) if endings else "no ending"


def account_of(
    source: InstalledPackages | FileSource, counted: Counter[str], documents: int, unreadable: Path
) -> dict[str, Any]:
    """What was found in a source, as `SourceAccount` of the manifest has it.

    Args:
        source: the source.
        counted: what its reader counted.
        documents: what came out of it, counted behind the reader.
        unreadable: folder of the sample of the records that could not be read.

    Raises:
        RuntimeError: something is neither read nor counted as left out, which is a bug.
    """
    reasons = by_prefix(counted, UNREADABLE)
    files, records, without = (int(counted[label]) for label in (FILES, RECORDS, WITHOUT_TEXT))
    if records != documents + without + sum(reasons.values()):
        raise RuntimeError(
            f"source {source.label}: {records} records, but {documents} documents, {without} without text and "
            f"{reasons} unreadable"
        )
    left = not_read(source, files) if isinstance(source, FileSource) else {}
    if "after limit_per_task" in left and not source.limit_per_task:
        raise RuntimeError(f"source {source.label}: {left['after limit_per_task']} files were not opened")
    examples = [
        f"{example.id}: {example.metadata['reason']}: {example.text}"
        for example in JsonlReader(str(unreadable / source.label))(None)
    ] if reasons else []  # fmt: skip
    return {
        "files": files,
        "file_bytes": int(counted[FILE_BYTES]),
        "records": records,
        "documents": documents,
        "without_text": without,
        "unreadable": reasons,
        "examples": examples[:EXAMPLES],
        "files_without_text": int(counted[FILES_WITHOUT_TEXT]),
        "not_read": left,
    }


def check_readable(accounts: dict[str, dict[str, Any]], max_fraction: float) -> None:
    """Compare the records that could not be read with the share that the corpus allows.

    Raises:
        UserError: a source has more; with the reasons and the first few.
    """
    for name, account in accounts.items():
        bad, records = sum(account["unreadable"].values()), account["records"]
        if bad > max_fraction * records:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in account["unreadable"].items())
            examples = "".join(f"\n  {example}" for example in account["examples"])
            raise UserError(
                f"source {name}: {bad:,} of {records:,} records cannot be read ({reasons}); the first:{examples}\n"
                f"Mend them, or allow a share: unreadable: {{max_fraction: {_rounded_up(bad / records)}}} "
                f"(now {max_fraction:g})"
            )


def _rounded_up(share: float) -> str:
    """A share with two digits, not below it, as YAML reads a number."""
    digits = 1 - math.floor(math.log10(share))
    return f"{math.ceil(share * 10**digits) / 10**digits:.{digits}f}"
