"""Step `split`: drop the listed duplicates and hold documents out by a seeded hash of their text."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupFilter

from tst_titan.config.corpus import Heldout
from tst_titan.data.deduplicate import drop_exact
from tst_titan.data.documents import Tally, TaskReader, by_prefix, document_writer, read_texts, text_fraction
from tst_titan.data.manifest import SPLITS
from tst_titan.data.pipelines import Part
from tst_titan.data.settings import SplitSettings
from tst_titan.data.step import Step, load_done
from tst_titan.errors import UserError

_LARGEST_FRACTION = 0.5  # what the config allows


class Split(Step[SplitSettings]):
    """The final documents, for training and held out."""

    kind = SplitSettings

    def share(self, workers: int, part: Part) -> None:
        if self.takes_tokens():
            return
        # Duplicates that were kept were not counted either.
        near = self.folder_of("deduplicate") if load_done(self.root, "deduplicate").counts else None
        build = partial(build_split, self.settings.heldout, self.folder_of("filter"), near, self.folder)
        self.pipeline("split", self.settings.tasks, build, workers, part)

    def finish(self, workers: int) -> dict[str, Any]:
        if self.takes_tokens():
            return {split: {"documents": {}, "bytes": {}} for split in SPLITS}
        total = self.counted("split", self.settings.tasks)[-2]
        found: dict[str, Any] = {
            split: {
                "documents": by_prefix(total, f"documents/{split}/"),
                "bytes": by_prefix(total, f"bytes/{split}/"),
            }
            for split in SPLITS
        }
        for split, numbers in found.items():
            if not numbers["documents"]:
                config = self.settings.heldout
                places = sorted(
                    text_fraction(text, _salt(config))
                    for name in SPLITS
                    for text in read_texts(self.folder / name)
                )
                raise UserError(
                    f"heldout.fraction: {config.fraction} leaves no {split} document of {len(places):,}; "
                    f"{_fraction_that_would_do(places)}"
                )
        return found

    @staticmethod
    def summary(counts: dict[str, Any]) -> str:
        if not any(numbers["documents"] for numbers in counts.values()):
            return "nothing to split: the step tokens takes the shards"
        return ", ".join(f"{sum(v['documents'].values()):,} documents for {k}" for k, v in counts.items())


def _salt(config: Heldout) -> str:
    return f"heldout-{config.seed}"


def _fraction_that_would_do(places: list[float]) -> str:
    """A fraction with documents on both sides, for the sorted places of all documents in [0, 1)."""
    for held in range(max(1, len(places) // 100), len(places)):
        fraction = math.ceil(places[held - 1] * 1000 + 1) / 1000
        if fraction >= _LARGEST_FRACTION:
            break
        if (held_out := bisect_left(places, fraction)) < len(places):
            return f"{fraction} would hold out {held_out:,}"
    return "give it more documents, or another heldout.seed"


class AssignSplit(PipelineStep):
    """Writes `train` or `heldout` into the document's metadata, by the hash of its text alone."""

    type = "✂️ - SPLIT"
    name = "hold-out"

    def __init__(self, config: Heldout):
        super().__init__()
        self.config = config

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Assign and pass on."""
        for document in data:
            held = text_fraction(document.text, _salt(self.config)) < self.config.fraction
            split = "heldout" if held else "train"
            source = document.metadata["source"]
            document.metadata = {"source": source, "split": split, "group": f"{split}/{source}"}
            yield document


def build_split(heldout: Heldout, filtered: Path, near: Path | None, folder: Path) -> list[PipelineStep]:
    """Drop the listed duplicates, assign splits, write each split to a folder of its own.

    `near` is the folder of the step `deduplicate`, or None if duplicates are kept.
    """
    drop = [drop_exact(filtered), MinhashDedupFilter(str(near / "near_duplicates"))] if near else []
    return [
        TaskReader(filtered / "documents"),
        *drop,
        AssignSplit(heldout),
        Tally(by="group"),
        document_writer(folder, "${split}/${rank}.jsonl.zst"),
    ]
