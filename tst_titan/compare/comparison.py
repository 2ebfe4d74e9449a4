"""The comparison of one experiment: from its runs' files to the table, the facts and the sentences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tst_titan.compare.answer import make_answer
from tst_titan.compare.curves import smooth, thin
from tst_titan.compare.kinds import kind_of
from tst_titan.compare.pairs import compare_pair, family_of, references_of
from tst_titan.compare.results import CURVE_HEAD, HELDOUT, TRAINING, Facts, Results
from tst_titan.compare.runs import FileCache, RunData, load_run
from tst_titan.compare.seeds import over_seeds
from tst_titan.compare.sentences import make_verdict
from tst_titan.compare.spec import ComparisonSpec, Heading

_MANY_RUNS = 24
_POINTS_FEW, _POINTS_MANY = 1000, 100


def compare(spec: ComparisonSpec) -> Results:
    """Read the runs of an experiment and compare them.

    Raises:
        UserError: a run's files are missing or malformed, do not continue each other, or were made with
            another config than the one beside them.
    """
    cache, options, kind = FileCache(), spec.options, kind_of(spec)
    runs = [load_run(run, options, cache) for run in spec.runs]
    pairs = [(other, run) for run in runs for other in references_of(run, runs, kind)]
    numbers = [number for run in runs for number in run.numbers()]
    for reference, run in pairs:
        numbers += compare_pair(reference, run, family_of(reference, runs), options, kind.with_curves)
    numbers += over_seeds(pairs, runs, kind.pairwise, options)
    numbers += kind.numbers(runs, spec)
    heading = {name: getattr(spec, name) for name in Heading.model_fields}
    facts = Facts(**heading, runs=tuple(run.facts for run in runs))
    results = Results(facts, numbers, all_curves(runs, spec))
    said = {"answer": make_answer(results, kind), "verdict": tuple(make_verdict(results, kind))}
    return Results(facts.model_copy(update=said), numbers, results.curves)


def all_curves(runs: Sequence[RunData], spec: ComparisonSpec) -> pd.DataFrame:
    """The curves of all runs below each other: training losses, smoothed and then thinned, and held-out losses."""
    points = spec.options.curve_points or (_POINTS_FEW if len(runs) <= _MANY_RUNS else _POINTS_MANY)
    parts = []
    for run in runs:
        curve = run.curve.assign(smoothed=smooth(run.curve, spec.options.smoothing_window))
        head = {"run": run.name} | {name: getattr(run.spec, name) for name in CURVE_HEAD[1:-1]}
        parts.append(thin(curve, points).assign(measured_on=TRAINING, **head))
        if run.heldout is not None:
            parts += [part.assign(measured_on=HELDOUT, **head) for part in _heldout_lines(run.heldout)]
    together = pd.concat(parts, ignore_index=True).drop(columns=["windows", "bag_loss"], errors="ignore")
    return together[[*CURVE_HEAD, *(name for name in together.columns if name not in CURVE_HEAD)]]


def _heldout_lines(curve: pd.DataFrame) -> list[pd.DataFrame]:
    """A held-out curve as next-token losses, and the bag losses of its bag phases, which compare with nothing."""
    bags = curve[curve["bag_loss"].notna()]
    lines = [curve[curve["comparable"]], bags.assign(loss=bags["bag_loss"], comparable=False)]
    return [line.assign(smoothed=line["loss"]) for line in lines if len(line)]
