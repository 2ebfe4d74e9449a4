"""Held-out loss of an exported model: ``python -m tst_titan.evaluate.heldout``.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from tst_titan.data.manifest import load_manifest
from tst_titan.data.shards import TokenStream
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed


@dataclass(frozen=True)
class Loss:
    """Sums over scored tokens.

    Attributes:
        nats: total negative log-likelihood.
        tokens: tokens scored.
        window_means: mean loss of every window, for the standard error.
    """

    nats: float
    tokens: int
    window_means: tuple[float, ...]

    @property
    def per_token(self) -> float:
        """Mean loss in nats per token."""
        return self.nats / self.tokens

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over windows, in nats per token; NaN for fewer than two windows."""
        n = len(self.window_means)
        if n < 2:
            return math.nan
        mean = sum(self.window_means) / n
        variance = sum((value - mean) ** 2 for value in self.window_means) / (n - 1)
        return math.sqrt(variance / n)


def windows(stream: TokenStream, length: int, tokens: int) -> Iterator[torch.Tensor]:
    """Windows of up to ``length`` inputs with their labels, int64, shape (n + 1,), over the first ``tokens`` tokens."""
    for start in range(0, tokens - 1, length):
        yield torch.from_numpy(stream.read(start, min(length, tokens - 1 - start) + 1))


@torch.inference_mode()
def loss_over(model: Any, stream: TokenStream, length: int, tokens: int, batch_size: int) -> Loss:
    """Loss of a causal language model over the first ``tokens`` tokens of a stream.

    Args:
        model: maps ids (B, L) to ``.logits`` (B, L, V).
        stream: the held-out tokens.
        length: inputs per window.
        tokens: at least 2.
        batch_size: windows per forward pass.
    """
    nats, scored, means = 0.0, 0, []
    batch: list[torch.Tensor] = []

    def score() -> None:
        nonlocal nats, scored
        ids = torch.stack(batch).to(model.device)
        logits = model(ids[:, :-1], use_cache=False).logits.float()
        losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        per_window = losses.view(len(batch), -1)
        nats += per_window.double().sum().item()
        scored += per_window.numel()
        means.extend(per_window.mean(dim=1).tolist())
        batch.clear()

    for window in windows(stream, length, tokens):
        if batch and len(window) != len(batch[0]):
            score()  # the last window is shorter
        batch.append(window)
        if len(batch) == batch_size:
            score()
    if batch:
        score()
    return Loss(nats, scored, tuple(means))


def evaluate(
    model_folder: Path, data_manifest: Path, length: int, batch_size: int, limit: int | None
) -> dict[str, Any]:
    """Content of heldout.json.

    Raises:
        UserError: there is no exported model, or no held-out tokens.
    """
    model = load_model(model_folder)
    manifest = load_manifest(data_manifest)
    stream = TokenStream.from_manifest(data_manifest, split="heldout")
    tokens = len(stream) if limit is None else min(limit, len(stream))
    if tokens < 2:
        raise UserError(f"{data_manifest}: key heldout.tokens: found {len(stream)}; at least 2 are needed")
    loss = loss_over(model, stream, length, tokens, batch_size)
    # End-of-text tokens carry loss but no bytes; with a limit the bytes are those of the share that was scored.
    text_bytes = manifest.heldout.text_bytes * tokens / len(stream)
    return {
        "nats_per_token": loss.per_token,
        "stderr_nats_per_token": None if math.isnan(loss.standard_error) else loss.standard_error,
        "bits_per_byte": loss.nats / math.log(2) / text_bytes,
        "tokens": loss.tokens,
        "bytes": round(text_bytes),
        "documents": manifest.heldout.documents,
        "windows": len(loss.window_means),
        "sequence_length": length,
        "limited_to_tokens": limit,
        "model": str(model_folder),
        "data_manifest": str(data_manifest),
    }


def load_model(folder: Path) -> Any:
    """The exported model in evaluation mode, on the accelerator if there is one.

    Raises:
        UserError: the folder holds no finished export.
    """
    from transformers import AutoModelForCausalLM

    if not (folder / "export.json").is_file():
        raise UserError(f"{folder}: no finished export (export.json is missing); export the stage first")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.to(device()).eval()


def device() -> str:
    """Where models are evaluated."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Held-out loss of an exported model.")
    parser.add_argument("--model", type=Path, required=True, help="exported Hugging Face folder")
    parser.add_argument("--data-manifest", type=Path, required=True)
    parser.add_argument(
        "--stage-manifest", type=Path, required=True, help="manifest of the stage, for provenance"
    )
    parser.add_argument("--sequence-length", type=int, required=True, help="inputs per window")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, help="held-out tokens to score; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    try:
        found = evaluate(
            parsed.model, parsed.data_manifest, parsed.sequence_length, parsed.batch_size, parsed.limit
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    found["manifest"] = str(parsed.stage_manifest)
    write_if_changed(parsed.out, json.dumps(found, indent=2) + "\n")
    print(
        f"{parsed.model}  held-out {found['nats_per_token']:.4f} nats/token, {found['bits_per_byte']:.4f} bits/byte",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
