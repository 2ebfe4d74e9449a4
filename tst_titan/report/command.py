"""``tst-titan report``: draw figures, write pages and tables, and print the answer."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Subcommands of ``tst-titan report``; the parsed options carry ``run``."""
    commands = parser.add_subparsers(required=True, metavar="PART")

    figures = commands.add_parser("figures", help="draw an experiment's figures as SVG and PDF")
    figures.set_defaults(run=_figures)
    figures.add_argument("source", type=Path, help="comparison.json, or a corpus's mutual_information.json")
    figures.add_argument("--out", type=Path, required=True, help="folder for the figures and figures.json")
    figures.add_argument(
        "--token-phase-only", action="store_true", help="leave bag phases out of loss curves"
    )
    figures.add_argument("--experiment", help="whose figures a corpus's are")
    figures.add_argument("--scale", help="the same")

    table = commands.add_parser("table", help="write one of the paper's tables, our numbers beside its own")
    table.set_defaults(run=_table)
    table.add_argument("comparison", type=Path, help="comparison.json of the experiment that it is read from")
    table.add_argument("table", help="its name, e.g. table_4")
    table.add_argument(
        "--out", type=Path, required=True, help="path without suffix: .csv and .html are written"
    )

    page = commands.add_parser("page", help="write an experiment's page")
    page.set_defaults(run=_page)
    page.add_argument("figures", type=Path, help="its figures folder, results/figures/<scale>/<experiment>")
    page.add_argument("--out", type=Path, required=True, help="results/report/<scale>/<experiment>.html")
    page.add_argument(
        "--data", type=Path, nargs="*", default=[], help="manifests of the corpora that it read"
    )
    page.add_argument("--tables", type=Path, help="folder of the paper's tables by scale, to link to")
    page.add_argument("--project", type=Path, help="the project's config file, shown as it is")

    index = commands.add_parser("index", help="write the index over all pages that there are")
    index.set_defaults(run=_index)
    index.add_argument("pages", type=Path, nargs="*", help="pages that must be among them")
    index.add_argument("--figures", type=Path, required=True, help="folder of all figures, results/figures")
    index.add_argument("--out", type=Path, required=True, help="results/report/index.html")

    show = commands.add_parser("answer", help="print what experiments found and where their pages are")
    show.set_defaults(run=_answer)
    show.add_argument(
        "folders", type=Path, nargs="+", help="compare folders, results/compare/<scale>/<experiment>"
    )
    show.add_argument("--report", type=Path, help="folder of the pages, results/report")


def _figures(arguments: argparse.Namespace) -> int:
    from tst_titan.report import figures

    made = figures.draw(
        arguments.source, arguments.out, arguments.token_phase_only, arguments.experiment, arguments.scale
    )
    print(f"{arguments.out}: {len(made)} figures ({', '.join(panel.name for panel in made)})")
    return 0


def _table(arguments: argparse.Namespace) -> int:
    from tst_titan.compare.results import read_results
    from tst_titan.files import write_atomically
    from tst_titan.report import published_table

    experiment, page = read_results(arguments.comparison), arguments.out.with_suffix(".html")
    cells = published_table.entries(experiment, arguments.table)
    html = published_table.as_html(experiment, arguments.table, cells, page)
    write_atomically(arguments.out.with_suffix(".csv"), published_table.as_csv(cells))
    write_atomically(page, html)
    return 0


def _page(arguments: argparse.Namespace) -> int:
    from tst_titan.report.page import write_page

    write_page(arguments.figures, arguments.out, arguments.data, arguments.tables, arguments.project)
    print(arguments.out)
    return 0


def _index(arguments: argparse.Namespace) -> int:
    from tst_titan.report.page import write_index

    write_index(arguments.pages, arguments.figures, arguments.out)
    print(arguments.out)
    return 0


def _answer(arguments: argparse.Namespace) -> int:
    from tst_titan.report import terminal

    print(terminal.summary(arguments.folders, arguments.report))
    return 0
