"""`make results`: keeps what is finished, holds it against the paper, refuses results of other configs."""

import subprocess
import sys

import pytest

from tests.workflow.project import ProjectCopy

pytestmark = pytest.mark.slow

CONFIG = "scale: smoke\nexperiments: [figure_3a, figure_6]\n"


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = ProjectCopy.make(tmp_path_factory.mktemp("project"))
    (project.folder / "configs/results.yaml").write_text(CONFIG)
    finished.give(project, *(path.name for path in finished.results.iterdir() if path.is_dir()))
    return project


def tst_titan(project, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", *arguments],
        cwd=project.folder, env=project.environment(), capture_output=True, text=True,
    )  # fmt: skip


def test_a_finished_experiment_is_kept_whole_and_the_index_names_what_is_not_run(project):
    metrics = project.folder / "results/train/smoke-small/token-18/metrics.jsonl"
    trained = metrics.stat().st_mtime
    asked = tst_titan(project, "results", "figure_3a", "--plan")
    assert asked.returncode == 0 and "figure_3a" in asked.stdout
    assert not (project.folder / "docs").exists()

    done = tst_titan(project, "results", "figure_3a")
    assert done.returncode == 0, done.stderr
    assert metrics.stat().st_mtime == trained
    kept = project.folder / "docs/results/smoke/figure_3a"
    for name in ("comparison.json", "table.csv", "curves.csv"):
        assert (kept / name).read_bytes() == (
            project.folder / "results/compare/smoke/figure_3a" / name
        ).read_bytes()
    page = (kept / "README.md").read_text()
    assert page.startswith("# Equal FLOPs (scale smoke)") and "mean nothing" in page
    assert all(f"]({path.name})" in page for path in kept.glob("*.svg"))
    index = (project.folder / "docs/results/README.md").read_text()
    assert (
        "| [figure 3a](smoke/figure_3a/README.md) | TST ends 0.132 nats below the baseline (3B) | Scale smoke"
        in index
    )
    assert "| cannot be told |" in index and "Not run yet: figure 6." in index


def test_results_of_another_config_are_refused_by_name_until_they_are_made_again(project):
    project.edit("configs/scales/smoke.yaml", "learning_rate: ", "learning_rate: 1")
    refused = tst_titan(project, "results", "figure_6", "--plan")
    project.restore("configs/scales/smoke.yaml")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "docs/results/smoke/figure_3a: was made from other configs: stage smoke-small/" in refused.stderr
    assert "tst-titan results figure_3a" in refused.stderr
    assert tst_titan(project, "results", "figure_6", "--plan").returncode == 0

    (project.folder / "configs/results.yaml").write_text("scale: smoke\nexperiments: [figure_6]\n")
    refused = tst_titan(project, "results", "--plan")
    (project.folder / "configs/results.yaml").write_text(CONFIG)
    assert refused.returncode == 2 and "asks for no experiment figure_3a" in refused.stderr


def test_a_claim_about_a_run_that_is_not_there_is_refused(project):
    project.edit("configs/experiments/figure_3a.yaml", "{tst: baseline}", "{tts: baseline}")
    refused = tst_titan(project, "results", "--plan")
    project.restore("configs/experiments/figure_3a.yaml")
    assert refused.returncode == 2 and "'tts' is no run of this experiment: baseline, tst" in refused.stderr
