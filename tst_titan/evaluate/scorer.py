"""lm-eval's Hugging Face model, held to what training saw: the shards' ids for a text, windows of the trained length.

Imports lm-eval, which takes seconds: import it where a model is scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import AutoTokenizer

from tst_titan.evaluate.heldout import load_model


class Scorer(HFLM):
    """An exported model for ``lm_eval.simple_evaluate``.

    Args:
        folder: exported Hugging Face folder.
        length: tokens of a sequence in training; the model is given no more.
        batch_size: sequences per forward pass.

    Attributes:
        cut: contexts with endings, and contexts of generations, that are longer than that.
    """

    def __init__(self, folder: Path, length: int, batch_size: int):
        # As in the shards, a special token spelled out in a text is text.
        tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
        super().__init__(
            # Not by path: the harness would load the model without its expert biases.
            pretrained=load_model(folder),
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=length,
            # An export has a BOS token only if its corpus has one. Of older ones the post-processor may add more.
            add_bos_token=tokenizer.bos_token is not None,
        )
        self.cut = 0

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts; the harness itself puts BOS, or EOS without one, before them."""
        before = bool(self.add_bos_token)  # type: ignore[has-type]
        self.add_bos_token = False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = before

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], *arguments: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of every ending (ids) after its context (ids), and whether greedy decoding gives it."""
        pieces, places = [], []
        for place, (key, context, ending) in enumerate(requests):
            self.cut += len(context) + len(ending) > self.max_length + 1
            for window in windows(context, ending, self.max_length):
                pieces.append((key, *window))
                places.append(place)
        found = [(0.0, True)] * len(requests)
        scores = super()._loglikelihood_tokens(pieces, *arguments, **options)
        for place, (nats, greedy) in zip(places, scores, strict=True):
            found[place] = (found[place][0] + nats, found[place][1] and greedy)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations; at most half of the trained length is generated, so that a context has the other half."""
        most = max(1, self.max_length // 2)
        for request in requests:
            context, options, *rest = request.args
            options = dict(normalize_gen_kwargs(options, self.max_gen_toks))
            options["max_gen_toks"] = min(options["max_gen_toks"], most)
            self.cut += len(self.tok_encode(context)) > self.max_length - options["max_gen_toks"]
            request.arguments = (context, options, *rest)
        return super().generate_until(requests, disable_tqdm)


def windows(context: list[int], ending: list[int], length: int) -> Iterator[tuple[list[int], list[int]]]:
    """Contexts and pieces of an ending, of ``length`` + 1 tokens together at most; every context has at least one.

    What is left of a context are its last tokens. An ending that is itself too long is scored in pieces of half a
    length, each after the tokens before it.
    """
    tokens = context + ending
    step = len(ending) if len(ending) <= length else max(1, length // 2)
    for start in range(len(context), len(tokens), step):
        piece = tokens[start : start + step]
        yield tokens[max(0, start + len(piece) - length - 1) : start], piece
