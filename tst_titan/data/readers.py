"""datatrove's readers, which account for every record: read, without text, or unreadable for a reason.

A record is a line of JSON that is not blank, or a row of a parquet file. One that cannot be read is counted and passed
by; a file that cannot be opened or ends early ends the task.
"""

import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.io import DataFolder
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.readers.base import BaseDiskReader, BaseReader
from zstandard import ZstdDecompressor

from tst_titan.config.corpus import FileSource, InstalledPackages, RecordSource, TextSource
from tst_titan.data.filters import SampleWriter
from tst_titan.data.packages import documents_of, package_files
from tst_titan.errors import UserError

_BUFFER_BYTES = 1 << 20
_LARGEST_ZSTD_WINDOW = 1 << 31
_SHOWN_CHARS = 80
EXAMPLES = 5  # unreadable records that each task keeps to show
FILES, FILE_BYTES, RECORDS, WITHOUT_TEXT = "input_files", "file_bytes", "records", "without_text"
FILES_WITHOUT_TEXT, UNREADABLE = "files_without_text", "unreadable/"


class UnreadableError(Exception):
    """A record that cannot be read: the reason that it is counted under, and what to show of it."""

    def __init__(self, reason: str, shown: str):
        super().__init__(reason)
        self.reason = reason
        self.shown = shown[:_SHOWN_CHARS]


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
            before = taken
            self.stat_update(FILES)
            self.stat_update(FILE_BYTES, value=path.stat().st_size if path.is_file() else 0)
            for identifier, text in documents_of(inner, path, self.source.parts, self.source.target_chars):
                if taken == self.limit:
                    return
                taken += 1
                self.stat_update(RECORDS)
                document = self.get_document_from_dict({"text": text, "id": identifier}, inner, identifier)
                if document:
                    self.update_doc_stats(document)
                    yield document
                else:
                    self.stat_update(WITHOUT_TEXT)
            if taken == before:
                self.stat_update(FILES_WITHOUT_TEXT)


