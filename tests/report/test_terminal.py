"""What `make demo` prints at its end is what the comparison says, from the files that it left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import experiments, stages
from tests.report.conftest import REPORT, Site
from tst_titan.cli import main
from tst_titan.compare import ComparisonSpec, compare, write_comparison
from tst_titan.paper import SEVEN_TASKS


@pytest.mark.parametrize("make", [experiments.pair, experiments.grid, experiments.seeds])
def test_saved_text_is_the_comparisons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make: object
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make(Path("results"))  # type: ignore[operator]
    comparison = compare(ComparisonSpec.from_mapping(spec))
    write_comparison(comparison, Path("compared"))
    assert main(["report", "answer", "compared"]) == 0
    assert capsys.readouterr().out == comparison.text() + "\n"


def test_a_run_that_lacks_nothing_has_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = experiments.pair(Path("results"))
    for run in spec["runs"][:2]:
        tasks = dict.fromkeys((*SEVEN_TASKS, "continuation", "mmlu"), 0.4)
        stages.write_tasks(Path("results"), f"pair-{run['name'][:3]}", run["stages"], tasks)
    comparison = compare(ComparisonSpec.from_mapping(spec))
    assert (comparison.table["missing"] == "").sum() == 2
    write_comparison(comparison, Path("compared"))
    assert main(["report", "answer", "compared"]) == 0
    assert capsys.readouterr().out == comparison.text() + "\n"


def test_several_comparisons_give_an_answer_and_a_page_each(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.root)
    folders = [str(site.folders[name]) for name in ("figure_3", "figure_6")]
    assert main(["report", "answer", *folders, "--report", str(REPORT)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (said,) = [line for line in lines if line.startswith("Equal FLOPs, equal loss, equal data: ")]
    results = [item["text"] for item in site.comparison("figure_3")["verdict"] if item["kind"] == "result"]
    assert said.endswith(results[0])
    assert (
        lines[1] == "  results/report/cpu/figure_3.html"
        and lines[3] == "  results/report/smoke/figure_6.html"
    )
    assert lines[-1] == "Report: results/report/index.html"


def test_one_comparison_ends_with_its_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.root)
    assert main(["report", "answer", str(site.folders["figure_3"]), "--report", str(REPORT)]) == 0
    assert capsys.readouterr().out.endswith("\n\nReport: results/report/cpu/figure_3.html\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results/compare/cpu/nothing"], "compare the experiment first"),
        (
            ["results/compare/cpu/figure_3", "--report", "elsewhere"],
            "elsewhere/cpu/figure_3.html: does not exist",
        ),
    ],
)
def test_missing_files_are_named(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(site.root)
    assert main(["report", "answer", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
