"""torchtitan builds a tokenizer whether or not it is used; the shards hold token ids already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchtitan.components.tokenizer import BaseTokenizer


class NoTokenizer(BaseTokenizer):
    """Refuses to encode: text has become tokens long before training."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, *, tokenizer_path: str = "", **_: Any):
        super().__init__()

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Never called by training."""
        raise RuntimeError("training reads token shards; there is nothing to encode")

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Never called by training."""
        raise RuntimeError("training reads token shards; there is nothing to decode")

    def get_vocab_size(self) -> int:
        """Never called by training."""
        raise RuntimeError("the vocabulary's size is a value of the model's config")
