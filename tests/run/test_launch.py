"""The launcher: what it starts on one node and on several, and that nothing outlives it."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stages import Tree
from tst_titan.errors import UserError
from tst_titan.run import launch
from tst_titan.run.lock import writer_of

EIGHT = {"nodes": 8, "processes_per_node": 8, "gpus_per_node": 8, "cpus_per_node": 64, "init_timeout_s": 900}


@pytest.fixture
def slurm_job(monkeypatch, tmp_path):
    """As on the first node of a job: its id and an srun."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text("#!/bin/sh\n")
    (tmp_path / "bin/srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")


def test_eight_nodes_get_one_torchrun_each(slurm_job, tmp_path):
    command = launch.command(Tree(tmp_path, runtime=EIGHT).stage("token-8"))
    torchrun = command.index("torch.distributed.run")
    srun, rest = command[:torchrun], command[torchrun:]
    assert srun[0] == "srun" and {"--nodes=8", "--ntasks=8", "--ntasks-per-node=1"} <= set(srun)
    assert {"--cpus-per-task=64", "--gres=gpu:8", "--kill-on-bad-exit=1"} <= set(srun)
    options = dict(itertools.pairwise(rest))
    assert (
        options["--nproc-per-node"] == "8" and options["--nnodes"] == "8" and options["--rdzv-id"] == "4711"
    )
    assert options["--rdzv-conf"] == "timeout=900,join_timeout=900"
    assert options["--rdzv-endpoint"] == f"{socket.gethostname()}:24711"


def test_two_jobs_on_a_node_do_not_share_a_port(slurm_job, monkeypatch):
    first = launch.rendezvous(2, 60)
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    assert launch.rendezvous(2, 60)[-1] != first[-1]


def test_a_port_in_use_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < launch.free_port(port) < port + 100


def test_several_nodes_without_slurm_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"key nodes: found 8; .* SLURM_JOB_ID is not set"):
        launch.command(Tree(tmp_path, runtime=EIGHT).stage("token-8"))


def test_a_scratch_folder_that_is_missing_is_refused_before_training(tmp_path):
    folder = Tree.make(tmp_path).stage("token-4")
    done = subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", "train", str(folder.path)],
        env=os.environ | {"TMPDIR": "/proc/nothing"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "/proc/nothing" in done.stderr and "resource tmpdir" in done.stderr
    assert not (folder.path / "logs/attempts.json").exists()
    assert "resource tmpdir" in (folder.path / "logs/train.log").read_text()


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_trainer_behind(tmp_path):
    folder = Tree.make(tmp_path, runtime={"processes_per_node": 2}).stage("token-900")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tst_titan.cli", "train", str(folder.path), "--log", str(tmp_path / "log")],
        stderr=subprocess.DEVNULL,
    )
    _until(lambda: folder.metrics_path.exists() and folder.metrics_path.stat().st_size, 300)
    assert len(_processes_of(folder.path)) >= 4  # the launcher, torchrun and two trainers
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    _until(lambda: not _processes_of(folder.path) and writer_of(folder) is None, 20)
    assert "parameters" in (tmp_path / "log").read_text()


def _processes_of(folder: Path) -> list[int]:
    """Ids of the processes whose command names the stage."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
