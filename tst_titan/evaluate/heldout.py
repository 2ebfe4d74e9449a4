"""Held-out loss of an exported model: ``tst-titan evaluate heldout``.

The held-out documents, one after another with their end-of-text tokens, are cut into windows of the training
sequence length that do not overlap, as training cuts its lanes. Every token but the very first is predicted exactly
once, from the tokens before it in its window.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tst_titan.compare.documents import mean_over_documents
from tst_titan.data.manifest import DataManifest, load_manifest
from tst_titan.data.shards import TokenStream, read_index, read_sources, shard_files
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.models.exported import load_exported

# Logits are the largest tensor by far: as many as stay in a CPU's cache, or as fill a few GiB of an accelerator.
LOGITS_PER_BATCH = {"cpu": 1 << 21, "cuda": 1 << 29}


@dataclass(frozen=True)
class Loss:
    """Sums over scored tokens, document by document.

    Attributes:
        nats: total negative log-likelihood of each document's scored tokens, shape (documents,), float64.
        tokens: scored tokens of each document, shape (documents,), int64.
        windows: windows that were cut.
        sources: source of each document, strings of shape (documents,); None where nobody noted them.
    """

    nats: np.ndarray
    tokens: np.ndarray
    windows: int
    sources: np.ndarray | None = None

    @property
    def per_token(self) -> float:
        """Mean loss in nats per token."""
        return mean_over_documents(self.nats, self.tokens)[0]

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean in nats per token, with documents as the units drawn; None for fewer than two."""
        return mean_over_documents(self.nats, self.tokens)[1]


