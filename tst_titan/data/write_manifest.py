"""Step `manifest`: check every shard, then write the manifest that training reads."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.io import get_datafolder
from datatrove.tools.check_dataset import check_dataset

from tst_titan.data.documents import read_documents
from tst_titan.data.manifest import (
    SPLITS,
    DataManifest,
    Documents,
    Shard,
    SplitManifest,
    TokenizerManifest,
    training_identity,
)
from tst_titan.data.settings import SETTINGS, digest
from tst_titan.data.shards import (
    ShardFile,
    block_checksums,
    check_index,
    id_dtype,
    sha256_of,
    storage_dtype,
    write_sources,
)
from tst_titan.data.step import Done, load_done
from tst_titan.data.tokenizer import TOKENIZER_FILE
from tst_titan.data.tokens import Mixture
from tst_titan.files import write_atomically

MANIFEST_FILE = "manifest.json"
_BLOCK_TOKENS = 1 << 24
_OF_TOKENIZER = ("sha256", "source", "eos_token", "bos_token", "bos_id", "round_trip")
_PACKAGES = ("datatrove", "tokenizers", "numpy", "zstandard", "tst-titan")


def write_manifest(folder: Path | str, workers: int) -> DataManifest:
    """Check the shards of a corpus and write <folder>/manifest.json.

    Args:
        folder: the corpus folder.
        workers: shards checked at the same time.

    Raises:
        ValueError: a shard is not what the pipeline should have written.
    """
    root = Path(folder)
    steps = {step: load_done(root, step) for step in SETTINGS}
    tokenizer = steps["tokenizer"]
    vocab_size, eos_id = tokenizer.counts["vocab_size"], tokenizer.counts["eos_id"]
    bos_id = tokenizer.counts.get("bos_id")
    taken = steps["tokens"].counts.get("dtype")  # of shards that were there before
    dtype = taken or id_dtype(vocab_size)
    tokenizer_path = root / tokenizer.folder / TOKENIZER_FILE
    splits, warnings = {}, [text for step in steps.values() for text in step.warnings]
    for name in SPLITS:
        tokens_folder = root / steps["tokens"].folder / name
        shards, inner = check_split(root, tokens_folder, dtype, vocab_size, eos_id, bos_id, workers)
        if dtype == "uint16" and not taken:  # datatrove's own checker reads two bytes a token
            check_dataset(
                get_datafolder(str(tokens_folder)), str(tokenizer_path), tokenizer.counts["eos_token"]
            )
        if inner:
            warnings.append(
                f"{name}: {inner:,} EOS tokens inside documents: the tokenizer takes them from text"
            )
        splits[name] = _split_manifest(steps["tokens"].counts[name], shards)
    if not taken:
        _note_sources(root, steps)
    manifest = DataManifest(
        format=1,
        corpus=root.name,
        identity=training_identity(splits["train"], dtype, tokenizer.counts["sha256"], eos_id),
        dtype=dtype,
        tokenizer=TokenizerManifest(
            path=tokenizer_path.relative_to(root).as_posix(),
            vocab_size=vocab_size,
            eos_id=eos_id,
            # A step that an earlier version finished has no round trip, and a corpus without `bos` no such token.
            **{k: tokenizer.counts.get(k) for k in _OF_TOKENIZER},
        ),
        documents=_documents(steps),
        train=splits["train"],
        heldout=splits["heldout"],
        config_sha256=digest({name: step.settings for name, step in steps.items()}),
        versions={name: metadata.version(name) for name in _PACKAGES},
        seconds={name: step.seconds for name, step in steps.items()},
        warnings=tuple(warnings),
    )
    write_atomically(root / MANIFEST_FILE, json.dumps(manifest.model_dump(), indent=1) + "\n")
    return manifest


def _note_sources(root: Path, steps: dict[str, Done]) -> None:
    """Held-out documents become tokens in the order in which they were held out; the mixture drops some."""
    tokens = steps["tokens"]
    mixture = Mixture(tokens.counts["mixture"], tokens.settings["tokens"]["seed"])
    documents = read_documents(root / steps["split"].folder / "heldout")
    kept = (each for each in documents if not mixture.keep or mixture.filter(each) is True)
    write_sources(root / tokens.folder / "heldout", (each.metadata["source"] for each in kept))


def check_split(
    root: Path, folder: Path, dtype: str, vocab_size: int, eos_id: int, bos_id: int | None, workers: int
) -> tuple[list[Shard], int]:
    """Check all shards of a split; returns them, relative to `root`, and the EOS tokens inside documents."""

    def check(path: Path) -> tuple[Shard, int]:
        return check_shard(root, path, dtype, vocab_size, eos_id, bos_id)

    with ThreadPoolExecutor(workers) as pool:  # hashing and numpy release the interpreter
        results = list(pool.map(check, shard_paths(folder)))
    return [shard for shard, _ in results], sum(inner for _, inner in results)


def check_shard(
    root: Path, path: Path, dtype: str, vocab_size: int, eos_id: int, bos_id: int | None = None
) -> tuple[Shard, int]:
    """Check one shard: whole ids, below the vocabulary's size, documents that begin and end as they should.

    Returns:
        The shard's entry in the manifest, and the number of EOS tokens that do not end a document.

    Raises:
        ValueError: with the file and what is wrong.
    """
    ids_type = storage_dtype(dtype)
    size = path.stat().st_size
    if size % ids_type.itemsize:
        raise ValueError(f"{path}: {size} bytes are not whole {dtype} ids")
    tokens = size // ids_type.itemsize
    ids = ShardFile(path, tokens, ids_type).map()
    index = Path(f"{path}.index")
    ends = np.fromfile(index, dtype="<u8")
    check_index(index, ends, tokens)
    largest, closings = 0, 0
    for start in range(0, tokens, _BLOCK_TOKENS):
        block = ids[start : start + _BLOCK_TOKENS]
        largest = max(largest, int(block.max()))
        closings += int(np.count_nonzero(block == eos_id))
    if largest >= vocab_size:
        raise ValueError(f"{path}: id {largest} is not below the vocabulary's size {vocab_size}")
    if not (ids[ends.astype(np.int64) - 1] == eos_id).all():
        raise ValueError(f"{path}: a document does not end with the EOS id {eos_id}")
    if bos_id is not None and not (ids[[0, *ends[:-1].astype(np.int64)]] == bos_id).all():
        raise ValueError(f"{path}: a document does not begin with the BOS id {bos_id}")
    shard = Shard(
        path=path.relative_to(root).as_posix(),
        tokens=tokens,
        documents=len(ends),
        size=size,
        sha256=sha256_of(path),
        index_sha256=sha256_of(index),
        blocks=block_checksums(path),
    )
    return shard, closings - len(ends)


def shard_paths(folder: Path) -> Iterator[Path]:
    """The non-empty shards of a split's folder, in reading order."""
    for path in sorted(folder.glob("*.ds")):
        if path.stat().st_size:
            yield path


