"""Whether the paper's direction, ordering and best cell come out of our runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from tst_titan.compare.arithmetic import length_crossing
from tst_titan.compare.grids import Grid
from tst_titan.compare.noise import MeanWithError
from tst_titan.compare.pairs import Pair
from tst_titan.compare.runs import RunData

_COMPARED = ("final_loss", "average_accuracy")
_WORDS = {"final_loss": "final loss", "average_accuracy": "average accuracy"}
_UNITS = {"final_loss": "nats/token", "average_accuracy": "points"}
_TIE = {"final_loss": 0.003, "average_accuracy": 0.3}
"""Published differences that small say nothing: neighbouring cells of the paper's grids scatter by as much."""


class Naming:
    """Names of runs for sentences: the label, with seed and group where the label alone is not unique."""

    def __init__(self, runs: Sequence[RunData]) -> None:
        groups = {run.spec.group for run in runs}
        places = [(run.spec.group, run.spec.label) for run in runs]
        self._names = {}
        for run, place in zip(runs, places, strict=True):
            name = run.spec.label
            twins = [other for other, there in zip(runs, places, strict=True) if there == place]
            if len({twin.model for twin in twins}) > 1:
                name = run.name
            elif len(twins) > 1:
                name += f", seed {run.spec.seed}"
            if len(groups) > 1 and run.spec.group:
                name += f" [{run.spec.group}]"
            self._names[run.name] = name

    def of(self, name: str) -> str:
        """Name in sentences of the run called ``name``."""
        return self._names[name]


def pair_reproduction(runs: Sequence[RunData], pairs: Sequence[Pair], naming: Naming) -> Iterator[str]:
    """Direction of every pair that the paper has too, then the order of all its runs."""
    by_name = {run.name: run for run in runs}
    for pair in pairs:
        reference, run = by_name[pair.reference], by_name[pair.run]
        for metric in _COMPARED:
            text = _direction(metric, pair, reference, run, naming)
            if text:
                yield text
    for group in dict.fromkeys(run.spec.group for run in runs):
        members = [
            run
            for run in runs
            if run.spec.group == group and "final_loss" in run.published and run.final.comparable
        ]
        text = _ordering(group, members)
        if text:
            yield text


def grid_reproduction(grid: Grid) -> Iterator[str]:
    """Sides of the baseline, ranks and best cell of a grid, against the paper's."""
    if grid.metric not in _COMPARED or not grid.cells_in_common:
        return
    group, metric = f"{grid.group}: " if grid.group else "", _WORDS[grid.metric]
    if grid.beats_baseline is not None:
        beats = grid.beats_baseline
        verdict = "reproduced" if beats["same_side"] == beats["cells"] else "reproduced in part"
        if 2 * beats["same_side"] < beats["cells"]:
            verdict = "not reproduced"
        yield (
            f"{group}{metric}: the paper's TST beats the baseline in {beats['published']} of the "
            f"{beats['cells']} cells in common, ours in {beats['ours']}, both in {beats['ours_and_published']}: "
            f"direction {verdict}."
        )
    if grid.rank_correlation.exists:
        value = grid.rank_correlation.number
        yield (
            f"{group}{metric}: rank correlation with the paper's {grid.cells_in_common} cells in common "
            f"{value:+.2f} (1: same order, 0: none)."
        )
    if grid.best is not None and grid.published_best is not None:
        ours, theirs = grid.best, grid.published_best
        same = "the same as" if ours == theirs else "not"
        yield (
            f"{group}{metric}: best cell s = {ours.bag_size:g}, r = {ours.bag_fraction:g}, {same} the paper's "
            f"s = {theirs.bag_size:g}, r = {theirs.bag_fraction:g} (best of the cells in common)."
        )


