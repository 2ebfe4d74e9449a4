"""A multiple-choice task made from held-out documents, for where no benchmark can be fetched.

Each item is a piece of a held-out document and four endings: the one that follows, and three pieces of other held-out
documents. Chance is 25 %. Written as JSON lines beside lm-eval's own task YAML.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt

from tst_titan.config.load import parse, read_yaml
from tst_titan.config.schema import Strict
from tst_titan.data.encoding import corpus_tokenizer
from tst_titan.data.manifest import load_manifest
from tst_titan.data.shards import iterate_documents
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed

TASK = "heldout_continuation"
CHOICES = 4
# Far more text than the items need; a large corpus holds out more than memory holds.
MAX_TOKENS = 20_000_000
TRIES_PER_ENDING = 10


class Settings(Strict):
    """The ``metadata`` of configs/tasks/heldout_continuation.yaml."""

    version: float = Field(description="of the task, as lm-eval reports it")
    items: PositiveInt = Field(description="items wanted; fewer where the corpus gives no more")
    context_tokens: PositiveInt = Field(description="length of a context at most, in tokens")
    ending_tokens: PositiveInt = Field(description="length of an ending at most, in tokens")
    seed: NonNegativeInt = Field(description="of the draw")


@dataclass(frozen=True)
class Document:
    """A held-out document.

    Attributes:
        ids: tokens without what begins and ends it, shape (n,), int64.
        cuts: places between two words, ascending: token offsets from 0 to n.
    """

    ids: np.ndarray
    cuts: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, begins_word: np.ndarray) -> Document:
        """Cut before tokens that begin with white space; anywhere in text that has none, such as Chinese."""
        inner = np.flatnonzero(begins_word[ids])
        cuts = np.append(inner, len(ids)) if len(inner) else np.arange(len(ids) + 1)
        return cls(ids, cuts)

    def at_or_after(self, place: int) -> int:
        """The first cut from ``place`` on; the end if there is none."""
        return int(self.cuts[min(int(np.searchsorted(self.cuts, place)), len(self.cuts) - 1)])

    def at_or_before(self, place: int) -> int:
        """The last cut up to ``place``; the first if there is none."""
        return int(self.cuts[max(int(np.searchsorted(self.cuts, place, side="right")) - 1, 0)])


class Maker:
    """Draws items; the same documents, tokenizer and settings give the same items.

    Args:
        documents: token ids without what begins and ends a document.
        tokenizer: a ``tokenizers.Tokenizer``.
        settings: sizes and seed.
    """

    def __init__(self, documents: list[np.ndarray], tokenizer: Any, settings: Settings):
        self.settings, self.tokenizer = settings, tokenizer
        self.generator = np.random.default_rng(settings.seed)
        entries = range(1 + max(tokenizer.get_vocab().values()))  # ids may have gaps
        begins_word = np.array([tokenizer.decode([entry])[:1].isspace() for entry in entries])
        self.need = settings.context_tokens + settings.ending_tokens
        self.documents = [Document.of(ids, begins_word) for ids in documents if len(ids) >= self.need]

    def items(self) -> Iterator[dict[str, Any]]:
        """Items, at most as many as wanted: one of every document before a second of any."""
        if len(self.documents) < CHOICES:
            return
        pieces = [self.generator.permutation(len(d.ids) // self.need) for d in self.documents]
        made = 0
        for turn in range(max(map(len, pieces))):
            for index in self.generator.permutation(len(self.documents)):
                if turn >= len(pieces[index]):
                    continue
                item = self._item(int(index), int(pieces[index][turn]) * self.need)
                if item is not None:
                    made += 1
                    yield item
                if made == self.settings.items:
                    return

    def _item(self, index: int, start: int) -> dict[str, Any] | None:
        """An item from the ``need`` tokens at ``start`` of a document; None where they give none."""
        document = self.documents[index]
        begin = document.at_or_after(start)
        cut = document.at_or_before(start + self.settings.context_tokens)
        # A long stretch without white space leaves little to go by.
        if cut - begin < self.settings.context_tokens // 2:
            return None
        context = document.ids[begin:cut]
        endings = [self._ending(context, document, cut)]
        others = self.generator.choice(len(self.documents) - 1, CHOICES - 1, replace=False)
        endings += [self._wrong(context, self.documents[other + (other >= index)]) for other in others]
        if None in endings or len(set(endings)) < CHOICES:
            return None
        order = self.generator.permutation(CHOICES)
        return {
            "context": self.tokenizer.decode(context.tolist()),
            "endings": [endings[i] for i in order],
            "label": int(np.flatnonzero(order == 0)[0]),
        }

    def _wrong(self, context: np.ndarray, document: Document) -> str | None:
        """An ending from somewhere in another document."""
        places = len(document.ids) - self.settings.ending_tokens + 1
        for place in self.generator.integers(0, places, size=TRIES_PER_ENDING):
            if text := self._ending(context, document, document.at_or_after(int(place))):
                return text
        return None

    def _ending(self, context: np.ndarray, document: Document, begin: int) -> str | None:
        """The words from ``begin`` on, as many as fit; None if they are short or would not be tokenised as they are.

        The true ending and the wrong ones come from here alike, so that length tells nothing.
        """
        end = document.at_or_before(begin + self.settings.ending_tokens)
        if end - begin < 3 * self.settings.ending_tokens // 4:
            return None
        return self._text(context, document.ids[begin:end])

    def _text(self, context: np.ndarray, ending: np.ndarray) -> str | None:
        """The ending's text, if the harness will cut context and ending into these very tokens again.

        That fails where a piece is cut inside a character, holds a special token, or would merge with its neighbour.
        """
        before, after = (self.tokenizer.decode(ids.tolist()) for ids in (context, ending))
        again = self.tokenizer.encode(before + after, add_special_tokens=False).ids
        # lm-eval moves white space at the end of a context into the ending.
        fits = before == before.rstrip() and again == [*context.tolist(), *ending.tolist()]
        return after if fits and after.strip() else None


def write_task(data_manifest: Path, definition: Path, out: Path) -> int:
    """Write items.jsonl, the task's YAML and done.json to ``out``; returns the number of items.

    Args:
        data_manifest: manifest of the corpus.
        definition: lm-eval YAML of the task without its data; ``metadata`` holds the `Settings`.
        out: folder to create.

    Raises:
        UserError: the definition has a mistake, or the held-out documents give no item.
    """
    task = read_yaml(definition)
    settings = parse(Settings, task.get("metadata") or {}, f"{definition}: metadata")
    manifest = load_manifest(data_manifest)
    first = 0 if manifest.tokenizer.bos_id is None else 1
    documents, tokens = [], 0
    for document in iterate_documents(data_manifest, split="heldout"):
        documents.append(document[first:-1])
        tokens += len(document)
        if tokens >= MAX_TOKENS:
            break
    items = list(Maker(documents, corpus_tokenizer(data_manifest), settings).items())
    if not items:
        raise UserError(
            f"{data_manifest}: the {len(documents)} held-out documents give no item of task {TASK}: it needs "
            f"{CHOICES} documents of {settings.context_tokens} + {settings.ending_tokens} tokens. Hold out a larger "
            f"fraction, shorten the pieces in {definition}, or leave the task out of the scale's evaluation.tasks"
        )
    path = out / "items.jsonl"
    write_if_changed(path, "".join(json.dumps(item) + "\n" for item in items))
    task["dataset_kwargs"] = {"data_files": {task["test_split"]: str(path.resolve())}}
    write_if_changed(out / f"{TASK}.yaml", yaml.safe_dump(task, sort_keys=False))
    done = {"items": len(items), "wanted": settings.items, "corpus": manifest.corpus}
    write_if_changed(out / "done.json", json.dumps(done | {"data_identity": manifest.identity}) + "\n")
    return len(items)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan evaluate local-task``."""
    parser.add_argument("--data-manifest", type=Path, required=True)
    parser.add_argument(
        "--definition", type=Path, required=True, help="configs/tasks/heldout_continuation.yaml"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of items.jsonl and the task's YAML")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the task."""
    made = write_task(arguments.data_manifest, arguments.definition, arguments.out)
    print(f"{arguments.out}  {made} items", file=sys.stderr)
    return 0
