"""The page says what comparison.json says, names the paper's numbers as such, and every link leads somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import lxml.html
import pandas as pd
import pytest

from tests.report.conftest import HOSTILE, REPORT, Site, figures_folder, page_arguments
from tst_titan.cli import main
from tst_titan.compare.kinds.grid import BAG_LOSS, grids_of
from tst_titan.compare.kinds.grid import cells_of as cells_of_grid
from tst_titan.data.manifest import load_manifest
from tst_titan.report import page
from tst_titan.report.text import number_text, signed_text
from tst_titan.text import GAP

ALL = ["figure_3", "figure_4", "figure_1", "figure_6"]


def rows_of(site: Site, experiment: str, kind: str) -> dict[str, Any]:
    """Rows of the table of runs by the run's name."""
    table = site.document(experiment).get_element_by_id("runs")
    return {row.get("data-run"): row for row in table.iterfind(".//tbody/tr") if row.get("data-kind") == kind}


def cells_of(row: Any) -> dict[str, Any]:
    """Cells of a row by metric."""
    return {cell.get("data-metric"): cell for cell in row.iterfind("td")}


@pytest.mark.parametrize("experiment", ALL)
def test_every_cell_of_the_table_is_the_comparisons_number(site: Site, experiment: str) -> None:
    comparison = site.comparison(experiment)
    rows = rows_of(site, experiment, "run")
    assert list(rows) == [run.name for run in comparison.runs]
    checked = 0
    for run in comparison.runs:
        cells = cells_of(rows[run.name])
        for metric, cell in cells.items():
            number = comparison.get("run", run.name, metric)
            if metric == "bag_size":
                assert cell.text == (" → ".join(str(size) for size in run.bag_sizes) or "1")
            elif number is not None and number.exists:
                assert json.loads(cell.get("data-value")) == number.value
                assert cell.text == number_text(number)
                assert repr(number.value) in cell.get("title")
                assert all(source in cell.get("title") for source in number.sources)
                checked += 1
        assert {"steps", "bag_steps", "latents", "data_tokens", "flops", "hours", "final_loss"} <= set(cells)
        assert run.manifest in rows[run.name].find("th").text_content()
    assert checked >= 7 * len(comparison.runs)


def test_unit_texts_are_the_rounded_values(site: Site) -> None:
    """The formatting itself, against numbers worked out by hand."""
    row = cells_of(rows_of(site, "figure_3", "run")["tst"])
    loss = site.comparison("figure_3").metrics("tst")["final_loss"]
    assert row["steps"].text == "1,000"
    assert row["bag_steps"].text == "300"
    # 300 steps of 4096 latents with 6 tokens each, then 700 of one: 10,240,000 tokens.
    assert row["data_tokens"].text == "10.2M"
    assert row["flops"].text == "6.14 × 10¹²"
    assert row["hours"].text == "50.0 s"
    assert row["final_loss"].text == f"{loss.number:.4f}"
    assert f"± {loss.stderr:.4f}" in row["final_loss"].text_content()


def test_published_rows_hold_the_papers_numbers_and_name_it(site: Site) -> None:
    rows = rows_of(site, "figure_3", "published")
    assert set(rows) == {"tst", "baseline", "baseline-1.8x"}
    head = rows["tst"].find("th").text_content()
    assert "the paper's" in head and "arXiv 2605.06546, tables 1 and 3" in head
    cells = cells_of(rows["tst"])
    assert cells["final_loss"].text == "2.6760"
    assert json.loads(cells_of(rows["baseline"])["final_loss"].get("data-value")) == 2.808
    assert cells["hours"].text.endswith("B200-h")
    assert cells["heldout_nats_per_token"].text is None


@pytest.mark.parametrize("experiment", ALL)
def test_gaps_are_visible_with_their_reason(site: Site, experiment: str) -> None:
    document = site.document(experiment)
    comparison = site.comparison(experiment)
    for run in comparison.runs:
        for metric, cell in cells_of(rows_of(site, experiment, "run")[run.name]).items():
            number = comparison.get("run", run.name, metric)
            if number is None or number.exists:
                continue
            assert cell.text == GAP
            target = cell.find("sup/a").get("href").removeprefix("#")
            assert document.get_element_by_id(target).text_content() == number.reason


