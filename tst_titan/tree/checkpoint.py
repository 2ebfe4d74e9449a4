"""What a checkpoint's files must be: lists with sizes and checksums, written after them, checked before they are read.

Every process lists the files that it wrote, which are still in its memory: ``files-<rank>.json`` in the checkpoint. A
checkpoint without lists (an earlier version's, or one whose process died just then) is held against its ``.metadata``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tst_titan.files import read_json, write_atomically

BLOCK_BYTES = 1 << 22
METADATA = ".metadata"  # DCP's; rank 0 writes it last


def list_path(checkpoint: Path, rank: int) -> Path:
    """Where a rank lists its files."""
    return checkpoint / f"files-{rank}.json"


def write_list(checkpoint: Path, rank: int) -> None:
    """List what ``rank`` has written, with sizes in bytes and XXH3 checksums of 64 bits."""
    paths = [*sorted(checkpoint.glob(f"__{rank}_*.distcp")), *([checkpoint / METADATA] if rank == 0 else [])]
    with _threads() as pool:
        sums = pool.map(checksum, paths)
    content = {
        path.name: {"bytes": path.stat().st_size, "xxh3_64": value}
        for path, value in zip(paths, sums, strict=True)
    }
    write_atomically(list_path(checkpoint, rank), json.dumps(content, indent=1) + "\n")


def checksum(path: Path) -> str:
    """XXH3 of a file's bytes, 64 bits in hexadecimal digits."""
    import xxhash

    found = xxhash.xxh3_64()
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            found.update(block[:count])
    return found.hexdigest()


def damage(checkpoint: Path, contents: bool, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with a checkpoint, naming the file; None if nothing is.

    Args:
        checkpoint: the step's folder.
        contents: read all files, not their sizes alone; needs torch if there is no list.
        share: (i, n): look at every n-th file from the i-th on, where n processes look together.
    """
    if not (checkpoint / METADATA).is_file():
        return f"{checkpoint / METADATA} is missing"
    lists = [read_json(path, {}) for path in sorted(checkpoint.glob("files-*.json"))]
    listed: dict[str, Mapping] = {name: entry for content in lists for name, entry in content.items()}
    if not listed:
        return _beside_metadata(checkpoint) if contents and share[0] == 0 else None
    mine = sorted(listed.items())[share[0] :: share[1]]
    for name, entry in mine:
        if problem := _wrong_size(checkpoint / name, entry["bytes"]):
            return problem
    if contents:
        with _threads() as pool:
            sums = pool.map(checksum, [checkpoint / name for name, _ in mine])
            for (name, entry), found in zip(mine, sums, strict=True):
                if found != entry["xxh3_64"]:
                    return f"{checkpoint / name}: the bytes are not those that were written"
    return None


def _wrong_size(path: Path, expected: int, at_least: bool = False) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    found = path.stat().st_size
    if found < expected or (found > expected and not at_least):
        return f"{path} has {found:,} bytes instead of {expected:,}"
    return None


def _beside_metadata(checkpoint: Path) -> str | None:
    from torch.distributed.checkpoint import FileSystemReader

    try:
        stored = FileSystemReader(str(checkpoint)).read_metadata().storage_data or {}
    except Exception as error:  # whatever unpickling meets
        return f"{checkpoint / METADATA} cannot be read ({type(error).__name__})"
    ends: dict[str, int] = {}
    for info in stored.values():
        ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
    problems = (_wrong_size(checkpoint / name, end, at_least=True) for name, end in sorted(ends.items()))
    return next(filter(None, problems), None)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint so that nothing takes it for one; returns its new path."""
    aside = checkpoint.with_name(checkpoint.name.replace("step", "damaged"))
    if aside.exists():  # once is enough to look at
        shutil.rmtree(aside)
    return checkpoint.rename(aside)


def _threads() -> ThreadPoolExecutor:
    # Reading and hashing release the interpreter.
    return ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
