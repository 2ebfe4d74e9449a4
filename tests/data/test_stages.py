"""Running tasks: parts of jobs, counters, killed workers."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from datatrove.pipeline.base import PipelineStep

from tst_titan.data.stages import WHOLE, Part, Stage, completed, counts, run_stage


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
        self.stat_update("tasks")
        self.stat_update("ranks", value=rank)
        yield from data or ()


def pipeline(folder: Path) -> list[PipelineStep]:
    """One counting step."""
    return [Count(folder)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Five counting tasks."""
    return Stage("count", 5, partial(pipeline, tmp_path))


@pytest.mark.parametrize(("tasks", "jobs"), [(5, 1), (5, 2), (5, 5), (97, 8)])
def test_parts_cover_all_tasks_once(tasks: int, jobs: int) -> None:
    ranks = [rank for index in range(jobs) for rank in Part(index, jobs).ranks(tasks)]
    assert ranks == list(range(tasks)) == list(WHOLE.ranks(tasks))


def test_counts_are_summed_over_tasks(stage: Stage, tmp_path: Path) -> None:
    run_stage(stage, tmp_path, 1, Part(1, 2))
    assert completed(tmp_path / "count") == {2, 3, 4}
    with pytest.raises(RuntimeError, match=r"tasks \[0, 1\] are not finished"):
        counts(tmp_path / "count", 5)
    run_stage(stage, tmp_path, 1)
    (total,) = counts(tmp_path / "count", 5)
    assert total == {"tasks": 5, "ranks": 10}


def test_a_killed_worker_is_an_error_and_the_rest_is_kept(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "kill-4").touch()
    with pytest.raises(RuntimeError, match="a worker was killed, by the system if memory ran out"):
        run_stage(stage, tmp_path, 2)
    assert 4 not in completed(tmp_path / "count")
    (tmp_path / "kill-4").unlink()
    run_stage(stage, tmp_path, 2)
    assert completed(tmp_path / "count") == set(range(5))


def test_a_failing_task_fails_the_stage(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "fail-1").touch()
    with pytest.raises(ValueError, match="as asked for"):
        run_stage(stage, tmp_path, 1)
    assert completed(tmp_path / "count") == {0}
