"""The filters of a corpus as datatrove steps: datatrove's own, and two small ones that it lacks."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

from tst_titan.config.corpus import (
    ALIASES,
    Filters,
    LengthFilter,
    LinesFilter,
    NamedFilter,
    QualityFilter,
    RepetitionFilter,
    arguments_model,
    filter_classes,
)


class Words(WordTokenizer):
    """Words, runs of punctuation, and sentences, in whatever language puts spaces between words.

    It stands where a filter takes a language and none is given: datatrove's English tokenizer needs spaCy and is many
    times slower.
    """

    _word = re.compile(r"\w+|[^\w\s]+")
    _sentence = re.compile(r"\S.*?(?:[.!?…]+(?=\s|$)|[。！？]+|(?=\n)|$)")

    def word_tokenize(self, text: str) -> list[str]:
        """Words of a text."""
        return self._word.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Sentences of a text; the end of a line ends one too."""
        return self._sentence.findall(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Spans of the sentences of a text."""
        return [match.span() for match in self._sentence.finditer(text)]


WORDS = Words()
_ASCII_LETTERS = np.array([chr(code).isalpha() for code in range(128)])
_ASCII_DIGITS = np.array([chr(code).isdigit() for code in range(128)])


def count(text: str, ascii_table: np.ndarray, test: Callable[[str], bool]) -> int:
    """Characters that pass `test`; ASCII text is looked up in its table, shape (128,), which is far quicker."""
    if text.isascii():
        return int(np.count_nonzero(ascii_table[np.frombuffer(text.encode(), np.uint8)]))
    return sum(map(test, text))


class Length(BaseFilter):
    """Drops documents that are too short or too long."""

    name = "📏 Length"

    def __init__(self, config: LengthFilter, exclusion_writer: JsonlWriter | None = None):
        super().__init__(exclusion_writer)
        self.config = config

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether the document is kept, or False and the reason."""
        if len(doc.text) < self.config.min_chars:
            return False, "too_short"
        if self.config.max_chars and len(doc.text) > self.config.max_chars:
            return False, "too_long"
        return True


class Lines(BaseFilter):
    """Drops number tables, encoded data and machine-made text, by the shape of their lines."""

    name = "📐 Lines"

    def __init__(self, config: LinesFilter, exclusion_writer: JsonlWriter | None = None):
        super().__init__(exclusion_writer)
        self.config = config

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether the document is kept, or False and the reason."""
        config = self.config
        lengths = [len(line) for line in doc.text.splitlines() if line.strip()]
        if not lengths:
            return False, "empty"
        if config.max_line_chars and max(lengths) > config.max_line_chars:
            return False, "long_line"
        if config.max_mean_line_chars and sum(lengths) / len(lengths) > config.max_mean_line_chars:
            return False, "long_mean_line"
        words = doc.text.split()
        if config.max_word_chars and max(map(len, words)) > config.max_word_chars:
            return False, "long_word"
        characters = sum(map(len, words))
        letters = count(doc.text, _ASCII_LETTERS, str.isalpha)
        if config.min_letter_fraction is not None and letters < config.min_letter_fraction * characters:
            return False, "few_letters"
        digits = count(doc.text, _ASCII_DIGITS, str.isdigit)
        if config.max_digit_fraction is not None and digits > config.max_digit_fraction * characters:
            return False, "many_digits"
        return True


class SampleWriter(JsonlWriter):
    """Keeps the first `limit` documents of each task, to look at."""

    def __init__(self, folder: Path, limit: int):
        super().__init__(str(folder), output_filename="${rank}.jsonl", compression=None)
        self.limit = limit
        self.written = 0

    def write(self, document: Document, rank: int = 0, **kwargs: object) -> None:
        """Write the document unless the limit is reached."""
        if self.written < self.limit:
            self.written += 1
            super().write(document, rank, **kwargs)


def make_filters(
    config: Filters | tuple[NamedFilter, ...], dropped: Path | None = None
) -> dict[str, BaseFilter]:
    """The filters of a corpus, in the order in which they run, by the name in the config.

    Args:
        config: the aliases as a mapping, or any filters as a list. The second of a name is called <name>-2.
        dropped: folder for the samples of dropped documents; none are kept without it.
    """
    if isinstance(config, Filters):
        given = [(name, getattr(config, name)) for name in ALIASES]
        sample = config.dropped_sample
    else:
        entries = [entry for each in config for entry in each.items()]
        given = [(name, arguments_model(name).model_validate(arguments)) for name, arguments in entries]
        sample = Filters().dropped_sample
    filters: dict[str, BaseFilter] = {}
    for name, settings in given:
        if settings is None:
            continue
        number = 1 + sum(key.partition("-")[0] == name for key in filters)
        key = name if number == 1 else f"{name}-{number}"
        writer = SampleWriter(dropped / key, sample) if dropped and sample else None
        filters[key] = _make_filter(name, settings, writer)
    return filters


def _make_filter(name: str, settings: Any, writer: JsonlWriter | None) -> BaseFilter:
    match settings:
        case LengthFilter():
            return Length(settings, writer)
        case LinesFilter():
            return Lines(settings, writer)
        case QualityFilter():
            name, options = "GopherQualityFilter", settings.model_dump()
            # datatrove's name says the opposite of what it does
            options["max_non_alpha_words_ratio"] = options.pop("min_alpha_words_ratio")
        case RepetitionFilter():
            name, options = "GopherRepetitionFilter", settings.model_dump()
            for key in ("top_n_grams", "dup_n_grams"):
                options[key] = tuple(sorted(options[key].items()))
        case _:
            options = {key: getattr(settings, key) for key in settings.model_fields_set}
    chosen = filter_classes()[name]
    if "language" in inspect.signature(chosen).parameters:
        options["language"] = options.get("language") or WORDS
    return chosen(**options, exclusion_writer=writer)
