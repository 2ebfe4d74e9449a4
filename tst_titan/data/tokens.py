"""From documents to token shards in datatrove's format, shuffled once, each document closed by EOS."""

import shutil
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
from tokenizers import Tokenizer

from tst_titan.data.config import parse
from tst_titan.data.corpus import Tokens
from tst_titan.data.documents import Tally, by_prefix, text_fraction
from tst_titan.data.sources import TaskReader
from tst_titan.data.stages import WHOLE, Part, Stage, counts, run_stage
from tst_titan.data.tokenizer import TOKENIZER_FILE
from tst_titan.data.work import Done, Workplace, load_done

SPLITS = ("train", "heldout")


class PlainTextTokenizer(DocumentTokenizer):
    """datatrove's tokenizer step, to which a special token spelled out in a text is text.

    Documentation about language models names the EOS token; taken as the token it would end the document.
    """

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer with the EOS token appended to every document."""
        tokenizer = super().tokenizer
        tokenizer.encode_special_tokens = True
        return tokenizer


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
    settings: dict[str, Any],
    keep: dict[str, float],
    documents: Path,
    tokenizer: Path,
    eos_token: str,
    output: Path,
    shuffle: bool,
) -> list[PipelineStep]:
    """Read the documents of a split, thin out, count, tokenize, shuffle within the task.

    Args:
        settings: the step's settings.
        keep: share of each source, none for everything.
        documents: folder of the split's documents.
        tokenizer: tokenizer.json.
        eos_token: closes each document.
        output: folder of the shards.
        shuffle: whether to shuffle the task's documents.
    """
    tokens = parse(Tokens, settings["tokens"])
    whole = tokens.shuffle == "global"
    return [
        TaskReader(str(documents)),
        *([Mixture(keep, tokens.seed)] if keep else []),
        Tally(),
        PlainTextTokenizer(
            str(output),
            str(tokenizer),
            eos_token=eos_token,
            shuffle_documents=shuffle,
            seed=tokens.seed,
            batch_size=tokens.batch_documents,
            max_tokens_per_file=None if whole else tokens.tokens_per_shard,
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


def make_tokens(folder: Path | str, workers: int, part: Part = WHOLE) -> Done | None:
    """Step `tokens`: shards of both splits under <step folder>/{train,heldout}.

    Args:
        folder: the corpus folder.
        workers: tasks at the same time.
        part: one job's part of the tasks leaves the step unfinished; the whole finishes it.
    """
    place = Workplace(folder, "tokens")
    if done := place.finished():
        return place.publish(done)
    started = time.monotonic()
    split = load_done(place.root, "split")
    tokens = parse(Tokens, place.settings["tokens"])
    weights = place.settings["weights"]
    keep = mixture_shares(weights, split.counts["train"]["bytes"]) if weights else {}
    found: dict[str, Any] = {"mixture": keep}
    assert place.previous is not None
    eos_token = place.previous.counts["eos_token"]
    for name in SPLITS:
        build = partial(
            build_tokenize,
            place.settings,
            keep,
            place.root / split.folder / name,
            place.previous_folder() / TOKENIZER_FILE,
            eos_token,
            place.folder / (f"{name}_tasks" if tokens.shuffle == "global" else name),
            shuffle=name == "train",
        )
        run_stage(Stage(f"tokenize-{name}", place.settings["tasks"], build), place.logs, workers, part)
    if part.index is not None:
        return None
    for name in SPLITS:
        if tokens.shuffle == "global":
            tasks = place.folder / f"{name}_tasks"
            merge = partial(build_merge, tokens, tasks, place.folder / name, name)
            run_stage(Stage(f"merge-{name}", 1, merge), place.logs, 1)
            shutil.rmtree(tasks, ignore_errors=True)
        totals = counts(place.logs / f"tokenize-{name}", place.settings["tasks"])
        found[name] = {
            "documents": by_prefix(totals[-2], "documents/"),
            "bytes": by_prefix(totals[-2], "bytes/"),
            "tokens": int(totals[-1]["tokens"]),
            "thinned": by_prefix(totals[1], "dropped_") if keep else {},
        }
    return place.finish(found, [], time.monotonic() - started)
