"""Held-out losses measured during training: read first, paired by window, on curves whose answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import SLOPE, baseline, first_pair, law, make, texts, tst, wsd
from scipy import stats

from tests.made_stages import Loss, write_measurements
from tst_titan.compare import write_results
from tst_titan.compare.arithmetic import interpolate_finals, length_crossing, recovery
from tst_titan.compare.noise import MeanWithError, mean_of_windows, redraw
from tst_titan.compare.results import HELDOUT, read_results
from tst_titan.errors import UserError

WINDOWS = np.random.default_rng(3).normal(0.0, 0.5, 400)
WINDOWS -= WINDOWS.mean()
Spec = dict[str, Any]


def measured(run: Spec, loss: Loss, noise: float = 0.0, windows: np.ndarray = WINDOWS, **more: Any) -> Spec:
    """The run, with heldout.jsonl in its stages."""
    write_measurements(run["stages"], loss, windows, noise=noise, **more)
    return run


def base(root: Path, end: int, noise: float = 0.0, **keys: Any) -> Spec:
    """A baseline that ends at ``law(end)`` on held-out text, and 0.5 above it on its own."""
    return measured(baseline(root, end, 0.01, **keys), wsd(end), noise, seed=end)


def bags(root: Path, like: float, noise: float = 0.0, **keys: Any) -> Spec:
    """A TST run of 2,000 steps, 600 of them bags, that ends like a baseline of ``like`` steps on held-out text."""
    loss = wsd(2000, spike=1.5, switch=600, final_step=like)
    return measured(tst(root, 2000, 2200, noise=0.01, **keys), loss, noise, seed=1)


def of_windows(*losses: Sequence[float] | np.ndarray) -> list[MeanWithError]:
    return [mean_of_windows(np.asarray(loss, dtype=float)) for loss in losses]


def test_differences_are_scipys_paired_by_window(tmp_path: Path) -> None:
    results = make("pair", [base(tmp_path, 2000, noise=0.1), bags(tmp_path, 3000, noise=0.1)])
    found = first_pair(results)["heldout.equal_flops.difference"]
    ends = [
        np.array(json.loads(Path(stages[-1], "heldout.jsonl").read_text().splitlines()[-1])["windows"])
        for stages in ([stage.directory for stage in run.stages] for run in results.runs)
    ]
    test = stats.ttest_rel(ends[1], ends[0])
    expected = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.number == pytest.approx(law(3000) - law(2000), abs=3 * 0.1 * (2 / 400) ** 0.5)
    # Two independent means of these windows would be known ten times worse.
    assert found.stderr is not None and found.stderr < 0.2 * stats.sem(ends[0]) * 2**0.5
    assert "paired over 400 held-out windows" in found.method and found.winner == "run"
    assert {Path(source).name for source in found.sources} == {"heldout.jsonl"}


def test_the_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        gap = mean_of_windows(-0.05 + 0.3 * rng.standard_normal(24))
        assert gap.stderr is not None
        hits += abs(gap.mean + 0.05) <= gap.quantile(0.95) * gap.stderr
    assert 0.93 <= hits / 400 <= 0.97


def test_redraws_of_windows_have_their_covariance_and_students_tails() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 1.0, 25)
    means = of_windows(*(3.0 + k + common + 0.2 * rng.standard_normal(25) for k in range(3)))
    noisy, targets = redraw(means[:2], means[2], 200_000, rng)
    drawn = np.column_stack([noisy, targets])
    windows = np.stack([mean.windows for mean in means if mean.windows is not None])
    # A t distribution with f degrees of freedom has f / (f - 2) times the variance.
    assert np.cov(drawn.T) == pytest.approx(np.cov(windows) / 25 * 24 / 22, rel=0.03)
    gaps = drawn[:, 0] - drawn[:, 2]
    expected = stats.ttest_rel(windows[0], windows[2]).confidence_interval(0.95)
    assert np.quantile(gaps, [0.025, 0.975]) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_equal_flops_data_and_loss_are_those_of_the_held_out_law(tmp_path: Path) -> None:
    """The training losses say 2,200 steps, the held-out ones 3,000: the latter are said."""
    results = make("pair", [*(base(tmp_path, end) for end in (2000, 3600, 5000)), bags(tmp_path, 3000)])
    pair = first_pair(results)
    assert pair["heldout.equal_flops.difference"].number == pytest.approx(law(3000) - law(2000), abs=1e-5)
    assert pair["equal_flops.difference"].number == pytest.approx(law(2200) - law(2000), abs=0.02)
    assert pair["heldout.equal_data.difference"].number == pytest.approx(law(3000) - law(5000), abs=1e-5)
    at = pair["heldout.equal_loss.at.steps"]
    assert (at.method, at.bound) == ("interpolated final losses", "")
    assert at.number == pytest.approx(3000, rel=1e-3)
    assert pair["heldout.equal_loss.speedup.flops"].number == pytest.approx(1.5, rel=1e-3)
    said = texts(results, "result")
    assert "0.1216 nats/held-out token below baseline 2000" in said
    assert "For the final held-out loss of TST s=6 r=0.3" in said and "a speed-up of 1.50 times" in said
    answer = results.facts.answer
    assert "0.1216 nats per held-out token lower than baseline 2000" in answer
    assert "on the held-out windows" in answer and "to end at its held-out loss" in answer


def test_the_interval_of_an_equal_loss_is_as_wide_as_the_paired_noise() -> None:
    """What makes windows hard moves all lengths and the target alike and leaves no mark; the rest moves log steps."""
    rng = np.random.default_rng(2)
    lengths = np.array([1000.0, 10000.0])
    hard, noise = rng.normal(0, 1.0, 400), rng.normal(0, 0.1, 400)
    finals = of_windows(*(law(length) + hard for length in lengths))
    (target,) = of_windows(law(3000.0) + hard + noise - noise.mean())
    found = length_crossing(lengths, finals, target, 0.95, 4000, 0)
    assert found.position == pytest.approx(3000)
    assert found.low is not None and found.high is not None
    half = stats.t.ppf(0.975, 399) * noise.std(ddof=1) / 20 / SLOPE
    assert np.log(found.high / found.low) == pytest.approx(2 * half, rel=0.05)


def test_between_measurements_the_loss_is_linear_in_log_steps(tmp_path: Path) -> None:
    """The single baseline passes the run's final loss between two measurements; a naive reference says where."""

    def bent(step: int, phase: str, bag_size: int) -> float:
        return 5.0 - 0.5 * math.sqrt(step / 500)

    reference = measured(baseline(tmp_path, 2000), bent, every=500)
    run = measured(tst(tmp_path, 2000, 2000), lambda *_: 4.2, every=500)
    pair = first_pair(make("pair", [reference, run]))
    points = np.array([500.0, 1000.0, 1500.0, 1600.0, 2000.0])
    losses = np.array([bent(int(point), "", 1) for point in points])
    expected = np.exp(np.interp(-4.2, -losses, np.log(points)))
    at = pair["heldout.equal_loss.at.steps"]
    assert at.number == pytest.approx(expected, rel=1e-6) and at.bound == "at_most"
    assert pair["heldout.equal_loss.speedup.steps"].number == pytest.approx(expected / 2000, rel=1e-6)
    found = interpolate_finals(points, of_windows(*(loss + WINDOWS for loss in losses)), 700.0)
    assert found is not None and found.mean == pytest.approx(
        np.interp(np.log(700), np.log(points), losses), abs=1e-12
    )


