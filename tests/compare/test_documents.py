"""Held-out losses document by document: known answers, and what the comparison makes of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import baseline, first_pair, make, texts, tst
from scipy import stats

from tests.made_stages import write_heldout
from tst_titan.compare.documents import mean_over_documents, read_documents
from tst_titan.compare.pairs import PAIRED_BY_DOCUMENT
from tst_titan.errors import UserError
from tst_titan.report.tables import source_table


def test_documents_of_one_length_give_the_error_of_the_mean_of_their_means() -> None:
    mean, stderr = mean_over_documents(np.array([5.0, 10.0, 15.0]), np.array([10, 10, 10]))
    assert mean == pytest.approx(1.0) and stderr == pytest.approx(0.5 / math.sqrt(3))


def test_long_documents_weigh_more() -> None:
    # Mean (2 + 24) / 10 = 2.6; residuals 2 - 2.6 * 2 = -3.2 and 24 - 2.6 * 8 = 3.2; sqrt(2 * 2 * 3.2^2) / 10.
    mean, stderr = mean_over_documents(np.array([2.0, 24.0]), np.array([2, 8]))
    assert mean == pytest.approx(2.6) and stderr == pytest.approx(0.64)


def test_one_document_has_no_error() -> None:
    assert mean_over_documents(np.array([5.0, 0.0]), np.array([10, 0])) == (0.5, None)


def test_the_paired_error_is_the_spread_over_drawn_corpora_and_far_below_either_models() -> None:
    generator = np.random.default_rng(0)

    def drawn(n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = generator.integers(10, 500, size=n)
        # A document is hard for both models; what they differ in is small and has a level of its own too.
        hard = generator.normal(3, 0.5, size=n)
        gain = generator.normal(0.07, 0.05, size=n)
        return tokens, tokens * hard, tokens * (hard - gain)

    found = []
    for _ in range(400):
        tokens, first, second = drawn()
        found.append((*mean_over_documents(second - first, tokens), mean_over_documents(first, tokens)[1]))
    gaps, errors, own_errors = np.array(found).T
    assert gaps.mean() == pytest.approx(-0.07, abs=3 * gaps.std() / 20)
    assert errors.mean() == pytest.approx(gaps.std(), rel=0.1)
    assert errors.mean() < own_errors.mean() / 5


def write_documents(path: Path, tokens: list[int], nats: list[float]) -> str:
    """A heldout_documents.csv."""
    rows = [f"{number},{n},{loss!r}" for number, (n, loss) in enumerate(zip(tokens, nats, strict=True))]
    path.write_text("\n".join(["document,tokens,nats", *rows]) + "\n")
    return str(path)


def pair_of(folder: Path, ours: list[float], tokens: list[int]) -> list[dict[str, Any]]:
    """A baseline that scored three documents of 100 tokens, and a run with these losses."""
    runs = [baseline(folder, 2000, 0.001), tst(folder, 2000, 3000, noise=0.001)]
    for run, nats, lengths in ((runs[0], [300.0, 330.0, 270.0], [100] * 3), (runs[1], ours, tokens)):
        manifest = run["stages"][-1] + "/manifest.json"
        folder_of_run = folder / run["name"]
        mean = sum(nats) / sum(lengths)
        run["heldout"] = write_heldout(folder_of_run / "heldout.json", manifest, mean, stderr=0.17)
        run["heldout_documents"] = write_documents(folder_of_run / "documents.csv", lengths, nats)
    return runs


def test_a_pair_is_compared_document_by_document(tmp_path: Path) -> None:
    comparison = make("pair", pair_of(tmp_path, [289.0, 320.0, 261.0], [100] * 3))
    scored = first_pair(comparison)["heldout.difference"]
    # Differences per token -0.11, -0.10, -0.09: mean -0.1, standard deviation 0.01.
    stderr = 0.01 / math.sqrt(3)
    half = stats.t.ppf(0.975, 2) * stderr
    assert scored.note == PAIRED_BY_DOCUMENT and scored.winner == "run"
    assert scored.number == pytest.approx(-0.1)
    assert scored.stderr == pytest.approx(stderr)
    assert scored.low == pytest.approx(-0.1 - half)
    assert scored.high == pytest.approx(-0.1 + half)
    assert all(source.endswith("documents.csv") for source in scored.sources)
    assert "lower than baseline 2000 (-0.1248 to -0.0752, paired by document)" in texts(comparison, "result")


def test_a_gain_in_one_source_that_costs_another_is_seen(tmp_path: Path) -> None:
    runs = pair_of(tmp_path, [289.0, 320.0, 280.0], [100] * 3)
    for run in runs:
        path = Path(run["heldout_documents"])
        head, *rows = path.read_text().splitlines()
        sources = ("docs", "docs", "code")
        labelled = [f"{row},{source}" for row, source in zip(rows, sources, strict=True)]
        path.write_text("\n".join([f"{head},source", *labelled]) + "\n")
        scored = json.loads(Path(run["heldout"]).read_text())
        part = {"nats_per_token": 3.0, "bits_per_byte": 1.2, "stderr_nats_per_token": 0.1}
        scored["by_source"] = {
            "docs": part,
            "code": {**part, "nats_per_token": 2.5, "stderr_nats_per_token": None},
        }
        Path(run["heldout"]).write_text(json.dumps(scored))
    comparison = make("pair", runs)
    pair = first_pair(comparison)
    # Differences per token -0.11 and -0.10 of documents, 0.10 of the only file of code.
    docs, code = pair["heldout.difference/docs"], pair["heldout.difference/code"]
    assert docs.number == pytest.approx(-0.105) and docs.stderr == pytest.approx(0.005)
    assert docs.low == pytest.approx(-0.105 - stats.t.ppf(0.975, 1) * 0.005)
    assert code.number == pytest.approx(0.1) and code.stderr is None and code.winner == "undecided"
    run = comparison.runs[-1].name
    for metric, value in (
        ("nats_per_token/docs", 3.0),
        ("nats_per_token/code", 2.5),
        ("bits_per_byte/code", 1.2),
    ):
        assert comparison.value(run, f"heldout_{metric}") == value
    table = source_table(comparison)
    assert table is not None and table.heads == ["code", "docs"]
    assert table.rows[0].cells[1].lines[0] == "3.0000 against 3.0000"


def test_models_that_scored_other_documents_are_not_paired(tmp_path: Path) -> None:
    runs = pair_of(tmp_path, [289.0, 320.0, 261.0], [100, 101, 99])
    scored = first_pair(make("pair", runs))["heldout.difference"]
    assert not scored.note and scored.winner == "undecided"
    assert scored.stderr == pytest.approx(0.17 * math.sqrt(2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has not finished"),
        ("document,nats\n0,1.0\n", "document,tokens,nats expected"),
        ("document,tokens,nats\n", "0 rows"),
        ("document,tokens,nats\n0,many,1.0\n", "not a table of documents"),
    ],
)
def test_a_file_that_is_no_such_table_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "documents.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"{path}.*{words}"):
        read_documents(str(path))
