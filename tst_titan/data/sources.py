"""datatrove readers of a corpus's sources, and checks that they can be read before anything long starts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.io import DataFolder, get_datafolder
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.readers.base import BaseReader

from tst_titan.config.corpus import FileSource, InstalledPackages
from tst_titan.data.packages import check_installed, documents_of, package_files
from tst_titan.errors import UserError

DEFAULT_GLOB = {"parquet": "**/*.parquet", "jsonl": "**/*.json*"}


class PackagesReader(BaseReader):
    """Documents of installed packages; task `rank` of `world_size` takes every `world_size`-th file."""

    name = "📦 Installed packages"

    def __init__(self, source: InstalledPackages, packages: list[str], **options: Any):
        super().__init__(**options)
        self.source = source
        self.packages = packages

    def run(
        self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        if data:
            yield from data
        files = [file for name in self.packages for file in package_files(name, self.source.exclude)]
        taken = 0
        for inner, path in files[rank::world_size]:
            for identifier, text in documents_of(inner, path, self.source.parts, self.source.target_chars):
                if taken == self.limit:
                    return
                taken += 1
                document = self.get_document_from_dict({"text": text, "id": identifier}, inner, identifier)
                if document:
                    self.update_doc_stats(document)
                    yield document


class TextParquetReader(ParquetReader):
    """Reads the text and what filters look at: web corpora carry columns many times as costly to decode as to skip."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        with self.data_folder.open(filepath, "rb") as file, pq.ParquetFile(file) as parquet:
            row = 0
            for batch in parquet.iter_batches(
                batch_size=self.batch_size, columns=[self.text_key, *self.kept]
            ):
                for fields in batch.to_pylist():
                    document = self.get_document_from_dict(fields, filepath, row)
                    row += 1
                    if document:
                        yield document


def text_alone(reader: Any, data: dict[str, Any], path: str, id_in_file: int | str) -> dict[str, Any]:
    """Adapter: text, what filters look at, and an id that does not depend on where the corpus lies."""
    text, kept = data.get(reader.text_key), {key: data.get(key) for key in reader.kept}
    return {"text": text if isinstance(text, str) else "", "id": f"{path}/{id_in_file}", "metadata": kept}


def make_reader(source: InstalledPackages | FileSource) -> BaseReader:
    """The reader of one source; its documents carry its name as metadata `source`.

    Readers of several sources follow each other in a pipeline: each passes on what came before it.
    """
    options: dict[str, Any] = {
        "limit": source.limit_per_task or -1,
        "default_metadata": {"source": source.label},
    }
    if isinstance(source, InstalledPackages):
        return PackagesReader(source, sorted(source.packages), **options)
    options |= {
        "glob_pattern": source.glob or DEFAULT_GLOB[source.kind],
        "text_key": source.text_key,
        "adapter": text_alone,
    }
    kind = TextParquetReader if source.kind == "parquet" else JsonlReader
    reader = kind(source.path, **options)
    reader.kept = source.metadata
    reader.add_file_path = False  # it would make the documents depend on where the corpus lies
    return reader


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
    name, pattern = source.label, source.glob or DEFAULT_GLOB[source.kind]
    try:
        folder = get_datafolder(source.path)
        files = folder.list_files(glob_pattern=pattern)
        if not files:
            raise UserError(f"source {name}: path: no file matches {pattern!r} in {source.path}")
        keys = _first_keys(folder, files[0], source.kind)
    except UserError:
        raise
    except Exception as error:  # whatever a remote file system raises
        raise UserError(f"source {name}: path: cannot read {source.path}: {error}") from error
    wanted = [("text_key", source.text_key), *(("metadata", key) for key in source.metadata)]
    for setting, key in wanted:
        if keys is not None and key not in keys:
            raise UserError(
                f"source {name}: {setting}: {key!r} is not in {files[0]}; there are: {', '.join(keys)}"
            )
    if len(files) < tasks:
        return [f"source {name}: {len(files)} files for {tasks} tasks: some tasks have nothing to read"]
    return []


def list_local(source: InstalledPackages | FileSource) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change (ns) of a source's files if they are local; none for other sources."""
    if isinstance(source, InstalledPackages) or "://" in source.path or not Path(source.path).is_dir():
        return []
    folder = get_datafolder(source.path)
    names = folder.list_files(glob_pattern=source.glob or DEFAULT_GLOB[source.kind])
    states = [(Path(source.path) / name).stat() for name in names]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in zip(names, states, strict=True)]


def _first_keys(folder: DataFolder, path: str, kind: str) -> list[str] | None:
    if kind == "parquet":
        with folder.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            return list(parquet.schema_arrow.names)
    with folder.open(path, "r", compression="infer") as file:
        line = file.readline()
    try:
        return list(json.loads(line)) if line.strip() else None
    except ValueError:
        raise UserError(f"{path}: the first line is not a JSON object: {line[:80]!r}") from None
