"""The arithmetic on curves whose answers are known in closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tst_titan.compare import arithmetic
from tst_titan.compare.arithmetic import (
    final_loss,
    interpolate_finals,
    length_crossing,
    loss_at,
    switch_spike,
)
from tst_titan.compare.noise import MeanWithError, block_bootstrap, mean_with_error


def exact(value: float, stderr: float = 0.0) -> MeanWithError:
    """A loss without noise."""
    return MeanWithError(value, 10, stderr, 50, 0.0)


def make_curve(
    losses: np.ndarray, steps: np.ndarray | None = None, phases: list[str] | None = None
) -> pd.DataFrame:
    """A curve of one phase (token), or of these phases."""
    steps = np.arange(1, losses.size + 1) * 10 if steps is None else steps
    phases = ["token"] * losses.size if phases is None else phases
    frame = pd.DataFrame({"step": steps, "flops": steps * 1e9, "loss": losses, "phase": phases})
    frame["comparable"] = frame["phase"] != "bag"
    frame["segment"] = (frame["phase"] != frame["phase"].shift()).cumsum() - 1
    return frame


def log_law(steps: np.ndarray) -> np.ndarray:
    """5 - 0.3 log(step): reaches a loss y at step exp((5 - y) / 0.3)."""
    return 5 - 0.3 * np.log(steps)


def crossing(
    curve: pd.DataFrame, target: MeanWithError, columns: tuple[str, ...] = ("step", "flops")
) -> dict:
    return arithmetic.curve_crossing(curve, columns, target, 11, 0.95, 200, seed=0)


def test_final_loss_is_the_mean_of_the_last_k_of_the_last_segment() -> None:
    losses = np.array([9.0] * 20 + [3.0, 2.0, 1.0])
    curve = make_curve(losses, phases=["token"] * 20 + ["decay"] * 3)
    found = final_loss(curve, k=2)
    assert (found.mean.mean, found.mean.n, found.last, found.comparable) == (1.5, 2, 1.0, True)
    assert final_loss(curve, k=10).mean.mean == 2.0
    assert final_loss(curve, k=10).mean.n == 3
    assert not final_loss(make_curve(losses, phases=["bag"] * 23), k=2).comparable


def test_error_of_the_mean_covers_the_truth_under_trend_and_correlation() -> None:
    """AR(1) noise of known strength on a falling curve: 95 % intervals hold the true mean about 95 % of times."""
    rng = np.random.default_rng(1)
    n, k, rho, hits, correlations = 60, 10, 0.4, 0, []
    trend = 3 - 0.2 * np.linspace(0, 1, n) ** 2
    for _ in range(600):
        shocks = rng.standard_normal(n + 50) * 0.05
        noise = np.zeros(n + 50)
        for i in range(1, n + 50):
            noise[i] = rho * noise[i - 1] + shocks[i]
        found = mean_with_error(trend + noise[50:], k)
        assert found.stderr is not None
        correlations.append(found.correlation)
        hits += abs(found.mean - trend[-k:].mean()) <= found.quantile(0.95) * found.stderr
    assert 0.90 <= hits / 600 <= 0.98
    # Fitting the trend hides a third of the correlation; the correction puts it back.
    assert np.mean(correlations) == pytest.approx(rho, abs=0.05)


def test_error_needs_values_and_ignores_a_pure_trend() -> None:
    assert mean_with_error(np.array([3.0, 2.0, 1.0]), 10).stderr is None
    found = mean_with_error(np.linspace(4, 3, 50), 10)
    assert found.stderr == pytest.approx(0, abs=1e-9)


def test_block_bootstrap_keeps_short_range_correlation() -> None:
    rng = np.random.default_rng(0)
    residuals = np.sin(np.arange(1000) * 0.05)
    drawn = block_bootstrap(residuals, 50, rng)
    assert drawn.shape == (50, 1000)
    lag_1 = np.mean([np.corrcoef(row[:-1], row[1:])[0, 1] for row in drawn])
    assert lag_1 > 0.7
    assert drawn.std() == pytest.approx(residuals.std(), rel=0.05)


def test_curve_crossing_finds_the_known_step() -> None:
    steps = np.arange(100, 20001, 10)
    curve = make_curve(log_law(steps), steps)
    target = 5 - 0.3 * np.log(4321.0)
    found = crossing(curve, exact(target))
    assert found["step"].status == "reached"
    assert found["step"].position == pytest.approx(4321, rel=1e-3)
    assert found["flops"].position == pytest.approx(4321e9, rel=1e-3)


def test_curve_crossing_says_never_and_before() -> None:
    steps = np.arange(100, 2001, 10)
    curve = make_curve(log_law(steps), steps)
    assert crossing(curve, exact(2.0))["step"].status == "never"
    assert crossing(curve, exact(4.5))["step"].status == "before"
    assert crossing(curve, exact(2.0))["step"].position is None
    bag = make_curve(log_law(steps), steps, ["bag"] * steps.size)
    assert crossing(bag, exact(3.0))["step"].status == "never"


def test_curve_crossing_interval_covers_the_truth() -> None:
    """Noise on the curve and on the target: the bootstrap interval holds the true step in most repetitions."""
    rng = np.random.default_rng(2)
    steps = np.arange(200, 6001, 10)
    truth = 3000.0
    hits, positions, widths = 0, [], []
    for repetition in range(60):
        noisy = log_law(steps) + 0.02 * rng.standard_normal(steps.size)
        target = 5 - 0.3 * np.log(truth) + 0.001 * rng.standard_normal()
        found = arithmetic.curve_crossing(
            make_curve(noisy, steps), ("step",), exact(target, 0.001), 21, 0.95, 200, seed=repetition
        )["step"]
        assert found.low is not None and found.high is not None and found.position is not None
        positions.append(found.position)
        widths.append(found.high - found.low)
        hits += found.low <= truth <= found.high
    assert hits >= 50
    # The bootstrap knows the scatter of the positions that fresh noise gives.
    assert np.median(widths) == pytest.approx(2 * 1.96 * np.std(positions), rel=0.25)
    assert np.mean(positions) == pytest.approx(truth, rel=0.01)


def test_an_interval_that_runs_off_the_curve_is_open() -> None:
    """The target may well lie below the curve's end: only the lower end of the interval is known."""
    steps = np.arange(200, 2001, 10)
    found = crossing(make_curve(log_law(steps), steps), exact(float(5 - 0.3 * np.log(1950.0)), 0.02))["step"]
    assert found.status == "reached"
    assert found.high is None and found.low is not None


