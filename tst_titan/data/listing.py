"""The files of a corpus's sources with their states: listed when the workflow is read, an input of the step `filter`.

The list is <corpus folder>/config/sources.json; its hash is a comment in config/filter.yaml, which Snakemake takes as
the step's input. So no rule has a hundred thousand inputs, and results of versions without a list have the inputs that
they always had.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from tst_titan.config.corpus import FileSource, Source
from tst_titan.files import read_json

Files = list[tuple[str, Any, Any]]


def is_local(source: FileSource) -> bool:
    """Whether the source is a folder of this machine that is there."""
    return "://" not in source.path and Path(source.path).is_dir()


def list_local(path: Path | str, pattern: str) -> Files:
    """Name below `path`, bytes and time of change (ns) of the files that datatrove's readers find, sorted.

    A link to nowhere has -1 for both. fsspec, through which datatrove lists, takes ten times as long.
    """
    pattern = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}"
    match = re.compile(glob_translate(pattern)).match
    fixed = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    found = _files_below(str(path), f"{fixed}/" if fixed else "")
    return sorted((name, *_state(entry)) for name, entry in found if match(name))


def _files_below(root: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        entries = list(os.scandir(f"{root}/{prefix}"))
    except OSError:  # reading it says so
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(root, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _state(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        state = entry.stat()
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _list_remote(source: FileSource) -> Files:
    """Name, bytes and revision (hash or time of change, whichever the file system has) of remote files."""
    from datatrove.io import get_datafolder  # takes seconds to import

    folder = get_datafolder(source.path)
    options = {"expand_info": False} if source.path.startswith("hf://") else {}
    found = folder.glob(source.pattern, detail=True, **options)
    revisions = ("blob_id", "ETag", "md5Hash", "LastModified", "mtime")
    return [
        (name, info.get("size"), next((str(info[key]) for key in revisions if info.get(key)), None))
        for name, info in sorted(found.items())
        if info["type"] != "directory"
    ]


class Listing:
    """The files of each source as <corpus folder>/config/sources.json has them.

    Attributes:
        files: by source.
        taken_over: remote sources listed first when the corpus was there already; no step's folder depends on
            them until they change.
    """

    def __init__(self, files: dict[str, Files], taken_over: list[str]):
        self.files = files
        self.taken_over = taken_over

    @staticmethod
    def path(folder: Path) -> Path:
        """Where the list of the corpus in `folder` is."""
        return folder / "config" / "sources.json"

    @classmethod
    def read(cls, folder: Path) -> "Listing | None":
        """The list of a corpus; None where none was written."""
        found = read_json(cls.path(folder), None)
        if found is None:
            return None
        files = {label: [tuple(file) for file in files] for label, files in found["files"].items()}
        return cls(files, found["taken_over"])

    @classmethod
    def of(
        cls, sources: tuple[Source, ...], fixed: bool, before: "Listing | None", exists: bool
    ) -> "Listing":
        """List the sources.

        Args:
            sources: of the corpus.
            fixed: whether what was listed before stays, and remote ones are not asked.
            before: the list written before. A source that cannot be listed now, or has no file left, keeps
                what it says.
            exists: whether the corpus was made by a version without a list.
        """
        old = before.files if before else {}
        files, taken_over = {}, []
        for source in sources:
            if not isinstance(source, FileSource):
                continue
            label, remote = source.label, "://" in source.path
            if fixed and (label in old or remote):
                files[label] = old.get(label, [])
            elif is_local(source):
                files[label] = list_local(source.path, source.pattern) or old.get(label, [])
            else:
                try:
                    files[label] = _list_remote(source) if remote else old.get(label, [])
                except Exception:  # no network: the step says so if it has to read
                    files[label] = old.get(label, [])
            stays = before is not None and label in before.taken_over and files[label] == old.get(label)
            if remote and (stays or (exists and before is None)):
                taken_over.append(label)
        return cls(files, taken_over)

    def text(self) -> str:
        """The list as it is written: a line a file."""
        files = {label: [list(file) for file in files] for label, files in self.files.items()}
        body = json.dumps({"taken_over": self.taken_over, "files": files}, ensure_ascii=True)
        return body.replace("], [", "],\n[") + "\n"