def test_the_answer_comes_first_and_the_verdict_is_complete(site: Site) -> None:
    for experiment in ALL:
        document = site.document(experiment)
        said = [item for part in document.find_class("verdict") for item in part.iterfind("li")]
        texts = [item.text_content().removeprefix(item.find("span").text_content()) for item in said]
        wanted = [s.text for s in site.comparison(experiment).facts.verdict if s.kind != "caveat"]
        assert sorted(texts) == sorted(wanted)
        whole = document.text_content()
        assert whole.index(wanted[0]) < whole.index("Loss curves")
        for answer in document.find_class("answer"):
            assert answer.text_content() == site.comparison(experiment).facts.answer
            assert whole.index(answer.text_content()) < min(map(whole.index, wanted))


def test_caveat_stands_above_everything_where_the_scale_means_nothing(site: Site) -> None:
    caveat = site.comparison("figure_6").facts.caveat
    document = site.document("figure_6")
    assert document.find_class("caveat")[0].text_content() == caveat
    assert document.text_content().index(caveat) < document.text_content().index("Result")
    assert not document.find_class("answer")
    assert site.document("figure_3").find(".//main/p[@class='caveat']") is None


def test_pairs_show_differences_speedup_and_not_reached(site: Site) -> None:
    comparison = site.comparison("figure_3")
    document = site.document("figure_3")
    rows = document.get_element_by_id("pairs").findall(".//tbody/tr")
    assert len(rows) == len(comparison.pairs())
    for row, (reference, run) in zip(rows, comparison.pairs(), strict=True):
        cells = cells_of(row)
        pair = {n.metric: n for n in comparison.select("pair", run=run.name, reference=reference.name)}
        assert cells["equal_flops"].text == signed_text(pair["equal_flops.difference"])
        assert json.loads(cells["heldout"].get("data-value")) == pair["heldout.difference"].value
        assert cells["equal_loss"].text == number_text(pair["equal_loss.speedup.steps"])
        for name, words in (("flops", "FLOPs"), ("data_tokens", "data tokens"), ("hours", "hours")):
            said = f"{number_text(pair[f'equal_loss.speedup.{name}'])} in {words}"
            assert said in cells["equal_loss"].text_content()
    (moe,) = site.comparison("figure_1").select("pair", metric="equal_loss.at.steps")
    assert not moe.exists
    cell = cells_of(site.document("figure_1").get_element_by_id("pairs").find(".//tbody/tr"))
    assert cell["equal_loss"].text == "not reached"
    assert moe.note in cell["equal_loss"].get("title")


def test_grid_tables_hold_every_cell_beside_the_papers(site: Site) -> None:
    comparison = site.comparison("figure_4")
    document = site.document("figure_4")
    tables = [table for table in document.iterfind(".//table") if table.get("data-grid") == "final_loss"]
    groups = [group for group, metric in grids_of(comparison) if metric == "final_loss"]
    assert len(tables) == len(groups) == 2
    for table, group in zip(tables, groups, strict=True):
        ours, theirs, gains = (
            cells_of_grid(comparison, group, "final_loss", what) for what in ("", ".paper", ".gain")
        )
        shown = [
            (json.loads(cell.get("data-value")), cell.text_content())
            for cell in table.iterfind(".//tbody/tr/td")
        ]
        assert [value for value, _ in shown] == [cell.value for cell in ours.values()]
        for (_, text), (place, cell) in zip(shown, ours.items(), strict=True):
            assert f"paper {number_text(theirs[place])}" in text
            assert ("(bag)" in text) == (cell.note == BAG_LOSS) == (place[1] == 1)
        best = table.find_class("best")[0]
        top = max((place for place in gains if gains[place].exists), key=lambda place: gains[place].number)
        assert json.loads(best.get("data-value")) == ours[top].value


