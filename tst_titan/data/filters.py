"""The filters of a corpus as datatrove steps: datatrove's own where it has one, two small ones where not."""

import re
from collections.abc import Callable

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

from tst_titan.data.corpus import Filters, LengthFilter, LinesFilter


class Words(WordTokenizer):
    """Words and runs of punctuation. datatrove's English tokenizer needs spaCy and is many times slower."""

    _word = re.compile(r"\w+|[^\w\s]+")

    def word_tokenize(self, text: str) -> list[str]:
        """Words of a text."""
        return self._word.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Lines of a text; no filter here asks for sentences."""
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Spans of the lines of a text."""
        return [match.span() for match in re.finditer(r"[^\n]+", text)]


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

    def __init__(self, folder: str, limit: int):
        super().__init__(folder, output_filename="${rank}.jsonl", compression=None)
        self.limit = limit
        self.written = 0

    def write(self, document: Document, rank: int = 0, **kwargs: object) -> None:
        """Write the document unless the limit is reached."""
        if self.written < self.limit:
            self.written += 1
            super().write(document, rank, **kwargs)


def make_filters(config: Filters, dropped: str) -> list[tuple[str, BaseFilter]]:
    """The filters that are switched on, named as in the config, in the order in which they run.

    Args:
        config: thresholds.
        dropped: folder for the samples of dropped documents.
    """
    filters: list[tuple[str, BaseFilter]] = []

    def writer(name: str) -> JsonlWriter | None:
        return SampleWriter(f"{dropped}/{name}", config.dropped_sample) if config.dropped_sample else None

    if config.length:
        filters.append(("length", Length(config.length, writer("length"))))
    if config.lines:
        filters.append(("lines", Lines(config.lines, writer("lines"))))
    if config.quality:
        options = config.quality.model_dump()
        # datatrove's name says the opposite of what it does
        options["max_non_alpha_words_ratio"] = options.pop("min_alpha_words_ratio")
        options |= {"exclusion_writer": writer("quality"), "language": WORDS}
        filters.append(("quality", GopherQualityFilter(**options)))
    if config.repetition:
        options = config.repetition.model_dump()
        for key in ("top_n_grams", "dup_n_grams"):
            options[key] = tuple(sorted(options[key].items()))
        options |= {"exclusion_writer": writer("repetition"), "language": WORDS}
        filters.append(("repetition", GopherRepetitionFilter(**options)))
    return filters
