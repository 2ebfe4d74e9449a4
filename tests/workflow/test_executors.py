"""Nothing in the rules is one scheduler's own: the demo's DAG through another executor, at smoke scale."""

import json
from pathlib import Path

import pytest

from tests.workflow.project import ProjectCopy

pytestmark = pytest.mark.slow

SUBMIT = Path(__file__).with_name("submit.sh")
# It asks every second: at the default of ten, waiting would be half of the test.
GENERIC = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(SUBMIT), "--jobs", "2"]
GENERIC += ["--seconds-between-status-checks", "1"]
# Partitions and accounts, which only Slurm understands, are no business of this executor.
GENERIC += ["--default-resources", "slurm_partition=gpu", "slurm_account=nobody"]


def test_the_demo_runs_through_a_generic_cluster(tmp_path):
    project = ProjectCopy.make(tmp_path / "project")
    corpus = project.folder / "configs/corpora/smoke.yaml"
    corpus.write_text(corpus.read_text() + "jobs: 2\n")
    done = project.run(*GENERIC, "--latency-wait", "10", "--retries", "0")
    text = done.stdout + done.stderr
    assert text.count("with external jobid") == 26
    assert (project.folder / "results/report/index.html").is_file()
    # Progress reaches this terminal although the jobs print elsewhere.
    assert "smoke-small token-18  " in text
    stage = project.folder / "results/train/smoke-small/bag2-5"
    assert json.loads((stage / "manifest.json").read_text())["end_step"] == 5
    assert "step 5/5" in (stage / "logs/train.log").read_text()
