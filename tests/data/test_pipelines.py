"""Running tasks: parts of jobs, counters, killed workers."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from datatrove.pipeline.base import PipelineStep

from tst_titan.data.pipelines import WHOLE, Part, Pipeline, completed, counts_of, run_pipeline


class Count(PipelineStep):
    """Counts its rank, or kills its process where a file says so."""

    name = "count"
    type = "test"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def run(self, data=None, rank=0, world_size=1):
        """Count once, and the rank."""
        if (self.folder / f"kill-{rank}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.folder / f"fail-{rank}").exists():
            raise ValueError("as asked for")
        while (self.folder / "wait").exists():
            (self.folder / f"running-{os.getpid()}").touch()
            time.sleep(0.05)
        self.stat_update("tasks")
        self.stat_update("ranks", value=rank)
        yield from data or ()


def pipeline(folder: Path) -> list[PipelineStep]:
    """One counting step."""
    return [Count(folder)]


@pytest.fixture
def counting(tmp_path: Path) -> Pipeline:
    """Five counting tasks."""
    return Pipeline("count", 5, partial(pipeline, tmp_path))


@pytest.mark.parametrize(("tasks", "jobs"), [(5, 1), (5, 2), (5, 5), (97, 8)])
def test_parts_cover_all_tasks_once(tasks: int, jobs: int) -> None:
    ranks = [rank for index in range(jobs) for rank in Part(index, jobs).ranks(tasks)]
    assert ranks == list(range(tasks)) == list(WHOLE.ranks(tasks))


def test_counts_are_summed_over_tasks(counting: Pipeline, tmp_path: Path) -> None:
    run_pipeline(counting, tmp_path, 1, Part(1, 2))
    assert completed(tmp_path / "count") == {2, 3, 4}
    with pytest.raises(RuntimeError, match=r"tasks \[0, 1\] are not finished"):
        counts_of(tmp_path / "count", 5)
    run_pipeline(counting, tmp_path, 1)
    (total,) = counts_of(tmp_path / "count", 5)
    assert total == {"tasks": 5, "ranks": 10}


def test_a_killed_worker_is_an_error_and_the_rest_is_kept(counting: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "kill-4").touch()
    with pytest.raises(RuntimeError, match="a worker was killed, by the system if memory ran out"):
        run_pipeline(counting, tmp_path, 2)
    assert 4 not in completed(tmp_path / "count")
    (tmp_path / "kill-4").unlink()
    run_pipeline(counting, tmp_path, 2)
    assert completed(tmp_path / "count") == set(range(5))


def test_a_failing_task_fails_the_pipeline(counting: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "fail-1").touch()
    with pytest.raises(ValueError, match="as asked for"):
        run_pipeline(counting, tmp_path, 1)
    assert completed(tmp_path / "count") == {0}


def test_an_error_does_not_wait_for_the_tasks_that_have_not_begun(tmp_path: Path) -> None:
    (tmp_path / "fail-0").touch()
    with pytest.raises(ValueError, match="as asked for"):
        run_pipeline(Pipeline("count", 300, partial(pipeline, tmp_path)), tmp_path, 2)
    assert len(completed(tmp_path / "count")) < 150


def alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_end_with_a_killed_job(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    program = (
        "from pathlib import Path; from functools import partial; from tests.data.test_pipelines import *;"
        f"folder = Path({str(tmp_path)!r}); run_pipeline(Pipeline('c', 5, partial(pipeline, folder)), folder, 2)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    )
    workers: list[int] = []
    while len(workers) < 2:
        assert job.poll() is None
        workers = [int(path.name.partition("-")[2]) for path in tmp_path.glob("running-*")]
        time.sleep(0.05)
    assert all(map(alive, workers)) and job.pid not in workers
    job.kill()
    job.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers)), "a worker outlived its job and would write beside the next one"