def test_a_run_recovers_at_the_first_measurement_at_or_below_the_baseline(tmp_path: Path) -> None:
    results = make("pair", [base(tmp_path, 2000), bags(tmp_path, 3000)])
    pair = first_pair(results)
    # The spike of 1.5 fades over 200 steps on a trend that is 0.1216 lower: it is met after 184, measured after 200.
    steps = pair["heldout.switch.steps_to_recover"]
    assert (steps.number, steps.low, steps.high) == (200, 200, 200)
    assert steps.note.endswith("the one before was at 100")
    assert pair["heldout.switch.recovered_step"].number == 800
    height = pair["heldout.switch.height_over_reference"]
    assert height.number == pytest.approx(5.94 - (law(2000) + 0.1 + SLOPE * math.log(1600 / 600)), abs=1e-4)
    said = texts(results, "result")
    assert "At the switch (step 600) the held-out loss of TST s=6 r=0.3 is 5.94" in said
    assert "at or below that 200 steps after the switch" in said


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda *_: 2.0, "already at or below the reference at the switch"),
        (lambda *_: 6.0, "not met again up to step 2000, the last at which both were measured"),
    ],
    ids=["below", "never"],
)
def test_what_never_was_above_or_never_returns_does_not_recover(
    tmp_path: Path, loss: Loss, words: str
) -> None:
    for kind in ("pair", "switch"):
        root = tmp_path / kind
        results = make(kind, [base(root, 2000), measured(tst(root, 2000, 2200, noise=0.01), loss)])
        steps = [row for row in results.numbers if row.on_heldout and row.base.endswith("steps_to_recover")]
        assert steps and not any(row.exists for row in steps) and {row.reason for row in steps} == {words}
        said = texts(results, "result")
        assert words in said and "met again after" not in said and "steps after the switch" not in said


