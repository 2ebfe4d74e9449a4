"""Final loss over the learning rate, one series a variant (figure 7); the base of every sweep along one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tst_titan.compare.kinds import Kind
from tst_titan.compare.losses import TrainingLosses, losses_of
from tst_titan.compare.numbers import Number, missing
from tst_titan.compare.results import Results, Sentence
from tst_titan.compare.runs import LOSS_UNIT, RunData
from tst_titan.compare.sentences import amount, between, in_group
from tst_titan.compare.spec import BASELINE, ComparisonSpec
from tst_titan.text import value_text

if TYPE_CHECKING:
    from tst_titan.compare.drawing import Panel

AT_THE_EDGE = "at the edge"


class Sweep(Kind):
    """Rows of part "sweep", of a group and a series, which ``run`` names.

    ``final_loss`` at every ``x``; ``best``: the lowest, which notes whether it is the first or last of at least three
    points; ``difference``: series minus baseline at the same x; ``best_difference``: each at its own best x.

    Args:
        axis: the axis of the sweep.
        words, label: its name in sentences and on the figure's axis.
        is_tuned: whether the best x is of interest; of epochs it is not.
    """

    def __init__(self, axis: str, words: str, label: str, is_tuned: bool) -> None:
        self.axis, self.words, self.label, self.is_tuned = axis, words, label, is_tuned
        self.needs = self.matched = (axis,)

    def numbers(self, runs: Sequence[RunData], spec: ComparisonSpec) -> Iterator[Number]:
        """One sweep a group and model; runs that differ in other axes or in seed make separate series."""
        places: dict[tuple[str, tuple[object, ...]], list[RunData]] = {}
        for run in runs:
            if run.axis(self.axis) is not None:
                places.setdefault((run.spec.group, run.facts.model), []).append(run)
        several = len({group for group, _ in places}) < len(places)
        for (group, model), members in places.items():
            title = f"{group} {' '.join(map(str, model))}".strip() if several else group
            for losses in losses_of(spec.options, *members):
                for row in self._sweep(title, members, losses):
                    yield replace(row, metric=losses.prefix + row.metric)

    def _sweep(self, group: str, members: Sequence[RunData], losses: TrainingLosses) -> Iterator[Number]:
        """All rows of one sweep, of held-out or of training losses."""
        named = {run.name: run for run in members}

        def gap(run: Number, reference: Number, method: str) -> Number:
            sides = (named[point.runs[0]] for point in (run, reference))
            found = losses.final_gap(*sides)
            return replace(found, method=f"{method}; {found.method}" if losses.prefix else method)

        by_key: dict[tuple[object, ...], list[RunData]] = {}
        for run in members:
            by_key.setdefault(self._key(run), []).append(run)
        names = _names(list(by_key))
        points = {names[key]: self._points(group, names[key], part, losses) for key, part in by_key.items()}
        best = {
            name: min((p for p in part if p.exists), key=lambda p: p.number, default=None)
            for name, part in points.items()
        }
        baseline = next((names[key] for key in by_key if key[0] == BASELINE), None)
        for name, part in points.items():
            yield from part
            lowest = best[name]
            if lowest is not None:
                known = [point for point in part if point.exists]
                edge = len(known) > 2 and lowest in (known[0], known[-1])
                yield replace(lowest, metric="best", note=AT_THE_EDGE if edge else "")
        for name in (names[key] for key in by_key if key[0] != BASELINE):
            theirs = {point.x: point for point in points[baseline]} if baseline is not None else {}
            for point in points[name]:
                if point.x in theirs:
                    found = gap(point, theirs[point.x], "minus baseline")
                    yield found.at("sweep", "difference", group=group, run=name, x=point.x)
            ours, other = best[name], None if baseline is None else best[baseline]
            found = missing("no baseline, or no token loss", LOSS_UNIT)
            if ours is not None and other is not None:
                found = gap(ours, other, "best minus the baseline's best")
            yield found.at("sweep", "best_difference", group=group, run=name)

    def _points(self, group: str, name: str, runs: Sequence[RunData], losses: TrainingLosses) -> list[Number]:
        """One series, sorted along the axis."""
        points = [
            run.metrics[losses.final_metric].at(
                "sweep",
                "final_loss",
                group=group,
                run=name,
                x=float(run.spec.axes[self.axis]),
                runs=(run.name,),
            )
            for run in runs
        ]
        return sorted(points, key=lambda point: point.x or 0.0)

    def _key(self, run: RunData) -> tuple[object, ...]:
        """What makes a series: role, seed and the other axes (a baseline's bag axes say nothing)."""
        ignored = {self.axis} | ({"bag_size", "bag_fraction"} if run.spec.is_baseline else set())
        rest = tuple(
            sorted((name, str(value)) for name, value in run.spec.axes.items() if name not in ignored)
        )
        return (run.spec.role, run.spec.seed, rest)

    def sentences(self, results: Results) -> Iterator[Sentence]:
        """Best point of every series; edges and gaps to the baseline."""
        rows = results.best("sweep")
        for group in dict.fromkeys(row.group for row in rows):
            yield from self._group_sentences(in_group(group), [row for row in rows if row.group == group])

    def _group_sentences(self, head: str, rows: Sequence[Number]) -> Iterator[Sentence]:
        for row in rows:
            where = f"{row.x:g}" if row.x is not None else ""
            if row.base == "best":
                text = f"{head}{row.run} is best at {self.words} {where} ({amount(row)})."
                if self.is_tuned:
                    yield Sentence(kind="result", text=text)
                if self.is_tuned and row.note == AT_THE_EDGE:
                    text = f"{head}the best {self.words} of {row.run} is the last one tried; "
                    text += "its optimum may lie beyond."
                    yield Sentence(kind="warning", text=text)
        for row in rows:
            if row.base == "difference" and row.exists:
                text = f"{head}at {self.words} {row.x:g}, {row.run} minus baseline: {amount(row)}."
                yield Sentence(kind="result", text=text)
        for row in rows:
            if row.base == "best_difference" and row.exists and self.is_tuned:
                text = f"{head}each at its own best {self.words}, {row.run} minus baseline: {amount(row)}."
                yield Sentence(kind="result", text=text)

    def answer(self, results: Results) -> str:
        """Series against baseline: each at its own best x, or x by x where none is sought."""
        metric = "best_difference" if self.is_tuned else "difference"
        said = []
        for row in results.best("sweep", base=metric):
            if row.exists:
                where = (
                    f"each at its own best {self.words}" if self.is_tuned else f"at {self.words} {row.x:g}"
                )
                noise = {True: "", False: ", within the noise", None: ", error not known"}[row.excludes_zero]
                side, token = (
                    "lower" if row.number < 0 else "higher",
                    "held-out" if row.on_heldout else "training",
                )
                gap = f"{abs(row.number):.4f} nats per {token} token {side}"
                text = f"{in_group(row.group)}{where}, {row.run} ends {gap} than the baseline"
                said.append(f"{text}{between(row, 4)}{noise}.")
        return " ".join(said)

    def draw(self, results: Results, folder: Path) -> list[Panel]:
        """A line a variant, groups side by side; a ring marks the best point of each."""
        from tst_titan.compare import drawing

        rows = results.best("sweep")
        points = [row for row in rows if row.base == "final_loss"]
        if not points:
            return []
        is_baseline = {row.run: results.run_named[row.runs[0]].is_baseline for row in points}
        looks = drawing.looks_of_names(is_baseline)
        groups = list(dict.fromkeys(row.group for row in rows))
        figure, places = drawing.side_by_side(len(groups))
        for axes, group in zip(places, groups, strict=True):
            members = [row for row in rows if row.group == group]
            names = dict.fromkeys(row.run for row in members)
            for name, shift in zip(names, drawing.shifts(len(names)), strict=True):
                series = {
                    what: [row for row in members if (row.run, row.base) == (name, what)]
                    for what in ("final_loss", "best")
                }
                drawing.line(axes, series["final_loss"], "x", looks[name], width=0.9, shift=shift)
                for best in series["best"]:
                    drawing.ring(axes, best.x, best, looks[name], shift)
            ticks = sorted({row.x for row in members if row.base == "final_loss" and row.x is not None})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(self.label)
            axes.set_title(group, color=drawing.style.INK)
        loss = "Final held-out loss" if points[0].on_heldout else "Final loss"
        places[0].set_ylabel(f"{loss}, nats per token")
        ring = drawing.key("best of its line", drawing.style.MUTED, marker="o", markersize=9, hollow=True)
        drawing.legend(figure, looks.values(), [ring])
        said = "; ".join(
            f"{row.group + ' ' if row.group else ''}{row.run} best at {row.x:g} ({value_text(row.value, row.unit)})"
            for row in rows
            if row.base == "best"
        )
        title = f"{loss} over {self.label[0].lower()}{self.label[1:]}"
        caption = f"{loss} of every run with its interval; a ring marks the best point of each line."
        return [
            drawing.finish(figure, folder, f"sweep_{self.axis}", title, caption, f"{title}: {said}.", points)
        ]


def _names(keys: Sequence[tuple[object, ...]]) -> dict[tuple[object, ...], str]:
    """The role alone where that is unique, else the role with what tells the series apart."""
    roles = [str(key[0]) for key in keys]
    names = {}
    for key, role in zip(keys, roles, strict=True):
        rest: Sequence[tuple[str, str]] = key[2]  # type: ignore[assignment]
        told = ", ".join([*(f"{a}={b}" for a, b in rest), f"seed={key[1]}"])
        names[key] = role if roles.count(role) == 1 else f"{role} ({told})"
    return names


KIND = Sweep("lr", "learning rate", "Peak learning rate", is_tuned=True)
