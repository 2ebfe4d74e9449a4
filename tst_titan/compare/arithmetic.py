"""The comparison's arithmetic, defined once: final losses, crossings and interpolation between run lengths.

Everything here is a function of curves or arrays. WSD makes one thing delicate: a loss after the decay is
some tenths of a nat below the same run's loss before it. So final losses are compared with final losses where
there are baselines of several lengths; where there is only one, the other run's curve is read inside, and the
result is called a bound, because a run planned to end there would have decayed by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tst_titan.compare.curves import smooth, smooth_values
from tst_titan.compare.noise import MeanWithError, block_bootstrap, mean_of_windows, mean_with_error, redraw


@dataclass(frozen=True)
class FinalLoss:
    """Loss at the end of a run, nats per token.

    Attributes:
        mean: mean and standard error over the last logged steps of the run's last segment.
        last: the last logged loss.
        comparable: False if the run never reached the token phase: then it is the bag loss.
    """

    mean: MeanWithError
    last: float
    comparable: bool


def final_loss(curve: pd.DataFrame, k: int) -> FinalLoss:
    """Mean over the last ``k`` logged steps, and the last one alone.

    Only steps of the run's last segment count: a short decay is not mixed with what came before it.
    """
    part = curve[curve["segment"] == curve["segment"].iloc[-1]]
    losses = part["loss"].to_numpy(float)
    return FinalLoss(mean_with_error(losses, k), float(losses[-1]), bool(part["comparable"].iloc[-1]))


@dataclass(frozen=True)
class Crossing:
    """Where a falling curve passes a target.

    Attributes:
        status: "reached"; "never" if the curve ends above the target; "before" if it starts below it.
        position: where, in the unit of x; None unless reached.
        low, high: confidence interval; an end is None where it lies outside the curve.
    """

    status: Literal["reached", "never", "before"]
    position: float | None = None
    low: float | None = None
    high: float | None = None


def crossing_positions(x: np.ndarray, y: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where each of several curves falls through its target.

    Noise can make a curve pass more than once. The answer is the middle between the first passage and the
    last: the first alone would be early on average, the last alone late. Between rows a curve is straight.

    Args:
        x: shape (n,), increasing, shared by all curves.
        y: shape (curves, n).
        targets: shape (curves,).

    Returns:
        shape (curves,): -inf where a curve starts at or below its target and never rises above it, +inf where
        it is never at or below its target.
    """
    below = y <= targets[:, None]
    n = x.size
    rows = np.arange(y.shape[0])
    first = below.argmax(axis=1)
    last_above = n - 1 - (~below)[:, ::-1].argmax(axis=1)
    never, always = ~below.any(axis=1), below.all(axis=1)

    def between(left: np.ndarray) -> np.ndarray:
        right = np.minimum(left + 1, n - 1)
        fall = y[rows, left] - y[rows, right]
        share = np.where(fall > 0, (y[rows, left] - targets) / np.where(fall > 0, fall, 1.0), 0.0)
        return x[left] + np.clip(share, 0.0, 1.0) * (x[right] - x[left])

    begin = np.where(first == 0, x[0], between(np.maximum(first - 1, 0)))
    middle = (begin + between(last_above)) / 2
    return np.where(never, np.inf, np.where(always, -np.inf, middle))


def curve_crossing(
    curve: pd.DataFrame,
    columns: Sequence[str],
    target: MeanWithError,
    window: int,
    confidence: float,
    samples: int,
    seed: int,
) -> dict[str, Crossing]:
    """Where a run's smoothed token-phase curve passes a target loss, in several columns at once.

    The interval comes from a block bootstrap: the scatter around the smoothed curve is redrawn in blocks, the
    curve is smoothed again, and the target moves by its own standard error.

    Args:
        curve: a run's curve; only its comparable rows are used.
        columns: increasing columns, e.g. step and flops.
        target: the loss to reach, nats per token.
        window, confidence, samples, seed: smoothing window, level, number and seed of the redraws.
    """
    rows = curve[curve["comparable"]]
    if rows.empty:
        return {column: Crossing("never") for column in columns}
    smoothed = smooth(rows, window)
    rng = np.random.default_rng(seed)
    noisy = np.empty((samples, len(rows)))
    losses, segments = rows["loss"].to_numpy(float), rows["segment"].to_numpy()
    for segment in np.unique(segments):
        at = np.flatnonzero(segments == segment)
        # A local line through w points takes 1/w of the scatter with it.
        inflate = (1 - 1 / max(3, min(window, at.size))) ** -0.5
        redrawn = block_bootstrap((losses[at] - smoothed[at]) * inflate, samples, rng)
        noisy[:, at] = smooth_values(smoothed[at] + redrawn, window)
    targets = target.mean + (target.stderr or 0.0) * rng.standard_normal(samples)
    return {
        column: _crossing(rows[column].to_numpy(float), smoothed, noisy, target.mean, targets, confidence)
        for column in columns
    }