def test_recovery_has_an_interval_of_measurements() -> None:
    """Gaps of 0.2, 0.03, -0.03 and -0.2 nats known to 0.02: it may be one measurement earlier, or one later."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((4, 100))
    noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, ddof=1, keepdims=True) * 0.2
    gaps = of_windows(*(np.array([0.2, 0.03, -0.03, -0.2])[:, None] + noise))
    found = recovery(np.array([100, 200, 300, 400]), gaps, 0.95, 2000, 0)
    assert (found.status, found.position, found.low, found.high) == ("reached", 300, 200, 400)
    never = recovery(np.array([100, 200]), gaps[:2], 0.95, 2000, 0)
    assert never.status == "never"
    assert recovery(np.array([300, 400]), gaps[2:], 0.95, 2000, 0).status == "before"


def test_at_equal_data_a_run_in_its_bag_phase_is_not_read(tmp_path: Path) -> None:
    by_data = first_pair(make("pair", [base(tmp_path, 2000), bags(tmp_path, 3000)]))[
        "heldout.equal_data.difference"
    ]
    assert not by_data.exists and "no token loss at 8.192e+06 data tokens" in by_data.reason


def test_every_kind_reads_held_out_losses_first(tmp_path: Path) -> None:
    worth = make("transfer", [base(tmp_path, 2000), base(tmp_path, 5000), bags(tmp_path, 3000)])
    (row,) = worth.best("transfer", base="worth")
    assert row.on_heldout and row.number == pytest.approx((3000 - 1400) / 600, rel=1e-3)
    assert "a bag step replaces from 2.67" in worth.facts.answer
    grid = make("grid", [base(tmp_path, 2000, axes={}), bags(tmp_path, 3000)])
    (gain,) = grid.select("grid", metric="heldout.final_loss.gain")
    assert gain.number == pytest.approx(law(2000) - law(3000), abs=1e-5) and gain.low is not None
    assert "final loss on held-out windows" in grid.facts.answer
    axes = {"axes": {"lr": 0.001}}
    sweep = make("lr_sweep", [base(tmp_path, 2000) | axes, bags(tmp_path, 3000) | axes])
    (best,) = sweep.best("sweep", base="best_difference")
    assert best.number == pytest.approx(law(3000) - law(2000), abs=1e-5)
    assert "nats per held-out token lower" in sweep.facts.answer
    (at_one_rate,) = sweep.best("sweep", base="difference")  # named like a pair's scored difference
    assert at_one_rate.metric == "heldout.difference" and at_one_rate.on_heldout
    seeds = make("seeds", [
        *(base(tmp_path, 2000, seed=seed) for seed in (1, 2)),
        *(bags(tmp_path, 3000, seed=seed) for seed in (1, 2)),
    ])  # fmt: skip
    (gap,) = seeds.select("seeds", metric="heldout.final_loss.difference")
    assert gap.note == "paired" and gap.number == pytest.approx(law(3000) - law(2000), abs=1e-5)
    assert "nats per held-out token lower" in seeds.facts.answer and "over 2 seeds" in seeds.facts.answer


def test_without_measurements_of_all_the_training_losses_are_read(tmp_path: Path) -> None:
    plain = make("pair", [baseline(tmp_path, 2000, 0.01), tst(tmp_path, 2000, 3000, noise=0.01)])
    assert not any(row.on_heldout for row in plain.numbers)
    assert set(plain.curves["measured_on"]) == {"training"}
    half = make("pair", [base(tmp_path / "half", 2000), tst(tmp_path / "half", 2000, 3000, noise=0.01)])
    assert "heldout.equal_flops.difference" not in first_pair(half)
    assert "not measured during training of tst-s6-r0.3-0: what is said of it is read off training" in texts(
        half, "gap"
    )
    other = [
        base(tmp_path / "o", 2000),
        measured(tst(tmp_path / "o", 2000, 3000), wsd(2000), windows=WINDOWS[:100]),
    ]
    assert "heldout.equal_flops.difference" not in first_pair(make("pair", other))


def test_of_two_measurements_at_a_step_the_later_counts_and_curves_are_written(tmp_path: Path) -> None:
    run = bags(tmp_path, 3000)
    first = Path(run["stages"][1], "heldout.jsonl")
    lines = first.read_text().splitlines()
    switch = Path(run["stages"][0], "heldout.jsonl").read_text().splitlines()[-1]
    again = json.loads(switch) | {"phase": "token", "bag_loss": None, "token_loss": 7.0}
    again["windows"] = (7.0 + WINDOWS).tolist()
    first.write_text("\n".join([json.dumps(again), *lines]) + "\n")
    results = make("pair", [base(tmp_path, 2000), run])
    assert first_pair(results)["heldout.switch.first_loss"].number == pytest.approx(7.0)
    write_results(results, tmp_path / "out")
    curve = read_results(tmp_path / "out").curve(run["name"], HELDOUT)
    token, bag = curve[curve["comparable"]], curve[~curve["comparable"]]
    assert token["step"].is_unique and list(token["step"].iloc[[0, -1]]) == [0, 2000]
    assert bag["step"].max() == 600 and set(bag["bag_size"]) == {6}
    assert token["hours"].iloc[0] == 0 and token["hours"].iloc[-1] == pytest.approx(2000 * 0.36 / 3600)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": [1.0]}, "has 1 windows, the first has 400"),
        ({"windows": None}, "key windows: found None"),
        ({"token_loss": 9.0}, "token_loss is 9.0, the mean of its windows"),
        ({"token_loss": float("nan")}, "token_loss: found nan: a run that diverged"),
        ({"step": 99999}, "were logged, but .* says that the stage goes from step 600 to 1600"),
        ({"flops": 1e30}, "flops ends at 1e"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, change: Spec, message: str) -> None:
    run = bags(tmp_path, 3000)
    path = Path(run["stages"][1], "heldout.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | change)]) + "\n")
    with pytest.raises(UserError, match=rf"heldout\.jsonl.*{message}"):
        make("pair", [base(tmp_path, 2000), run])