@pytest.mark.parametrize("name", [*ALL, "index"])
def test_all_links_lead_somewhere(site: Site, name: str) -> None:
    page = site.index if name == "index" else site.page(name)
    document = lxml.html.fromstring(page.read_text())
    ids = {element.get("id") for element in document.iter() if element.get("id")}
    links = [link for link in document.iterfind(".//a") if link.get("href")]
    assert len(links) > (4 if name == "index" else 30)
    for link in links:
        target = link.get("href")
        if target.startswith("#"):
            assert target[1:] in ids, target
        else:
            assert (page.parent / target).is_file(), target
    assert len(ids) == sum(1 for element in document.iter() if element.get("id")), "an id appears twice"


@pytest.mark.parametrize("name", [*ALL, "index"])
def test_nothing_is_loaded_but_plotly_beside_the_index(site: Site, name: str) -> None:
    page = site.index if name == "index" else site.page(name)
    loaded = []
    for element in lxml.html.fromstring(page.read_text()).iter():
        for attribute in ("src", "srcset", "data", "poster", "action", "{http://www.w3.org/1999/xlink}href"):
            value = element.get(attribute)
            if value is not None and not value.startswith(("data:", "#")):
                loaded.append((element.tag, attribute, value))
        if element.tag == "link":
            assert element.get("href").startswith("data:")
    assert loaded == ([] if name == "index" else [("script", "src", "../plotly.min.js")])
    assert "plotly.js v" in (site.root / REPORT / "plotly.min.js").read_text()[:200]
    text = page.read_text()
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style


def test_the_index_leads_to_every_page_with_its_answer(site: Site) -> None:
    document = lxml.html.fromstring(site.index.read_text())
    entries = {entry.find("a").get("href"): entry.text_content() for entry in document.iterfind(".//nav//li")}
    assert list(entries) == [
        "cpu/figure_1.html",
        "cpu/figure_3.html",
        "cpu/figure_4.html",
        "smoke/figure_6.html",
    ]
    for name in ("figure_1", "figure_3", "figure_4"):
        answer = site.comparison(name).facts.answer
        assert answer and answer in entries[f"cpu/{name}.html"]
    caveat = site.comparison("figure_6").facts.caveat
    assert document.find_class("caveat")[0].text_content() == caveat


def test_the_index_keeps_what_another_target_made_and_misses_no_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.root)
    out = ["--figures", "results/figures", "--out", str(REPORT / "again.html")]
    assert main(["report", "index", "results/report/cpu/figure_3.html", *out]) == 0
    assert "smoke/figure_6.html" in (REPORT / "again.html").read_text()
    (REPORT / "again.html").unlink()
    assert main(["report", "index", "results/report/cpu/figure_9.html", *out]) == 2
    assert "figure_9.html: does not exist; make the page first" in capsys.readouterr().err


def test_large_experiments_inline_one_static_curve_and_link_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(site.root)
    monkeypatch.setattr(page, "_MANY_RUNS", 4)
    for name, inlined in (("figure_3", 4), ("figure_4", 1)):
        out = tmp_path / "cpu" / f"{name}.html"
        page.write_page(figures_folder(site.folders[name]), out)
        document = lxml.html.fromstring(out.read_text())
        assert len(document.find_class("static-curves")[0].findall(".//svg")) == inlined
        links = [link.get("href") for link in document.iterfind(".//figcaption//a")]
        assert sum("/loss_" in link and link.endswith(".svg") for link in links) == 4


def test_names_cannot_break_out_of_the_page(site: Site) -> None:
    assert "<b>bold</b>" not in site.page("figure_6").read_text()
    document = site.document("figure_6")
    assert HOSTILE in document.get_element_by_id("runs").text_content()
    data = json.loads(document.get_element_by_id("curves").text_content())
    assert HOSTILE in {trace["name"] for trace in data["traces"]}


def test_data_section_is_the_manifest(site: Site) -> None:
    manifest = load_manifest(site.root / "results/data/packages/manifest.json")
    document = site.document("figure_3").get_element_by_id("data")
    shown = [
        json.loads(cell.get("data-value")) for cell in document.iterfind(".//td") if cell.get("data-value")
    ]
    documents = manifest.documents
    account = documents.sources["docstrings"]
    wanted = [account.without_text, *account.unreadable.values(), *account.not_read.values()]
    wanted += documents.read_by_source.values()
    wanted += [count for reasons in documents.dropped.values() for count in reasons.values()]
    wanted += [*documents.duplicates.values(), documents.kept]
    for split in (manifest.train, manifest.heldout):
        wanted += [split.documents, split.tokens]
    assert shown == wanted
    text = document.text_content()
    assert manifest.warnings[0] in text and manifest.train.shards[0].sha256 in text and "too_short" in text
    assert "docstrings: not_utf8" in text and "Of 400 sampled documents, 6 are not the same" in text


