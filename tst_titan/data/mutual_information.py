"""Mutual information of two tokens d positions apart, and the power law that it follows (the paper's figure 10).

Pairs are counted within documents, without the EOS token. With a large vocabulary most pairs are seen a few times at
most, and the plug-in estimate, which takes frequencies for probabilities, is far too high: pairs of independent
tokens would show mutual information too. Each entropy is therefore estimated after Grassberger (arXiv
physics/0307138, equation 35), which corrects for the occupied cells' small counts. The plug-in and Miller-Madow
values stand beside it, and so do all three for shuffled pairs, whose true value is 0: what an estimator shows there
is the bias that is left in it.

Memory is bounded whatever the vocabulary: with a large one, pairs are sorted in batches of first tokens, not
tabulated.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import curve_fit
from scipy.special import digamma

from tst_titan.config.schema import MutualInformationLaw
from tst_titan.data.manifest import load_manifest
from tst_titan.data.shards import TokenStream, read_index, shard_files
from tst_titan.errors import UserError
from tst_titan.files import write_atomically

DISTANCES = tuple(range(1, 101))
# A sorted batch of 2^25 pairs of 8 bytes, its run lengths and the sample below stay under 2 GB.
BATCH_PAIRS = 1 << 25
TABLE_CELLS = 1 << 25
SAMPLE_TOKENS = 30_000_000
SAMPLE_BLOCKS = 256


@dataclass(frozen=True)
class Entropy:
    """Three estimates of an entropy from the same counts, in nats."""

    plug_in: float
    miller_madow: float
    grassberger: float
    distinct: int


@dataclass(frozen=True)
class Row:
    """Mutual information at one distance, in nats; `distance` is None for shuffled pairs."""

    distance: int | None
    pairs: int
    distinct_pairs: int
    plug_in: float
    miller_madow: float
    grassberger: float


@dataclass(frozen=True)
class PowerLaw:
    """The law (`MutualInformationLaw`) fitted to a column of the table, with standard errors of its constants."""

    column: str
    c0: float
    a: float
    k: float
    c0_stderr: float
    a_stderr: float
    k_stderr: float
    rms_residual: float


@dataclass(frozen=True)
class Sample:
    """Tokens of whole documents, one after the other.

    Attributes:
        ids: shape (tokens,), storage dtype, EOS left out.
        documents: shape (tokens,), int32, rising: the document of each token.
    """

    ids: np.ndarray
    documents: np.ndarray


def take_sample(manifest_path: Path | str, max_tokens: int = SAMPLE_TOKENS) -> Sample:
    """Documents of the training split: all, or evenly spaced blocks of documents up to about `max_tokens`.

    Raises:
        UserError: the corpus or a shard is missing or damaged.
    """
    path = Path(manifest_path)
    manifest = load_manifest(path)
    files = shard_files(path, manifest, "train")
    ends, offset = [], 0
    for shard, file in zip(manifest.train.shards, files, strict=True):
        ends.append(np.asarray(read_index(file.path, shard), np.int64) + offset)
        offset += shard.tokens
    stops = np.concatenate(ends)
    starts = np.concatenate([[0], stops[:-1]])
    share = min(1.0, max_tokens / max(1, offset))
    # Several documents a block: one is always taken, however long.
    blocks = max(1, min(SAMPLE_BLOCKS, int(share * len(stops) / 8)))
    stream = TokenStream(files)
    pieces, numbers = [], []
    for block in np.array_split(np.arange(len(stops)), blocks):
        wanted = max_tokens / blocks if share < 1 else np.inf
        lengths = stops[block] - starts[block]
        chosen = block[: max(1, int(np.searchsorted(np.cumsum(lengths), wanted, side="right")))]
        lengths = stops[chosen] - starts[chosen]
        ids = stream.read(int(starts[chosen[0]]), int(lengths.sum()), np.dtype(manifest.dtype))
        inside = np.ones(len(ids), bool)
        inside[np.cumsum(lengths) - 1] = False  # the EOS of each document
        pieces.append(ids[inside])
        numbers.append(np.repeat(chosen.astype(np.int32), lengths - 1))
    return Sample(np.concatenate(pieces), np.concatenate(numbers))


def entropy_of_counts(counts: np.ndarray) -> Entropy:
    """Entropy of a distribution of which each cell was seen `counts` times; shape (cells,), all positive."""
    return _from_histogram(*np.unique(counts, return_counts=True))


def _from_histogram(values: np.ndarray, cells: np.ndarray) -> Entropy:
    """Entropy when `cells[i]` cells were seen `values[i]` times each.

    Grassberger's G(n) = psi(n) + (-1)^n / 2 * (psi((n + 1) / 2) - psi(n / 2)); H = ln N - sum n G(n) / N.
    """
    n = values.astype(np.float64)
    total = float((n * cells).sum())
    distinct = int(cells.sum())
    sign = np.where(values % 2 == 0, 1.0, -1.0)
    g = digamma(n) + 0.5 * sign * (digamma((n + 1) / 2) - digamma(n / 2))
    plug_in = np.log(total) - float((n * np.log(n) * cells).sum()) / total
    return Entropy(
        plug_in=plug_in,
        miller_madow=plug_in + (distinct - 1) / (2 * total),
        grassberger=np.log(total) - float((n * g * cells).sum()) / total,
        distinct=distinct,
    )


def pair_entropy(
    first: np.ndarray, second: np.ndarray, batch: int = BATCH_PAIRS, cells: int = TABLE_CELLS
) -> Entropy:
    """Entropy of pairs, shape (pairs,) each, ids below 2^32.

    Args:
        first: ids.
        second: ids.
        batch: pairs that are sorted at once; batches share no first token, so counts are exact.
        cells: with at most this many possible pairs they are tabulated instead, which is faster.
    """
    size = int(max(first.max(), second.max())) + 1
    if size * size <= cells:
        table = np.bincount(first.astype(np.int64) * size + second)
        return entropy_of_counts(table[table > 0])
    histogram: dict[int, int] = {}
    for low, high in _ranges(first, batch):
        chosen = slice(None) if (low, high) == (0, None) else _between(first, low, high)
        keys = first[chosen].astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= second[chosen].astype(np.uint64)
        if not len(keys):
            continue
        keys.sort()
        changes = np.flatnonzero(keys[1:] != keys[:-1])
        runs = np.diff(np.concatenate([[-1], changes, [len(keys) - 1]]))
        for value, found in zip(*np.unique(runs, return_counts=True), strict=True):
            histogram[int(value)] = histogram.get(int(value), 0) + int(found)
    values = np.array(sorted(histogram), np.int64)
    return _from_histogram(values, np.array([histogram[value] for value in values.tolist()], np.int64))


def _between(first: np.ndarray, low: int, high: int | None) -> np.ndarray:
    return (first >= low) if high is None else (first >= low) & (first < high)


def _ranges(first: np.ndarray, batch: int) -> list[tuple[int, int | None]]:
    """Ranges of first tokens, each with about `batch` pairs; one frequent token may exceed it."""
    if len(first) <= batch:
        return [(0, None)]
    seen = np.cumsum(np.bincount(first))
    cuts = np.unique(np.searchsorted(seen, np.arange(batch, len(first), batch), side="left"))
    edges = [0, *(int(cut) for cut in cuts if cut > 0)]
    return list(zip(edges, [*edges[1:], None], strict=True))


def information(first: np.ndarray, second: np.ndarray, distance: int | None) -> Row:
    """Mutual information of pairs (first[i], second[i]): I = H(first) + H(second) - H(pair), in nats."""
    singles = [entropy_of_counts(counts[counts > 0]) for counts in (np.bincount(first), np.bincount(second))]
    joint = pair_entropy(first, second)
    values = {
        name: float(sum(getattr(single, name) for single in singles) - getattr(joint, name))
        for name in ("plug_in", "miller_madow", "grassberger")
    }
    return Row(distance, len(first), joint.distinct, **values)


def measure(sample: Sample, distances: Sequence[int] = DISTANCES, seed: int = 0) -> tuple[list[Row], Row]:
    """Mutual information at each distance, and that of shuffled pairs of distance distances[0].

    Raises:
        UserError: no document is longer than a distance.
    """
    rows = []
    for distance in distances:
        same = sample.documents[distance:] == sample.documents[:-distance]
        if not same.any():
            raise UserError(f"mutual information: no document has two tokens {distance} apart")
        rows.append(information(sample.ids[:-distance][same], sample.ids[distance:][same], distance))
    same = sample.documents[distances[0] :] == sample.documents[: -distances[0]]
    shuffled = np.random.default_rng(seed).permutation(sample.ids[distances[0] :][same])
    return rows, information(sample.ids[: -distances[0]][same], shuffled, None)


def fit_power_law(rows: Sequence[Row], column: str = "grassberger") -> PowerLaw:
    """Least-squares fit of c0 + a * d**k to a column, k < 0.

    Raises:
        UserError: fewer than four distances, or no such law fits.
    """
    d = np.array([row.distance for row in rows], np.float64)
    values = np.array([getattr(row, column) for row in rows])
    if len(d) < 4:
        raise UserError(
            f"mutual information: a power law of three constants needs 4 distances, found {len(d)}"
        )

    def law(distances: Any, c0: float, a: float, k: float) -> Any:
        return MutualInformationLaw(c0=c0, a=a, k=k)(distances)

    start = (float(values[-1]), float(values[0] - values[-1]), -1.0)
    try:
        best, covariance = curve_fit(
            law,
            d,
            values,
            p0=start,
            bounds=([-np.inf, -np.inf, -10.0], [np.inf, np.inf, -1e-3]),
            max_nfev=20_000,
        )
    except RuntimeError as error:
        raise UserError(f"mutual information: no power law fits column {column}: {error}") from None
    errors = np.sqrt(np.diag(covariance))
    residual = values - law(d, *best)
    names = ("c0", "a", "k", "c0_stderr", "a_stderr", "k_stderr")
    constants = dict(zip(names, [*best.tolist(), *errors.tolist()], strict=True))
    return PowerLaw(column, **constants, rms_residual=float(np.sqrt(np.mean(residual**2))))


def write_statistics(
    manifest_path: Path | str,
    output: Path | str,
    max_tokens: int = SAMPLE_TOKENS,
    distances: Sequence[int] = DISTANCES,
) -> dict[str, Any]:
    """Measure, fit and write a JSON file: table, shuffled row, fits of both columns, what was read."""
    manifest = load_manifest(Path(manifest_path))
    sample = take_sample(manifest_path, max_tokens)
    rows, shuffled = measure(sample, distances)
    result = {
        "format": 1,
        "corpus": manifest.corpus,
        "data_identity": manifest.identity,
        "manifest": str(manifest_path),
        "vocab_size": manifest.tokenizer.vocab_size,
        "tokens_sampled": len(sample.ids),
        "tokens_in_corpus": manifest.train.tokens,
        "unit": "nats",
        "estimator": "grassberger",
        "table": [asdict(row) for row in rows],
        "shuffled": asdict(shuffled),
        "fits": {column: asdict(fit_power_law(rows, column)) for column in ("grassberger", "plug_in")},
    }
    write_atomically(Path(output), json.dumps(result, indent=1) + "\n")
    return result
