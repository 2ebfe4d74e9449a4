"""A small corpus of random tokens in the very format that the pipeline writes, for tests that train."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from tst_titan.data.manifest import (
    DataManifest,
    Documents,
    Shard,
    SplitManifest,
    TokenizerManifest,
    training_identity,
)
from tst_titan.data.shards import sha256_of, storage_dtype


def write_corpus(
    folder: Path, tokens: int = 60_000, vocab_size: int = 64, seed: int = 0, shards: int = 2
) -> Path:
    """Write shards and manifest.json below ``folder`` and return the manifest's path.

    The tokens follow a random first-order Markov chain, so that a model has something to learn.
    """
    generator = np.random.default_rng(seed)
    following = generator.integers(1, vocab_size, size=(vocab_size, 4))
    streams = []
    for count in (tokens, tokens // 10):
        stream = np.empty(count, np.uint16)
        state = 1
        choices = generator.integers(0, 4, size=count)
        for index in range(count):
            state = int(following[state, choices[index]])
            stream[index] = state
        stream[99::100] = 0
        streams.append(stream)
    return write_streams(folder, streams[0], streams[1], vocab_size, shards=shards)


def write_streams(
    folder: Path,
    train: np.ndarray,
    heldout: np.ndarray,
    vocab_size: int,
    dtype: Literal["uint16", "uint32"] = "uint16",
    shards: int = 2,
) -> Path:
    """Write two streams of ids, in which 0 closes a document, as a corpus; returns the manifest's path."""
    splits = {
        "train": _write_split(folder, "train", train, dtype, shards),
        "heldout": _write_split(folder, "heldout", heldout, dtype, 1),
    }
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(tokenizer, vocab_size)
    sha = sha256_of(tokenizer)
    manifest = DataManifest(
        format=1,
        corpus=folder.name,
        identity=training_identity(splits["train"], dtype, sha, 0),
        dtype=dtype,
        tokenizer=TokenizerManifest(
            path="tokenizer/tokenizer.json",
            sha256=sha,
            source="test",
            vocab_size=vocab_size,
            eos_token="<|endoftext|>",
            eos_id=0,
        ),
        documents=Documents(
            read=10, read_bytes=len(train), read_by_source={"test": 10}, dropped={}, duplicates={}, kept=10
        ),
        train=splits["train"],
        heldout=splits["heldout"],
        config_sha256="0" * 64,
        versions={},
        seconds={},
        warnings=(),
    )
    path = folder / "manifest.json"
    path.write_text(manifest.model_dump_json(indent=2))
    return path


def _write_split(folder: Path, split: str, stream: np.ndarray, dtype: str, shards: int) -> SplitManifest:
    parts = []
    for number, piece in enumerate(np.array_split(stream, shards)):
        path = folder / "tokens" / split / f"{number:05d}.ds"
        path.parent.mkdir(parents=True, exist_ok=True)
        piece.astype(storage_dtype(dtype)).tofile(path)
        ends = np.flatnonzero(piece == 0) + 1
        if not len(ends) or ends[-1] != len(piece):
            ends = np.append(ends, len(piece))
        ends.astype("<u8").tofile(f"{path}.index")
        parts.append(
            Shard(
                path=str(path.relative_to(folder)),
                tokens=len(piece),
                documents=len(ends),
                size=path.stat().st_size,
                sha256=sha256_of(path),
                index_sha256=sha256_of(Path(f"{path}.index")),
            )
        )
    return SplitManifest(
        documents=sum(part.documents for part in parts),
        tokens=len(stream),
        text_bytes=len(stream),
        text_bytes_by_source={"test": len(stream)},
        shards=tuple(parts),
    )


def _write_tokenizer(path: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = {"<|endoftext|>": 0} | {chr(0x4E00 + index): index for index in range(1, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(path))
