"""Reading token shards: memory-mapped, as one stream of tokens or document by document.

A shard is datatrove's `.ds` file (token ids, little-endian uint16 or uint32) with a `.ds.index` beside it
(the end of every document in tokens, uint64). Nothing is loaded ahead: the system pages in what is read.
"""

import hashlib
import json
import os
import random
import socket
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tst_titan.data.manifest import SPLITS, DataManifest, Shard, Split, load_manifest
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_atomically

# Every open map holds a file descriptor, of which a process has 1,024 by default; a corpus may have thousands
# of shards, of which the lanes of one rank touch few at a time.
MAX_OPEN_SHARDS = 256
SOURCES_FILE = "sources.txt"
HASH_BLOCK_BYTES = 1 << 22
CHECKED_BLOCK_BYTES = 1 << 24  # what the manifest's hashes of blocks are of
BYTES_AT_ONCE = 1 << 31  # are hashed in seconds


@dataclass(frozen=True)
class ShardFile:
    """A shard on disk and what it must hold: `tokens` ids of type `dtype`."""

    path: Path
    tokens: int
    dtype: np.dtype

    def check_size(self) -> None:
        """Compare the file's size with what the manifest says.

        Raises:
            UserError: the file is missing, truncated, or longer than it should be.
        """
        expected = self.tokens * self.dtype.itemsize
        if not self.path.is_file():
            raise UserError(f"{self.path}: the shard is missing ({expected:,} bytes); build the corpus again")
        found = self.path.stat().st_size
        if found != expected:
            kind = "truncated" if found < expected else "longer than its manifest says"
            raise UserError(
                f"{self.path}: the shard is {kind}: {found:,} bytes found, {expected:,} expected "
                f"({self.tokens:,} tokens of {self.dtype.name}); build the corpus again"
            )

    def map(self) -> np.ndarray:
        """The shard's ids, shape (tokens,), storage dtype, read-only and memory-mapped."""
        self.check_size()
        if not self.tokens:
            return np.empty(0, self.dtype)
        # A plain ndarray view: slicing an np.memmap costs several microseconds more than slicing an array.
        return np.memmap(self.path, dtype=self.dtype, mode="r").view(np.ndarray)


