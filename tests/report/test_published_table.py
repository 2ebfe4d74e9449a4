"""The paper's tables with our numbers in them, as CSV and as a page."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lxml.html
import pytest

from tests.report import experiments
from tst_titan.cli import main
from tst_titan.compare import Results, read_results
from tst_titan.paper import published_sweeps
from tst_titan.report.published_table import NOT_RUN
from tst_titan.text import GAP

TABLES = {
    "table_4": {"group": "small-short", "weighting": "uniform", "metric": "final_loss", "number": 4},
    "table_13": {"group": "small-short", "weighting": "uniform", "metric": "accuracy/piqa", "number": 13},
    "table_7": {"group": "small-short", "weighting": "power", "metric": "final_loss", "number": 7},
}
Files = dict[str, tuple[list[dict[str, str]], lxml.html.HtmlElement]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Files]:
    """The comparison of a grid whose r = 1 runs were not scored, and the files of its tables."""
    results = tmp_path_factory.mktemp("results")
    spec = experiments.grid(results, sizes=(2, 4), fractions=(0.2, 1.0), with_tasks=True)
    folder = experiments.build(results, spec | {"tables": TABLES})
    files: Files = {}
    for name in TABLES:
        paths = {kind: results / f"{name}.{kind}" for kind in ("csv", "html")}
        arguments = ["report", "table", str(folder / "comparison.json"), name]
        assert main([*arguments, "--out", str(results / name)]) == 0
        with paths["csv"].open(newline="") as file:
            files[name] = (list(csv.DictReader(file)), lxml.html.parse(paths["html"]).getroot())
    return read_results(folder), files


@pytest.mark.parametrize("name", ["table_4", "table_13", "table_7"])
def test_every_published_cell_is_there(built: Any, name: str) -> None:
    rows = {(float(row["bag_size"]), float(row["bag_fraction"])): row for row in built[1][name][0]}
    for cell in published_sweeps(table=TABLES[name]["number"]).to_dict("records"):  # type: ignore[arg-type]
        assert float(rows[cell["bag_size"], cell["bag_step_ratio"]]["published"]) == pytest.approx(
            cell["value"]
        )


@pytest.mark.parametrize(("name", "metric"), [("table_4", "final_loss"), ("table_13", "accuracy/piqa")])
def test_our_cells_are_the_comparisons_and_the_others_say_why_they_are_empty(
    built: Any, name: str, metric: str
) -> None:
    results, files = built
    ours = [row for row in files[name][0] if row["runs"]]
    assert len(ours) == 5
    for row in ours:
        run = results.run_named[row["runs"]]
        assert run.group == "small-short"
        bag_loss = row["bag_loss"] == "True"
        assert bag_loss == (metric == "final_loss" and row["bag_fraction"] == "1")
        number = results.get("run", run.name, "final_bag_loss" if bag_loss else metric)
        if number is None or not number.exists:
            assert row["value"] == "" and row["reason"]
        else:
            assert float(row["value"]) == number.value and row["sources"] == "; ".join(number.sources)
    assert {row["reason"] for row in files[name][0] if not row["runs"]} == {NOT_RUN}


def test_the_page_shows_ours_above_the_papers_and_a_dash_for_what_was_not_measured(built: Any) -> None:
    page = built[1]["table_13"][1]
    cells = {
        (row.findtext("th"), head.text): cell
        for row in page.iterfind(".//tbody/tr")
        for head, cell in zip(page.findall(".//thead/tr/th")[1:], row.iterfind("td"), strict=True)
    }
    published = cells["2", "0.2"].find("small").text
    assert published.startswith("6") and cells["2", "0.2"].text.strip() not in ("", published)
    assert "270M, 20,000 steps" in page.text_content()
    assert cells["2", "1"].text == GAP and "not among this run's evaluated tasks" in page.text_content()
    assert cells["16", "0.1"].text in (None, "") and cells["16", "0.1"].find("small").text


def test_a_table_of_runs_that_do_not_exist_holds_the_papers_alone(built: Any) -> None:
    """Table 7 wants power-law weights; the grid's runs have none but the baseline."""
    rows = built[1]["table_7"][0]
    assert [row["runs"] for row in rows if row["runs"]] == ["small-short-s1-r0"]


def test_an_unknown_table_is_refused_with_the_known_ones(tmp_path: Path, capsys: Any) -> None:
    spec = experiments.grid(tmp_path, sizes=(2,), fractions=(0.2,))
    folder = experiments.build(tmp_path, spec | {"tables": TABLES})
    out = ["--out", str(tmp_path / "x")]
    assert main(["report", "table", str(folder / "comparison.json"), "table_5", *out]) == 2
    assert "figure_4 has no table_5; it has: table_4, table_13, table_7" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
