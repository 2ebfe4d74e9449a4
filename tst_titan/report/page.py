"""Write the report, one self-contained HTML page: ``python -m tst_titan.report.page --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import write_atomically
from tst_titan.paper import SOURCE
from tst_titan.report.chart_data import as_script, chart_data
from tst_titan.report.draw_curves import curve_note
from tst_titan.report.provenance import data_section, provenance_of
from tst_titan.report.read import Experiment, read_experiment, read_figures, relative_link
from tst_titan.report.svg import inline_svg
from tst_titan.report.tables import grid_tables, pair_table, run_table
from tst_titan.report.text import metric_name

_HERE = Path(__file__).parent
_TAGS = {
    "caveat": "Caveat",
    "result": "Result",
    "reproduction": "The paper",
    "noise": "Noise",
    "warning": "Beware",
    "gap": "Gap",
}
_FIRST_SENTENCES = {"result": 4, "noise": 2, "reproduction": 3, "warning": 3, "gap": 2}
_FIRST_FIGURES = 2
_LONG_TABLE = 24
_MANY_RUNS = 24


@dataclass(frozen=True)
class Sources:
    """What a page is made of.

    Attributes:
        experiments: compare folder and figures folder of every experiment, in the order of the page.
        corpus_statistics: file with numbers and figures folder of figures that need no training.
        data_manifests: manifests of the corpora.
        project: the project's config file, shown as it is.
        command: what makes the page again; by default Snakemake's target for it.
        tables: folder of the paper's tables by scale; the page links to those of its experiments.
    """

    experiments: Sequence[tuple[Path, Path]]
    corpus_statistics: Sequence[tuple[Path, Path]] = ()
    data_manifests: Sequence[Path] = ()
    project: Path | None = None
    command: str | None = None
    tables: Path | None = None


def write_page(sources: Sources, out: Path) -> None:
    """Render the page; the same sources give the same bytes.

    Raises:
        UserError: a source is missing or malformed, or two experiments have one name at one scale.
    """
    write_atomically(out, render_page(sources, out))


def render_page(sources: Sources, out: Path) -> str:
    """The page's HTML, with links relative to ``out``."""
    experiments = [(read_experiment(compare), figures) for compare, figures in sources.experiments]
    ids = [_id(experiment) for experiment, _ in experiments]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise UserError(f"--experiment: {twice[0]} is given twice; every experiment may appear once")
    scales = list(dict.fromkeys(experiment.scale for experiment, _ in experiments))
    names = " ".join(experiment.name for experiment, _ in experiments)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals["link"] = partial(relative_link, page=out)
    return environment.get_template("index.html").render(
        css=Markup(_HERE.joinpath("page.css").read_text(encoding="utf-8")),
        js=Markup(_HERE.joinpath("chart.js").read_text(encoding="utf-8")),
        paper=SOURCE,
        scales=scales,
        several_scales=len(scales) > 1,
        experiments=[
            _experiment(experiment, figures, out) | {"tables": _tables(experiment, sources.tables, out)}
            for experiment, figures in experiments
        ],
        corpus_statistics=[_statistics(file, folder, out) for file, folder in sources.corpus_statistics],
        data=[data_section(path) for path in sources.data_manifests],
        provenance=provenance_of([experiment for experiment, _ in experiments]),
        project=_project(sources.project),
        command=sources.command or f"snakemake {names} --config scale={scales[0] if scales else 'cpu'}",
    )


def _experiment(experiment: Experiment, folder: Path, out: Path) -> dict[str, Any]:
    """What the template needs for one experiment."""
    figures = read_figures(folder)
    if (figures["experiment"], figures["scale"]) != (experiment.name, experiment.scale):
        raise UserError(
            f"{folder}/figures.json: holds the figures of {figures['experiment']} at scale "
            f"{figures['scale']}, but {experiment.folder} is {experiment.name} at scale {experiment.scale}"
        )
    name = _id(experiment)
    panels = [_panel(panel, folder, f"{name}-{panel['name']}", out) for panel in figures["panels"]]
    results = [panel for panel in panels if panel["role"] == "result"]
    curves = [panel for panel in panels if panel["role"] == "curves"]
    verdict = [
        (sentence.kind, _TAGS[sentence.kind], sentence.text)
        for sentence in experiment.facts.verdict
        if sentence.kind != "caveat"
    ]
    first, more = _first_of_each_kind(verdict)
    table = run_table(experiment)
    grids = grid_tables(experiment)
    file = partial(_file_link, experiment, out)
    return {
        "id": name,
        "name": experiment.name,
        "scale": experiment.scale,
        "title": experiment.title,
        "caveat": experiment.facts.caveat,
        "paper": (experiment.facts.paper or "").replace("_", " "),
        "first": next((text for kind, _, text in verdict if kind == "result"), ""),
        "verdict": first,
        "more_verdict": more,
        "results": results[:_FIRST_FIGURES],
        "more_results": results[_FIRST_FIGURES:],
        "curves": curves,
        "inlined_curves": curves if len(experiment.runs) <= _MANY_RUNS else curves[:1],
        "curves_caption": curve_note(experiment),
        "chart": as_script(chart_data(experiment)),
        "run_count": len(experiment.runs),
        "long": len(table.rows) > _LONG_TABLE,
        "table": table,
        "pairs": pair_table(experiment),
        "grids": grids,
        "first_grids": sum(grid["metric"] == grids[0]["metric"] for grid in grids),
        "confidence": f"{experiment.facts.options.confidence:.0%}",
        "table_csv": file("table.csv"),
        "curves_csv": file("curves.csv"),
        "comparison": file("comparison.json"),
        "provenance": provenance_of([experiment]),
        "command": f"snakemake {experiment.name} --config scale={experiment.scale}",
    }


