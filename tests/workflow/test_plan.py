"""`snakemake plan` prints and makes nothing."""

import pytest

from tests.workflow.project import ProjectCopy

pytestmark = pytest.mark.slow


def test_planning_an_experiment_neither_renders_nor_trains_it(tmp_path):
    project = ProjectCopy.make(tmp_path)
    done = project.run("plan", "patch_level", config=("scale=paper", "plan={mfu: 0.25, peak_tflops: 312}"))
    assert "25% (MFU) of 312 TFLOP/s" in done.stdout
    assert "patch_level" in done.stdout and "figure_3a" not in done.stdout
    assert not (tmp_path / "results").exists()