def _direction(metric: str, pair: Pair, reference: RunData, run: RunData, naming: Naming) -> str | None:
    """Sign of run minus reference, ours and the paper's; None where either is lacking."""
    if metric not in run.published or metric not in reference.published:
        return None
    theirs = run.published[metric].number - reference.published[metric].number
    ours, theirs_loss = run.metrics[metric], reference.metrics[metric]
    if ours.value is None or theirs_loss.value is None:
        return None
    gap = ours.value - theirs_loss.value
    found = pair.accuracy.difference if metric == "average_accuracy" else pair.equal_flops.difference
    # equal_flops holds exactly this difference only where the two budgets are equal.
    known = found.value is not None and abs(found.value - gap) < 1e-12
    decided = None
    if known and found.low is not None and found.high is not None:
        decided = found.low > 0 or found.high < 0
    elif ours.stderr is not None and theirs_loss.stderr is not None:
        decided = abs(gap) > 2 * (ours.stderr**2 + theirs_loss.stderr**2) ** 0.5
    if abs(theirs) < _TIE[metric]:
        verdict = "the paper's two runs tie; ours " + ("differ" if decided else "do too, within the noise")
    else:
        verdict = {
            (True, True): "direction reproduced",
            (True, False): "same direction, but within the noise",
            (True, None): "same direction; the noise is unknown",
            (False, True): "direction not reproduced",
            (False, False): "opposite direction, but within the noise: undecided",
            (False, None): "opposite direction; the noise is unknown",
        }[(gap * theirs > 0, decided)]
    return (
        f"{naming.of(run.name)} minus {naming.of(reference.name)}, {_WORDS[metric]}: ours {gap:+.3f}, the "
        f"paper's {theirs:+.3f} {_UNITS[metric]} (at its sizes): {verdict}."
    )


def speedup_reproduction(runs: Sequence[RunData], pairs: Sequence[Pair], naming: Naming) -> Iterator[str]:
    """The speed-up at equal loss in steps, ours and that of the paper's final losses."""
    by_name = {run.name: run for run in runs}
    said: set[str] = set()
    for pair in pairs:
        run, found = by_name[pair.run], pair.equal_loss
        theirs = _published_speedup(run, by_name[pair.reference], runs)
        if found is None or theirs is None or pair.run in said:
            continue
        said.add(pair.run)
        ours = "not reached"
        if found.speedup["steps"].exists:
            bound = "" if found.bound is None else found.bound.replace("_", " ") + " "
            ours = f"{bound}{found.speedup['steps'].number:.2f} times"
        yield f"Speed-up in steps at equal final loss, {naming.of(run.name)}: ours {ours}, the paper's {theirs}."


def _published_speedup(run: RunData, reference: RunData, runs: Sequence[RunData]) -> str | None:
    """The paper's baselines of this group at its TST run's final loss; None where it does not say."""
    needed = ("final_loss", "steps")
    family = {
        other.published["steps"].number: other.published["final_loss"].number
        for other in runs
        if other.spec.is_baseline and other.spec.group == run.spec.group and other.model == run.model
        if all(name in other.published for name in needed)
    }
    if not all(name in run.published for name in needed) or not reference.spec.is_baseline or not family:
        return None
    steps, target = run.published["steps"].number, run.published["final_loss"].number
    lengths = sorted(family)
    if len(lengths) > 1:
        finals = [MeanWithError(family[length], 1, None, 0, 0.0) for length in lengths]
        goal = MeanWithError(target, 1, None, 0, 0.0)
        found = length_crossing(np.array(lengths), finals, goal, 0.95, 20, 0)
        if found.position is not None:
            return f"{found.position / steps:.2f} times"
    longest = lengths[-1]
    if family[longest] > target and longest > steps:
        return f"at least {longest / steps:.2f} times"
    return None


def _ordering(group: str, members: Sequence[RunData]) -> str | None:
    """In how many pairs of variants the paper's order of final losses holds; needs three."""
    ours: dict[str, list[float]] = {}
    theirs: dict[str, float] = {}
    for run in members:
        ours.setdefault(run.spec.label, []).append(run.metrics["final_loss"].number)
        theirs[run.spec.label] = run.published["final_loss"].number
    if len(ours) < 3:
        return None
    same = total = 0
    for first, second in combinations(ours, 2):
        gap = theirs[first] - theirs[second]
        if abs(gap) < _TIE["final_loss"]:
            continue
        total += 1
        same += bool(gap * (np.mean(ours[first]) - np.mean(ours[second])) > 0)
    head = f"{group}: order" if group else "Order"
    verdict = "reproduced" if same == total else "not fully reproduced"
    return (
        f"{head} of the {len(ours)} final losses: {same} of {total} pairs as in the paper (ties left out), "
        f"{verdict}."
    )
