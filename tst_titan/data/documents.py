"""Documents between the steps: one compressed file a task, read back, counted, and chosen by their text."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

DOCUMENT_FILE = "{rank:05d}.jsonl.zst"


def document_writer(folder: Path | str, filename: str = "${rank}.jsonl.zst") -> JsonlWriter:
    """Writer of one compressed file a task."""
    return JsonlWriter(str(folder), output_filename=filename, compression="zstd")


class TaskReader(JsonlReader):
    """Reads back the file that the same task of an earlier pipeline wrote, if it had documents."""

    def __init__(self, folder: Path | str):
        super().__init__(str(folder), compression="zstd")
        self.add_file_path = False

    def run(
        self, data: Iterator[Document] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        path = DOCUMENT_FILE.format(rank=rank)
        if self.data_folder.isfile(path):
            yield from self.read_files_shard([path])


def read_texts(folder: Path) -> Iterator[str]:
    """Texts of all documents in a folder, in the order of tasks and documents."""
    for document in read_documents(folder):
        yield document.text


def read_documents(folder: Path) -> Iterator[Document]:
    """All documents in a folder, in the order of tasks and documents."""
    reader = TaskReader(folder)
    yield from reader.read_files_shard(sorted(path.name for path in folder.glob("*.jsonl.zst")))


class Tally(PipelineStep):
    """Counts documents and UTF-8 bytes of text, in all and by source; passes documents on."""

    type = "🧮 - TALLY"
    name = "documents"

    def __init__(self, by: str = "source"):
        super().__init__()
        self.by = by

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Count and pass on."""
        for document in data:
            size = len(document.text.encode())
            group = document.metadata.get(self.by, "")
            self.stat_update("documents", f"documents/{group}")
            self.stat_update("bytes", f"bytes/{group}", value=size)
            yield document


def by_prefix(total: Counter[str], prefix: str) -> dict[str, int]:
    """The counters whose label starts with `prefix`, without it."""
    return {k.removeprefix(prefix): int(v) for k, v in sorted(total.items()) if k.startswith(prefix)}


def text_fraction(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text and the salt alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=hashlib.sha256(salt.encode()).digest())
    return int.from_bytes(digest.digest(), "big") / 2**64
