"""Comparison of runs: curves, equal-FLOPs, equal-data and equal-loss arithmetic, one table, and what it says.

``compare`` reads a run's files and makes ``Results``: a row a number (table.csv), the facts (comparison.json) and the
curves. Everything that a kind of experiment adds is in its file of ``kinds``. See docs/comparison.md.
"""

from tst_titan.compare.comparison import compare
from tst_titan.compare.results import Results, read_results, write_results
from tst_titan.compare.spec import ComparisonSpec, load_spec

__all__ = ["ComparisonSpec", "Results", "compare", "load_spec", "read_results", "write_results"]