def length_crossing(
    lengths: np.ndarray,
    finals: Sequence[MeanWithError],
    target: MeanWithError,
    confidence: float,
    samples: int,
    seed: int,
) -> Crossing:
    """The length at which a run would end at the target loss, read off runs of other lengths or off a held-out curve.

    Loss is taken as piecewise linear in the logarithm of the length (steps, FLOPs, data tokens or hours) between the
    lengths that exist; nothing is extrapolated. The interval redraws every loss and the target within their errors.

    Args:
        lengths: shape (runs,), increasing and positive; of a curve, where it was measured.
        finals: losses there, nats per token.
        target: the loss to reach.
    """
    rng = np.random.default_rng(seed)
    x = np.log(np.asarray(lengths, dtype=float))
    y = np.array([final.mean for final in finals])
    noisy, targets = redraw(finals, target, samples, rng)
    found = _crossing(x, y, noisy, target.mean, targets, confidence)

    def back(end: float | None) -> float | None:
        return None if end is None else float(np.exp(end))

    return Crossing(found.status, back(found.position), back(found.low), back(found.high))


def interpolate_finals(
    lengths: np.ndarray, finals: Sequence[MeanWithError], length: float
) -> MeanWithError | None:
    """Final loss of a run of another length, or loss of a held-out curve, linear in log length between two neighbours.

    Returns:
        None outside the lengths that exist. Window by window where the losses have windows; otherwise the standard
        error is the neighbours', weighted alike.
    """
    x = np.log(np.asarray(lengths, dtype=float))
    at = float(np.log(length))
    # Counts of one budget may differ in the last digits.
    if x.size < 2 or at < x[0] - 1e-12 or at > x[-1] + 1e-12:
        return None
    right = min(max(int(np.searchsorted(x, at)), 1), x.size - 1)
    a, b = finals[right - 1], finals[right]
    weight = (at - x[right - 1]) / (x[right] - x[right - 1])
    if a.windows is not None and b.windows is not None:
        return mean_of_windows((1 - weight) * a.windows + weight * b.windows)
    stderr = None
    if a.stderr is not None and b.stderr is not None:
        stderr = float(np.hypot((1 - weight) * a.stderr, weight * b.stderr))
    mean = (1 - weight) * a.mean + weight * b.mean
    return MeanWithError(float(mean), min(a.n, b.n), stderr, min(a.dof, b.dof), 0.0)


def loss_at(curve: pd.DataFrame, column: str, position: float, window: int) -> MeanWithError | None:
    """A run's loss at a point inside its token phase: the mean of the ``window`` logged steps up to there.

    Returns:
        None outside the comparable rows. Rows of the same segment only; unless the run was already decaying
        there, the number is high by what a decay would still bring.
    """
    rows = curve[curve["comparable"]]
    if rows.empty or position < rows[column].iloc[0] or position > rows[column].iloc[-1] * (1 + 1e-12):
        return None
    upto = rows[rows[column] <= position * (1 + 1e-12)]
    part = upto[upto["segment"] == upto["segment"].iloc[-1]]
    return mean_with_error(part["loss"].to_numpy(float), window)


@dataclass(frozen=True)
class Switch:
    """What the switch from bags to tokens costs and when it is paid back.

    Attributes:
        step: last step of the last bag phase.
        first_loss: highest of the first logged token-phase losses, nats per token.
        height_over_reference: ``first_loss`` minus the reference's smoothed loss (the trend) at that step.
        height_over_own_end: ``first_loss`` minus the run's smoothed loss at the end of that token segment.
        recovered_step: first step from which the smoothed loss stays at or below the reference's smoothed
            loss at the same step for a whole smoothing window (or to the end); None if it never does, or
            without a reference.
        reference_ends: last step up to which a reference could be read; None without one.
    """

    step: int
    first_loss: float
    height_over_reference: float | None
    height_over_own_end: float
    recovered_step: int | None
    reference_ends: int | None

    @property
    def steps_to_recover(self) -> int | None:
        """Steps from the switch to ``recovered_step``."""
        return None if self.recovered_step is None else self.recovered_step - self.step


