"""Step `tokens`: documents become shards in datatrove's format, shuffled once, each with its BOS and EOS."""

import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
from tokenizers import Tokenizer

from tst_titan.config.corpus import Tokens
from tst_titan.data.documents import Tally, TaskReader, by_prefix, text_fraction
from tst_titan.data.encoding import frame
from tst_titan.data.manifest import SPLITS
from tst_titan.data.pipelines import Part
from tst_titan.data.settings import FilterSettings, SplitSettings, TokensSettings
from tst_titan.data.shards import id_dtype, storage_dtype
from tst_titan.data.step import Step, load_done
from tst_titan.data.taken import take
from tst_titan.data.tokenizer import TOKENIZER_FILE, number_of_ids


class MakeTokens(Step[TokensSettings]):
    """Shards of both splits under <step folder>/{train,heldout}."""

    kind = TokensSettings

    def keep(self) -> dict[str, float]:
        """Share of each source that the mixture keeps; none without weights."""
        weights = self.settings.weights
        return (
            mixture_shares(weights, load_done(self.root, "split").counts["train"]["bytes"]) if weights else {}
        )

    def share(self, workers: int, part: Part) -> None:
        if self.takes_tokens():
            return
        tokens = self.settings.tokens
        tokenizer = load_done(self.root, "tokenizer").counts
        for split in SPLITS:
            build = partial(
                build_tokenize,
                tokens,
                self.keep(),
                self.folder_of("split") / split,
                self.folder_of("tokenizer") / TOKENIZER_FILE,
                tokenizer.get("bos_token"),
                tokenizer["eos_token"],
                self.folder / (f"{split}_tasks" if tokens.shuffle == "global" else split),
                shuffle=split == "train",
            )
            self.pipeline(f"tokenize-{split}", self.settings.tasks, build, workers, part)

    def finish(self, workers: int) -> dict[str, Any]:
        if self.takes_tokens():
            tokenizer = Tokenizer.from_file(str(self.folder_of("tokenizer") / TOKENIZER_FILE))
            ids = load_done(self.root, "tokenizer").counts
            heldout = SplitSettings.read(self.root).heldout
            sources: Any = FilterSettings.read(self.root).sources
            return take(self.folder, sources, tokenizer, ids["eos_id"], ids.get("bos_id"), heldout, workers)
        tokens, keep = self.settings.tokens, self.keep()
        found: dict[str, Any] = {"mixture": keep}
        for split in SPLITS:
            if tokens.shuffle == "global":
                tasks = self.folder / f"{split}_tasks"
                self.pipeline(
                    f"merge-{split}", 1, partial(build_merge, tokens, tasks, self.folder / split, split)
                )
                shutil.rmtree(tasks, ignore_errors=True)
            totals = self.counted(f"tokenize-{split}", self.settings.tasks)
            found[split] = {
                "documents": by_prefix(totals[-2], "documents/"),
                "bytes": by_prefix(totals[-2], "bytes/"),
                "tokens": int(totals[-1]["tokens"]),
                "thinned": by_prefix(totals[1], "dropped_") if keep else {},
            }
        return found

    @staticmethod
    def summary(counts: dict[str, Any]) -> str:
        return ", ".join(f"{counts[split]['tokens']:,} tokens for {split}" for split in SPLITS)


class PlainTextTokenizer(DocumentTokenizer):
    """datatrove's tokenizer step, to which a special token spelled out in a text is text.

    Documentation about language models names the EOS token; taken as the token it would end the document.
    """

    def __init__(self, *places: str, bos_token: str | None, **options: Any):
        super().__init__(*places, **options)
        self.bos_token = bos_token

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer with EOS after every document, and BOS before it if the corpus has one."""
        tokenizer = frame(super().tokenizer, self.bos_token, self.eos_token)
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def token_size(self) -> int:
        """Bytes of an id: by the largest one, where datatrove looks at the number of entries."""
        return storage_dtype(id_dtype(number_of_ids(self.tokenizer))).itemsize


class Mixture(BaseFilter):
    """Thins sources out by the hash of the text, to the shares that the config asks for."""

    name = "⚖️ Mixture"

    def __init__(self, keep: dict[str, float], seed: int):
        super().__init__()
        self.keep = keep
        self.seed = seed

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether the document is kept, or False and its source."""
        source = doc.metadata["source"]
        if text_fraction(doc.text, f"mixture-{self.seed}") < self.keep[source]:
            return True
        return False, source


def mixture_shares(weights: dict[str, float], text_bytes: dict[str, int]) -> dict[str, float]:
    """Share of each source's documents to keep so that the kept bytes are in proportion to the weights.

    The source that has least text for its weight is kept whole: no text is repeated.

    Args:
        weights: weight of each source.
        text_bytes: bytes of training text of each source.

    Returns:
        For each source a share in (0, 1]; 0 where it has no text.
    """
    unit = min(text_bytes.get(name, 0) / weight for name, weight in weights.items())
    return {
        name: weight * unit / text_bytes[name] if text_bytes.get(name) else 0.0
        for name, weight in weights.items()
    }


def build_tokenize(
    tokens: Tokens,
    keep: dict[str, float],
    documents: Path,
    tokenizer: Path,
    bos_token: str | None,
    eos_token: str,
    output: Path,
    shuffle: bool,
) -> list[PipelineStep]:
    """Read the documents of a split, thin out, count, tokenize, shuffle within the task.

    Args:
        tokens: shards and their order.
        keep: share of each source, none for everything.
        documents: folder of the split's documents.
        tokenizer: tokenizer.json.
        bos_token: begins each document, None for none.
        eos_token: closes each document.
        output: folder of the shards.
        shuffle: whether to shuffle the task's documents.
    """
    return [
        TaskReader(documents),
        *([Mixture(keep, tokens.seed)] if keep else []),
        Tally(),
        PlainTextTokenizer(
            str(output),
            str(tokenizer),
            bos_token=bos_token,
            eos_token=eos_token,
            shuffle_documents=shuffle,
            seed=tokens.seed,
            batch_size=tokens.batch_documents,
            max_tokens_per_file=None if tokens.shuffle == "global" else tokens.tokens_per_shard,
        ),
    ]


def build_merge(tokens: Tokens, source: Path, output: Path, split: str) -> list[PipelineStep]:
    """Merge the tasks' shards into one stream; training documents are dealt from them in random order."""
    return [
        DocumentTokenizerMerger(
            str(source),
            str(output),
            save_filename=split,
            max_tokens_per_file=tokens.tokens_per_shard,
            shuffle=split == "train",
            seed=tokens.seed,
            progress=False,
        )
    ]