def test_crossing_lies_between_first_and_last_passage() -> None:
    x = np.arange(6.0)
    y = np.array([[4.0, 2.0, 4.0, 2.0, 1.0, 0.5]])
    # First passage of 3 at 0.5, last at 2.5.
    assert arithmetic.crossing_positions(x, y, np.array([3.0])) == pytest.approx([1.5])


def test_length_crossing_is_exact_for_a_log_law() -> None:
    lengths = np.array([2000.0, 3600.0, 5000.0])
    finals = [exact(float(loss)) for loss in log_law(lengths)]
    found = length_crossing(lengths, finals, exact(5 - 0.3 * np.log(3000.0)), 0.95, 100, 0)
    assert found.position == pytest.approx(3000)
    assert found.low == pytest.approx(3000) and found.high == pytest.approx(3000)
    assert length_crossing(lengths, finals, exact(1.0), 0.95, 100, 0).status == "never"
    assert length_crossing(lengths, finals, exact(4.9), 0.95, 100, 0).status == "before"


def test_length_crossing_interval_has_the_width_of_the_errors() -> None:
    """Target error sigma on a slope b in log steps: log steps scatter by sigma / b."""
    lengths = np.array([1000.0, 10000.0])
    finals = [exact(float(loss)) for loss in log_law(lengths)]
    found = length_crossing(lengths, finals, exact(5 - 0.3 * np.log(3000.0), 0.03), 0.95, 4000, 0)
    assert found.low is not None and found.high is not None
    assert np.log(found.high / found.low) == pytest.approx(2 * 1.96 * 0.1, rel=0.05)


