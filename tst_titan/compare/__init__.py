"""Comparison of runs: curves, equal-FLOPs, equal-data and equal-loss arithmetic, tables and verdicts.

Pure functions over files and data frames; nothing here draws, trains or knows the workflow. See
docs/comparison.md for what each number means.
"""

from tst_titan.compare.comparison import Comparison, compare, write_comparison
from tst_titan.compare.spec import ComparisonSpec, Options, PublishedCell, RunSpec, load_spec

__all__ = [
    "Comparison",
    "ComparisonSpec",
    "Options",
    "PublishedCell",
    "RunSpec",
    "compare",
    "load_spec",
    "write_comparison",
]
