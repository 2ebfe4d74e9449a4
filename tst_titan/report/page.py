"""The report: a page for every experiment, and an index over all pages that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_titan.compare.drawing import read_panels
from tst_titan.compare.metrics import metric_of
from tst_titan.compare.results import HELDOUT, Results, Sentence, read_results
from tst_titan.errors import UserError
from tst_titan.files import write_atomically, write_if_changed
from tst_titan.paper import SOURCE
from tst_titan.report import chart
from tst_titan.report.draw_curves import curve_note
from tst_titan.report.html import inline_svg, relative_link, template
from tst_titan.report.provenance import data_section, provenance_of
from tst_titan.report.tables import grid_tables, pair_table, run_table, source_table
from tst_titan.report.text import AXES, evidence

LIBRARY = "plotly.min.js"
_FIRST_SENTENCES = {"result": 4, "noise": 2, "reproduction": 3, "warning": 3, "gap": 2}
_FIRST_FIGURES = 2
_MANY_RUNS = 24


def write_page(
    figures: Path,
    out: Path,
    data: Sequence[Path] = (),
    tables: Path | None = None,
    project: Path | None = None,
) -> None:
    """Write an experiment's page, ``<report>/<scale>/<experiment>.html``, and Plotly's script into ``<report>``.

    The same sources give the same bytes.

    Args:
        figures: figures folder of the experiment; its figures.json names what they were drawn from.
        data: manifests of the corpora that the experiment read.
        tables: folder of the paper's tables by scale; the page links to those of its experiment.
        project: the project's config file, shown as it is.

    Raises:
        UserError: a source is missing or malformed.
    """
    page = _rendered(figures, out, data, tables, project)
    library = _library(out)
    library.parent.mkdir(parents=True, exist_ok=True)
    write_if_changed(library, chart.library())
    write_atomically(out, page)


def _rendered(
    folder: Path, out: Path, data: Sequence[Path], tables: Path | None, project: Path | None
) -> str:
    """The page's HTML, with links relative to ``out``."""
    figures = read_panels(folder)
    panels = [_panel(panel, folder, out) for panel in figures["panels"]]
    experiment = _drawn_from(figures)
    name, scale = figures["experiment"], figures["scale"]
    common = {
        "name": name,
        "scale": scale,
        "index": relative_link(_index(out), out),
        "data": [data_section(path) for path in data],
        "project": _project(project),
        "command": f"snakemake {name} --config scale={scale}",
    }
    if experiment is None:
        source = Path(figures["source"])
        found = {
            "title": panels[0]["title"],
            "panels": panels,
            "source": source.as_posix(),
            "provenance": None,
        }
        return template("statistics.html", out).render(common | found)
    if (name, scale) != (experiment.name, experiment.scale):
        raise UserError(
            f"{folder}/figures.json: holds the figures of {name} at scale {scale}, but "
            f"{experiment.folder} is {experiment.name} at scale {experiment.scale}"
        )
    own = _experiment(experiment, panels) | {"tables": _tables(experiment, tables)}
    library = relative_link(_library(out), out)
    return template("experiment.html", out).render(common | own, paper_source=SOURCE, library=library)