def _tables(experiment: Experiment, folder: Path | None, out: Path) -> list[dict[str, str]]:
    """The paper's tables that are read from an experiment, with links to their files."""
    if folder is None:
        return []
    return [
        {
            "title": f"{name.replace('_', ' ')}, {metric_name(table.metric).lower()}, {table.group}",
            **{
                kind: relative_link(folder / experiment.scale / f"{name}.{kind}", out)
                for kind in ("html", "csv")
            },
        }
        for name, table in experiment.facts.tables.items()
    ]


def _first_of_each_kind(
    verdict: Sequence[tuple[str, str, str]],
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The sentences that stand at the top, a few of every kind, and the rest."""
    first: list[tuple[str, str, str]] = []
    rest: list[tuple[str, str, str]] = []
    for sentence in verdict:
        before = sum(other[0] == sentence[0] for other in first)
        (first if before < _FIRST_SENTENCES[sentence[0]] else rest).append(sentence)
    return first, rest


def _statistics(file: Path, folder: Path, out: Path) -> dict[str, Any]:
    """What the template needs for a figure of the corpus alone."""
    figures = read_figures(folder)
    panels = [_panel(panel, folder, f"corpus-{panel['name']}", out) for panel in figures["panels"]]
    return {
        "id": f"corpus-{panels[0]['name']}",
        "name": figures["experiment"],
        "title": panels[0]["title"],
        "panels": panels,
        "source": file.as_posix(),
        "source_link": relative_link(file, out),
    }


def _panel(panel: dict[str, Any], folder: Path, prefix: str, out: Path) -> dict[str, Any]:
    """One figure, inlined, with links to its files."""
    links = [
        (kind.upper(), relative_link(folder / panel[kind], out))
        for kind in ("svg", "pdf", "csv")
        if panel[kind] is not None
    ]
    image = inline_svg(folder / panel["svg"], prefix, panel["alt"])
    short = panel["title"].removeprefix("Loss ")
    return {**panel, "image": image, "links": links, "short": short}


def _file_link(experiment: Experiment, out: Path, name: str) -> str:
    return relative_link(experiment.folder / name, out)


def _id(experiment: Experiment) -> str:
    return f"{experiment.scale}-{experiment.name}"


def _project(path: Path | None) -> dict[str, str] | None:
    """The project's config, as it is."""
    if path is None:
        return None
    try:
        return {"path": path.as_posix(), "text": path.read_text(encoding="utf-8")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _pair(text: str) -> tuple[Path, Path]:
    """``a:b`` as two paths."""
    first, separator, second = text.partition(":")
    if not (first and separator and second):
        raise argparse.ArgumentTypeError(f"expected two paths joined by a colon, found {text!r}")
    return Path(first), Path(second)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(description="Write the report as one self-contained HTML page.")
    parser.add_argument("--out", type=Path, required=True, help="the page, e.g. results/report/index.html")
    parser.add_argument(
        "--experiment", type=_pair, action="append", default=[], metavar="COMPARE:FIGURES",
        help="compare folder and figures folder of an experiment; repeat",
    )  # fmt: skip
    parser.add_argument(
        "--corpus-statistics", type=_pair, action="append", default=[], metavar="JSON:FIGURES",
        help="mutual-information file and its figures folder; repeat",
    )  # fmt: skip
    parser.add_argument("--data-manifest", type=Path, action="append", default=[], help="of a corpus; repeat")
    parser.add_argument("--tables", type=Path, help="folder of the paper's tables by scale, to link to")
    parser.add_argument("--project", type=Path, help="the project's config file, shown as it is")
    parser.add_argument("--command", help="what makes this page again, shown under provenance")
    arguments = parser.parse_args(argv)
    sources = Sources(
        experiments=arguments.experiment,
        corpus_statistics=arguments.corpus_statistics,
        data_manifests=arguments.data_manifest,
        project=arguments.project,
        command=arguments.command,
        tables=arguments.tables,
    )
    try:
        write_page(sources, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
