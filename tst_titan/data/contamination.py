"""Drops documents that share long n-grams of words with tasks' items: datatrove's filter, with an index of our own.

Datatrove's indexer knows the tasks of lighteval, and needs it. The index here holds the n-grams of the texts that
lm-eval makes of a task's items; words, their normalisation and the hash are those of the filter.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import ngrams, simplify_text

from tst_titan.config.corpus import Decontamination
from tst_titan.data.filters import WORDS
from tst_titan.errors import UserError

NAME = "decontamination"


class Contamination(NGramsDecontFilter):
    """Drops a document for the first n-gram that a task's items have; the reason is the task."""

    def __init__(self, config: Decontamination, index: Path, exclusion_writer: JsonlWriter | None = None):
        super().__init__(
            str(index),
            NGramsDecontConfig(n_grams=config.n_grams),
            exclusion_writer,
            config.language or WORDS,
        )

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether the document is kept, or False and the task."""
        return super().filter(doc) is True or (False, doc.metadata["contaminated_task"])

    def hashes(self, texts: Iterable[str]) -> Iterator[int]:
        """Of every n-gram of the texts."""
        for text in texts:
            words = self.tokenizer.word_tokenize(simplify_text(text, self.config.norm_config))
            yield from (self.hash_func(" ".join(each)) for each in ngrams(words, self.config.n_grams))


def write_index(config: Decontamination, items: dict[str, Path], folder: Path) -> None:
    """Write the index that the filter reads: a file a task, the same bytes whichever job writes it.

    Raises:
        UserError: the items of a task are not there, or none is long enough.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maker = Contamination(config, folder)
    for task, path in items.items():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise UserError(
                f"decontamination.tasks: {path} is missing; "
                f"`tst-titan evaluate items --task {task} --out {path}` writes it"
            ) from None
        found = sorted(set(maker.hashes(json.loads(line)["text"] for line in lines)))
        if not found:
            raise UserError(
                f"decontamination.n_grams: no item of task {task} has {config.n_grams} words; ask for fewer words, or "
                "leave the task out"
            )
        path = folder / f"{task}.index.hashes"
        part = path.with_suffix(".part")
        np.array(found, dtype=maker.config.hash_config.np_descr).tofile(part)
        part.replace(path)
