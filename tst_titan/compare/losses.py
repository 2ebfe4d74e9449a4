"""The losses that runs are compared by: the held-out loss measured during training, and the logged training loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tst_titan.compare.arithmetic import (
    Crossing,
    curve_crossing,
    interpolate_finals,
    length_crossing,
    loss_at,
    recovery,
    switch_spike,
)
from tst_titan.compare.curves import measured
from tst_titan.compare.noise import MeanWithError, apart, t_quantile
from tst_titan.compare.numbers import ON_HELDOUT, Number, difference, merge_sources, missing, with_error
from tst_titan.compare.runs import LOSS_UNIT, RunData, measured_mean
from tst_titan.config.comparison import ComparisonOptions


@dataclass(frozen=True)
class TrainingLosses:
    """Losses of the batches that a run trained on; those of its bag phase are of another kind.

    Attributes:
        prefix: of the metrics that are read off them.
        inside: how a place in a curve is read, before the place.
        first: what a curve starts with.
    """

    options: ComparisonOptions
    prefix = ""
    inside = "up to"
    first = "token-phase step"

    @property
    def final_metric(self) -> str:
        """Metric of a run's final loss."""
        return f"{self.prefix}final_loss"

    def compares(self, *runs: RunData) -> bool:
        """Whether each of these runs ends with such a loss, and all of the same kind."""
        return all(run.final.comparable for run in runs)

    def final(self, run: RunData) -> MeanWithError:
        """Loss at the end of a run."""
        return run.final.mean

    def files(self, run: RunData) -> tuple[str, ...]:
        """The files of a run's curve."""
        return run.metrics_files

    def at(self, run: RunData, column: str, position: float) -> MeanWithError | None:
        """A run's loss inside its curve; None where it has none."""
        return loss_at(run.curve, column, position, self.options.smoothing_window)

    def crossings(self, run: RunData, columns: Sequence[str], target: MeanWithError) -> dict[str, Crossing]:
        """Where a run's curve passes a loss."""
        window = self.options.smoothing_window
        return curve_crossing(run.curve, columns, target, window, *self.options.redraws)

    def gap(
        self, run: Number, reference: Number, run_mean: MeanWithError, reference_mean: MeanWithError
    ) -> Number:
        """Run minus reference, from two numbers and the means behind them."""
        quantile = t_quantile(self.options.confidence, min(run_mean.dof, reference_mean.dof))
        return difference(run, reference, quantile, "run minus reference; noise of the logged loss alone")

    def final_gap(self, run: RunData, reference: RunData) -> Number:
        """Run minus reference, of their final losses."""
        name = self.final_metric
        return self.gap(run.metrics[name], reference.metrics[name], self.final(run), self.final(reference))

    def switch(self, run: RunData, reference: RunData) -> dict[str, Number]:
        """What the last switch from bags to tokens costs, and when that is paid back; {} for a run without one."""
        spike = switch_spike(run.curve, reference.curve, self.options.smoothing_window)
        if spike is None:
            return {}
        ends = spike.reference_ends
        nothing = "the reference has no token loss at these steps"
        at_switch = nothing if ends is None else "the reference has no token loss at the switch"
        later = (
            nothing if ends is None else f"not met again up to step {ends}, where the reference's curve ends"
        )
        sources = merge_sources(run.metrics_files, reference.metrics_files)

        def number(value: float | None, unit: str, reason: str = "") -> Number:
            reason = reason if value is None else ""
            return Number(value, unit, sources, method="smoothed curves", reason=reason)

        return {
            "step": number(spike.step, "steps"),
            "first_loss": number(spike.first_loss, LOSS_UNIT),
            "height_over_reference": number(spike.height_over_reference, LOSS_UNIT, at_switch),
            "height_over_own_end": number(spike.height_over_own_end, LOSS_UNIT),
            "recovered_step": number(spike.recovered_step, "steps", later),
            "steps_to_recover": number(spike.steps_to_recover, "steps", later),
        }


