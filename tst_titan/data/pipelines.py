"""Running datatrove pipelines in one job: a fixed number of tasks, any number of workers, resumable.

datatrove marks a finished task with a file in its logging folder and skips it next time, whatever the
settings were; so every pipeline logs into a folder that is named by a hash of all settings that led to it.
"""

import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats

_SECONDS_BETWEEN_LINES = 10


@dataclass(frozen=True)
class Pipeline:
    """One datatrove pipeline of a step.

    Attributes:
        name: folder of its logs.
        tasks: number of tasks; part of the result, so fixed by the config.
        build: makes the pipeline; called in the process that runs a task, so it must be picklable.
    """

    name: str
    tasks: int
    build: Callable[[], list[PipelineStep]]


@dataclass(frozen=True)
class Part:
    """What one job does of a step that several jobs share.

    Attributes:
        index: number of the part, from 0; None for the job that finishes the step, after the parts.
        of: number of parts.
    """

    index: int | None = None
    of: int = 1

    def ranks(self, tasks: int) -> range:
        """The tasks of this part; all of them for the job that finishes the step."""
        if self.index is None:
            return range(tasks)
        return range(tasks * self.index // self.of, tasks * (self.index + 1) // self.of)


WHOLE = Part()


def run_pipeline(pipeline: Pipeline, logs: Path, workers: int, part: Part = WHOLE) -> None:
    """Run the tasks of a pipeline that are not finished yet.

    Args:
        pipeline: what each task runs.
        logs: folder of the step's logs; the pipeline's are in <logs>/<pipeline.name>.
        workers: tasks run at the same time.
        part: which tasks are this job's; all by default.

    Raises:
        RuntimeError: a worker was killed or a task did not finish. What is finished stays finished.
    """
    folder = logs / pipeline.name
    ranks = part.ranks(pipeline.tasks)
    todo = sorted(set(ranks) - completed(folder))
    if not todo:
        return
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    _allow_open_files()
    if workers == 1 or len(todo) == 1:
        for rank in todo:
            run_task(pipeline, folder, rank)
    else:
        _run_pool(pipeline, folder, todo, workers, started)
    missing = sorted(set(ranks) - completed(folder))
    if missing:
        raise RuntimeError(f"{pipeline.name}: tasks {missing} did not finish; see {folder}/logs")


class TaskExecutor(LocalPipelineExecutor):
    """datatrove's local executor for one task, without the manager process that it starts to number workers.

    That process outlives a job that is killed.
    """

    def run(self) -> PipelineStats:
        """Run the task, mark it as finished."""
        return self._run_for_rank(self.local_rank_offset)


def run_task(pipeline: Pipeline, folder: Path, rank: int) -> int:
    """Run one task through datatrove's executor in this process; returns its rank."""
    TaskExecutor(
        pipeline=pipeline.build(),
        tasks=pipeline.tasks,
        workers=1,
        logging_dir=str(folder),
        local_tasks=1,
        local_rank_offset=rank,
    ).run()
    return rank


def _run_pool(pipeline: Pipeline, folder: Path, todo: Sequence[int], workers: int, started: float) -> None:
    # datatrove's own pool waits for ever for a task whose worker was killed; this one raises.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tst_titan.data.filter", "tst_titan.data.tokens"])
    said = started
    try:
        with ProcessPoolExecutor(min(workers, len(todo)), context, initializer=_start_worker) as pool:
            futures = [pool.submit(run_task, pipeline, folder, rank) for rank in todo]
            for done, future in enumerate(as_completed(futures), 1):
                if error := future.exception():
                    pool.shutdown(wait=False, cancel_futures=True)  # or the error waits for all other tasks
                    raise error
                if time.monotonic() - said > _SECONDS_BETWEEN_LINES and done < len(todo):
                    said = time.monotonic()
                    print(
                        f"  {pipeline.name}: {done} of {len(todo)} tasks, {said - started:.0f} s", flush=True
                    )
    except BrokenProcessPool:
        raise RuntimeError(
            f"{pipeline.name}: a worker was killed, by the system if memory ran out; finished tasks are "
            f"kept: run again, with fewer threads or more memory (logs: {folder}/logs)"
        ) from None


def _allow_open_files() -> None:
    """Duplicate search opens a file of every task at once; the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_worker() -> None:
    """Prepare a worker: one thread for the tokenizer, and an end when the job ends.

    A pool's idle workers would wait for ever for a job that was killed, and busy ones would go on writing beside
    the job that is started in its place.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    threading.Thread(target=_end_with_job, daemon=True).start()


def _end_with_job() -> None:
    job = multiprocessing.parent_process()
    if job is not None:
        job.join()
        os.kill(os.getpid(), signal.SIGKILL)


def completed(folder: Path) -> set[int]:
    """Ranks that datatrove marked as finished in a pipeline's logging folder."""
    marks = folder / "completions"
    return {int(path.name) for path in marks.iterdir()} if marks.is_dir() else set()


def counts_of(folder: Path, tasks: int) -> list[Counter[str]]:
    """Counters of a finished pipeline, summed over tasks: one Counter for each of its steps.

    Raises:
        RuntimeError: a task is not finished.
    """
    missing = sorted(set(range(tasks)) - completed(folder))
    if missing:
        raise RuntimeError(f"{folder}: tasks {missing} are not finished")
    totals: list[Counter[str]] = []
    for rank in range(tasks):
        steps = json.loads((folder / "stats" / f"{rank:05d}.json").read_text())
        totals = totals or [Counter() for _ in steps]
        for total, step in zip(totals, steps, strict=True):
            for label, value in step["stats"].items():
                total[label] += value["total"] if isinstance(value, dict) else value
    return totals
