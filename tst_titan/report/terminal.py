"""What a target prints at its end: the answer, from the files that the comparison wrote, and where the pages are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tst_titan.compare.results import Results, read_results
from tst_titan.errors import UserError
from tst_titan.report.tables import run_text
from tst_titan.report.text import evidence


def experiment_text(experiment: Results) -> str:
    """The question, its answer, the table of runs and, where numbers mean something, the sentences about them."""
    facts = experiment.facts
    lines = [
        f"{experiment.title} (scale {experiment.scale})",
        facts.question,
        facts.caveat or facts.answer,
        "",
    ]
    lines += [run_text(experiment), ""]
    said = [] if facts.caveat else [f"* {sentence.text}" for sentence in evidence(facts)]
    return "\n".join([*lines, *said])


def summary(folders: Sequence[Path], report: Path | None) -> str:
    """One comparison in full, or the answer of each of several; and the pages of those in ``report``.

    Raises:
        UserError: a comparison cannot be read, or a page does not exist.
    """
    alone = len(folders) == 1
    parts = []
    for experiment in map(read_results, folders):
        said = (
            experiment_text(experiment)
            if alone
            else f"{experiment.title}: {experiment.facts.caveat or experiment.facts.answer}"
        )
        if report is not None:
            page = report / experiment.scale / f"{experiment.name}.html"
            if not page.is_file():
                raise UserError(f"{page}: does not exist; make the report first")
            said += f"\n\nReport: {page.as_posix()}" if alone else f"\n  {page.as_posix()}"
        parts.append(said)
    if report is not None and not alone:
        parts.append(f"Report: {(report / 'index.html').as_posix()}")
    return "\n".join(parts)
