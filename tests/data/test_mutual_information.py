"""Mutual information on sequences whose value is known, and the same counts by other means."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_lanes import tiny_corpus
from tests.data.texts import base_config, build, document, write_corpus, write_dclm
from tst_titan.data.mutual_information import (
    Row,
    Sample,
    entropy_of_counts,
    fit_power_law,
    information,
    measure,
    pair_entropy,
    take_sample,
    write_statistics,
)
from tst_titan.errors import UserError


def markov_chain(states: int, stay: float, length: int, seed: int = 0) -> np.ndarray:
    """A chain that stays with probability `stay` and else goes to any state, itself included, with equal chance."""
    generator = np.random.default_rng(seed)
    fresh = generator.integers(0, states, length)
    keep = generator.random(length) < stay
    keep[0] = False
    return fresh[np.maximum.accumulate(np.where(keep, 0, np.arange(length)))].astype(np.uint16)


def markov_information(states: int, stay: float, distance: int) -> float:
    """Its mutual information at a distance, in nats: the state is the same with probability p + (1 - p) / n."""
    p = stay**distance
    same, other = p + (1 - p) / states, (1 - p) / states
    return float(np.log(states) + same * np.log(same) + (states - 1) * other * np.log(other))


def test_markov_chain_of_known_information() -> None:
    ids = markov_chain(states=8, stay=0.8, length=400_000)
    rows, shuffled = measure(Sample(ids, np.zeros(len(ids), np.int32)), [1, 2, 3, 5, 10])
    for row in rows:
        assert row.distance is not None
        expected = markov_information(8, 0.8, row.distance)
        assert row.grassberger == pytest.approx(expected, abs=0.003)
        assert row.plug_in == pytest.approx(expected, abs=0.004)
        assert row.pairs == len(ids) - row.distance
    assert shuffled.distance is None and abs(shuffled.grassberger) < 1e-3


def test_correction_takes_away_most_of_the_bias() -> None:
    generator = np.random.default_rng(1)
    weights = 1 / np.arange(1, 2001)
    first, second = (generator.choice(2000, 200_000, p=weights / weights.sum()) for _ in range(2))
    row = information(first.astype(np.uint32), second.astype(np.uint32), None)  # independent: 0
    assert row.plug_in > 0.5
    assert abs(row.grassberger) < 0.6 * row.plug_in
    assert abs(row.grassberger) < abs(row.miller_madow) < row.plug_in


@pytest.mark.parametrize("batch", [10**9, 5000, 37])
def test_counts_are_the_same_in_batches_and_in_a_table(batch: int) -> None:
    generator = np.random.default_rng(2)
    first, second = (generator.geometric(0.01, 20_000).astype(np.uint32) for _ in range(2))
    sorted_ = pair_entropy(first, second, batch=batch, cells=0)
    assert sorted_ == pair_entropy(first, second)
    _, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    assert sorted_ == entropy_of_counts(counts)
    p = counts / counts.sum()
    assert sorted_.plug_in == pytest.approx(-(p * np.log(p)).sum())


def test_large_ids_do_not_collide() -> None:
    first = np.array([0, 128_255, 128_255, 1], np.uint32)
    second = np.array([128_255, 0, 128_255, 1], np.uint32)
    assert pair_entropy(first, second, cells=0).distinct == 4


def test_grassberger_on_hand_computed_counts() -> None:
    # G(1) = -gamma - ln 2, G(2) = G(1) + 2: the recursion of the article.
    g1 = -np.euler_gamma - np.log(2)
    counts = np.array([1, 2, 2, 1])
    expected = np.log(6) - (2 * 1 * g1 + 2 * 2 * (g1 + 2)) / 6
    assert entropy_of_counts(counts).grassberger == pytest.approx(expected)


def test_pairs_do_not_cross_documents() -> None:
    sample = Sample(np.array([1, 2, 3, 4, 5], np.uint16), np.array([0, 0, 1, 1, 1], np.int32))
    rows, _ = measure(sample, [1, 2])
    assert [row.pairs for row in rows] == [3, 1]
    with pytest.raises(UserError, match="no document has two tokens 3 apart"):
        measure(sample, [3])


def test_power_law_is_found_again() -> None:
    rows = [Row(d, 1, 1, 0.0, 0.0, 0.3 + 1.35 * d**-1.25) for d in range(1, 101)]
    law = fit_power_law(rows)
    assert (law.c0, law.a, law.k) == pytest.approx((0.3, 1.35, -1.25), rel=1e-4)
    assert law.rms_residual < 1e-6
    with pytest.raises(UserError, match="needs 4 distances, found 3"):
        fit_power_law(rows[:3])


def test_sample_leaves_out_eos_and_numbers_documents(tmp_path: Path) -> None:
    sample = take_sample(tiny_corpus(tmp_path))
    assert sample.ids.tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert sample.documents.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_statistics_of_a_corpus(tmp_path: Path) -> None:
    write_dclm(tmp_path / "in" / "0.parquet", [document(i, 150) for i in range(200)])
    source = {"kind": "parquet", "path": str(tmp_path / "in")}
    build(write_corpus(tmp_path, base_config([source], tasks=1)), tmp_path / "out")
    output = tmp_path / "out" / "statistics.json"
    whole = write_statistics(tmp_path / "out" / "manifest.json", output, distances=range(1, 9))
    assert json.loads(output.read_text()) == whole
    assert [row["distance"] for row in whole["table"]] == list(range(1, 9))
    assert whole["table"][0]["grassberger"] > whole["table"][7]["grassberger"]  # syllables of words
    assert whole["fits"]["grassberger"]["k"] < 0 < whole["fits"]["grassberger"]["a"]
    some = write_statistics(
        tmp_path / "out" / "manifest.json", output, max_tokens=20_000, distances=range(1, 9)
    )
    assert 10_000 < some["tokens_sampled"] <= 20_000 < whole["tokens_sampled"]
