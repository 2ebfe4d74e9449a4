"""Pruning and getting a pruned checkpoint back, through real calls on the smoke scale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.project import ProjectCopy

pytestmark = pytest.mark.slow

CONFIG = ("scale=smoke", "keep_checkpoints=final")
TRAIN = "results/train/smoke-small"
RUNS = ("token-18/decay-20", "bag2-5/token-18/decay-20")
TRAINED = [f"{TRAIN}/{run}/manifest.json" for run in RUNS]
EXPORTED = "results/export/smoke-small/bag2-5/token-18/decay-20/export.json"
EXPERIMENT = "configs/experiments/figure_3a.yaml"


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = ProjectCopy.make(tmp_path_factory.mktemp("project"))
    finished.give(project, "data", "train")
    assert project.would_run(*TRAINED, config=CONFIG) == {}
    return project


def checkpoints(project) -> set[str]:
    """Stages that have a whole checkpoint."""
    found = (project.folder / TRAIN).glob("**/.metadata")
    return {str(path.parents[3].relative_to(project.folder / TRAIN)) for path in found}


def test_pruning_a_finished_run_and_getting_a_checkpoint_back(project):
    everything = checkpoints(project)
    assert len(everything) == 5
    dry = project.run("-n", "prune", config=CONFIG)
    assert "would remove" in dry.stdout + dry.stderr and checkpoints(project) == everything

    done = project.run("prune", config=CONFIG)
    assert "removed" in done.stdout and checkpoints(project) == set(RUNS)
    assert project.would_run(*TRAINED, config=CONFIG) == {}
    project.run(EXPORTED, config=CONFIG)

    project.edit(EXPERIMENT, "bags: [{}]", "bags: [{}]\n    decay_times: 2.0")
    longer = f"{TRAIN}/bag2-5/token-18/decay-22/manifest.json"
    refused = project.snakemake("-n", longer, config=CONFIG)
    text = refused.stdout + refused.stderr
    assert refused.returncode and "was pruned on" in text and "tst-titan restore" in text
    assert "Traceback" not in text

    manifests = [project.folder / TRAIN / name / "manifest.json" for name in ("bag2-5", "bag2-5/token-18")]
    before = [(path.read_bytes(), path.stat().st_mtime) for path in manifests]
    lines = manifests[1].with_name("metrics.jsonl").read_text()
    tst_titan(project, "restore", f"{TRAIN}/bag2-5/token-18")
    assert [(path.read_bytes(), path.stat().st_mtime) for path in manifests] == before
    assert manifests[1].with_name("metrics.jsonl").read_text() == lines
    assert checkpoints(project) == {*RUNS, "bag2-5", "bag2-5/token-18"}

    assert project.would_run(longer, *TRAINED, config=CONFIG) == {"train": 1}
    project.run(longer, config=CONFIG)
    project.run("prune", config=CONFIG)
    assert checkpoints(project) == {*RUNS, "bag2-5/token-18/decay-22"}


def test_a_stage_whose_data_changed_is_not_restored(project):
    data = project.folder / "results/data/smoke/manifest.json"
    text = data.read_text()
    times = (data.stat().st_atime, data.stat().st_mtime)
    identity = text.split('"identity": "')[1][:12]
    data.write_text(text.replace(identity, "0" * 12))
    project.run("prune", config=CONFIG)
    done = tst_titan(project, "restore", f"{TRAIN}/token-18", check=False)
    data.write_text(text)
    os.utime(data, times)
    assert done.returncode == 2 and "cannot come back" in done.stderr


def tst_titan(project, *arguments, check=True):
    """The command, where the project lies."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tst-titan")), *arguments],
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stderr
    return done