def batches(
    stream: TokenStream, length: int, tokens: int, batch_size: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Inputs and labels over the first ``tokens`` tokens, each int64 of shape (B, L), with the first label's position.

    All windows have ``length`` inputs but the last, which comes alone with what is left.
    """
    whole, rest = divmod(tokens - 1, length)
    cuts = [(first, min(batch_size, whole - first), length) for first in range(0, whole, batch_size)]
    cuts += [(whole, 1, rest)] if rest else []
    for first, count, width in cuts:
        ids = torch.from_numpy(stream.read(first * length, count * width + 1))
        yield first * length + 1, ids[:-1].view(count, width), ids[1:].view(count, width)


@torch.inference_mode()
def loss_over(
    model: Any, stream: TokenStream, ends: np.ndarray, length: int, tokens: int, batch_size: int
) -> Loss:
    """Loss of a causal language model over the first ``tokens`` tokens of a stream.

    Args:
        model: maps ids (B, L) to ``.logits`` (B, L, V).
        stream: the held-out tokens.
        ends: end of every document in tokens of the stream, shape (documents,), rising.
        length: inputs per window.
        tokens: at least 2.
        batch_size: windows per forward pass.
    """
    nats, scored, windows = np.zeros(len(ends)), np.zeros(len(ends), np.int64), 0
    for position, inputs, labels in batches(stream, length, tokens, batch_size):
        logits = model(inputs.to(model.device), use_cache=False).logits.flatten(0, 1).float()
        losses = functional.cross_entropy(logits, labels.flatten().to(model.device), reduction="none")
        document = np.searchsorted(ends, np.arange(position, position + labels.numel()), side="right")
        nats += np.bincount(document, losses.double().cpu().numpy(), minlength=len(ends))
        scored += np.bincount(document, minlength=len(ends))
        windows += len(labels)
    return Loss(nats, scored, windows)


def document_ends(path: Path, manifest: DataManifest) -> np.ndarray:
    """End of every held-out document in tokens of the stream, shape (documents,), int64."""
    ends: list[int] = []
    start = 0
    for shard, file in zip(manifest.heldout.shards, shard_files(path, manifest, "heldout"), strict=True):
        ends.extend(start + end for end in read_index(file.path, shard))
        start += shard.tokens
    return np.array(ends, np.int64)


def evaluate(
    model_folder: Path,
    data_manifest: Path,
    length: int,
    batch_size: int | None = None,
    limit: int | None = None,
) -> tuple[dict[str, Any], Loss]:
    """Content of heldout.json, without the stage's manifest, and the loss document by document.

    Args:
        model_folder: exported Hugging Face folder.
        data_manifest: manifest of the corpus.
        length: inputs per window, the training sequence length.
        batch_size: windows per forward pass, default by the size of the logits.
        limit: held-out tokens to score, default all.

    Raises:
        UserError: there is no exported model, no held-out tokens, the model does not fit the windows or the
            tokenizer, or its loss is not finite.
    """
    manifest = load_manifest(data_manifest)
    stream = TokenStream.from_manifest(data_manifest, split="heldout")
    tokens = len(stream) if limit is None else min(limit, len(stream))
    if tokens < 2:
        raise UserError(f"{data_manifest}: {tokens} held-out tokens to score; at least 2 are needed")
    model = load_model(model_folder)
    _check_fit(model_folder, model.config, length, manifest)
    if batch_size is None:
        batch_size = max(1, LOGITS_PER_BATCH[model.device.type] // (length * model.config.vocab_size))
    ends = document_ends(data_manifest, manifest)
    loss = loss_over(model, stream, ends, length, tokens, batch_size)
    loss = replace(loss, sources=read_sources(data_manifest, manifest))
    nats = float(loss.nats.sum())
    if not math.isfinite(nats):
        raise UserError(f"{model_folder}: the held-out loss is {nats}: the model has diverged")
    # A manifest has no bytes per document: with a limit they are those of the share of tokens that was scored.
    text_bytes = manifest.heldout.text_bytes * tokens / len(stream)
    found = {
        "nats_per_token": loss.per_token,
        "stderr_nats_per_token": loss.standard_error,
        "bits_per_byte": nats / math.log(2) / text_bytes,
        "tokens": int(loss.tokens.sum()),
        "bytes": round(text_bytes),
        "bytes_are": "counted" if tokens == len(stream) else "in proportion to the tokens scored",
        "documents": int((loss.tokens > 0).sum()),
        **by_source(loss, np.diff(ends, prepend=0), manifest),
        "windows": loss.windows,
        "sequence_length": length,
        "limited_to_tokens": limit,
        "model": str(model_folder),
        "data_manifest": str(data_manifest),
    }
    return found, loss


def by_source(loss: Loss, lengths: np.ndarray, manifest: DataManifest) -> dict[str, Any]:
    """Loss, error and bits per byte of the documents of each source that were scored.

    Args:
        loss: of the held-out documents.
        lengths: tokens of each, shape (documents,).
        manifest: of the corpus.

    Returns:
        ``by_source``, empty where the sources are not known, and ``sources_are``, which says so.
    """
    sources = loss.sources
    if sources is None:
        return {"by_source": {}, "sources_are": "not known: the corpus was made before they were noted"}
    found = {}
    for source in np.unique(sources[loss.tokens > 0]).tolist():
        own = sources == source
        part = Loss(loss.nats[own], loss.tokens[own], 0)
        # All of a corpus's tokens but the first are scored: its source has one less.
        share = (part.tokens.sum() + bool(own[0])) / lengths[own].sum()
        text_bytes = manifest.heldout.text_bytes_by_source[source] * share
        found[source] = {
            "nats_per_token": part.per_token,
            "stderr_nats_per_token": part.standard_error,
            "bits_per_byte": float(part.nats.sum()) / math.log(2) / text_bytes,
            "tokens": int(part.tokens.sum()),
            "bytes": round(text_bytes),
            "documents": int((part.tokens > 0).sum()),
        }
    return {"by_source": found, "sources_are": "of the corpus's documents"}


def document_table(loss: Loss) -> str:
    """CSV of the scored documents in the order of the shards: number, tokens scored, loss in nats, and source.

    Models scored on the same documents are compared far more sharply by the differences document by document.
    """
    head, columns = ["document", "tokens", "nats"], [loss.tokens.tolist(), map(repr, loss.nats.tolist())]
    if loss.sources is not None:
        head, columns = [*head, "source"], [*columns, loss.sources.tolist()]
    lines = [[number, *row] for number, row in enumerate(zip(*columns, strict=True)) if row[0]]
    return "".join(",".join(map(str, line)) + "\n" for line in [head, *lines])


def check_export(folder: Path) -> dict[str, Any]:
    """Content of a finished export's export.json.

    Raises:
        UserError: the folder holds no finished export.
    """
    path = folder / "export.json"
    if not path.is_file():
        raise UserError(f"{folder}: no finished export (export.json is missing); export the stage first")
    return json.loads(path.read_text())


def load_model(folder: Path) -> Any:
    """The model in evaluation mode with its expert biases, on the accelerator if there is one.

    Raises:
        UserError: the folder holds neither a finished export nor another trainer's model.
    """
    if not (folder / "config.json").is_file():
        check_export(folder)
    return load_exported(folder, device())


def device() -> str:
    """Where models are evaluated."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_fit(folder: Path, config: Any, length: int, data: DataManifest) -> None:
    """Refuse windows longer than the model's context, and a tokenizer with more entries than its vocabulary."""
    if not 1 <= length <= config.max_position_embeddings:
        raise UserError(
            f"sequence length: found {length}; {folder / 'config.json'} allows 1 to {config.max_position_embeddings}"
        )
    if data.tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder / 'config.json'}: key vocab_size: found {config.vocab_size}; the tokenizer of corpus "
            f"{data.corpus} has {data.tokenizer.vocab_size} entries: the model was trained on another corpus"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate heldout``."""
    parser.add_argument("--model", type=Path, required=True, help="exported Hugging Face folder")
    parser.add_argument("--data-manifest", type=Path, required=True)
    parser.add_argument(
        "--stage-manifest", type=Path, help="manifest of the stage, default the one that export.json names"
    )
    parser.add_argument("--sequence-length", type=int, required=True, help="inputs per window")
    parser.add_argument("--batch-size", type=int, help="windows per forward pass; default by size")
    parser.add_argument("--limit", type=int, help="held-out tokens to score; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents", type=Path, help="also write a CSV of the loss of every document")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score the model and write the files."""
    torch.set_num_threads(arguments.threads)
    found, loss = evaluate(
        arguments.model,
        arguments.data_manifest,
        arguments.sequence_length,
        arguments.batch_size,
        arguments.limit,
    )
    found["manifest"] = str(arguments.stage_manifest or check_export(arguments.model).get("manifest"))
    if arguments.documents is not None:
        write_if_changed(arguments.documents, document_table(loss))
    write_if_changed(arguments.out, json.dumps(found, indent=2) + "\n")
    print(
        f"{arguments.model}  held-out {found['nats_per_token']:.4f} nats/token, "
        f"{found['bits_per_byte']:.4f} bits/byte",
        file=sys.stderr,
    )
    return 0