class RecordReader(BaseDiskReader):
    """What the readers of files share: from records to documents, with nothing left uncounted."""

    source: FileSource
    place: str  # what a record is called when one is shown
    examples: SampleWriter | None = None
    rank = 0
    kept: tuple[str, ...] = ()

    def records(self, filepath: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
        """Number of each record in the file, from 0, and its fields or why it has none."""
        raise NotImplementedError

    def run(
        self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        self.rank = rank
        with self.examples or nullcontext():
            yield from super().run(data, rank, world_size)

    def read_file(self, filepath: str) -> Iterator[Document]:
        seen = 0
        try:
            for number, record in self._named(filepath):
                document = self._document(record, filepath, number)
                if document:
                    yield document
                seen += 1  # not for the one after the last that `limit_per_task` takes
        finally:
            self.stat_update(RECORDS, value=seen)

    def _named(self, filepath: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
        """The records; whatever a file system, a compression or a format raises names the file and where it was."""
        seen = 0
        try:
            self.stat_update(FILE_BYTES, value=self.data_folder.size(filepath) or 0)
            for number, record in self.records(filepath):
                seen = number + 1
                yield number, record
        except UserError:
            raise
        except Exception as error:
            path = self.data_folder.resolve_paths(filepath)
            raise UserError(
                f"source {self.source.label}: {path}: cannot be read after {self.place} {seen:,}: "
                f"{str(error) or type(error).__name__}; replace the file, or leave it out with `glob`"
            ) from error

    def _document(
        self, record: dict[str, Any] | UnreadableError, filepath: str, number: int
    ) -> Document | None:
        try:
            if isinstance(record, UnreadableError):
                raise record
            text = text_of(record, self.text_key)
        except UnreadableError as error:
            self.stat_update(f"{UNREADABLE}{error.reason}")
            if self.examples:
                where = f"{filepath}, {self.place} {number + 1}"
                self.examples.write(
                    Document(error.shown, where, metadata={"reason": error.reason}), self.rank
                )
            return None
        if not text:
            self.stat_update(WITHOUT_TEXT)
            return None
        return self.get_document_from_dict(record, filepath, number)


class LinesReader(RecordReader, JsonlReader):
    """JSON lines, in any compression that datatrove knows by the file's ending."""

    place = "line"

    def records(self, filepath: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
        """Lines that are not blank."""
        with open_lines(self.data_folder, filepath) as file:
            for number, line in enumerate(file):
                if not line.isspace():
                    try:
                        record: dict[str, Any] | UnreadableError = parse_line(line)
                    except UnreadableError as error:
                        record = error
                    yield number, record


class TextParquetReader(RecordReader, ParquetReader):
    """Reads the text and what filters look at: web corpora carry columns many times as costly to decode as to skip."""

    place = "row"

    def records(self, filepath: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
        """Rows.

        Raises:
            UserError: the file lacks a column.
        """
        columns = [self.text_key, *self.kept]
        with self.data_folder.open(filepath, "rb") as file, pq.ParquetFile(file) as parquet:
            if missing := set(columns) - set(parquet.schema_arrow.names):
                raise UserError(
                    f"source {self.source.label}: {self.data_folder.resolve_paths(filepath)}: it has no column "
                    f"{', '.join(sorted(missing))}; there are: {', '.join(parquet.schema_arrow.names)}"
                )
            row = 0
            for batch in parquet.iter_batches(batch_size=self.batch_size, columns=columns):
                for fields in _rows(batch):
                    yield row, fields
                    row += 1
            if row != parquet.metadata.num_rows:
                raise EOFError(f"the file says that it has {parquet.metadata.num_rows:,} rows")


class TextReader(RecordReader):
    """Plain text: one document a file, or one between blank lines. White space alone is no text."""

    place = "line"
    source: TextSource

    def records(self, filepath: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
        """Documents by the number of their first line."""
        by_paragraph = self.source.documents == "paragraphs"
        start, lines = 0, list[bytes]()
        with open_lines(self.data_folder, filepath) as file:
            for number, line in enumerate(file):
                if not by_paragraph or not line.isspace():
                    start = start if lines else number
                    lines.append(line)
                elif lines:
                    yield start, _plain(lines, b"\r\n")
                    lines = []
        if lines or not by_paragraph:
            yield start, _plain(lines, b"\r\n" if by_paragraph else b"")


def _plain(lines: list[bytes], end: bytes) -> dict[str, Any] | UnreadableError:
    """Text as a record, without the characters of `end` behind it; it may begin with a byte order mark."""
    content = b"".join(lines).rstrip(end)
    try:
        return {"text": "" if content.isspace() else content.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        return UnreadableError("not_utf8", _shown(content[max(0, error.start - _SHOWN_CHARS // 4) :]))


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnreadableError]:
    """Rows of a batch; pyarrow decodes strings when they are taken, all or none of a call's."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                fields = batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield UnreadableError("not_utf8", str(error))
            else:
                yield fields


def text_of(record: dict[str, Any], key: str) -> str | None:
    """The text of a record; None or empty for a document without any.

    Raises:
        UnreadableError: the key is missing or holds no text.
    """
    if key not in record:
        raise UnreadableError("no_text_key", f"there are: {', '.join(record)}")
    text = record[key]
    if not isinstance(text, str | None):
        raise UnreadableError("text_is_not_a_string", f"{type(text).__name__} {text!r:.60}")
    return text


def parse_line(line: bytes) -> dict[str, Any]:
    """The object on a line of JSON.

    Raises:
        UnreadableError: there is none, or it cannot be written as UTF-8 again.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = _parse_as_python_does(line)
    if not isinstance(record, dict):
        raise UnreadableError("not_an_object", _shown(line))
    return record


def _parse_as_python_does(line: bytes) -> Any:
    """What orjson refuses: a byte order mark, NaN and Infinity are read; what is wrong with others is found out."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
        orjson.dumps(record)
    except UnicodeDecodeError as error:
        raise UnreadableError("not_utf8", _shown(line[max(0, error.start - _SHOWN_CHARS // 4) :])) from None
    except TypeError as error:
        reason = "lone_surrogate" if "surrogate" in str(error) else "not_json"
        raise UnreadableError(reason, _shown(line)) from None
    except (ValueError, RecursionError):
        raise UnreadableError("not_json", _shown(line)) from None
    return record


def _shown(line: bytes) -> str:
    return line[:_SHOWN_CHARS].decode("utf-8", "backslashreplace").strip()


class _ZstdFrames(io.RawIOBase):
    """The content of all frames of a zstd file; fsspec's reader ends after the first, and does not mind a cut one."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something; 0 at the end.

        Raises:
            EOFError: the file ends inside a frame.
        """
        while not self._output:
            self._input = self._input or self._file.read(_BUFFER_BYTES)
            if not self._input:
                if self._frame:
                    raise EOFError("the compressed file ends in the middle")
                return 0
            self._frame = (
                self._frame or ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW).decompressobj()
            )
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        length = min(len(buffer), len(self._output))
        buffer[:length] = self._output[:length]
        self._output = self._output[length:]
        return length

    def close(self) -> None:
        self._file.close()
        super().close()


def open_lines(folder: DataFolder, path: str) -> IO[bytes]:
    """Open a file, compressed or not, to iterate over its lines.

    Raises:
        ValueError: an archive of several files.
    """
    if path.endswith(".zst"):
        return io.BufferedReader(_ZstdFrames(folder.open(path, "rb")), _BUFFER_BYTES)
    if path.endswith(".zip"):
        with folder.open(path, "rb") as file, ZipFile(file) as archive:
            if len(names := archive.namelist()) != 1:
                raise ValueError(f"the archive holds {len(names)} files; only archives of one can be read")
    return folder.open(path, "rb", compression="infer")


def text_alone(reader: Any, data: dict[str, Any], path: str, id_in_file: int | str) -> dict[str, Any]:
    """Adapter: text, what filters look at, and an id that does not depend on where the corpus lies."""
    kept = {key: data.get(key) for key in reader.kept}
    return {"text": data[reader.text_key], "id": f"{path}/{id_in_file}", "metadata": kept}


READERS: dict[str, type[RecordReader]] = {
    "parquet": TextParquetReader,
    "jsonl": LinesReader,
    "text": TextReader,
}


def make_reader(source: InstalledPackages | FileSource, unreadable: Path | None = None) -> BaseReader:
    """The reader of one source; its documents carry its name as metadata `source`.

    Readers of several sources follow each other in a pipeline: each passes on what came before it.

    Args:
        source: the source, with its packages resolved.
        unreadable: folder for a sample of the records that cannot be read; none is kept without it.
    """
    options: dict[str, Any] = {
        "limit": source.limit_per_task or -1,
        "default_metadata": {"source": source.label},
    }
    if isinstance(source, InstalledPackages):
        return PackagesReader(source, sorted(source.packages), **options)
    options |= {"glob_pattern": source.pattern, "adapter": text_alone}
    if isinstance(source, RecordSource):
        options["text_key"] = source.text_key
    reader = READERS[source.format](source.path, **options)
    reader.source, reader.kept = source, getattr(source, "metadata", ())
    reader.examples = SampleWriter(unreadable / source.label, EXAMPLES) if unreadable else None
    reader.add_file_path = False  # it would make the documents depend on where the corpus lies
    return reader
