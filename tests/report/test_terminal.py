"""What `make demo` prints at its end is what the comparison says, from the files that it left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import experiments, stages
from tests.report.conftest import PAGE, Site
from tst_titan.compare import ComparisonSpec, compare, write_comparison
from tst_titan.paper import SEVEN_TASKS
from tst_titan.report import terminal


@pytest.mark.parametrize("make", [experiments.pair, experiments.grid, experiments.seeds])
def test_saved_text_is_the_comparisons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make: object
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make(Path("results"))  # type: ignore[operator]
    comparison = compare(ComparisonSpec.from_mapping(spec))
    write_comparison(comparison, Path("compared"))
    assert terminal.main(["compared"]) == 0
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
    assert terminal.main(["compared"]) == 0
    assert capsys.readouterr().out == comparison.text() + "\n"


def test_several_comparisons_end_with_the_reports_path(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.root)
    folders = [str(site.folders[name]) for name in ("figure_3", "figure_6")]
    assert terminal.main([*folders, "--report", str(PAGE)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("Equal FLOPs, equal loss, equal data (scale cpu)") < printed.index("(scale smoke)")
    assert printed.endswith("\nReport: results/report/index.html\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results/compare/cpu/nothing"], "compare the experiment first"),
        (["--report", "results/report/none.html"], "none.html: does not exist"),
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
    assert terminal.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
