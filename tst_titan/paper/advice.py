"""Bag size and bag fraction for a model and a budget, with what to expect of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from tst_titan import paper
from tst_titan.errors import UserError
from tst_titan.paper.fit import (
    CELL_NOISE,
    Correction,
    GainModel,
    any_near,
    correct,
    fit_baseline,
    fit_law,
    held_out,
    held_out_recovery,
    interval_factor,
)
from tst_titan.paper.observations import measured_observations, published_baselines, published_observations
from tst_titan.text import amount, parse_amount

BAG_SIZES = np.arange(2, 17)
BAG_FRACTIONS = np.round(np.arange(0.10, 0.901, 0.05), 2)
"""What is offered: the range of the published grids."""


@dataclass(frozen=True)
class Target:
    """What is to be trained.

    Attributes:
        name: for people.
        parameters: those that process one latent (active ones in a mixture of experts).
        latents: latents of the whole run: steps times latents per step.
        latents_per_step: global batch.
        is_published: whether ``name`` is a model of the paper.
    """

    name: str
    parameters: float
    latents: float
    latents_per_step: int
    is_published: bool

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return round(self.latents / self.latents_per_step)


@dataclass(frozen=True)
class Setting:
    """A bag size and bag fraction with what they need and promise (gains in nats/token)."""

    bag_size: int
    bag_fraction: float
    gain: float
    gain_low: float
    gain_high: float
    data_tokens: float


@dataclass(frozen=True)
class Recommendation:
    """The answer.

    Attributes:
        best: the setting with the largest predicted gain within the data limit.
        frugal: the setting with the fewest data tokens whose predicted gain is within ``CELL_NOISE`` of it.
        confidence: level of the gains' intervals.
        baseline_loss, baseline_error: predicted loss of the equal-FLOPs baseline and its held-out error; None for
            a model or corpus that the paper's baselines say nothing about.
        device_hours: None where no throughput is known; ``hours_from`` says where it comes from or why not.
        extrapolates: reasons why the answer lies outside what was measured; empty if it does not.
        published_best: the paper's best cell for exactly this model and length.
        pays: budgets in latents from which on, and up to which, bags pay for this model and this data.
    """

    target: Target
    best: Setting
    frugal: Setting
    confidence: float
    baseline_loss: float | None
    baseline_error: float | None
    device_hours: float | None
    hours_from: str
    extrapolates: list[str]
    published_best: str | None
    pays: Pays


@dataclass(frozen=True)
class Pays:
    """Budgets in latents between which the best setting gains.

    Attributes:
        shortest: nothing as short was measured below this, in latents a parameter or in steps.
        expected: from here on it is expected to.
        surely: from here on the interval of its gain excludes none; None if that is so at no budget.
        until: from here on the data do not suffice for any setting; None without a limit.
    """

    shortest: float
    expected: float | None
    surely: float | None
    until: float | None


@dataclass(frozen=True)
class Law:
    """The regression, what own results say about it, and how far it may be off.

    Attributes:
        factor: gains without the recovery lie within predicted / factor to predicted * factor.
        recovery_factor: the same of the recovery.
    """

    model: GainModel
    correction: Correction
    factor: float
    recovery_factor: float

    @classmethod
    def fitted(cls, own: pd.DataFrame, confidence: float) -> Law:
        """To the published gains and the measured short runs, with intervals from the errors on held-out groups."""
        published, measured = published_observations(), measured_observations()
        model = fit_law(published, measured)
        errors = held_out(published, published_baselines())
        of_recovery = held_out_recovery(published, measured)["log_error"].dropna().to_numpy(float)
        return cls(
            model,
            correct(model, published, own),
            errors.factor(confidence),
            interval_factor(of_recovery, confidence),
        )

    def gains(
        self, parameters: float, latents: float, s: np.ndarray, r: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Expected gain, and the ends of its interval, nats/token."""
        full = self.model.recovered(parameters, latents, s, r) * self.correction.factor(parameters, latents)
        lacking = self.model.recovery.loss(parameters, (1 - r) * latents, s)
        ends = np.sort([full / self.factor, full * self.factor], axis=0)
        spread = self.recovery_factor
        return full - lacking, ends[0] - lacking * spread, ends[1] - lacking / spread


def make_target(model: str, latents: float, latents_per_step: int | None = None) -> Target:
    """A model by the paper's name (270M, 600M, 3B, 10B-A1B) or by its number of parameters.

    Raises:
        UserError: neither; the message lists the names.
    """
    facts = paper.MODELS.get(model)
    if facts is not None:
        batch = latents_per_step or facts.latents_per_step
        return Target(model, facts.active_parameters, latents, batch, True)
    try:
        parameters = parse_amount(model)
    except UserError as error:
        names = ", ".join(paper.MODELS)
        raise UserError(
            f"--model '{model}' is neither a model of the paper ({names}) nor a number of parameters"
        ) from error
    return Target(model, parameters, latents, latents_per_step or 2**21, False)


