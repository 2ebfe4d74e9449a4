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
from tst_titan.run.lock import release_snakemake, writer_of

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


HOLD = "import sys; from pathlib import Path; from tst_titan.run.lock import release_snakemake;"
HOLD += "release_snakemake(Path(sys.argv[1]), stay=True); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def locked(tmp_path):
    """A working directory that a living process has locked as Snakemake does, and that process."""
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None and owner.stdout.readline() == "held\n"
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.output.lock").write_text("results/x\n")
    yield tmp_path, owner
    owner.kill()
    owner.communicate()


def test_a_lock_of_snakemakes_is_removed_once_its_process_was_killed_and_not_before(locked):
    folder, owner = locked
    release_snakemake(folder, stay=False)
    assert (folder / "locks/0.output.lock").exists()
    owner.kill()
    owner.wait()
    release_snakemake(folder, stay=False)
    assert not (folder / "locks").exists() and not list((folder / "tst-titan").iterdir())


def test_with_another_owner_alive_here_or_on_another_host_a_lock_stays(locked):
    folder, owner = locked
    (other,) = (folder / "tst-titan").iterdir()
    dead = other.with_name(f"{socket.gethostname()}.1")
    dead.touch()
    release_snakemake(folder, stay=False)
    assert (folder / "locks/0.output.lock").exists() and dead.exists()
    owner.communicate()  # its end is a good one
    assert not other.exists()
    (folder / "tst-titan/elsewhere.1").touch()
    release_snakemake(folder, stay=False)
    assert (folder / "locks/0.output.lock").exists()
    (folder / "locks/0.output.lock").unlink()  # as --unlock does: nobody there has a lock either
    release_snakemake(folder, stay=False)
    assert not list((folder / "tst-titan").iterdir())


def test_locks_without_an_owner_stay(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.input.lock").touch()
    release_snakemake(tmp_path, stay=False)
    assert (tmp_path / "locks/0.input.lock").exists()


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