def id_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """Name of the type that ids below `vocab_size` are stored in."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def storage_dtype(name: str) -> np.dtype:
    """Little-endian dtype of the ids on disk: `uint16` or `uint32`."""
    return np.dtype(name).newbyteorder("<")


class TokenStream:
    """The tokens of several shards as one stream of `len(stream)` tokens.

    Sizes are checked when the stream is made, so a missing or truncated shard fails before the first read.

    Raises:
        UserError: a shard is missing or has the wrong size.
    """

    def __init__(self, shards: Sequence[ShardFile]):
        for shard in shards:
            shard.check_size()
        self.shards = [shard for shard in shards if shard.tokens]
        self._starts = [0]
        for shard in self.shards:
            self._starts.append(self._starts[-1] + shard.tokens)
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()

    @classmethod
    def from_manifest(cls, path: Path, split: Split = "train") -> "TokenStream":
        """The stream of one split of the corpus whose manifest is at `path`."""
        return cls(shard_files(path, load_manifest(path), split))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, length: int, dtype: np.dtype | type = np.int64) -> np.ndarray:
        """Tokens [start, start + length): a fresh array of shape (length,) and type `dtype`."""
        out = np.empty(length, dtype)
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill `out`, shape (length,), any integer dtype, with tokens [start, start + length).

        Raises:
            IndexError: the range leaves the stream.
        """
        length = len(out)
        if start < 0 or start + length > len(self):
            raise IndexError(f"tokens [{start}, {start + length}) are not in a stream of {len(self)} tokens")
        index = bisect_right(self._starts, start) - 1
        done = 0
        while done < length:
            begin = start + done - self._starts[index]
            piece = self._shard(index)[begin : begin + length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            index += 1

    def _shard(self, index: int) -> np.ndarray:
        ids = self._open.get(index)
        if ids is None:
            ids = self._open[index] = self.shards[index].map()
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        return ids


def shard_files(path: Path, manifest: DataManifest, split: Split) -> list[ShardFile]:
    """The shards of a split, in reading order; `path` is the manifest's own path."""
    dtype = storage_dtype(manifest.dtype)
    folder = Path(path).parent
    return [ShardFile(folder / shard.path, shard.tokens, dtype) for shard in manifest.split(split).shards]


def iterate_documents(path: Path, split: Split = "heldout") -> Iterator[np.ndarray]:
    """Yield each document of a split: its ids with the closing EOS, shape (tokens of the document,), int64.

    `path` is the manifest's path. The order is that of the shards.

    Raises:
        UserError: a shard or an index is missing, truncated or inconsistent.
    """
    manifest = load_manifest(path)
    for shard, file in zip(manifest.split(split).shards, shard_files(path, manifest, split), strict=True):
        ids = file.map()
        start = 0
        for end in read_index(file.path, shard):
            yield ids[start:end].astype(np.int64)
            start = end


def write_sources(folder: Path, sources: Iterable[str]) -> None:
    """Note beside the shards of a split from which source each of its documents is, in the order of the shards."""
    write_atomically(folder / SOURCES_FILE, "".join(f"{source}\n" for source in sources))


def read_sources(path: Path, manifest: DataManifest) -> np.ndarray | None:
    """Source of every held-out document, shape (documents,), strings; None where an earlier version wrote the corpus.

    `path` is the manifest's path.
    """
    noted = shard_files(path, manifest, "heldout")[0].path.with_name(SOURCES_FILE)
    if not noted.is_file():
        return None
    sources = np.array(noted.read_text(encoding="utf-8").splitlines())
    if len(sources) != manifest.heldout.documents:
        raise UserError(
            f"{noted}: {len(sources):,} sources of {manifest.heldout.documents:,} held-out documents; build the corpus "
            "again"
        )
    return sources


def read_index(path: Path, shard: Shard) -> list[int]:
    """Ends of the documents in the shard at `path`, in tokens.

    Raises:
        UserError: the index is missing or does not fit the shard.
    """
    index = Path(f"{path}.index")
    if not index.is_file():
        raise UserError(f"{index}: the shard's index is missing; build the corpus again")
    size = index.stat().st_size
    if size != 8 * shard.documents:
        raise UserError(
            f"{index}: {size:,} bytes found, {8 * shard.documents:,} expected for {shard.documents:,} "
            "documents; build the corpus again"
        )
    ends = np.fromfile(index, dtype="<u8")
    check_index(index, ends, shard.tokens)
    return ends.tolist()


def check_index(path: Path, ends: np.ndarray, tokens: int) -> None:
    """Check that the ends of documents, shape (documents,), uint64, rise to the shard's number of tokens.

    Raises:
        UserError: they do not.
    """
    last = int(ends[-1]) if len(ends) else 0
    if last != tokens or np.any(ends[1:] <= ends[:-1]):
        raise UserError(
            f"{path}: the index does not fit its shard (last end {last:,}, tokens {tokens:,}); "
            "build the corpus again"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def block_checksums(path: Path) -> tuple[str, ...]:
    """XXH3 of each `CHECKED_BLOCK_BYTES` of a file; none for a file of one such block, which has its SHA-256."""
    count = -(-path.stat().st_size // CHECKED_BLOCK_BYTES)
    return tuple(_block_checksum(path, index) for index in range(count)) if count > 1 else ()


def _block_checksum(path: Path, index: int) -> str:
    import xxhash

    with path.open("rb") as file:
        file.seek(index * CHECKED_BLOCK_BYTES)
        return xxhash.xxh3_64_hexdigest(file.read(CHECKED_BLOCK_BYTES))


def verify_shards(path: Path, hashes: bool = True) -> DataManifest:
    """Check every file that the manifest at `path` names, and return the manifest.

    Sizes and indices are always checked; with `hashes`, every file's SHA-256 is compared as well.

    Raises:
        UserError: a file is missing, truncated or altered.
    """
    manifest = load_manifest(path)
    expected: dict[Path, str] = {}
    for split in SPLITS:
        for shard, file in zip(manifest.split(split).shards, shard_files(path, manifest, split), strict=True):
            file.check_size()
            read_index(file.path, shard)
            expected |= {file.path: shard.sha256, Path(f"{file.path}.index"): shard.index_sha256}
    tokenizer = Path(path).parent / manifest.tokenizer.path
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: the tokenizer is missing; build the corpus again")
    _check_hash(tokenizer, manifest.tokenizer.sha256)
    if hashes:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_check_hash, expected, expected.values()))
    return manifest


def verify_here(path: Path, at_once: int = BYTES_AT_ONCE) -> None:
    """Before the first stage that reads a corpus on this machine: compare the hashes of its training shards.

    Of more than `at_once` bytes, that many are read, in blocks drawn at random over all shards; manifests of earlier
    versions have no hashes of blocks, so sizes are all there is. Done again if a file of the corpus changes.

    Raises:
        UserError: a file was altered.
    """
    manifest = load_manifest(path)
    files = [file.path for file in shard_files(path, manifest, "train")]
    state = [manifest.identity, *([file.name, file.stat().st_mtime_ns] for file in files)]
    done = Path(path).parent / "verified" / f"{socket.gethostname()}.json"
    if read_json(done, None) == state:
        return
    shards = manifest.train.shards
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if sum(shard.size for shard in shards) <= at_once:
            list(pool.map(_check_hash, files, [shard.sha256 for shard in shards]))
        else:
            blocks = [
                (file, number, checksum)
                for file, shard in zip(files, shards, strict=True)
                for number, checksum in enumerate(shard.blocks)
            ]
            count = min(len(blocks), max(1, at_once // CHECKED_BLOCK_BYTES))
            list(pool.map(lambda block: _check_block(*block), random.sample(blocks, count)))
    with suppress(OSError):  # a corpus that may only be read is checked each time
        write_atomically(done, json.dumps(state))


def _check_block(path: Path, number: int, expected: str) -> None:
    if _block_checksum(path, number) != expected:
        first = number * CHECKED_BLOCK_BYTES
        raise UserError(
            f"{path}: the file was altered within {CHECKED_BLOCK_BYTES:,} bytes from byte {first:,} on; build the "
            "corpus again"
        )


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise UserError(
            f"{path}: the file was altered: SHA-256 {found[:16]}… found, {expected[:16]}… expected; "
            "build the corpus again"
        )
