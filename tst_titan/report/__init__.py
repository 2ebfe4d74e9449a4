"""Figures, the HTML page and the terminal's summary of what tst_titan.compare computed.

Nothing here computes a result: every number is one of comparison.json, table.csv, curves.csv, a manifest, or
the paper's tables, drawn or written out as it is. See docs/report.md.
"""
