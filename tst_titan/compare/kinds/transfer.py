"""What one bag step is worth: the number of token steps that it replaces.

With N the steps of a baseline that ends at the run's final loss (interpolated between baselines of several
lengths), T the run's token steps and B its bag steps:

    worth = (N - T) / B

1 means that a bag step does as much as a token step at the same FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tst_titan import paper
from tst_titan.compare.arithmetic import Crossing, length_crossing
from tst_titan.compare.kinds import Kind
from tst_titan.compare.losses import TrainingLosses, losses_of
from tst_titan.compare.noise import exact
from tst_titan.compare.numbers import Bound, Number, merge_sources, missing
from tst_titan.compare.pairs import family_of
from tst_titan.compare.results import Results, Sentence
from tst_titan.compare.runs import RunData
from tst_titan.compare.sentences import BOUND_WORDS, between, in_group, name_of, said
from tst_titan.compare.spec import ComparisonSpec
from tst_titan.text import value_text

if TYPE_CHECKING:
    from tst_titan.compare.drawing import Panel

UNIT = "token steps per bag step"
_MANY_RUNS = 8


class Transfer(Kind):
    """Rows of part "transfer", of every run that has both phases.

    ``baseline_steps``: N; ``worth``, bounded where the run's loss lies outside the baselines'; ``paper.worth``: the
    same from the paper's numbers for the run's cell, where its model has baselines of several lengths.
    """

    needs = ("bag_size", "bag_fraction")

    def numbers(self, runs: Sequence[RunData], spec: ComparisonSpec) -> Iterator[Number]:
        """The worth of a bag step, run by run."""
        for run in runs:
            if run.spec.is_baseline or not run.final.comparable or run.metrics["bag_steps"].number == 0:
                continue
            axes = {name: float(run.axis(name) or 0) for name in self.needs}
            place = {"group": run.spec.group, "run": run.name, **axes}
            for losses in losses_of(spec.options, run):
                family = [other for other in _baselines_of(run, runs) if losses.compares(run, other)]
                if len(family) > 1 or not losses.prefix:
                    for metric, number in _worth(run, family, losses).items():
                        yield number.at("transfer", losses.prefix + metric, **place)
            published = _published_worth(run)
            if published is not None:
                yield published.at("transfer", "paper.worth", **place)

    def sentences(self, results: Results) -> Iterator[Sentence]:
        """Run by run, or one sentence a group where there are too many runs to name."""
        rows = results.best("transfer", base="worth")
        yield from said(
            "result", _each(results, rows) if len(rows) <= _MANY_RUNS else _summary(results, rows)
        )

    def answer(self, results: Results) -> str:
        """The range over each group's runs."""
        return " ".join(_summary(results, results.best("transfer", base="worth")))

    def draw(self, results: Results, folder: Path) -> list[Panel]:
        """Worth against r, one line a bag size, groups side by side, the paper's in open markers."""
        from tst_titan.compare import drawing

        rows = results.best("transfer")
        worths = [row for row in rows if row.base == "worth"]
        if not worths:
            return []
        groups = list(dict.fromkeys(row.group for row in worths))
        looks = drawing.looks_of_sizes({row.bag_size or 0.0 for row in worths})
        figure, places = drawing.side_by_side(len(groups))
        for axes, group in zip(places, groups, strict=True):
            for (size, look), shift in zip(looks.items(), drawing.shifts(len(looks)), strict=True):
                for metric in ("worth", "paper.worth"):
                    line = [
                        row for row in rows if (row.group, row.bag_size, row.base) == (group, size, metric)
                    ]
                    line.sort(key=lambda row: row.bag_fraction or 0.0)
                    drawing.line(
                        axes, line, "bag_fraction", look, width=0.9, hollow=metric != "worth", shift=shift
                    )
            axes.axhline(1.0, color=drawing.style.INK, linewidth=0.8)
            axes.set_title(group, color=drawing.style.INK)
            axes.set_xlabel("Bag fraction r")
            axes.set_xticks(sorted({row.bag_fraction or 0.0 for row in worths if row.group == group}))
            axes.margins(y=0.18)
        places[0].set_ylabel("Token steps that a bag step replaces")
        theirs = drawing.key("from the paper's", drawing.style.MUTED, marker="o", linestyle=":", hollow=True)
        drawing.legend(figure, looks.values(), [theirs] if len(rows) > 2 * len(worths) else [])
        told = "; ".join(
            f"{row.run} {BOUND_WORDS[row.bound]}{value_text(row.value, row.unit)}" for row in worths[:16]
        )
        return [drawing.finish(
            figure, folder, "transfer", "What a bag step is worth",
            "The number of token steps that one bag step replaces: the steps of a baseline that ends at the run's "
            "loss, minus the run's token steps, over its bag steps. Above 1 (line) a bag step does more than a "
            "token step at the same FLOPs. Bars: intervals. An arrow up or down: the baselines that were run only "
            "bound it from below or above.",
            f"Token steps that a bag step replaces: {told}.", rows,
        )]  # fmt: skip


KIND = Transfer()


