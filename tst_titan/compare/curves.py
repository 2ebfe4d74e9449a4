"""Curves: the training losses of a run's stages joined into one data frame, smoothed and thinned; its held-out losses.

A curve has one row a logged step and the columns of ``CURVE_COLUMNS``:

    stage         folder of the stage that logged the row
    segment       number of the run's part with one phase and one bag size; smoothing stays inside it
    phase         bag, token or decay
    bag_size      tokens per bag (1 in plain next-token training)
    step          optimizer steps since the start of the run
    latents, data_tokens, flops    cumulative since the start of the run
    hours         training time since the start of the run, in hours
    device_hours  the same times the number of devices
    loss          nats per token; the bag loss where ``comparable`` is False
    comparable    whether the loss is an ordinary next-token loss
    lr, grad_norm as logged

A held-out curve has one row a measurement during training, the columns up to ``comparable``, and ``windows``. Its loss
is always that of next-token prediction, in the bag phase too; ``bag_loss`` is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import savgol_filter

from tst_titan.compare.noise import MeanWithError, mean_of_windows
from tst_titan.compare.stages import Line, Measurement, Stage, as_frame, read_lines
from tst_titan.errors import UserError

CUMULATIVE = ("latents", "data_tokens", "flops", "hours", "device_hours")
CURVE_COLUMNS = (
    "stage", "segment", "phase", "bag_size", "step", *CUMULATIVE, "loss", "comparable", "lr", "grad_norm",
)  # fmt: skip
_ROUNDING = 1e-3  # nats per token by which a mean and the mean of its rounded windows may differ


def read_measurements(path: Path) -> pd.DataFrame:
    """The lines of one heldout.jsonl.

    Returns:
        The columns of ``Measurement``, bag_loss NaN in a token phase, windows float64 arrays of one shape.

    Raises:
        UserError: as ``read_lines``; or a line has not as many windows as the first, or their mean is not its loss.
    """
    frame = as_frame(read_lines(path, Measurement))
    frame["windows"] = frame["windows"].map(np.array)
    for number, (loss, windows) in enumerate(zip(frame["token_loss"], frame["windows"], strict=True), 1):
        where = f"{path}, measurement {number}"
        if windows.size != frame["windows"][0].size:
            raise UserError(f"{where}: has {windows.size} windows, the first has {frame['windows'][0].size}")
        if abs(windows.mean() - loss) > _ROUNDING:
            raise UserError(f"{where}: token_loss is {loss}, the mean of its windows {windows.mean():.5f}")
    return frame


def run_curve(stages: Sequence[Stage], cache: dict[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """The curve of a run: the metrics of its stages, joined and checked.

    Args:
        stages: root first, as ``tst_titan.compare.stages.read_path`` returns them.
        cache: keeps the lines by path between runs that share stages.

    Raises:
        UserError: steps or cumulative columns that do not increase, inside a stage or over a boundary; a row
            outside its stage; a row that counts more than the stage's manifest.
    """
    cache = {} if cache is None else cache
    parts = []
    device_seconds = 0.0
    for stage in stages:
        path = stage.metrics
        if stage.logged is None and path not in cache:
            cache[path] = as_frame(read_lines(Path(path), Line))
        metrics = cache[path] if stage.logged is None else stage.logged
        before = stage.seconds - stage.stage_seconds
        part = metrics[["step", "latents", "data_tokens", "flops", "loss", "lr", "grad_norm"]].copy()
        part["hours"] = (before + metrics["seconds"]) / 3600
        part["device_hours"] = (device_seconds + stage.world_size * metrics["seconds"]) / 3600
        part = part.assign(stage=stage.directory, phase=stage.phase, bag_size=stage.bag_size)
        part["comparable"] = stage.is_comparable
        _check_stage(part, stage, path, first_step=stage.start_step + 1)
        device_seconds += stage.world_size * stage.stage_seconds
        parts.append(part)
    curve = pd.concat(parts, ignore_index=True)
    _check_increasing(curve)
    curve["segment"] = _segments(curve)
    return curve[list(CURVE_COLUMNS)]


def heldout_curve(
    stages: Sequence[Stage], curve: pd.DataFrame, cache: dict[str, pd.DataFrame] | None = None
) -> pd.DataFrame | None:
    """The held-out curve of a run; None where it was not measured at the run's end.

    Where two stages measured at one step, the later one's weights count, for parts may have been re-initialized; the
    other row is not comparable. Where a stage scored another number of windows than the last one, it is left out.

    Args:
        curve: the run's training curve, which has the hours.

    Raises:
        UserError: a file is malformed, a row lies outside its stage or counts more than its manifest, or steps go
            backwards.
    """
    cache = {} if cache is None else cache
    parts = []
    for stage in stages:
        path = f"{stage.directory}/heldout.jsonl"
        if stage.logged is not None or not Path(path).is_file():
            continue
        if path not in cache:
            cache[path] = read_measurements(Path(path))
        measured = cache[path].rename(columns={"token_loss": "loss"})
        part = measured.assign(stage=stage.directory, phase=stage.phase, bag_size=stage.bag_size)
        _check_stage(part, stage, path, first_step=stage.start_step)
        parts.append(part)
    if not parts or parts[-1]["step"].iloc[-1] != stages[-1].end_step:
        return None
    found = pd.concat(parts, ignore_index=True)
    if not found["step"].is_monotonic_increasing:
        raise UserError(
            f"{parts[-1]['stage'].iloc[0]}/heldout.jsonl: its steps do not continue those before it"
        )
    windows = found["windows"].map(len)
    found = found[windows == windows.iloc[-1]]
    for column in ("hours", "device_hours"):
        found[column] = np.interp(found["step"], [0, *curve["step"]], [0.0, *curve[column]])
    return found.assign(segment=_segments(found), comparable=~found["step"].duplicated(keep="last"))


def _segments(curve: pd.DataFrame) -> pd.Series:
    """Number of the part with one phase and one bag size that each row lies in."""
    changed = (curve["phase"] != curve["phase"].shift()) | (curve["bag_size"] != curve["bag_size"].shift())
    return changed.cumsum() - 1


def measured(curve: pd.DataFrame) -> list[MeanWithError]:
    """The losses of a held-out curve, with their windows."""
    return [mean_of_windows(windows) for windows in curve["windows"]]


def smooth(curve: pd.DataFrame, window: int) -> np.ndarray:
    """Smoothed loss, float64 of shape (rows,).

    A straight line is fitted to the ``window`` logged steps around each row (a Savitzky-Golay filter of order
    1): inside a segment that is the moving average, and at its ends the line through the outermost ``window``
    rows, so that a linear trend passes unchanged everywhere. The window never crosses a segment, because the
    loss jumps at the switch and bends where the decay starts. Segments shorter than the window take the
    largest odd window that fits.
    """
    smoothed = np.empty(len(curve))
    losses = curve["loss"].to_numpy(float)
    segments = curve["segment"].to_numpy()
    for segment in np.unique(segments):
        rows = np.flatnonzero(segments == segment)
        smoothed[rows] = smooth_values(losses[rows], window)
    return smoothed


def smooth_values(values: np.ndarray, window: int) -> np.ndarray:
    """``smooth`` for one segment: values of shape (..., rows), smoothed along the last axis."""
    length = values.shape[-1]
    fitting = min(window, length if length % 2 else length - 1)
    if fitting < 3:
        return values.astype(float).copy()
    return np.asarray(savgol_filter(values, fitting, polyorder=1, axis=-1, mode="interp"))


def thin(curve: pd.DataFrame, points: int) -> pd.DataFrame:
    """At most about ``points`` rows of a curve, evenly spaced, both ends of every segment among them."""
    if len(curve) <= points:
        return curve
    kept = []
    for _, part in curve.groupby("segment", sort=True):
        share = max(2, round(points * len(part) / len(curve)))
        index = np.unique(np.linspace(0, len(part) - 1, min(share, len(part))).round().astype(int))
        kept.append(part.iloc[index])
    return pd.concat(kept)


def _check_stage(part: pd.DataFrame, stage: Stage, path: str, first_step: int) -> None:
    """Refuse rows outside their stage, or that count more than its manifest says in the end."""
    low, high = int(part["step"].iloc[0]), int(part["step"].iloc[-1])
    if low < first_step or high > stage.end_step:
        raise UserError(
            f"{path}: steps {low} to {high} were logged, but {stage.manifest} says that the stage goes "
            f"from step {first_step} to {stage.end_step}"
        )
    for key in ("latents", "data_tokens", "flops"):
        first, last = float(part[key].iloc[0]), float(part[key].iloc[-1])
        total = getattr(stage, key)
        if last > total * (1 + 1e-9):
            raise UserError(
                f"{path}: {key} ends at {last:g}, above the {total:g} of {stage.manifest}; "
                "the files are not of the same run"
            )
        before = total - getattr(stage, f"stage_{key}")
        if first < before * (1 - 1e-9):
            raise UserError(
                f"{path}: {key} starts at {first:g}, but its parent had already reached {before:g}; "
                "it must count from the start of the run"
            )


def _check_increasing(curve: pd.DataFrame) -> None:
    """Refuse duplicates and steps backwards, inside a stage and over boundaries."""
    for column in ("step", *CUMULATIVE):
        values = curve[column].to_numpy(float)
        # Fast steps may share a clock reading; nothing else may stand still.
        forward = np.diff(values) >= 0 if column in ("hours", "device_hours") else np.diff(values) > 0
        wrong = np.flatnonzero(~forward)
        if wrong.size:
            row = int(wrong[0]) + 1
            stage = curve["stage"].iloc[row]
            raise UserError(
                f"{stage}/metrics.jsonl: {column} goes from {values[row - 1]:g} to {values[row]:g} at step "
                f"{curve['step'].iloc[row]}; it must increase"
            )