def write_index(pages: Sequence[Path], figures: Path, out: Path) -> None:
    """Write the index over the pages that there are, those of other targets among them.

    Args:
        pages: those that must be among them.
        figures: folder of all figures by scale and experiment, as ``<report>`` holds the pages.

    Raises:
        UserError: a page is missing, or what one was made of.
    """
    missing = [page for page in pages if not page.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: does not exist; make the page first")
    found = sorted(out.parent.glob("*/*.html"))
    scales: dict[str, list[dict[str, Any]]] = {}
    for page in found:
        read = read_panels(figures / page.parent.name / page.stem)
        experiment = _drawn_from(read)
        entry = {
            "page": page,
            "name": page.stem,
            "title": read["panels"][0]["title"],
            "caveat": None,
            "said": "",
        }
        if experiment is not None:
            facts = experiment.facts
            entry |= {"title": experiment.title, "caveat": facts.caveat, "said": facts.answer}
        scales.setdefault(page.parent.name, []).append(entry)
    write_atomically(out, template("index.html", out).render(scales=scales))


def _index(out: Path) -> Path:
    """The index above a page."""
    return out.parent.parent / "index.html"


def _library(out: Path) -> Path:
    """Plotly's script beside the index, one for all pages."""
    return _index(out).with_name(LIBRARY)


def _drawn_from(figures: dict[str, Any]) -> Results | None:
    """The comparison that figures were drawn from; None where they show a corpus, which needs no runs."""
    source = Path(figures["source"])
    return read_results(source) if source.name == "comparison.json" else None


def _experiment(experiment: Results, panels: list[dict[str, Any]]) -> dict[str, Any]:
    """What the template needs for one experiment."""
    facts = experiment.facts
    results = [panel for panel in panels if panel["role"] == "result"]
    curves = [panel for panel in panels if panel["role"] == "curves"]
    first, more = _first_of_each_kind([] if facts.caveat else evidence(facts))
    grids = grid_tables(experiment)
    return {
        "title": experiment.title,
        "question": facts.question,
        "answer": "" if facts.caveat else facts.answer,
        "caveat": facts.caveat,
        "paper": (facts.paper or "").replace("_", " "),
        "verdict": first,
        "more_verdict": evidence(facts) if facts.caveat else more,
        "results": results[:_FIRST_FIGURES],
        "more_results": results[_FIRST_FIGURES:],
        "curves": curves,
        "inlined_curves": curves if len(experiment.runs) <= _MANY_RUNS else curves[:1],
        "curves_caption": curve_note(experiment),
        "heldout_curves": experiment.measured_on(experiment.runs) == HELDOUT,
        "axes": AXES,
        "groups": experiment.groups,
        "chart": chart.loss_chart(experiment),
        "run_count": len(experiment.runs),
        "table": run_table(experiment),
        "pairs": pair_table(experiment),
        "sources": source_table(experiment),
        "first_grids": [grid for grid in grids if grid.metric == grids[0].metric],
        "more_grids": [grid for grid in grids if grid.metric != grids[0].metric],
        "confidence": f"{facts.options.confidence:.0%}",
        "folder": experiment.folder.as_posix(),
        "provenance": provenance_of(experiment),
    }


def _tables(experiment: Results, folder: Path | None) -> list[dict[str, str]]:
    """The paper's tables that are read from an experiment, with the path of their files without suffix."""
    if folder is None:
        return []
    return [
        {
            "title": f"{name.replace('_', ' ')}, {metric_of(table.metric).label.lower()}, {table.group}",
            "path": (folder / experiment.scale / name).as_posix(),
        }
        for name, table in experiment.facts.tables.items()
    ]


def _first_of_each_kind(verdict: Sequence[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """The sentences that stand at the top, a few of every kind, and the rest."""
    first: list[Sentence] = []
    rest: list[Sentence] = []
    seen: Counter[str] = Counter()
    for sentence in verdict:
        (first if seen[sentence.kind] < _FIRST_SENTENCES[sentence.kind] else rest).append(sentence)
        seen[sentence.kind] += 1
    return first, rest


def _panel(panel: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """One figure, inlined, with links to its files."""
    links = [
        (kind.upper(), relative_link(folder / panel[kind], out))
        for kind in ("svg", "pdf", "csv")
        if panel[kind] is not None
    ]
    return {**panel, "image": inline_svg(folder / panel["svg"], panel["name"], panel["alt"]), "links": links}


def _project(path: Path | None) -> dict[str, str] | None:
    """The project's config, as it is."""
    if path is None:
        return None
    try:
        return {"path": path.as_posix(), "text": path.read_text(encoding="utf-8")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
