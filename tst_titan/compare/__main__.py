"""Compare the runs of an experiment: ``python -m tst_titan.compare --spec spec.yaml --out FOLDER``."""

import argparse
import sys
from pathlib import Path

from tst_titan.compare import compare, load_spec, write_results
from tst_titan.errors import EXIT_USER_ERROR, UserError


def main() -> int:
    """Write comparison.json, table.csv and curves.csv, and print the verdict."""
    parser = argparse.ArgumentParser(description="Compare the runs of an experiment.")
    parser.add_argument("--spec", type=Path, required=True, help="runs and their files, YAML")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of comparison.json, table.csv, curves.csv"
    )
    arguments = parser.parse_args()
    try:
        results = compare(load_spec(arguments.spec))
        write_results(results, arguments.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    print("\n".join([results.title, *(f"* {sentence.text}" for sentence in results.facts.verdict)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
