"""Whether the paper's direction, ordering and best cell come out of our runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from tst_titan.compare.grids import Grid
from tst_titan.compare.pairs import Pair
from tst_titan.compare.runs import RunData

_COMPARED = ("final_loss", "average_accuracy")
_WORDS = {"final_loss": "final loss", "average_accuracy": "average accuracy"}
_UNITS = {"final_loss": "nats/token", "average_accuracy": "points"}


class Naming:
    """Names of runs for sentences: the label, with the group where there are several."""

    def __init__(self, runs: Sequence[RunData]) -> None:
        self._labels = {run.name: run.spec.label for run in runs}
        self._groups = {run.name: run.spec.group for run in runs}
        self._several = len(set(self._groups.values())) > 1

    def of(self, name: str) -> str:
        """Label of the run called ``name``."""
        group = self._groups[name]
        return f"{self._labels[name]} [{group}]" if self._several and group else self._labels[name]


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
    same = gap * theirs > 0
    verdict = {
        (True, True): "direction reproduced",
        (True, False): "same direction, but within the noise",
        (True, None): "same direction; the noise is unknown",
        (False, True): "direction not reproduced",
        (False, False): "opposite direction, but within the noise: undecided",
        (False, None): "opposite direction; the noise is unknown",
    }[(same, decided)]
    return (
        f"{naming.of(run.name)} minus {naming.of(reference.name)}, {_WORDS[metric]}: ours {gap:+.3f}, the paper's "
        f"{theirs:+.3f} {_UNITS[metric]} (at its sizes): {verdict}."
    )


def _ordering(group: str, members: Sequence[RunData]) -> str | None:
    """In how many pairs of runs the paper's order of final losses holds; needs three runs."""
    if len(members) < 3:
        return None
    same = total = 0
    for first, second in combinations(members, 2):
        theirs = first.published["final_loss"].number - second.published["final_loss"].number
        ours = first.metrics["final_loss"].number - second.metrics["final_loss"].number
        if theirs == 0:
            continue
        total += 1
        same += theirs * ours > 0
    head = f"{group}: order" if group else "Order"
    verdict = "reproduced" if same == total else "not fully reproduced"
    return f"{head} of the {len(members)} final losses: {same} of {total} pairs as in the paper, {verdict}."
