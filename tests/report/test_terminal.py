"""What `make demo` prints at its end is what the comparison says, from the files that it left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import experiments, stages
from tests.report.conftest import REPORT, Site
from tst_titan.cli import main
from tst_titan.compare import read_results
from tst_titan.paper import SEVEN_TASKS
from tst_titan.report.tables import run_table, run_text
from tst_titan.report.text import number_text


@pytest.mark.parametrize("make", [experiments.pair, experiments.grid, experiments.seeds])
def test_every_number_of_a_run_gap_and_sentence_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make: object
) -> None:
    monkeypatch.chdir(tmp_path)
    results = read_results(experiments.build(Path("results"), make(Path("results"))))  # type: ignore[operator]
    assert main(["report", "answer", f"results/compare/{results.scale}/{results.name}"]) == 0
    printed = capsys.readouterr().out
    rows = {row.name: row for row in run_table(results).rows if row.kind == "run"}
    for run in results.runs:
        line = "".join(line for line in printed.splitlines() if line.startswith(rows[run.name].head + "  "))
        assert (
            number_text(results.metrics(run.name)["final_bag_loss" if run.bag_loss_only else "final_loss"])
            in line
        )
        assert f"  {run.name}: {run.manifest}" in printed
    reasons = run_table(results).reasons
    assert bool(reasons) == (make is not experiments.pair)
    assert all(f"[{number}] {reason}" in printed for number, reason in enumerate(reasons, 1))
    means_nothing = results.facts.caveat is not None
    assert (results.facts.caveat or results.facts.answer) in printed
    for sentence in results.facts.verdict:
        assert (f"* {sentence.text}" in printed) == (not means_nothing)


def test_a_run_that_lacks_nothing_has_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = experiments.pair(Path("results"))
    for run in spec["runs"]:
        tasks = dict.fromkeys((*SEVEN_TASKS, "continuation", "mmlu"), 0.4)
        stages.write_tasks(Path("results"), f"pair-{run['name'][:3]}", run["stages"], tasks)
    assert "[1]" not in run_text(read_results(experiments.build(Path("results"), spec)))


def test_several_comparisons_give_an_answer_and_a_page_each(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.root)
    folders = [str(site.folders[name]) for name in ("figure_3", "figure_6")]
    assert main(["report", "answer", *folders, "--report", str(REPORT)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (said,) = [line for line in lines if line.startswith("Equal FLOPs, equal loss, equal data: ")]
    answer = site.comparison("figure_3").facts.answer
    assert answer and said.endswith(answer)
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
