"""Training killed in the middle of the pipeline: the same command ends with the same losses."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow.project import ProjectCopy

pytestmark = pytest.mark.slow

STAGES = ("token-180", "token-180/decay-200", "bag2-50", "bag2-50/token-180", "bag2-50/token-180/decay-200")


@pytest.fixture(scope="module")
def projects(finished, tmp_path_factory):
    """Two copies of a project with longer stages, on the same corpus."""
    first = ProjectCopy.make(tmp_path_factory.mktemp("undisturbed"))
    finished.give(first, "data")
    path = first.folder / "configs/scales/smoke.yaml"
    scale = yaml.safe_load(path.read_text())
    small = {**scale["sizes"]["small"], "steps": {"short": 200}}
    scale["sizes"] = {"small": small, "large": small}
    scale["runtime"] = {**scale["runtime"], "checkpoint_every": 20}
    # Sizes that are equal share their runs, under the first one's name.
    path.write_text(yaml.safe_dump(scale, sort_keys=False))
    manifests = [f"results/train/smoke-small/{stage}/manifest.json" for stage in STAGES]
    first.run(*manifests)
    second = first.folder.parent / "disturbed"
    shutil.copytree(first.folder, second, ignore=shutil.ignore_patterns(".snakemake"))
    shutil.rmtree(second / "results" / "train")
    return first, ProjectCopy(second), manifests


def test_killed_training_ends_with_the_same_losses_bit_for_bit(projects):
    first, second, manifests = projects
    killed = _run_and_kill(second, manifests[-2], after_step=100)
    assert killed.returncode != 0
    assert not (second.folder / manifests[-2]).exists()
    assert (second.folder / manifests[2]).exists(), "a finished parent must survive its child's death"
    second.run(*manifests)
    for stage in STAGES:
        expected, found = (
            [
                json.loads(line)
                for line in (p.folder / f"results/train/smoke-small/{stage}/metrics.jsonl").open()
            ]
            for p in (first, second)
        )
        assert [(line["step"], line["loss"], line["grad_norm"]) for line in found] == [
            (line["step"], line["loss"], line["grad_norm"]) for line in expected
        ]


def _last_step(metrics: Path) -> int:
    """Step of the last whole line."""
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}\n")), default=0)


def _run_and_kill(project: ProjectCopy, manifest: str, after_step: int) -> subprocess.CompletedProcess:
    """Run snakemake for one stage and kill its training process with SIGKILL once a step is logged."""
    folder = project.folder / manifest
    metrics = folder.with_name("metrics.jsonl")
    done = threading.Event()

    def kill() -> None:
        while not done.is_set():
            if _last_step(metrics) >= after_step:
                found = subprocess.run(
                    ["pgrep", "-f", f"tst_titan.titan.train .*{folder.parent.relative_to(project.folder)}$"],
                    capture_output=True,
                    text=True,
                )
                for process in found.stdout.split():
                    os.kill(int(process), signal.SIGKILL)
                return
            time.sleep(0.005)

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        return project.snakemake(manifest)
    finally:
        done.set()
        watcher.join()
