"""How the gain over the baseline depends on bag size, bag fraction, model size and length: a small regression.

    gain(s, r, N, D) = A(D / N) * shape(s, r) - recovery(s, N, (1 - r) D)
    shape(s, r)      = c0 + c1 log s + c2 (log s)^2 + c3 log r + c4 r + c5 / (1 - r) + c6 log s / (1 - r)
    log A(D / N)     = a - gamma log(D / N)
    recovery(s, N, T) = level (log s)^bags exp(-T / (reach sqrt N))

N are the parameters that process a latent, D the latents of the run, T those of its token phase, and shape is scaled
to 1 at s = 6, r = 0.3, so A is the gain there in nats/token. The terms in log s say what a longer bag brings, log r
and r how the gain saturates with the bag phase, the terms with 1 / (1 - r) what a short token phase costs, which
grows with the bag size. Both parts are least squares; they alternate until they agree. The recovery is what a token
phase of few latents has not made good of the switch: nothing in the paper's runs, most in the short runs of the
experiment `map`, to which it is fitted.
docs/recommend.md gives the coefficients, the errors on held-out models and lengths, and what was tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import least_squares

FEATURES = ("1", "log s", "(log s)^2", "log r", "r", "1/(1-r)", "log s/(1-r)")
REFERENCE = (6.0, 0.3)
"""Bag size and bag fraction at which the shape is 1; also the fixed choice that a recommendation has to beat."""

CELL_NOISE = 0.002
"""Scatter of a published cell in nats/token (docs/recommend.md); gains that close are the same."""

LAW_NOISE = 0.01
"""How far the law is off in nats/token where it is good (docs/recommend.md): a measured cell is not held closer."""

NEAR = float(np.log(3))
"""How far own groups correct the law around themselves: a factor of three in parameters or latents."""

UNKNOWN = float(np.log(2))
"""How far the law may be off where nothing was published, as a standard deviation of the log gain."""

_ROUNDS = 100
# Of log level, bags and log reach: a tenth of a nat, in proportion to log s, gone after some thousand latents.
_START, _BOUNDS = (-2.0, 1.0, 8.0), ((-8.0, 0.0, 3.0), (3.0, 4.0, 14.0))
_FEWEST_CELLS = 20
_NEAR_OPTIMUM = 0.5


@dataclass(frozen=True)
class Recovery:
    """What the token phase has not yet made good of the switch when it ends.

    Attributes:
        level: nats/token at s = e, right after the switch.
        bags: exponent of log s.
        reach: latents per square root of the parameters after which 1 / e of it is left.
    """

    level: float = 0.0
    bags: float = 0.0
    reach: float = 1.0

    def loss(
        self, parameters: np.ndarray | float, token_latents: np.ndarray | float, s: np.ndarray | float
    ) -> np.ndarray:
        """Nats/token; arguments broadcast against each other."""
        passed = np.asarray(token_latents, dtype=float) / (self.reach * np.sqrt(parameters))
        return self.level * np.log(np.asarray(s, dtype=float)) ** self.bags * np.exp(-passed)

    def of(self, observations: pd.DataFrame) -> np.ndarray:
        """The same for observations."""
        latents = (1 - observations["bag_fraction"]) * observations["latents"]
        columns = (observations["parameters"], latents, observations["bag_size"])
        return self.loss(*(column.to_numpy(float) for column in columns))


@dataclass(frozen=True)
class GainModel:
    """The fitted regression.

    Attributes:
        coefficients: of ``FEATURES``, shape (7,).
        log_amplitude: a, the log of the gain at s = 6, r = 0.3 and one latent per parameter.
        gamma: exponent of latents per parameter.
        amplitudes: each group's own gain at s = 6, r = 0.3, as fitted to its cells.
        recovery: what comes off; none by default.
    """

    coefficients: np.ndarray
    log_amplitude: float
    gamma: float
    amplitudes: dict[str, float]
    recovery: Recovery = Recovery()

    def amplitude(self, latents_per_parameter: np.ndarray | float) -> np.ndarray:
        """A(D / N): gain at s = 6, r = 0.3 in nats/token."""
        return np.exp(
            self.log_amplitude - self.gamma * np.log(np.asarray(latents_per_parameter, dtype=float))
        )

    def gain(
        self, parameters: np.ndarray | float, latents: np.ndarray | float, s: np.ndarray, r: np.ndarray
    ) -> np.ndarray:
        """Gain in nats/token; arguments broadcast against each other."""
        tokens = (1 - np.asarray(r, dtype=float)) * latents
        return self.recovered(parameters, latents, s, r) - self.recovery.loss(parameters, tokens, s)

    def recovered(
        self, parameters: np.ndarray | float, latents: np.ndarray | float, s: np.ndarray, r: np.ndarray
    ) -> np.ndarray:
        """The gain of a run that has made the switch good: A(D / N) shape(s, r)."""
        scale = np.asarray(latents, dtype=float) / np.asarray(parameters, dtype=float)
        return self.amplitude(scale) * (features(s, r) @ self.coefficients)

    def predict(self, observations: pd.DataFrame) -> np.ndarray:
        """Gains of observations (columns parameters, latents, bag_size, bag_fraction)."""
        columns = ("parameters", "latents", "bag_size", "bag_fraction")
        return self.gain(*(observations[column].to_numpy(float) for column in columns))


def features(s: np.ndarray | float, r: np.ndarray | float) -> np.ndarray:
    """The terms of ``FEATURES`` along a new last axis; 0 < r < 1, s >= 1."""
    log_s, ratio = np.broadcast_arrays(np.log(np.asarray(s, dtype=float)), np.asarray(r, dtype=float))
    short = 1 / (1 - ratio)
    return np.stack(
        [np.ones_like(log_s), log_s, log_s**2, np.log(ratio), ratio, short, log_s * short], axis=-1
    )


def fit(observations: pd.DataFrame, recovery: Recovery | None = None) -> GainModel:
    """Fit shape and amplitude to gains, with a given recovery.

    Alternates: the shape by least squares on all cells, each group's amplitude by least squares on its own
    cells; then the amplitudes' power law in latents per parameter, every group counting once.

    Args:
        observations: columns as ``tst_titan.paper.observations.COLUMNS``; at least two groups.
    """
    recovery = recovery or Recovery()
    gains = observations["gain"].to_numpy(float) + recovery.of(observations)
    design = features(observations["bag_size"].to_numpy(float), observations["bag_fraction"].to_numpy(float))
    names, index = np.unique(observations["group"].to_numpy(str), return_inverse=True)
    amplitude = np.array([max(gains[index == i].mean(), 1e-3) for i in range(len(names))])
    at_reference = features(*REFERENCE)
    coefficients = np.zeros(len(FEATURES))
    for _ in range(_ROUNDS):
        coefficients = np.linalg.lstsq(design * amplitude[index, None], gains, rcond=None)[0]
        coefficients = coefficients / float(at_reference @ coefficients)
        shape = design @ coefficients
        before = amplitude
        amplitude = np.array(
            [shape[index == i] @ gains[index == i] / (shape[index == i] @ shape[index == i])
             for i in range(len(names))]
        )  # fmt: skip
        if np.allclose(amplitude, before, rtol=1e-10):
            break
    scale = [
        float((part["latents"] / part["parameters"]).iloc[0])
        for _, part in observations.groupby(observations["group"].astype(str), sort=True)
    ]
    slope, intercept = np.polyfit(np.log(scale), np.log(np.maximum(amplitude, 1e-6)), 1)
    own = {str(name): float(value) for name, value in zip(names, amplitude, strict=True)}
    return GainModel(coefficients, float(intercept), -float(slope), own, recovery)


def fit_recovery(published: pd.DataFrame, measured: pd.DataFrame) -> Recovery:
    """Fit the recovery to runs that are too short for it, beside the law of the published gains.

    Least squares of the measured gains, every group counting once and every cell by its noise; for each candidate the
    law is fitted to the published gains anew.

    Args:
        measured: columns as ``tst_titan.paper.observations.COLUMNS``; at least two groups.
    """
    noise = np.hypot(measured["stderr"].to_numpy(float), LAW_NOISE)
    size = measured.groupby("group")["gain"].transform("size").to_numpy(float)

    def candidate(values: np.ndarray) -> Recovery:
        return Recovery(float(np.exp(values[0])), float(values[1]), float(np.exp(values[2])))

    def misses(values: np.ndarray) -> np.ndarray:
        found = fit(published, candidate(values)).predict(measured)
        return (found - measured["gain"].to_numpy(float)) / noise / np.sqrt(size)

    return candidate(least_squares(misses, _START, bounds=_BOUNDS).x)


def fit_law(published: pd.DataFrame, measured: pd.DataFrame) -> GainModel:
    """The law of the published gains with the recovery of the measured ones."""
    return fit(published, fit_recovery(published, measured))


def held_out_recovery(published: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Leave out one measured group after the other and predict it from the published gains and the others.

    Returns:
        One row a group: cells; rmse_model and rmse_without (the law without recovery), nats/token; log_error, the mean
        log of predicted over measured recovery, where both are above the noise.
    """
    rows, without = [], fit(published)
    for name in dict.fromkeys(measured["group"]):
        rest, cells = measured[measured["group"] != name], measured[measured["group"] == name]
        model = fit_law(published, rest)
        gains, predicted = cells["gain"].to_numpy(float), model.predict(cells)
        lacking = model.recovery.of(cells)
        needed = predicted + lacking - gains
        clear = (lacking > LAW_NOISE) & (needed > LAW_NOISE)
        rows.append({
            "group": name,
            "cells": len(cells),
            "rmse_model": _rms(predicted - gains),
            "rmse_without": _rms(without.predict(cells) - gains),
            "log_error": float(np.mean(np.log(lacking[clear] / needed[clear]))) if clear.any() else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class HeldOut:
    """Errors on groups that the fit has not seen.

    Attributes:
        table: one row a group: cells; rmse_model, rmse_nearest, rmse_fixed (gain, nats/token; fixed: at s = 6,
            r = 0.3 alone); rmse_near (model, cells with r <= 0.5); rmse_loss_model, rmse_loss_nearest (final
            loss, the baseline predicted too); log_error (mean log of predicted over true gain near the
            optimum); for groups with a grid the cells chosen (s_*, r_*) and regret_model, regret_nearest,
            regret_fixed (best cell's gain minus the chosen cell's; NaN elsewhere).
        relative_error: root mean square of log_error over groups.
        groups: their number.
    """

    table: pd.DataFrame
    relative_error: float
    groups: int

    def factor(self, confidence: float) -> float:
        """Gains lie within predicted / factor to predicted * factor with this confidence."""
        return interval_factor(self.table["log_error"].to_numpy(float), confidence)


def interval_factor(log_errors: np.ndarray, confidence: float) -> float:
    """What lies within predicted / factor to predicted * factor with this confidence.

    Student's t on the held-out log errors of groups: few of them make a wide interval.
    """
    quantile = float(stats.t.ppf(0.5 + confidence / 2, max(len(log_errors) - 1, 1)))
    return float(np.exp(quantile * _rms(log_errors)))


def held_out(observations: pd.DataFrame, baselines: pd.DataFrame) -> HeldOut:
    """Leave out one group (model and steps) after the other, fit the rest and predict it.

    The baselines get the same information: "nearest" takes the group nearest in log parameters and log steps
    that has a grid, predicts each cell by that group's cell nearest in log s and r, and chooses its best cell;
    "fixed" chooses s = 6, r = 0.3 and predicts the mean gain there of the other groups. For the loss itself
    the model subtracts its gain from ``fit_baseline`` without the group's own baseline; "nearest" takes its
    cell's loss as it is.

    Args:
        observations: columns as ``tst_titan.paper.observations.COLUMNS``.
        baselines: columns model, parameters, total_steps, latents, loss.
    """
    names = list(dict.fromkeys(observations["group"]))
    rows = [_hold_out(observations, baselines, name) for name in names]
    table = pd.DataFrame(rows)
    relative = float(np.sqrt((table["log_error"] ** 2).mean()))
    return HeldOut(table, relative, len(names))


@dataclass(frozen=True)
class Correction:
    """What own groups say about the law around themselves, by kriging of the log gain over log size and log latents.

    The published groups enter as points without correction, so that answers for them stay as they are, and an own
    group counts the less, the noisier its gains are.

    Attributes:
        places: log parameters and log latents, the published groups first, shape (groups, 2).
        values: log of measured over predicted gain, shape (groups,); 0 for published groups.
        noise: variance of ``values`` over ``UNKNOWN`` squared, shape (groups,).
        losing: places of own groups in which bags lose on the whole: no factor can hold that.
    """

    places: np.ndarray
    values: np.ndarray
    noise: np.ndarray
    losing: np.ndarray

    def factor(self, parameters: float, latents: float) -> float:
        """By how much to multiply the law's gain for a target, before the recovery comes off."""
        here = _likeness(np.log([[parameters, latents]]), self.places)[0]
        among = _likeness(self.places, self.places) + np.diag(self.noise + 1e-9)
        return float(np.exp(here @ np.linalg.solve(among, self.values)))

    def is_near(self, parameters: float, latents: float, losing: bool = False) -> bool:
        """Whether an own group (or one in which bags lose) lies within ``NEAR``."""
        places = self.losing if losing else self.places[self.noise > 0]
        return any_near(places, parameters, latents)


def any_near(places: np.ndarray, parameters: float, latents: float) -> bool:
    """Whether one of some places (log parameters, log latents), shape (n, 2), lies within ``NEAR``."""
    return bool((np.linalg.norm(places - np.log([parameters, latents]), axis=1) <= NEAR).any())


def correct(model: GainModel, published: pd.DataFrame, own: pd.DataFrame) -> Correction:
    """Hold own gains against the law that was fitted to the published ones.

    Args:
        own: columns as ``tst_titan.paper.observations.COLUMNS``.
    """
    columns = ["parameters", "latents"]
    places = list(np.log(published.groupby("group")[columns].first().to_numpy(float)))
    values, noise, losing = [0.0] * len(places), [0.0] * len(places), []
    for _, cells in own.groupby("group", sort=False):
        place = np.log(cells[columns].iloc[0].to_numpy(float))
        lacking = model.recovery.of(cells)
        law, gains = model.predict(cells) + lacking, cells["gain"].to_numpy(float) + lacking
        times = float(law @ gains / (law @ law))
        if times <= 0:
            losing.append(place)
            continue
        # The cells share a baseline, so their errors do not average out.
        error = np.hypot(_rms(cells["stderr"].to_numpy(float)), CELL_NOISE) / abs(times * law.mean())
        places.append(place)
        values.append(float(np.log(times)))
        noise.append(float(error / UNKNOWN) ** 2)
    return Correction(np.array(places), np.array(values), np.array(noise), np.array(losing).reshape(-1, 2))


def _likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of the law's error at places, shapes (n, 2) and (m, 2): (n, m)."""
    return np.exp(-(((a[:, None] - b[None]) / NEAR) ** 2).sum(-1) / 2)


def _hold_out(observations: pd.DataFrame, baselines: pd.DataFrame, name: str) -> dict[str, object]:
    """Errors and regrets of one held-out group."""
    train = observations[observations["group"] != name]
    test = observations[observations["group"] == name].reset_index(drop=True)
    model = fit(train)
    predicted = model.predict(test)
    true = test["gain"].to_numpy(float)
    nearest = nearest_group(train, test)
    cell = _nearest_cells(nearest, test)
    from_nearest = nearest["gain"].to_numpy(float)[cell]
    first, loss = test.iloc[0], test["loss"].to_numpy(float)
    same = (baselines["model"] == first["model"]) & (baselines["total_steps"] == first["total_steps"])
    baseline = fit_baseline(baselines[~same]).loss(first["parameters"], first["latents"])
    fixed = _at_reference(train)["gain"].groupby(train["group"]).mean().mean()
    fixed_true = _at_reference(test)["gain"]
    near = (test["bag_fraction"].to_numpy(float) <= _NEAR_OPTIMUM) & (true > 0) & (predicted > 0)
    row: dict[str, object] = {
        "group": name,
        "cells": len(test),
        "rmse_model": _rms(predicted - true),
        "rmse_nearest": _rms(from_nearest - true),
        "rmse_fixed": _rms(fixed - fixed_true.to_numpy(float)) if len(fixed_true) else np.nan,
        "rmse_near": _rms((predicted - true)[near]),
        "rmse_loss_model": _rms(baseline - predicted - loss),
        "rmse_loss_nearest": _rms(nearest["loss"].to_numpy(float)[cell] - loss),
        "log_error": float(np.mean(np.log(predicted[near] / true[near]))),
        "nearest": str(nearest["group"].iloc[0]),
    }
    if len(test) < _FEWEST_CELLS:
        return row
    best = nearest.iloc[int(nearest["gain"].to_numpy(float).argmax())]
    choices = {
        "model": int(np.argmax(predicted)),
        "nearest": _index_of(test, float(best["bag_size"]), float(best["bag_fraction"])),
        "fixed": _index_of(test, *REFERENCE),
    }
    for chooser, choice in choices.items():
        row[f"s_{chooser}"] = float(test["bag_size"].iloc[choice])
        row[f"r_{chooser}"] = float(test["bag_fraction"].iloc[choice])
        row[f"regret_{chooser}"] = float(true.max() - true[choice])
    return row


def nearest_group(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """The rows of the group with a grid that is nearest in log parameters and log steps."""
    sizes = train.groupby("group")["gain"].size()
    grids = train[train["group"].isin(sizes[sizes >= _FEWEST_CELLS].index)]
    grids = train if grids.empty else grids
    place = np.log([test["parameters"].iloc[0], test["total_steps"].iloc[0]])
    there = np.log(grids[["parameters", "total_steps"]].to_numpy(float))
    distance = np.hypot(*(there - place).T)
    return grids[grids["group"] == grids["group"].iloc[int(distance.argmin())]]


def _nearest_cells(grid: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """For each test cell the row of the grid's cell nearest in log s and r."""
    there = np.stack([np.log(grid["bag_size"].to_numpy(float)), grid["bag_fraction"].to_numpy(float)], 1)
    here = np.stack([np.log(test["bag_size"].to_numpy(float)), test["bag_fraction"].to_numpy(float)], 1)
    distance = ((here[:, None, :] - there[None, :, :]) ** 2).sum(-1)
    return distance.argmin(1)


def _at_reference(observations: pd.DataFrame) -> pd.DataFrame:
    """The rows at s = 6, r = 0.3."""
    s, r = REFERENCE
    return observations[(observations["bag_size"] == s) & ((observations["bag_fraction"] - r).abs() < 1e-6)]


def _index_of(test: pd.DataFrame, s: float, r: float) -> int:
    """Row of the test cell nearest to (s, r) in log s and r."""
    log_s = np.log(test["bag_size"].to_numpy(float)) - np.log(s)
    return int((log_s**2 + (test["bag_fraction"].to_numpy(float) - r) ** 2).argmin())


def _rms(values: np.ndarray) -> float:
    """Root mean square; NaN for nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if np.size(values) else float("nan")


def cell_noise(observations: pd.DataFrame) -> float:
    """Scatter of a cell around its neighbours in bag size, nats/token.

    Second differences over neighbouring bag sizes of 5 and more at bag fractions up to 0.5, where the shape is
    smooth; a second difference of independent errors has sqrt(6) times their standard deviation.
    """
    found: list[np.ndarray] = []
    kept = observations[(observations["bag_size"] >= 5) & (observations["bag_fraction"] <= _NEAR_OPTIMUM)]
    for _, part in kept.groupby(["group", "bag_fraction"]):
        ordered = part.sort_values("bag_size")
        if (ordered["bag_size"].diff().iloc[1:] == 1).all():
            found.append(np.diff(ordered["gain"].to_numpy(float), 2))
    return _rms(np.concatenate(found) if found else np.array([])) / 6**0.5


@dataclass(frozen=True)
class BaselineModel:
    """Final loss of a dense baseline: loss = b0 + b1 log N + b2 log D, nats/token.

    Attributes:
        coefficients: b0, b1, b2.
        held_out_rmse: root mean square error on baselines left out one by one.
    """

    coefficients: np.ndarray
    held_out_rmse: float

    def loss(self, parameters: float, latents: float) -> float:
        """Predicted final loss."""
        return float(self.coefficients @ np.array([1.0, np.log(parameters), np.log(latents)]))


def fit_baseline(baselines: pd.DataFrame) -> BaselineModel:
    """Fit the baselines' losses (columns parameters, latents, loss; at least four rows).

    The tokenizer, corpus and schedule are the paper's; nothing is claimed for others.
    """
    design = np.stack(
        [np.ones(len(baselines)), np.log(baselines["parameters"]), np.log(baselines["latents"])], axis=1
    )
    losses = baselines["loss"].to_numpy(float)
    errors = []
    for left_out in range(len(losses)):
        keep = np.arange(len(losses)) != left_out
        found = np.linalg.lstsq(design[keep], losses[keep], rcond=None)[0]
        errors.append(design[left_out] @ found - losses[left_out])
    return BaselineModel(np.linalg.lstsq(design, losses, rcond=None)[0], _rms(np.array(errors)))
