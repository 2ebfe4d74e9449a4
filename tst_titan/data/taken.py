"""Sources of kind `tokens`: shards that exist already, taken as they are after a check of every id.

A file of raw ids becomes a shard by a link. One with NumPy's header is copied, and so is the one in which the hold-out
ends.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders

from tst_titan.config.corpus import Heldout, TokensSource
from tst_titan.data.documents import text_fraction
from tst_titan.data.listing import list_local
from tst_titan.data.manifest import SPLITS
from tst_titan.data.readers import FILE_BYTES, FILES, FILES_WITHOUT_TEXT, RECORDS
from tst_titan.data.shards import check_index, id_dtype, storage_dtype, write_sources
from tst_titan.data.sources import account_of
from tst_titan.data.tokenizer import number_of_ids
from tst_titan.errors import UserError

_BLOCK_TOKENS = 1 << 22
_NUMPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class TokenFile:
    """A file of a source.

    Attributes:
        source: where it belongs.
        name: inside the source's path.
        dtype: uint16 or uint32.
        offset: bytes before the first id.
        tokens: ids in it.
        held_out: whether the source names it as held out.
    """

    source: TokensSource
    name: str
    dtype: np.dtype
    offset: int
    tokens: int
    held_out: bool

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.source.path) / self.name

    @property
    def ids(self) -> np.ndarray:
        """Shape (tokens,), mapped anew: a map holds a file open, and there may be thousands."""
        if not self.tokens:
            return np.empty(0, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,)).view(np.ndarray)

    def error(self, what: str) -> UserError:
        """What is wrong with it, as the user reads it."""
        return UserError(f"source {self.source.label}: {self.path}: {what}")


@dataclass(frozen=True)
class Piece:
    """Documents of one file that belong to one split: their tokens [start, end), with the end of each in the file."""

    file: TokenFile
    ends: np.ndarray
    start: int = 0


def take(
    folder: Path,
    sources: tuple[TokensSource, ...],
    tokenizer: Tokenizer,
    eos_id: int,
    bos_id: int | None,
    heldout: Heldout,
    workers: int,
) -> dict[str, Any]:
    """Check the files of the sources and make shards of them under <folder>/{train,heldout}.

    Args:
        folder: the step's folder.
        sources: all of the corpus.
        tokenizer: that made the ids.
        eos_id: of the end-of-text token.
        bos_id: of the token that begins every document, if the corpus has one.
        heldout: what is held out of sources that do not name the files.
        workers: files looked at at the same time.

    Returns:
        What the step `tokens` counts, and `dtype` and `taken`, the account of the sources.

    Raises:
        UserError: a file is not what its source says.
    """
    files = [file for source in sources for file in open_files(source, number_of_ids(tokenizer))]
    if len(types := {file.dtype.name for file in files}) > 1:
        raise UserError(f"sources: ids of types {sorted(types)}; all shards of a corpus have one")
    lengths = bytes_of_ids(tokenizer)
    lengths[[eos_id] if bos_id is None else [eos_id, bos_id]] = 0

    def check(file: TokenFile) -> tuple[np.ndarray, int]:
        ends = document_ends(file, len(lengths), eos_id)
        begins = file.ids[[0, *ends[:-1].astype(np.int64)]] if len(ends) else ends
        if bos_id is not None and (bad := int(np.count_nonzero(begins != bos_id))):
            raise file.error(f"bos: {bad:,} of {len(ends):,} documents do not begin with the id {bos_id}")
        return ends, text_bytes(file.ids, lengths)

    with ThreadPoolExecutor(workers) as pool:  # numpy releases the interpreter
        checked = list(pool.map(check, files))
    pieces = hold_out(files, [ends for ends, _ in checked], heldout)
    found: dict[str, Any] = {"mixture": {}, "dtype": types.pop()}
    for split in SPLITS:
        shutil.rmtree(folder / split, ignore_errors=True)  # of a job that was killed
        (folder / split).mkdir(parents=True)
        documents, sizes, tokens = Counter[str](), Counter[str](), 0
        for number, piece in enumerate(pieces[split]):
            write(piece, folder / split / f"{number:06d}.ds")
            label, end = piece.file.source.label, int(piece.ends[-1])
            documents[label] += len(piece.ends)
            sizes[label] += (
                text_bytes(piece.file.ids[piece.start : end], lengths) if split == "heldout" else 0
            )
            tokens += end - piece.start
        if split == "heldout":
            labels = ([piece.file.source.label] * len(piece.ends) for piece in pieces[split])
            write_sources(folder / split, chain.from_iterable(labels))
        found[split] = {"documents": dict(documents), "bytes": dict(sizes), "tokens": tokens, "thinned": {}}
    accounts, total = {}, Counter[str]()
    for source in sources:
        own = [(file, *each) for file, each in zip(files, checked, strict=True) if file.source is source]
        count = sum(len(ends) for _, ends, _ in own)
        counted = Counter(
            {FILES: len(own), RECORDS: count, FILES_WITHOUT_TEXT: sum(not len(e) for _, e, _ in own)}
        )
        counted[FILE_BYTES] = sum(file.path.stat().st_size for file, *_ in own)
        accounts[source.label] = account_of(source, counted, count, folder)
        total[source.label] = sum(size for *_, size in own)
        found["train"]["bytes"][source.label] = total[source.label] - found["heldout"]["bytes"].get(
            source.label, 0
        )
    read = {label: account["documents"] for label, account in accounts.items()}
    found["taken"] = {
        "read": sum(read.values()),
        "read_bytes": total.total(),
        "read_by_source": read,
        "sources": accounts,
    }
    return found


def open_files(source: TokensSource, vocab_size: int) -> Iterator[TokenFile]:
    """The files of a source, mapped.

    Raises:
        UserError: one is no array of whole ids of a type that ids have.
    """
    held_out = (
        {name for name, *_ in list_local(source.path, source.heldout_glob)} if source.heldout_glob else set()
    )
    for name, *_ in list_local(source.path, source.pattern):
        path, dtype = Path(source.path) / name, storage_dtype(source.dtype or id_dtype(vocab_size))
        with path.open("rb") as file:
            raw = file.read(len(_NUMPY_MAGIC)) != _NUMPY_MAGIC  # OLMo calls files .npy that have no header
        size, offset, shape = path.stat().st_size, 0, (0,)
        if not raw:
            array = np.load(path, mmap_mode="r")
            dtype, offset, shape = array.dtype, array.offset, array.shape
        elif size % dtype.itemsize:
            raise UserError(
                f"source {source.label}: {path}: {size:,} bytes are not whole ids of {dtype.name}"
            )
        else:
            shape = (size // dtype.itemsize,)
        found = TokenFile(source, name, dtype, offset, shape[0], name in held_out)
        if len(shape) != 1 or dtype not in (np.dtype("<u2"), np.dtype("<u4")):
            raise found.error(
                f"an array of shape {shape} and type {dtype}; expected a row of uint16 or uint32"
            )
        if source.dtype and dtype.name != source.dtype:
            raise found.error(f"ids of type {dtype.name}, but the source's dtype is {source.dtype}")
        yield found


def document_ends(file: TokenFile, vocab_size: int, eos_id: int) -> np.ndarray:
    """Where the documents end: from the index beside the file, or behind every end-of-text id; (documents,), uint64.

    Raises:
        UserError: an id is not below the vocabulary's size, or a document does not end with the end-of-text id.
    """
    ids, tokens = file.ids, len(file.ids)
    ends = []
    for start in range(0, tokens, _BLOCK_TOKENS):
        block = ids[start : start + _BLOCK_TOKENS]
        if (largest := int(block.max())) >= vocab_size:
            raise file.error(
                f"id {largest:,} is not below the vocabulary's size {vocab_size:,}: the file was made by another "
                f"tokenizer, begins with a header, or does not hold {ids.dtype.name}"
            )
        ends.append(np.flatnonzero(block == eos_id).astype("<u8") + np.uint64(start + 1))
    if tokens > 2 and ids.dtype.itemsize == 2 and not ids[1:_BLOCK_TOKENS:2].any():
        raise file.error("every second id is 0: these look like ids of uint32; set dtype: uint32")
    index = Path(f"{file.path}.index")
    if index.is_file():
        found = np.fromfile(index, "<u8")
        check_index(index, found, tokens)
        if bad := int(np.count_nonzero(ids[found.astype(np.int64) - 1] != eos_id)):
            raise file.error(
                f"{bad:,} of {len(found):,} documents do not end with the end-of-text id {eos_id}"
            )
        return found
    found = np.concatenate(ends) if ends else np.empty(0, "<u8")
    if tokens and (not len(found) or found[-1] != tokens):
        raise file.error(
            f"the last document does not end with the end-of-text id {eos_id}: the last ids are {ids[-5:].tolist()}"
            + ("; the first is: documents must end with it, not begin" if ids[0] == eos_id else "")
        )
    return found


def hold_out(files: list[TokenFile], ends: list[np.ndarray], heldout: Heldout) -> dict[str, list[Piece]]:
    """The pieces of each split, in the order of the files.

    Sources that name no files give `heldout.fraction` of their documents: from files in an order that the seed
    decides, whole ones and the beginning of one.

    Raises:
        UserError: a split has no document.
    """

    def place(file: TokenFile) -> float:
        return text_fraction(f"{file.source.label}/{file.name}", f"heldout-{heldout.seed}")

    drawn = [i for i, file in enumerate(files) if not file.source.heldout_glob]
    left = ceil(heldout.fraction * sum(len(ends[i]) for i in drawn))
    taken = {i: len(ends[i]) if file.held_out else 0 for i, file in enumerate(files)}
    for i in sorted(drawn, key=lambda i: place(files[i])):
        taken[i] = min(left, len(ends[i]))
        left -= taken[i]
    pieces: dict[str, list[Piece]] = {split: [] for split in SPLITS}
    for i, (file, each) in enumerate(zip(files, ends, strict=True)):
        count = taken[i]
        if count:
            pieces["heldout"].append(Piece(file, each[:count]))
        if count < len(each):
            pieces["train"].append(Piece(file, each[count:], int(each[count - 1]) if count else 0))
    for split, found in pieces.items():
        if not found:
            raise UserError(
                f"{split}: there is no document; heldout.fraction is {heldout.fraction}, heldout_glob of the sources "
                f"{[source.heldout_glob for source in dict.fromkeys(file.source for file in files)]}"
            )
    return pieces


def write(piece: Piece, path: Path) -> None:
    """Write a shard and its index: a link where the piece is a whole file of raw ids."""
    end = int(piece.ends[-1])
    if (piece.file.offset, piece.start, end) == (0, 0, piece.file.tokens):
        path.symlink_to(piece.file.path.resolve())
    else:
        ids = piece.file.ids
        with path.open("wb") as file:
            for start in range(piece.start, end, _BLOCK_TOKENS):
                ids[start : min(end, start + _BLOCK_TOKENS)].tofile(file)
    (piece.ends - np.uint64(piece.start)).astype("<u8").tofile(f"{path}.index")


def bytes_of_ids(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes of the text that each id stands for, shape (number of ids,), int64; 0 for ids without a token.

    Exact for byte-level vocabularies, whose pieces have a character a byte. In others a `▁` is a space.
    """
    lengths = np.zeros(number_of_ids(tokenizer), np.int64)
    added = tokenizer.get_added_tokens_decoder()
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    for piece, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if byte_level and index not in added:
            lengths[index] = len(piece)
        else:
            byte = re.fullmatch(r"<0x[0-9A-F]{2}>", piece)
            lengths[index] = 1 if byte else len(piece.replace("▁", " ").encode())
    return lengths


def text_bytes(ids: np.ndarray, lengths: np.ndarray) -> int:
    """UTF-8 bytes of the text of `ids`, shape (tokens,)."""
    blocks = range(0, len(ids), _BLOCK_TOKENS)
    return sum(int(lengths[ids[start : start + _BLOCK_TOKENS]].sum()) for start in blocks)
