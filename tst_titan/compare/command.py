"""``tst-titan compare``: the runs of an experiment."""

from __future__ import annotations

import argparse
from pathlib import Path

from tst_titan.compare import compare, load_spec, write_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan compare``."""
    parser.add_argument("spec", type=Path, help="spec.yaml: the runs and their files")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of comparison.json, table.csv, curves.csv"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write comparison.json, table.csv and curves.csv, and print the verdict."""
    results = compare(load_spec(arguments.spec))
    write_results(results, arguments.out)
    print("\n".join([results.title, *(f"* {sentence.text}" for sentence in results.facts.verdict)]))
    return 0
