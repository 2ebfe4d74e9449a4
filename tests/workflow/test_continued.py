"""Continued pretraining from a finished run's export, beside a run of another trainer: real calls of Snakemake."""

import json

import pytest

from tests.compare.test_elsewhere import write_elsewhere
from tests.workflow.project import ProjectCopy
from tst_titan.compare import read_results

pytestmark = pytest.mark.slow

EXPERIMENT = "configs/experiments/continued.yaml"
START = "results/start/figure_3a.baseline"


def test_runs_go_on_from_an_export_that_is_there_and_one_made_elsewhere_stands_beside_them(
    finished, tmp_path
):
    project = ProjectCopy.make(tmp_path / "project")
    finished.give(project, "data", "train", "export", "evaluate")
    baseline = next(project.folder.glob("results/train/smoke-small/token-18/decay-20/manifest.json"))
    parameters = json.loads(baseline.read_text())["parameters"]["total"]
    write_elsewhere(project.folder / "runs/mine", parameters={"total": parameters}, width=32)
    mine = "\n  mine: {label: my loop, made_elsewhere: runs/mine}\nevaluate: []"
    project.edit(EXPERIMENT, "bags first, bags: [{}]}", "bags first, bags: [{}]}" + mine)
    # The run that they start from is figure 3a's, finished and exported: nothing of it is done again.
    jobs = project.would_run("continued")
    assert jobs.pop("continued") == 1
    assert jobs == {"start": 1, "train": 5, "compare": 1, "figures": 1, "page": 1, "report": 1}
    project.run("continued")
    assert project.would_run("continued") == {}
    start = json.loads((project.folder / START / "manifest.json").read_text())
    root = project.folder / "results/train/smoke-small/token-18-from_figure_3a.baseline"
    assert json.loads((root / "manifest.json").read_text())["parent_identity"] == start["identity"]
    results = read_results(project.folder / "results/compare/smoke/continued")
    assert [run.label for run in results.runs] == ["tokens alone", "bags first", "my loop"]
    assert [(reference.name, run.name) for reference, run in results.pairs()] == [
        ("baseline", "tst"),
        ("baseline", "mine"),
    ]
    flops = [results.value(name, "flops") for name in ("baseline", "tst")]
    assert flops[0] == flops[1]
    page = (project.folder / "results/report/smoke/continued.html").read_text()
    assert "my loop" in page and "runs/mine/metrics.jsonl" in page and "runs/mine/stage.yaml" not in page
    # A folder that is none is told before anything runs, and so is a file that is gone.
    (project.folder / "runs/mine/metrics.jsonl").unlink()
    done = project.snakemake("-n", "continued")
    assert done.returncode and "Traceback" not in done.stdout + done.stderr
    assert "runs.mine.made_elsewhere: runs/mine/metrics.jsonl is missing" in done.stdout + done.stderr
    project.edit(EXPERIMENT, mine, "")
    project.edit(EXPERIMENT, "{run: figure_3a/baseline}", "models/nowhere")
    done = project.snakemake("-n", "continued")
    assert done.returncode and "Traceback" not in done.stdout + done.stderr
    assert "key tokenizer.kind: found 'train'" in done.stdout + done.stderr
