"""Servers that import once: what runs in their children ends as it would by itself, and no process is left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tst_titan
from tests.stages import Tree, final_tensors
from tst_titan.run.lock import writer_of
from tst_titan.run.warm import KINDS, SERVERS
from tst_titan.tree.folder import StageFolder

pytestmark = pytest.mark.slow

SNAKEMAKE = "import os, sys; from tst_titan.run import warm; warm.offer(); print(os.environ[warm.SERVERS], flush=True);"
SNAKEMAKE += " sys.stdin.read()"
TRAIN = "tst_titan.cli", "train"


class Main:
    """A process that stands for Snakemake's main one, with jobs in the same folder."""

    def __init__(self, folder: Path = Path(), **changes: str):
        self.folder = folder
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"} | changes
        self.process = subprocess.Popen(
            [sys.executable, "-c", SNAKEMAKE],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.environment[SERVERS] = self.process.stdout.readline().strip()
        self.servers = children(self.process.pid)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A job."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_offered(self, *command: str, **changes: str) -> bool:
        """Whether a server runs an evaluation command like this one, and ends with its status."""
        ask = "import os, sys; from tst_titan.run import warm;"
        ask += " job = warm.start('evaluate', sys.argv[1:], os.environ, ());"
        ask += " sys.exit(77 if job is None else job.wait())"
        done = subprocess.run(
            [sys.executable, "-c", ask, *command],
            cwd=self.folder,
            env=self.environment | changes,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 77), done.stderr
        return done.returncode == 0

    def end(self) -> None:
        """Its servers end with it."""
        self.process.kill()
        self.process.wait()
        until(lambda: not any(is_alive(server) for server in self.servers))


@pytest.fixture(scope="module")
def main():
    main = Main()
    assert len(main.servers) == len(KINDS)
    yield main
    main.end()


def test_a_stage_is_the_same_bit_for_bit(main, tmp_path):
    served, alone = (Tree.make(tmp_path / name).stage("bag2-40") for name in ("served", "alone"))
    job = main.start(*TRAIN, str(served.path))
    assert trainer_of(served) in children(*main.servers)
    output = job.communicate()
    assert job.returncode == 0, output
    assert (
        "done" in output[1]
        and output[1].splitlines()[1:] == ((served.path / "logs/train.log").read_text().splitlines()[1:])
    )
    subprocess.run(
        [sys.executable, "-m", *TRAIN, str(alone.path)],
        check=True,
        env=main.environment | {SERVERS: "off"},
        capture_output=True,
    )
    assert_same(served, alone)


@pytest.mark.parametrize("victim", ["launcher", "server", "trainer"])
def test_whoever_is_killed_training_ends_and_goes_on_to_the_same_bits(victim, tmp_path):
    main = Main()
    killed, alone = (Tree.make(tmp_path / name).stage("token-200") for name in ("killed", "alone"))
    job = main.start(*TRAIN, str(killed.path))
    trainer = trainer_of(killed)
    (server,) = (server for server in main.servers if trainer in children(server))
    until(lambda: len(killed.metrics_path.read_text().splitlines()) > 50, killed.metrics_path.exists)
    os.kill({"launcher": job.pid, "server": server, "trainer": trainer}[victim], signal.SIGKILL)
    output = job.communicate()
    assert job.returncode not in (0, 85), output
    until(lambda: not is_alive(trainer) and writer_of(killed) is None)
    assert not killed.manifest_path.exists()
    # Without its server a stage trains by itself.
    job = main.start(*TRAIN, str(killed.path))
    assert job.communicate() and job.returncode == 0
    assert "resumes from its checkpoint" in (killed.path / "logs/train.log").read_text()
    main.end()
    subprocess.run([sys.executable, "-m", *TRAIN, str(alone.path)], check=True, capture_output=True)
    assert_same(killed, alone)


def test_a_stage_outlives_snakemake_and_stops_as_asked(tmp_path):
    main = Main()
    folder = Tree.make(tmp_path).stage("token-4000")
    job = main.start(*TRAIN, str(folder.path))
    trainer = trainer_of(folder)
    main.process.kill()
    main.process.wait()
    until(lambda: len(folder.metrics_path.read_text().splitlines()) > 5, folder.metrics_path.exists)
    job.send_signal(signal.SIGTERM)
    job.communicate()
    assert job.returncode == 85 and not is_alive(trainer)
    main.end()


def test_an_evaluation_that_fails_says_so(main, tmp_path):
    assert main.is_offered("evaluate", "heldout", "--help")
    job = main.start("tst_titan.cli", "evaluate", "heldout", "--model", str(tmp_path), *REST)
    assert "data/manifest.json" in job.communicate()[1]
    assert job.returncode == 2


REST = ("--data-manifest", "data/manifest.json", "--sequence-length", "32", "--out", "heldout.json")


def test_a_killed_evaluation_leaves_no_child(main, tmp_path):
    fifo = tmp_path / "manifest.json"
    os.mkfifo(fifo)  # whoever reads it waits
    evaluation = main.servers[list(KINDS).index("evaluate")]
    job = main.start(
        "tst_titan.cli", "evaluate", "heldout", "--model", "m", *REST, "--data-manifest", str(fifo)
    )
    until(lambda: len(children(evaluation)) == 1)
    job.kill()
    job.wait()
    until(lambda: not children(evaluation))


def test_what_is_not_alike_is_refused(tmp_path):
    shutil.copytree(Path(tst_titan.__file__).parent, tmp_path / "tst_titan")
    main = Main(tmp_path, PYTHONPATH=str(tmp_path))
    command = ("evaluate", "heldout", "--help")
    assert main.is_offered(*command)
    assert main.is_offered(*command, PWD="/tmp")
    assert not main.is_offered(*command, OMP_NUM_THREADS="2")
    assert not main.is_offered(*command, PYTHONPATH=str(Path(tst_titan.__file__).parents[1]))
    (tmp_path / "tst_titan/errors.py").touch()
    assert not main.is_offered(*command)
    main.end()
    assert not main.is_offered(*command)


def assert_same(one: StageFolder, other: StageFolder) -> None:
    values = [
        [(line["step"], line["loss"], line["grad_norm"]) for line in folder.metrics.read()]
        for folder in (one, other)
    ]
    assert values[0] == values[1]
    mine, its = final_tensors(one), final_tensors(other)
    assert mine.keys() == its.keys() and all(mine[name].equal(its[name]) for name in mine)


def trainer_of(folder: StageFolder) -> int:
    """The process that trains the stage, once there is one."""
    until(lambda: "process" in (writer_of(folder) or ""))
    found = re.search(r"process (\d+)", writer_of(folder) or "")
    assert found is not None
    return int(found[1])


def children(*parents: int) -> list[int]:
    """Processes that these have started, in the order of their ids."""
    found = [Path(f"/proc/{parent}/task/{parent}/children") for parent in parents]
    return sorted(int(child) for path in found if path.exists() for child in path.read_text().split())


def is_alive(process: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    path = Path(f"/proc/{process}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(*conditions: Callable[[], object]) -> None:
    """Wait until the last condition holds, then the one before it."""
    deadline = time.monotonic() + 300
    for condition in reversed(conditions):
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)
