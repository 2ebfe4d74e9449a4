"""Kinds of experiments, one file each: which runs it compares, its arithmetic, its sentences and its drawings.

A new kind is a file of this folder with ``KIND`` in it, and its name in ``Kind`` of tst_titan/config/experiment.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tst_titan.errors import UserError

if TYPE_CHECKING:
    from tst_titan.compare.drawing import Panel
    from tst_titan.compare.numbers import Number
    from tst_titan.compare.results import Results, Sentence
    from tst_titan.compare.runs import RunData
    from tst_titan.compare.spec import ComparisonSpec


class Kind:
    """What sets one kind of experiment apart; by default every run is compared with the baselines of its group.

    Attributes:
        needs: axes that every run but a baseline must name.
        matched: axes that every run must name, and on which two runs must agree to be compared.
        pairwise: whether its answer is what the pairs say: each in sentences, the final losses in a figure.
        draws_metrics: whether its own figures show every metric, so that accuracies need none of their own.
        with_curves: whether pairs are also compared inside their curves; costly for hundreds of pairs.
    """

    needs: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    pairwise = False
    draws_metrics = False
    with_curves = True

    def candidates(self, run: RunData, group: Sequence[RunData]) -> list[RunData]:
        """The runs that ``run`` is compared with, of ``group``: those of its group and model, in order."""
        return [] if run.spec.is_baseline else [other for other in group if other.spec.is_baseline]

    def numbers(self, runs: Sequence[RunData], spec: ComparisonSpec) -> Iterator[Number]:
        """Numbers of this kind alone, besides those of runs, pairs and seeds."""
        yield from ()

    def sentences(self, results: Results) -> Iterator[Sentence]:
        """What these numbers say."""
        yield from ()

    def answer(self, results: Results) -> str:
        """The experiment's question answered in a sentence or two, where it is not pairwise; "" without numbers."""
        return next((sentence.text for sentence in self.sentences(results) if sentence.kind == "result"), "")

    def reproduction(self, results: Results) -> Iterator[str] | None:
        """Whether the paper's version comes out; None where the pairs say so."""
        return None

    def draw(self, results: Results, folder: Path) -> list[Panel]:
        """Figures of these numbers; matplotlib is imported in here."""
        return []


class Pairwise(Kind):
    """A kind whose answer is what the pairs say."""

    pairwise = True


def kind_named(name: str) -> Kind:
    """A kind by its name."""
    kind: Kind = importlib.import_module(f"tst_titan.compare.kinds.{name}").KIND
    return kind


def kind_of(spec: ComparisonSpec) -> Kind:
    """The kind of a comparison.

    Raises:
        UserError: a run lacks an axis that the kind needs.
    """
    kind = kind_named(spec.kind)
    for run in spec.runs:
        for axis in kind.matched if run.is_baseline else kind.needs:
            if axis not in run.axes:
                raise UserError(
                    f"{spec.experiment}: runs: '{run.name}' lacks axes.{axis}, which kind '{spec.kind}' needs; "
                    f"it has: {', '.join(run.axes) or 'none'}"
                )
    return kind
