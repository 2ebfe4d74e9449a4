"""Kind ``switch``: jump and recovery over bag sizes, against a law that the test knows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from fake_runs import SLOPE, baseline, make, texts, tst, wsd

from tests.made_stages import write_run
from tst_titan.compare.drawing.style import styled
from tst_titan.compare.kinds import kind_named
from tst_titan.compare.kinds.switch import per_doubling
from tst_titan.compare.numbers import Number
from tst_titan.compare.results import Results

SIZES = (2, 4, 8)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Runs that jump by log2(s) nats, 600 steps of bags before it, and a longer baseline that is not theirs."""
    runs = [baseline(tmp_path, 2000), baseline(tmp_path, 9000)]
    for size in SIZES:
        loss = wsd(2000, spike=math.log2(size), switch=600)
        plan = (("bag", size, 600), ("token", 1, 1600), ("decay", 1, 2000))
        stages = write_run(tmp_path / f"s{size}", plan, loss)
        run = {"name": f"s{size}", "label": f"TST {size}", "role": "tst", "stages": stages}
        runs.append(run | {"axes": {"bag_size": size}})
    return make("switch", runs)


def test_the_jump_is_the_one_put_in_and_grows_by_the_slope(results: Results) -> None:
    jumps = results.select("switch", metric="height_over_reference")
    # The first logged step is 10 steps into a spike that falls over 200.
    assert [row.number for row in jumps] == pytest.approx([0.95, 1.9, 2.85], abs=0.01)
    assert [row.bag_size for row in jumps] == list(SIZES)
    assert {row.reference for row in jumps} == {"base-2000"}
    recovery = results.select("switch", metric="steps_to_recover")
    assert all(abs(row.number - 200) <= 60 for row in recovery)
    (trend,) = results.select("switch", metric="per_doubling")
    assert trend.number == pytest.approx(0.95, abs=0.01) and trend.excludes_zero
    assert "Every doubling of the bag size adds +0.95" in texts(results, "result")
    assert "TST 8 (s = 8): the switch costs +2.85 nats" in texts(results, "result")


def test_the_trend_is_numpys_line_and_needs_three_sizes() -> None:
    rng = np.random.default_rng(0)
    sizes = [2.0, 4.0, 8.0, 16.0]
    jumps = [
        Number(1 + 0.3 * math.log2(size) + 0.1 * float(rng.standard_normal()), bag_size=size)
        for size in sizes
    ]
    slope, _ = np.polyfit(np.log2(sizes), [row.number for row in jumps], 1)
    found = per_doubling(jumps, 0.95)
    assert found.number == pytest.approx(slope) and found.interval is not None
    assert found.interval[0] < slope < found.interval[1]
    assert "3 bag sizes are needed" in per_doubling(jumps[:2], 0.95).reason


def test_a_run_that_never_recovers_says_so(tmp_path: Path) -> None:
    results = make(
        "switch", [baseline(tmp_path, 2000), tst(tmp_path, 2000, like=2000 * math.exp(-1 / SLOPE))]
    )
    (recovery,) = results.select("switch", metric="steps_to_recover")
    assert not recovery.exists and "not met again up to step 2000" in texts(results, "result")


def test_jump_and_recovery_are_drawn_over_the_bag_size(results: Results, tmp_path: Path) -> None:
    with styled():
        (panel,) = kind_named("switch").draw(results, tmp_path)
    assert "s = 8: 2.85 nats" in panel.alt
    assert (tmp_path / "switch.svg").read_text().count('<g id="axes_') == 2
    assert (tmp_path / "switch.csv").read_text().count("\n") == 1 + 2 * len(SIZES)