def switch_spike(curve: pd.DataFrame, reference: pd.DataFrame | None, window: int) -> Switch | None:
    """Height of the spike after the last bag phase and the steps until the reference curve is met again.

    The reference is a baseline of the same schedule; only steps at which both runs are in the same phase of
    the schedule (both decaying or neither) are compared. Spike: the largest of the first three logged losses.

    Returns:
        None if the run has no bag phase, or no token phase after it.
    """
    bag, after = curve[~curve["comparable"]], curve[curve["comparable"]]
    if bag.empty or after.empty or after["step"].iloc[0] < bag["step"].iloc[-1]:
        return None
    smoothed = smooth(after, window)
    segment = after["segment"].to_numpy() == after["segment"].iloc[0]
    first_loss = float(after["loss"].to_numpy(float)[segment][:3].max())
    own = first_loss - float(smoothed[segment][-1])
    step = int(bag["step"].iloc[-1])
    if reference is None or not reference["comparable"].any():
        return Switch(step, first_loss, None, own, None, None)
    rows = reference[reference["comparable"]]
    steps = after["step"].to_numpy(float)
    trend = np.interp(steps, rows["step"], smooth(rows, window), left=np.nan, right=np.nan)
    decays = np.interp(
        steps, rows["step"], (rows["phase"] == "decay").astype(float), left=np.nan, right=np.nan
    )
    trend[decays != (after["phase"] == "decay").to_numpy(float)] = np.nan
    known = np.flatnonzero(~np.isnan(trend))
    height = None if np.isnan(trend[0]) else first_loss - float(trend[0])
    ends = int(steps[known[-1]]) if known.size else None
    return Switch(step, first_loss, height, own, _recovered(steps, smoothed, trend, window), ends)


def _recovered(steps: np.ndarray, smoothed: np.ndarray, trend: np.ndarray, window: int) -> int | None:
    """First step from which ``smoothed`` stays at or below ``trend`` for ``window`` rows or to the end."""
    known = np.flatnonzero(~np.isnan(trend))
    if not known.size:
        return None
    below = smoothed[known] <= trend[known]
    for start in np.flatnonzero(below):
        if below[start : start + window].all():
            return int(steps[known[start]])
    return None


def recovery(
    steps: np.ndarray, gaps: Sequence[MeanWithError], confidence: float, samples: int, seed: int
) -> Crossing:
    """The first of several steps at which a run is at or below its reference; "before" if it is at the first of all.

    Args:
        steps: where both were measured, shape (n,), increasing, the switch first.
        gaps: run minus reference at these steps.
    """

    def first(means: np.ndarray) -> np.ndarray:
        below = means <= 0
        return np.where(below.any(axis=1), steps[below.argmax(axis=1)], np.inf)

    position = float(first(np.array([[gap.mean for gap in gaps]]))[0])
    drawn = first(redraw(gaps, mean_of_windows(np.zeros(gaps[0].n)), samples, np.random.default_rng(seed))[0])
    if position == steps[0]:
        return Crossing("before")
    return _placed(position, drawn, confidence)


def _crossing(
    x: np.ndarray, y: np.ndarray, noisy: np.ndarray, target: float, targets: np.ndarray, confidence: float
) -> Crossing:
    """Position on the curve itself, and the interval over its redraws."""
    position = float(crossing_positions(x, y[None, :], np.array([target]))[0])
    return _placed(position, crossing_positions(x, noisy, targets), confidence)


def _placed(position: float, drawn: np.ndarray, confidence: float) -> Crossing:
    """A position with the interval of its redraws; infinite where the target lies outside what was run."""
    if not np.isfinite(position):
        return Crossing("never" if position > 0 else "before")
    # Quantiles that are members of the sample, so that an open end (inf) is never averaged with a number.
    tail = (1 - confidence) / 2
    low = float(np.quantile(drawn, tail, method="lower"))
    high = float(np.quantile(drawn, 1 - tail, method="higher"))
    return Crossing(
        "reached", position, low if np.isfinite(low) else None, high if np.isfinite(high) else None
    )