def _split_manifest(found: dict[str, Any], shards: list[Shard]) -> SplitManifest:
    """The split's manifest, after comparing what was counted while writing with what is on disk."""
    tokens, documents = sum(s.tokens for s in shards), sum(s.documents for s in shards)
    counted = sum(found["documents"].values())
    if (tokens, documents) != (found["tokens"], counted):
        raise ValueError(
            f"{documents:,} documents and {tokens:,} tokens in the shards, {counted:,} and "
            f"{found['tokens']:,} were written: a shard is missing or there is one too many"
        )
    return SplitManifest(
        documents=documents,
        tokens=tokens,
        text_bytes=sum(found["bytes"].values()),
        text_bytes_by_source=found["bytes"],
        shards=tuple(shards),
    )


def _documents(steps: dict[str, Done]) -> Documents:
    read, tokens = steps["filter"].counts, steps["tokens"].counts
    if "taken" in tokens:
        read = read | tokens["taken"]
    dropped = dict(read["dropped"])
    if tokens["mixture"]:
        names = tokens["mixture"]
        dropped["mixture"] = {n: sum(tokens[s]["thinned"].get(n, 0) for s in SPLITS) for n in names}
    kept = sum(sum(tokens[s]["documents"].values()) for s in SPLITS)
    left_out = sum(sum(reasons.values()) for reasons in dropped.values())
    left_out += sum(steps["deduplicate"].counts.values())
    if read["read"] != kept + left_out:
        raise ValueError(f"{read['read']:,} documents were read, but {kept:,} kept and {left_out:,} left out")
    return Documents(
        read=read["read"],
        read_bytes=read["read_bytes"],
        read_by_source=read["read_by_source"],
        sources=read.get("sources", {}),  # a step that an earlier version finished has none
        dropped=dropped,
        duplicates=steps["deduplicate"].counts,
        kept=kept,
    )
