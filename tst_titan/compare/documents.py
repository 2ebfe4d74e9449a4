"""Held-out loss document by document: the error of a mean, and of the difference of two models.

Tokens of one document are alike, so documents are the units drawn, not tokens or windows. Two models that score the
same documents find the same ones hard: paired by document their difference is known far better than either loss.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tst_titan.errors import UserError

COLUMNS = ("document", "tokens", "nats")
SOURCE = "source"  # a fourth column, where the corpus knows


def mean_over_documents(nats: np.ndarray, tokens: np.ndarray) -> tuple[float, float | None]:
    """Mean per token and its standard error, with documents as the units drawn.

    The mean is a ratio of two sums over n documents; its error is that of the linearised ratio,
    sqrt(n / (n - 1) * sum_i (nats_i - mean * tokens_i)^2) / sum_i tokens_i.

    Args:
        nats: sum over each document's tokens, float64 of shape (documents,): losses, or differences of losses.
        tokens: scored tokens of each document, shape (documents,); at least one is positive.

    Returns:
        Nats per token, and the error in the same unit; None for fewer than two documents with tokens.
    """
    scored = tokens > 0
    n, total = int(scored.sum()), float(tokens.sum())
    mean = float(nats.sum()) / total
    if n < 2:
        return mean, None
    residuals = nats[scored] - mean * tokens[scored]
    return mean, float(np.sqrt(n / (n - 1) * np.sum(residuals**2))) / total


@dataclass(frozen=True)
class DocumentLosses:
    """heldout_documents.csv of one model.

    Attributes:
        numbers: of the scored documents in the held-out split, rising, shape (n,).
        tokens: scored tokens of each, shape (n,).
        nats: loss summed over them, float64 of shape (n,).
        sources: source of each, strings of shape (n,); None where the corpus does not know.
    """

    numbers: np.ndarray
    tokens: np.ndarray
    nats: np.ndarray
    sources: np.ndarray | None = None

    def same_text_as(self, other: DocumentLosses) -> bool:
        """Whether both models scored the same tokens of the same documents."""
        return np.array_equal(self.numbers, other.numbers) and np.array_equal(self.tokens, other.tokens)


@functools.lru_cache(maxsize=32)  # a grid's runs share few baselines; a sweep's files together may be large
def read_documents(path: str) -> DocumentLosses:
    """Read a heldout_documents.csv.

    Raises:
        UserError: the file is missing or not such a table.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: does not exist; the held-out evaluation has not finished")
    try:
        table = pd.read_csv(
            path, dtype={"document": np.int64, "tokens": np.int64, "nats": np.float64, SOURCE: str}
        )
    except ValueError as error:
        raise UserError(f"{path}: not a table of documents: {error}") from error
    if tuple(table.columns) not in (COLUMNS, (*COLUMNS, SOURCE)) or not len(table):
        raise UserError(
            f"{path}: columns {list(table.columns)}, {len(table)} rows; {','.join(COLUMNS)} expected"
        )
    return DocumentLosses(*(table[column].to_numpy() for column in table.columns))