def recommend(
    target: Target,
    own: pd.DataFrame | None = None,
    max_data_tokens: float | None = None,
    latents_per_second: float | None = None,
    mfu: float | None = None,
    peak_tflops: float | None = None,
    confidence: float = 0.95,
) -> Recommendation:
    """Bag size and bag fraction with the largest predicted gain.

    Args:
        own: own gains, which correct the published law around themselves. Columns:
            ``tst_titan.paper.observations.COLUMNS``.
        max_data_tokens: data tokens that there are; a run reads latents * (1 + r (s - 1)).
        latents_per_second: measured, over all devices: gives hours instead of device-hours.
        mfu, peak_tflops: together, device-hours from 6 * parameters FLOPs per latent.
        confidence: of the gain's interval, from the held-out errors.

    Raises:
        UserError: fewer data tokens than the smallest setting reads.
    """
    observations, baselines = published_observations(), published_baselines()
    law = Law.fitted(observations[:0] if own is None else own, confidence)
    settings = _settings(target, law)
    if max_data_tokens is not None:
        affordable = [item for item in settings if item.data_tokens <= max_data_tokens]
        if not affordable:
            least = min(item.data_tokens for item in settings)
            raise UserError(
                f"--max-data-tokens {amount(max_data_tokens)} is less than the {amount(least)} that the smallest "
                f"setting (s = 2, r = {BAG_FRACTIONS[0]:g}) reads; the baseline reads {amount(target.latents)}. "
                "Output-only superposition reads no extra data"
            )
        settings = affordable
    best = max(settings, key=lambda item: item.gain)
    close = [item for item in settings if item.gain >= best.gain - CELL_NOISE]
    hours, source = _hours(target, latents_per_second, mfu, peak_tflops)
    extrapolates = extrapolations(target, observations, law.correction)
    # The paper's baselines say nothing about another kind of model, or one a thousand times smaller.
    like_theirs = not extrapolates and not _is_measured(target)
    baseline = fit_baseline(baselines)
    return Recommendation(
        target=target,
        best=best,
        frugal=min(close, key=lambda item: item.data_tokens),
        confidence=confidence,
        baseline_loss=baseline.loss(target.parameters, target.latents) if like_theirs else None,
        baseline_error=baseline.held_out_rmse if like_theirs else None,
        device_hours=hours,
        hours_from=source,
        extrapolates=extrapolates,
        published_best=_published_best(target),
        pays=_pays(target, law, max_data_tokens),
    )


def extrapolations(target: Target, observations: pd.DataFrame, correction: Correction) -> list[str]:
    """Why the target lies outside what was measured.

    [] inside the published groups' convex hull in log size and log latents, and near an own group.
    """
    place = (target.parameters, target.latents)
    if correction.is_near(*place, losing=True):
        return [
            "near this size and length bags lost in your own runs, which the law cannot hold: expect no gain"
        ]
    if correction.is_near(*place) or _is_measured(target):
        return []
    reasons = []
    groups = observations.groupby("group")[["parameters", "latents"]].first()
    if target.is_published and target.name == "10B-A1B":
        reasons.append(
            "it is a mixture of experts, taken at its active parameters; only dense models were fitted"
        )
    for column, value in (("parameters", target.parameters), ("latents", target.latents)):
        low, high = float(groups[column].min()), float(groups[column].max())
        if not low * 0.99 <= value <= high * 1.01:
            reasons.append(
                f"{amount(value)} {column} lie outside the paper's {amount(low)} to {amount(high)}"
            )
    if not reasons and not _in_hull(np.log(groups.to_numpy(float)), target):
        reasons.append(
            f"no run has both about {amount(target.parameters)} parameters and {amount(target.latents)} latents "
            "(outside the convex hull of what was measured)"
        )
    sizes = observations.groupby("group")["gain"].size()
    largest = float(groups.loc[sizes[sizes > 1].index, "parameters"].max())
    if target.parameters > 1.01 * largest:
        reasons.append(f"above {amount(largest)} parameters the shape over s and r rests on single runs")
    return reasons


def _is_measured(target: Target) -> bool:
    """Whether a measured short run is within ``NEAR``."""
    places = measured_observations().groupby("group")[["parameters", "latents"]].first().to_numpy(float)
    return any_near(np.log(places), target.parameters, target.latents)


