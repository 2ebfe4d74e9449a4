"""Print the comparisons and where the report is: ``python -m tst_titan.report.terminal --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.report.read import Experiment, read_experiment
from tst_titan.report.tables import run_text


def experiment_text(experiment: Experiment) -> str:
    """The table of runs and the verdict of a comparison."""
    lines = [f"{experiment.title} (scale {experiment.scale})", "", run_text(experiment), ""]
    return "\n".join(lines + [f"* {sentence.text}" for sentence in experiment.facts.verdict])


def summary(folders: Sequence[Path], report: Path | None) -> str:
    """All comparisons, and the report's path if there is one.

    Raises:
        UserError: a comparison cannot be read, or the report does not exist.
    """
    parts = [experiment_text(read_experiment(folder)) for folder in folders]
    if report is not None:
        if not report.is_file():
            raise UserError(f"{report}: does not exist; make the report first")
        parts.append(f"Report: {report.as_posix()}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(description="Print comparisons and where the report is.")
    parser.add_argument(
        "folders", type=Path, nargs="*", help="compare folders, results/compare/<scale>/<experiment>"
    )
    parser.add_argument("--report", type=Path, help="the page, results/report/index.html")
    arguments = parser.parse_args(argv)
    try:
        print(summary(arguments.folders, arguments.report))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