def _baselines_of(run: RunData, runs: Sequence[RunData]) -> list[RunData]:
    """Baselines of the run's group, model and, where there are any, seed; one a length, shortest first."""
    baselines = [other for other in runs if other.spec.is_baseline and other.together_with(run)]
    same_seed = [other for other in baselines if other.spec.seed == run.spec.seed] or baselines
    return family_of(same_seed[0], same_seed) if same_seed else []


def _worth(run: RunData, family: Sequence[RunData], losses: TrainingLosses) -> dict[str, Number]:
    """Worth of a bag step of one run, read off its baselines."""
    bag = run.metrics["bag_steps"].number
    token = run.steps - bag
    sources = merge_sources(*(side.metrics[losses.final_metric] for side in (run, *family)))
    if len(family) < 2:
        reason = f"{len(family)} baseline lengths in this group; two are needed"
        return {
            "baseline_steps": missing(reason, "steps", sources),
            "worth": missing(reason, UNIT, sources),
        }
    lengths, finals = np.array([item.steps for item in family]), [losses.final(item) for item in family]
    found = length_crossing(lengths, finals, losses.final(run), *losses.options.redraws)
    worth = _in_steps(found, [item.steps for item in family], token, bag, sources)
    if found.position is None:
        nearest = family[-1 if found.status == "never" else 0]
        steps = missing(f"outside the baselines: {worth.method} {nearest.steps}", "steps", sources)
    else:
        ends = (found.low, found.high)
        steps = Number(found.position, "steps", sources, None, *ends, "interpolated final losses")
    return {"baseline_steps": steps, "worth": worth}


def _in_steps(
    found: Crossing, lengths: Sequence[int], token: float, bag: float, sources: tuple[str, ...]
) -> Number:
    """(N - T) / B; bounded by the nearest length where no baseline ends at the loss."""
    if found.position is None:
        bound: Bound = "at_least" if found.status == "never" else "at_most"
        nearest = lengths[-1] if found.status == "never" else lengths[0]
        return Number((nearest - token) / bag, UNIT, sources, method=BOUND_WORDS[bound].strip(), bound=bound)
    ends = (found.position, found.low, found.high)
    value, low, high = (None if end is None else (end - token) / bag for end in ends)
    return Number(value, UNIT, sources, None, low, high, "(N - T) / B")


def _published_worth(run: RunData) -> Number | None:
    """The paper's version, from its baselines of several lengths (no error: one run each)."""
    target, fraction = run.published.get("final_loss"), run.axis("bag_fraction")
    if target is None or run.spec.paper is None:
        return None
    baselines = published_baselines(run.spec.paper.model)
    if len(baselines) < 2 or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        return None
    finals = [exact(item.number) for item in baselines.values()]
    found = length_crossing(np.array(list(baselines)), finals, exact(target.number), 0.95, 20, 0)
    bag = fraction * run.spec.paper.total_steps
    sources = merge_sources(target, *baselines.values())
    token = run.spec.paper.total_steps - bag
    worth = _in_steps(Crossing(found.status, found.position), list(baselines), token, bag, sources)
    return replace(worth, method=f"{worth.method}, published losses")


def published_baselines(model: str) -> dict[int, Number]:
    """Final losses of the paper's baselines of a model by steps, shortest first.

    Tables 4 to 6 (four digits) take precedence over tables 1 and 3 (three digits).
    """
    rows = paper.published_runs(variant="baseline").rename(columns={"final_loss": "value"})
    cells = paper.published_sweeps(metric="loss", bag_weighting="uniform")
    found = {
        int(row["total_steps"]): Number(float(row["value"]), "nats/token", (row["source"],))
        for frame in (rows, cells[cells["bag_size"] == 1])
        for row in frame[frame["model"] == model].to_dict("records")
    }
    return dict(sorted(found.items()))


def _each(results: Results, rows: Sequence[Number]) -> Iterator[str]:
    """One sentence a run."""
    for worth in rows:
        where, cell = (
            name_of(results, results.run_named[worth.run]),
            f"s = {worth.bag_size:g}, r = {worth.bag_fraction:g}",
        )
        where += "" if cell in where else f" ({cell})"
        if not worth.exists:
            yield f"What a bag step of {where} is worth cannot be read off: {worth.reason}."
            continue
        times = f"{BOUND_WORDS[worth.bound]}{worth.number:.2f}"
        text = f"A bag step of {where} replaces {times} token steps{between(worth, 2)}"
        theirs = results.get("transfer", worth.run, "paper.worth")
        yield text + (f"; from the paper's losses {theirs.number:.2f} ({theirs.method})." if theirs else ".")


def _summary(results: Results, rows: Sequence[Number]) -> Iterator[str]:
    """One sentence a group."""
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        known = sorted((row for row in members if row.exists), key=lambda row: row.number)
        if not known:
            yield f"{in_group(group)}What a bag step is worth cannot be read off for any of {len(members)} runs."
            continue
        low, high = (f"{row.number:.2f}" for row in (known[0], known[-1]))
        names = [name_of(results, results.run_named[row.run]) for row in (known[0], known[-1])]
        yield (
            f"{in_group(group)}Over {len(known)} runs a bag step replaces from {low} ({names[0]}) to {high} token "
            f"steps ({names[1]}); {sum(bool(row.bound) for row in known)} of them are bounds, because the loss lies "
            "outside the baselines'."
        )