def _in_hull(points: np.ndarray, target: Target) -> bool:
    """Whether the target is a convex mixture of the points, with 1 % to spare."""
    goal = np.log([target.parameters, target.latents])
    # Minimise the largest miss t over mixtures w: |points' w - goal| <= t, sum w = 1.
    n = len(points)
    miss = np.full((2, 1), -1.0)
    upper = np.block([[points.T, miss], [-points.T, miss]])
    found = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=upper,
        b_ub=np.r_[goal, -goal],
        A_eq=np.r_[np.ones(n), 0.0][None, :],
        b_eq=[1.0],
        bounds=[(0, None)] * (n + 1),
    )
    return bool(found.fun <= 0.01)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Every offered bag size and bag fraction."""
    sizes, fractions = np.meshgrid(BAG_SIZES, BAG_FRACTIONS, indexing="ij")
    return sizes.ravel(), fractions.ravel()


def _settings(target: Target, law: Law) -> list[Setting]:
    """Every offered setting."""
    s, r = _grid()
    tokens = target.latents * (1 + r * (s - 1))
    columns = (s, r, *law.gains(target.parameters, target.latents, s, r), tokens)
    return [Setting(int(size), *map(float, rest)) for size, *rest in zip(*columns, strict=True)]


def _pays(target: Target, law: Law, max_data_tokens: float | None) -> Pays:
    """Budgets for the target's model, from the shortest runs that were measured to a thousand times the target's."""
    s, r = _grid()
    limit = np.inf if max_data_tokens is None else max_data_tokens
    measured = measured_observations()
    per_parameter = float((measured["latents"] / measured["parameters"]).min())
    shortest = max(
        per_parameter * target.parameters, int(measured["total_steps"].min()) * target.latents_per_step
    )
    budgets = np.geomspace(shortest, max(1000 * target.latents, 2 * shortest), 600)
    best = []
    for latents in budgets:
        possible = latents * (1 + r * (s - 1)) <= limit
        gain, low, _ = law.gains(target.parameters, latents, s[possible], r[possible])
        best.append((gain.max(), low[gain.argmax()]) if possible.any() else (np.nan, np.nan))
    expected, low = np.array(best).T

    def first(values: np.ndarray) -> float | None:
        """From where on they stay positive."""
        known = ~np.isnan(values)
        losing = np.flatnonzero(known & ~(values > 0))
        start = 0 if not len(losing) else int(losing[-1]) + 1
        return float(budgets[start]) if start < known.sum() else None

    least = 1 + float(BAG_FRACTIONS[0]) * (int(BAG_SIZES[0]) - 1)
    until = None if max_data_tokens is None else max_data_tokens / least
    return Pays(float(shortest), first(expected), first(low), until)


def _hours(
    target: Target, latents_per_second: float | None, mfu: float | None, peak_tflops: float | None
) -> tuple[float | None, str]:
    """Training time, equal for TST and baseline, and where it comes from."""
    if latents_per_second is not None:
        return target.latents / latents_per_second / 3600, "hours at the given latents per second"
    if (mfu is None) != (peak_tflops is None):
        raise UserError("--mfu and --peak-tflops go together")
    if mfu is not None and peak_tflops is not None:
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu:g} must lie in (0, 1]")
        flops = 6 * target.parameters * target.latents
        return flops / (mfu * peak_tflops * 1e12) / 3600, (
            f"device-hours at an MFU of {mfu:g} of {peak_tflops:g} TFLOP/s, 6 FLOPs per parameter and latent"
        )
    runs = paper.published_runs(variant="baseline")
    runs["per_latent"] = [
        hours / (steps * paper.MODELS[name].latents_per_step)
        for name, steps, hours in zip(runs["model"], runs["total_steps"], runs["b200_hours"], strict=True)
    ]
    rates = runs.groupby("model")["per_latent"].mean()
    if target.is_published:
        return float(rates[target.name]) * target.latents, "B200-hours from the paper's table 1"
    dense = [
        name for name in rates.index if paper.MODELS[name].parameters == paper.MODELS[name].active_parameters
    ]
    sizes = np.log([paper.MODELS[name].parameters for name in dense])
    order = np.argsort(sizes)
    at = np.log(target.parameters)
    if not sizes.min() <= at <= sizes.max():
        return None, "unknown at this size; give --latents-per-second, or --mfu and --peak-tflops"
    rate = np.exp(np.interp(at, sizes[order], np.log(rates[dense].to_numpy(float))[order]))
    return float(rate * target.latents), "B200-hours interpolated between the sizes of the paper's table 1"


def _published_best(target: Target) -> str | None:
    """The paper's best cell for exactly this model and length."""
    if not target.is_published:
        return None
    cells = published_observations()
    cells = cells[(cells["model"] == target.name) & ((cells["latents"] / target.latents - 1).abs() < 0.01)]
    if len(cells) < 2:
        return None
    best = cells.iloc[int(cells["gain"].to_numpy(float).argmax())]
    return (
        f"s = {best['bag_size']:g}, r = {best['bag_fraction']:g}, {best['gain']:.4f} nats/token below the baseline "
        f"({best['source']})"
    )
