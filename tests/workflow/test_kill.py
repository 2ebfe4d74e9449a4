"""Training killed or stopped in the middle of the pipeline: the same command goes on and ends with the same losses."""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.workflow.project import ProjectCopy
from tst_titan.run.lock import writer_of
from tst_titan.tree.folder import StageFolder, complete_checkpoints

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


TABLE = {
    "SIGKILL of all": lambda run: os.killpg(run.process.pid, signal.SIGKILL),
    "Ctrl-C": lambda run: os.write(run.terminal, b"\x03"),
    "TERM to snakemake": lambda run: run.process.terminate(),
    "INT to snakemake alone": lambda run: run.process.send_signal(signal.SIGINT),
    "terminal closed": lambda run: run.close(),
    "kill -9 of snakemake": lambda run: run.process.kill(),
}
EVERY = 100


def test_after_every_signal_the_same_command_goes_on(finished, tmp_path):
    """The table of docs/checkpoints.md, on one stage that meets all of it."""
    project = ProjectCopy.make(tmp_path / "a project")
    finished.give(project, "data")
    path = project.folder / "configs/scales/smoke.yaml"
    scale = yaml.safe_load(path.read_text())
    small = {**scale["sizes"]["small"], "steps": {"short": 600}}
    scale["sizes"] = {"small": small, "large": small}
    scale["runtime"] |= {"checkpoint_every": EVERY, "log_every": 1}
    path.write_text(yaml.safe_dump(scale, sort_keys=False))
    manifest = "results/train/smoke-small/token-540/manifest.json"
    stage = StageFolder.at((project.folder / manifest).parent)
    log = stage.path / "logs/train.log"
    resumed = 0
    for event, after in (("SIGKILL of all", 1), *((event, 5) for event in TABLE)):
        run = _meet(event, OnATerminal(project, manifest), stage, resumed + after)
        if resumed:
            assert f"resumes from its checkpoint of step {resumed}\n" in log.read_text(), (event, run.shown)
        last, resumed = _last_step(stage.metrics_path), _newest(stage)
        assert last - resumed < EVERY if event == "SIGKILL of all" else last == resumed, (event, run.shown)
        run.close()
    assert resumed and not stage.manifest_path.exists()
    project.run(manifest)
    assert f"resumes from its checkpoint of step {resumed}\n" in log.read_text()
    assert not list((project.folder / ".snakemake/tst-titan").iterdir())


def _meet(event: str, run: "OnATerminal", stage: StageFolder, step: int) -> "OnATerminal":
    """Let the event happen once this run has logged a step, and wait for the end of snakemake and training."""
    stale = _inode(stage.metrics_path)
    run.until(
        lambda: _inode(stage.metrics_path) != stale
    )  # training replaces it, cut back to where it resumes
    run.until(lambda: _last_step(stage.metrics_path) >= step)
    TABLE[event](run)
    run.until(lambda: run.process.poll() is not None)
    assert run.process.returncode != 0, (event, run.shown)
    run.until(lambda: writer_of(stage) is None)
    return run


class OnATerminal:
    """Snakemake as a person starts it, alone on a terminal of its own."""

    def __init__(self, project: ProjectCopy, *arguments: str):
        self.terminal, its_side = os.openpty()
        self.shown = b""

        def take_the_terminal() -> None:
            fcntl.ioctl(its_side, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run under & or nohup
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

        self.process = subprocess.Popen(
            project.command(*arguments),
            cwd=project.folder,
            env=project.environment(),
            stdin=its_side,
            stdout=its_side,
            stderr=its_side,
            start_new_session=True,
            preexec_fn=take_the_terminal,
        )
        os.close(its_side)

    def until(self, condition: Callable[[], bool]) -> None:
        """Read what is shown, and wait."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, self.shown.decode()
            with suppress(OSError):  # nobody is on the other side any more
                if self.terminal >= 0 and select.select([self.terminal], [], [], 0.005)[0]:
                    self.shown += os.read(self.terminal, 1 << 16)

    def close(self) -> None:
        """Close the terminal's window."""
        if self.terminal >= 0:
            os.close(self.terminal)
        self.terminal = -1


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _newest(stage: StageFolder) -> int:
    """Step of the stage's newest whole checkpoint."""
    folders = (stage.path / "checkpoint").glob("*")
    return max((step for folder in folders for step in complete_checkpoints(folder)), default=0)


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
                # It says in its lock which process it is.
                found = re.search(r"process (\d+)", writer_of(StageFolder.at(folder.parent)) or "")
                if found:
                    os.kill(int(found[1]), signal.SIGKILL)
                return
            time.sleep(0.005)

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        return project.snakemake(manifest)
    finally:
        done.set()
        watcher.join()
