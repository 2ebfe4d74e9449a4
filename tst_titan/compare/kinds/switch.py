"""What the switch from bags to tokens costs, over bag sizes: how high the loss jumps and when it is paid back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from tst_titan.compare.kinds import Kind
from tst_titan.compare.losses import losses_of
from tst_titan.compare.noise import t_quantile
from tst_titan.compare.numbers import Number, merge_sources, missing, with_error
from tst_titan.compare.pairs import references_of
from tst_titan.compare.results import Results, Sentence
from tst_titan.compare.runs import LOSS_UNIT, RunData
from tst_titan.compare.sentences import in_group
from tst_titan.compare.spec import ComparisonSpec

if TYPE_CHECKING:
    from tst_titan.compare.drawing import Panel

_SHOWN = {"height_over_reference": "Jump over the baseline, nats", "steps_to_recover": "Steps to recover"}
_FEWEST = 3


class SwitchKind(Kind):
    """Rows of part "switch".

    ``height_over_reference`` and ``steps_to_recover`` of every run that switches, against the baseline whose length is
    nearest; of a group, ``per_doubling``: by how much the jump grows with every doubling of the bag size, the slope of
    a line fitted to jump over log2(s) by least squares, with Student's t interval.
    """

    needs = ("bag_size",)

    def numbers(self, runs: Sequence[RunData], spec: ComparisonSpec) -> Iterator[Number]:
        """Jump and recovery run by run, then the trend of every group."""
        jumps: dict[tuple[str, str], list[Number]] = {}
        for run in runs:
            baselines = references_of(run, runs, self)
            if not baselines:
                continue
            baseline = min(baselines, key=lambda other: abs(other.steps - run.steps))
            size = float(run.spec.axes["bag_size"])
            place = {"group": run.spec.group, "run": run.name, "reference": baseline.name, "bag_size": size}
            for losses in losses_of(spec.options, run, baseline):
                found = losses.switch(run, baseline)
                rows = [
                    found[metric].at("switch", losses.prefix + metric, **place) for metric in _SHOWN if found
                ]
                jumps.setdefault((losses.prefix, run.spec.group), []).extend(rows[:1])
                yield from rows
        for (prefix, group), rows in jumps.items():
            trend = per_doubling(rows, spec.options.confidence)
            yield trend.at("switch", f"{prefix}per_doubling", group=group)

    def sentences(self, results: Results) -> Iterator[Sentence]:
        """Every run's jump, then how jumps grow with the bag size."""
        for row in results.best("switch", base="height_over_reference"):
            metric = row.metric.replace(row.base, "steps_to_recover")
            recovery = results.get("switch", row.run, metric, row.reference)
            after = f"not met again: {recovery.reason}" if recovery is not None else ""
            if recovery is not None and row.on_heldout:
                after = recovery.reason
            if recovery is not None and recovery.exists:
                after = f"the baseline is met again after {recovery.number:,.0f} steps"
            nats = "nats held out" if row.on_heldout else "nats"
            jump = f"{row.number:+.2f} {nats} from the baseline" if row.exists else row.reason
            head = f"{in_group(row.group)}{results.run_named[row.run].label} (s = {row.bag_size:g})"
            yield Sentence(kind="result", text=f"{head}: the switch costs {jump}; {after}.")
        for row in results.best("switch", base="per_doubling"):
            if row.exists:
                known = {
                    True: "",
                    False: ", within the noise of these runs",
                    None: ", of too few runs for an interval",
                }
                growth = f"{row.number:+.3f} nats to the jump{known[row.excludes_zero]}"
                text = f"Every doubling of the bag size adds {growth}."
                yield Sentence(kind="result", text=in_group(row.group) + text)

    def answer(self, results: Results) -> str:
        """How jumps grow with the bag size; every jump where there are too few to tell."""
        said = [sentence.text for sentence in self.sentences(results)]
        return " ".join([text for text in said if "doubling" in text] or said)

    def draw(self, results: Results, folder: Path) -> list[Panel]:
        """Jump and recovery over the bag size, a line a group."""
        from tst_titan.compare import drawing

        rows = [row for row in results.best("switch") if row.base in _SHOWN]
        if not any(row.exists for row in rows):
            return []
        looks = drawing.looks_of_names({row.group: False for row in rows})
        figure, places = drawing.figure_of(len(_SHOWN), 1, row_height=2.4, sharex=True)
        for (axes,), (metric, label) in zip(places, _SHOWN.items(), strict=True):
            for (group, look), shift in zip(looks.items(), drawing.shifts(len(looks)), strict=True):
                line = [row for row in rows if (row.group, row.base) == (group, metric)]
                drawing.line(
                    axes, sorted(line, key=lambda row: row.bag_size or 0.0), "bag_size", look, shift=shift
                )
            sizes = sorted({row.bag_size or 0.0 for row in rows})
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.set_ylabel(label)
        axes.set_xlabel("Bag size s")
        drawing.legend(figure, looks.values() if len(looks) > 1 else [])
        loss = "held-out loss" if any(row.on_heldout for row in rows) else "smoothed training loss"
        told = "; ".join(
            f"s = {row.bag_size:g}: {row.number:.2f} nats"
            for row in rows
            if row.exists and row.base in list(_SHOWN)[:1]
        )
        return [drawing.finish(
            figure, folder, "switch", "The switch over bag sizes",
            f"Above: by how much the {loss} jumps over the baseline's when bags give way to tokens. Below: steps until "
            "it is back at the baseline's; a run that never is, or that was never above it, has no point.",
            f"Two charts over bag size. Jumps: {told}.", rows,
        )]  # fmt: skip


KIND = SwitchKind()


def per_doubling(jumps: Sequence[Number], confidence: float) -> Number:
    """Slope of the jump over log2 of the bag size; ``jumps`` carry their bag size."""
    known = [row for row in jumps if row.exists and row.bag_size]
    sources = merge_sources(*known)
    if len({row.bag_size for row in known}) < _FEWEST:
        return missing(f"{len(known)} runs with a jump; {_FEWEST} bag sizes are needed", LOSS_UNIT, sources)
    sizes = np.log2([row.bag_size or 1.0 for row in known])
    fit = stats.linregress(sizes, [row.number for row in known])
    quantile = t_quantile(confidence, len(known) - 2)
    return with_error(
        float(fit.slope), float(fit.stderr), quantile, LOSS_UNIT, sources, "least squares over log2(s)"
    )