def test_final_losses_interpolate_in_log_length() -> None:
    lengths = np.array([1000.0, 4000.0])
    found = interpolate_finals(lengths, [exact(4.0, 0.03), exact(3.0, 0.04)], 2000.0)
    assert found is not None and found.stderr is not None
    assert found.mean == pytest.approx(3.5)
    assert found.stderr == pytest.approx(0.025)
    assert interpolate_finals(lengths, [exact(4.0), exact(3.0)], 5000.0) is None
    assert interpolate_finals(lengths[:1], [exact(4.0)], 1000.0) is None


def test_loss_at_reads_the_window_up_to_the_point() -> None:
    curve = make_curve(np.arange(20.0)[::-1])
    found = loss_at(curve, "step", 100, window=4)
    assert found is not None and found.mean == np.mean([10, 11, 12, 13])
    assert loss_at(curve, "step", 300, window=4) is None


def test_switch_spike_height_and_recovery() -> None:
    """A spike of 1.5 that fades linearly over 200 steps and ends 0.1 below the trend: met at 187.5 steps."""
    steps = np.arange(10, 2001, 10)
    trend = 4 - 0.0002 * steps
    reference = make_curve(trend, steps)
    after = steps[steps > 500]
    spike = np.where(after < 700, 1.5 - 1.6 * (after - 500) / 200, -0.1)
    losses = np.concatenate([np.full(50, 6.0), trend[50:] + spike])
    run = make_curve(losses, steps, ["bag"] * 50 + ["token"] * 150)
    found = switch_spike(run, reference, window=1)
    assert found is not None and found.height_over_reference is not None
    assert found.step == 500
    assert found.height_over_reference == pytest.approx(1.5 - 1.6 * 10 / 200)
    assert found.steps_to_recover == 190
    assert found.height_over_own_end == pytest.approx(losses[50] - losses[-1])
    alone = switch_spike(run, None, window=1)
    assert alone is not None and alone.recovered_step is None and alone.height_over_reference is None


def test_switch_spike_that_never_recovers_and_runs_without_a_switch() -> None:
    steps = np.arange(10, 1001, 10)
    trend = 4 - 0.0002 * steps
    run = make_curve(
        np.concatenate([np.full(50, 6.0), trend[50:] + 0.5]), steps, ["bag"] * 50 + ["token"] * 50
    )
    found = switch_spike(run, make_curve(trend, steps), window=5)
    assert found is not None and found.recovered_step is None and found.reference_ends == 1000
    assert switch_spike(make_curve(trend, steps), make_curve(trend, steps), window=5) is None
    assert switch_spike(make_curve(trend, steps, ["bag"] * 100), None, window=5) is None


def test_a_short_dip_is_no_recovery() -> None:
    steps = np.arange(10, 1001, 10)
    trend = 4 - 0.0002 * steps
    losses = np.concatenate([np.full(50, 6.0), trend[50:] + 0.5])
    losses[60:62] = trend[60:62] - 1
    losses[80:] = trend[80:] - 0.1
    run = make_curve(losses, steps, ["bag"] * 50 + ["token"] * 50)
    found = switch_spike(run, make_curve(trend, steps), window=5)
    assert found is not None and found.recovered_step is not None and found.recovered_step > 780


def test_recovery_is_not_read_where_only_one_of_the_runs_decays() -> None:
    """The run's decay dips below an undecayed reference: that is no recovery."""
    steps = np.arange(10, 1001, 10)
    trend = 4 - 0.0002 * steps
    losses = np.concatenate([np.full(50, 6.0), trend[50:90] + 0.3, trend[90:] - 0.3])
    run = make_curve(losses, steps, ["bag"] * 50 + ["token"] * 40 + ["decay"] * 10)
    found = switch_spike(run, make_curve(trend, steps), window=3)
    assert found is not None and found.recovered_step is None and found.reference_ends == 900
