"""What the paper found, judged from intervals: every direction, several runs at once, runs without a pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import experiments
from tst_titan.compare import read_results
from tst_titan.compare.claims import judge, shows
from tst_titan.compare.kinds import kind_named
from tst_titan.compare.numbers import Number
from tst_titan.config.experiment import BagSpec, Claim, RunSpec


@pytest.mark.parametrize(
    ("low", "high", "lower", "higher", "not_higher"),
    [
        (-0.2, -0.1, True, False, True),
        (0.1, 0.2, False, True, False),
        (-0.1, 0.1, None, None, None),
        (-0.1, 0.0, None, None, True),
        (None, None, None, None, None),
    ],
)
def test_an_interval_shows_a_direction_or_leaves_it_open(low, high, lower, higher, not_higher):
    gap = Number(0.0, "nats/token", low=low, high=high)
    assert [shows(gap, ends) for ends in ("lower", "higher", "not_higher")] == [lower, higher, not_higher]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TST ends below the baseline of its steps; its floor is 0.07 lower, and held-out losses follow the floors."""
    monkeypatch.chdir(tmp_path)
    return read_results(experiments.build(Path("results"), experiments.pair(Path("results"))))


SPECS = {
    "tst": RunSpec(label="TST s=6 r=0.3", bags=(BagSpec(),)),
    "baseline": RunSpec(),
    "longer": RunSpec(label="baseline-1.8x"),
    "longest": RunSpec(label="baseline-2.5x"),
}


@pytest.mark.parametrize(
    ("ends", "runs", "outcome"),
    [
        ("lower", {"tst": "baseline"}, "reproduced"),
        ("not_higher", {"tst": "baseline"}, "reproduced"),
        ("higher", {"tst": "baseline"}, "not reproduced"),
        # Two baselines are not compared with each other, nor with a common one.
        ("lower", {"longer": "longest"}, "cannot be told"),
        ("lower", {"tst": "baseline", "longer": "longest"}, "reproduced in part"),
    ],
)
def test_outcomes(pair, ends, runs, outcome):
    found, text = judge(pair, kind_named("pair"), Claim(says="it does", ends=ends, runs=runs), SPECS)
    assert found == outcome
    if runs == {"tst": "baseline"}:
        gap = pair.get("pair", "tst", "heldout.difference", "baseline")
        assert text.startswith(f"TST s=6 r=0.3 against baseline: {gap.number:+.3f} nats")
    else:
        assert "no loss in common" in text


def test_a_grid_says_itself_what_comes_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = read_results(experiments.build(Path("results"), experiments.grid(Path("results"))))
    outcome, text = judge(grid, kind_named("grid"), Claim(says="a ridge"), {})
    assert outcome == "see the sentence" and "cells in common" in text


def test_numbers_that_mean_nothing_prove_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smoke = read_results(experiments.build(Path("results"), experiments.smoke(Path("results"))))
    specs = {"tst": RunSpec(bags=(BagSpec(),)), "baseline": RunSpec()}
    found, text = judge(smoke, kind_named("pair"), Claim(says="", runs={"tst": "baseline"}), specs)
    assert found == "cannot be told" and text == smoke.facts.caveat
