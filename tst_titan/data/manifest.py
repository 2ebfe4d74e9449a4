"""The data manifest: what a tokenised corpus holds, where it came from, and the hashes that prove it.

A manifest is the last file that the data pipeline writes, so its presence means that the shards are whole.
All paths in it are relative to its own folder, so a corpus can be moved or mounted elsewhere.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tst_titan.errors import UserError

FORMAT = 1
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Part):
    """One `.ds` file: token ids, little-endian, document after document, each closed by the EOS id.

    With `bos` of the corpus each begins with the BOS id.
    """

    path: str = Field(description="The .ds file, from the manifest's folder; its index is <path>.index.")
    tokens: int = Field(ge=0, description="Token ids in the file, EOS and BOS included.")
    documents: int = Field(ge=0, description="Documents in the file.")
    size: int = Field(ge=0, description="Bytes of the .ds file.")
    sha256: str = Field(description="SHA-256 of the .ds file.")
    index_sha256: str = Field(description="SHA-256 of the .ds.index file (ends of documents, uint64).")
    blocks: tuple[str, ...] = Field(
        default=(),
        description="XXH3 of each 16 MiB, if there are several; none in manifests of earlier versions.",
    )


class SplitManifest(_Part):
    """The shards of one split, in reading order."""

    documents: int = Field(ge=0, description="Documents of the split.")
    tokens: int = Field(ge=0, description="Tokens of the split, EOS and BOS of every document included.")
    text_bytes: int = Field(ge=0, description="UTF-8 bytes of the documents' text.")
    text_bytes_by_source: dict[str, int] = Field(description="The same, for each source.")
    shards: tuple[Shard, ...] = Field(description="The shards; in this order they are the stream.")


class RoundTrip(_Part):
    """A sample of training documents, encoded and decoded again."""

    documents: int = Field(ge=0, description="Documents tried.")
    changed: int = Field(ge=0, description="Those that were not the same afterwards.")
    example: str | None = Field(description="A place where one changed.")


class TokenizerManifest(_Part):
    """The tokenizer that wrote the shards."""

    path: str = Field(description="tokenizer.json, relative to the manifest's folder.")
    sha256: str = Field(description="SHA-256 of tokenizer.json.")
    source: str = Field(description="Kind and argument: train, file, hub, llama3 or qwen3.")
    vocab_size: int = Field(gt=0, description="Ids are below this number.")
    eos_token: str = Field(description="The token that closes each document.")
    eos_id: int = Field(ge=0, description="Its id.")
    bos_token: str | None = Field(
        default=None,
        description="The token that begins each document.",
        exclude_if=lambda token: token is None,
    )
    bos_id: int | None = Field(default=None, description="Its id.", exclude_if=lambda token: token is None)
    round_trip: RoundTrip | None = Field(
        default=None, description="Whether texts survive it; null in manifests of earlier versions."
    )


class SourceAccount(_Part):
    """What was found in a source: `records` are `documents`, those `without_text` and the `unreadable` ones."""

    files: int = Field(ge=0, description="Files opened.")
    file_bytes: int = Field(ge=0, description="Their bytes as they lie there, compressed or not.")
    records: int = Field(
        ge=0, description="Lines of JSON that are not blank, rows, or a package's documents."
    )
    documents: int = Field(ge=0, description="Documents read.")
    without_text: int = Field(ge=0, description="Records whose text is null or empty.")
    unreadable: dict[str, int] = Field(description="Records that cannot be read, by reason.")
    examples: tuple[str, ...] = Field(description="The first of them: file, line or row, reason, beginning.")
    files_without_text: int = Field(ge=0, description="Files of packages that gave no document.")
    not_read: dict[str, int] = Field(description="Files below the path that were not read, by ending.")


class Documents(_Part):
    """What became of the documents that were read; the parts add up to `read`."""

    read: int = Field(ge=0, description="Documents read from all sources.")
    read_bytes: int = Field(ge=0, description="UTF-8 bytes of their text.")
    read_by_source: dict[str, int] = Field(description="Documents read, per source.")
    sources: dict[str, SourceAccount] = Field(
        default={}, description="What was found in each source; empty in manifests of earlier versions."
    )
    dropped: dict[str, dict[str, int]] = Field(description="Documents dropped, per filter and reason.")
    duplicates: dict[str, int] = Field(description="Documents removed as duplicates: exact, near.")
    kept: int = Field(ge=0, description="Documents left: train and heldout together.")


class DataManifest(_Part):
    """`results/data/<corpus>/manifest.json`."""

    format: Literal[1] = Field(description="Version of this file's layout.")
    corpus: str = Field(description="Name of the corpus config.")
    identity: str = Field(description="SHA-256 over what training reads: train shards, dtype and tokenizer.")
    dtype: Literal["uint16", "uint32"] = Field(description="Storage type of the ids, little-endian.")
    tokenizer: TokenizerManifest = Field(description="The tokenizer that wrote the shards.")
    documents: Documents = Field(description="Documents read, dropped, removed and kept.")
    train: SplitManifest = Field(description="The training split.")
    heldout: SplitManifest = Field(description="The held-out split.")
    config_sha256: str = Field(description="SHA-256 of the settings of all steps.")
    versions: dict[str, str] = Field(description="Versions of the packages that made the corpus.")
    seconds: dict[str, float] = Field(description="Wall seconds of each step's last run.")
    warnings: tuple[str, ...] = Field(description="What a reader should know before trusting the corpus.")

    def split(self, name: Split) -> SplitManifest:
        """The split called `name`."""
        return self.train if name == "train" else self.heldout


def training_identity(train: SplitManifest, dtype: str, tokenizer_sha256: str, eos_id: int) -> str:
    """SHA-256 (hex) over the bytes that training reads, in reading order, and what gives them meaning."""
    parts = {
        "shards": [shard.sha256 for shard in train.shards],
        "dtype": dtype,
        "tokenizer": tokenizer_sha256,
        "eos": eos_id,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_manifest(path: Path) -> DataManifest:
    """Read and validate a data manifest.

    Raises:
        UserError: the file is missing, is not JSON, or is not a manifest of this format.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no data manifest; build the corpus first") from None
    try:
        return DataManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise UserError(
            f"{path}: not a data manifest of format {FORMAT}: {where}: {first['msg']} "
            f"(found {first['input']!r:.80}); delete the file to have it written again"
        ) from None