def test_provenance_names_commit_versions_machine_config_and_command(site: Site) -> None:
    document = site.document("figure_3").get_element_by_id("provenance")
    text = " ".join(document.text_content().split())
    for wanted in ("0123456789ab", "torchtitan 0.3.0", "2 CPU cores", "experiments: [figure_3]"):
        assert wanted in text
    assert "snakemake figure_3 --config scale=cpu" in text
    resolved = (site.root / "results/train/pair-tst/bag6-300/stage.yaml").read_text()
    assert resolved.strip() in document.text_content()
    # Runs of 50, 50, 90 and 125 s that share no stage.
    assert "5.2 min over 9 stages" in text


def test_the_same_sources_give_the_same_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.root)
    before = site.page("figure_4").read_bytes()
    assert main(page_arguments(site.folders["figure_4"])) == 0
    assert site.page("figure_4").read_bytes() == before


def test_curves_of_the_chart_are_those_of_the_file(site: Site) -> None:
    data = json.loads(site.document("figure_3").get_element_by_id("curves").text_content())
    curves = pd.read_csv(site.root / site.folders["figure_3"] / "curves.csv")
    runs = site.comparison("figure_3").run_named
    traces = {(trace["legendgroup"], trace["meta"]["kind"]): trace for trace in data["traces"]}
    assert len(traces) == len(data["traces"]) == 2 * len(runs) + 2
    for (run, kind), trace in traces.items():
        mine = curves[(curves["run"] == run) & (curves["comparable"] == (kind != "bag"))]
        if kind == "final":
            assert trace["meta"]["y"]["smoothed"] == [
                pytest.approx(site.comparison("figure_3").value(run, "final_loss"))
            ]
            mine = mine.tail(1)
        elif kind == "switch":
            assert run == "tst" and trace["meta"]["x"]["step"] == [300, 300]
            continue
        else:
            assert trace["meta"]["y"]["smoothed"] == pytest.approx(mine["smoothed"].tolist(), rel=1e-6)
            assert trace["meta"]["y"]["logged"] == pytest.approx(mine["loss"].tolist(), rel=1e-6)
        for axis in ("step", "flops", "data_tokens", "hours"):
            assert trace["meta"]["x"][axis] == pytest.approx(mine[axis].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "figures.json").unlink(), "draw the figures first"),
        (lambda root: _edit(root / "figures.json", '"scale": "cpu"', '"scale": "gpu"'), "at scale gpu, but"),
        (lambda root: _edit(root / "figures.json", '"format": 1', '"format": 9'), "format is 9"),
        (lambda root: (root / "loss_steps.svg").unlink(), "loss_steps.svg, which does not exist"),
    ],
)
def test_figures_that_do_not_belong_are_refused(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    message: str,
) -> None:
    monkeypatch.chdir(site.root)
    copy = tmp_path / "figures"
    copy.mkdir()
    for file in figures_folder(site.folders["figure_3"]).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change(copy)
    out = tmp_path / "cpu" / "figure_3.html"
    assert main(["report", "page", str(copy), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_colours_can_be_read_on_their_ground() -> None:
    """WCAG 2: 4.5 for text, 3 for the lines that a figure is read from, in light and in dark."""
    css = Path(page.__file__).with_name("page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[:2]
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
        for name in ("ink", "muted", "link"):
            assert _contrast(colours[name], colours["paper"]) >= 4.5, name
        assert _contrast(colours["warn"], colours["warn-ground"]) >= 4.5
        for name in ("base-0", "base-1", "series-0", "series-1", "series-2"):
            assert _contrast(colours[name], colours["paper"]) >= 3, name


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def _contrast(first: str, second: str) -> float:
    """Contrast ratio of two hex colours, from their relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