class HeldoutLosses(TrainingLosses):
    """Losses of next-token prediction on windows of the hold-out, the same for all runs: differences are paired."""

    prefix = ON_HELDOUT
    inside = "at"
    first = "measurement"

    def compares(self, *runs: RunData) -> bool:
        """Whether all were measured, on the same windows."""
        scored = {None if run.heldout is None else run.heldout["windows"].iloc[-1].size for run in runs}
        corpora = {run.facts.data_identity for run in runs}
        return None not in scored and len(scored) == len(corpora) == 1

    def final(self, run: RunData) -> MeanWithError:
        """See ``TrainingLosses``."""
        return measured(_curve(run).iloc[-1:])[0]

    def files(self, run: RunData) -> tuple[str, ...]:
        """See ``TrainingLosses``."""
        return run.heldout_files

    def at(self, run: RunData, column: str, position: float) -> MeanWithError | None:
        """See ``TrainingLosses``."""
        rows = _of_tokens(run)
        return interpolate_finals(rows[column].to_numpy(float), measured(rows), position)

    def crossings(self, run: RunData, columns: Sequence[str], target: MeanWithError) -> dict[str, Crossing]:
        """See ``TrainingLosses``."""
        rows = _of_tokens(run)
        if rows.empty:
            return dict.fromkeys(columns, Crossing("never"))
        losses = measured(rows)
        return {
            column: length_crossing(rows[column].to_numpy(float), losses, target, *self.options.redraws)
            for column in columns
        }

    def gap(
        self, run: Number, reference: Number, run_mean: MeanWithError, reference_mean: MeanWithError
    ) -> Number:
        """Window by window."""
        found = apart(run_mean, reference_mean)
        method = f"run minus reference, paired over {found.n} held-out windows; noise of these windows alone"
        quantile, sources = found.quantile(self.options.confidence), merge_sources(run, reference)
        return with_error(found.mean, found.stderr, quantile, LOSS_UNIT, sources, method)

    def switch(self, run: RunData, reference: RunData) -> dict[str, Number]:
        """The same; the first loss is that of the last bag step's weights, {} where it was not measured."""
        switch = _last_bag_step(run)
        rows = _curve(run)[_curve(run)["step"] >= switch]
        if switch in (0, run.steps) or rows.empty or rows["step"].iloc[0] != switch:
            return {}
        own = dict(zip(rows["step"], measured(rows), strict=True))
        theirs = {
            step: self.at(reference, "step", step)
            for step in own
            if _decays(run, step) == _decays(reference, step)
        }
        gaps = {step: apart(own[step], loss) for step, loss in theirs.items() if loss is not None}
        sources = merge_sources(run.heldout_files, reference.heldout_files)
        first = measured_mean(own[switch], self.options.confidence, sources, "at the switch")
        found = {"step": Number(switch, "steps", sources), "first_loss": first}
        wanted = {"height_over_reference": LOSS_UNIT, "recovered_step": "steps", "steps_to_recover": "steps"}
        if switch not in gaps:
            reason = "the reference was not measured around the switch, or decays there"
            return found | {name: missing(reason, unit, sources) for name, unit in wanted.items()}
        height, steps = gaps[switch], list(gaps)
        method = f"paired over {height.n} held-out windows"
        quantile = height.quantile(self.options.confidence)
        found["height_over_reference"] = with_error(
            height.mean, height.stderr, quantile, LOSS_UNIT, sources, method
        )
        at = recovery(np.array(steps), list(gaps.values()), *self.options.redraws)
        reason = (
            "already at or below the reference at the switch"
            if at.status == "before"
            else f"not met again up to step {steps[-1]}, the last at which both were measured"
        )
        before = steps[steps.index(at.position) - 1] if at.position is not None else None
        for name, start in (("recovered_step", 0), ("steps_to_recover", switch)):
            if at.position is None or before is None:
                found[name] = missing(reason, "steps", sources)
                continue
            ends = (None if end is None else end - start for end in (at.position, at.low, at.high))
            value, low, high = ends
            note = f"the first measurement at or below it; the one before was at {before - start}"
            found[name] = Number(value, "steps", sources, None, low, high, method, note=note)
        return found


def losses_of(options: ComparisonOptions, *runs: RunData) -> list[TrainingLosses]:
    """The losses that these runs are compared by: the held-out ones where all have them, and the training losses."""
    heldout = HeldoutLosses(options)
    return [*([heldout] if heldout.compares(*runs) else []), TrainingLosses(options)]


def _curve(run: RunData) -> pd.DataFrame:
    assert run.heldout is not None
    return run.heldout[run.heldout["comparable"]]


def _of_tokens(run: RunData) -> pd.DataFrame:
    """The rows of a run's last token phase: after its last bag step, or its start, where nothing was spent."""
    curve = _curve(run)
    return curve[curve["step"] > _last_bag_step(run)]


def _last_bag_step(run: RunData) -> int:
    """The step of the last switch from bags to tokens; 0 for a run without bags."""
    return max((stage.end_step for stage in run.stages if not stage.is_comparable), default=0)


def _decays(run: RunData, step: int) -> bool:
    """Whether the learning rate has begun to decay by then."""
    return any(stage.phase == "decay" and step > stage.start_step for stage in run.stages)
