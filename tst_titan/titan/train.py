"""Train one stage: ``python -m tst_titan.titan.train STAGE_FOLDER`` in every process of the job.

Exit status: 0 finished, 2 a mistake that the user can mend, 85 stopped on request with a checkpoint written (0 and the
folder's ``logs/interrupted`` where several processes train).
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from tst_titan.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from tst_titan.files import full_disk, write_atomically
from tst_titan.run.lock import sole_writer
from tst_titan.run.processes import die_with_parent
from tst_titan.run.speed import processor_name
from tst_titan.tree.folder import StageFolder, complete_checkpoints
from tst_titan.tree.plan import BYTES_PER_PARAMETER


def main(arguments: list[str] | None = None) -> int:
    """Command line of one training process; returns the exit status."""
    started = time.time()
    die_with_parent()
    parser = argparse.ArgumentParser(description="Train one stage of the tree.")
    parser.add_argument("folder", type=Path, help="<results>/train/<recipe>/<segment>/...")
    folder = StageFolder.at(parser.parse_args(arguments).folder)
    try:
        return _train(folder, started)
    except UserError as error:
        refusal = error
    except BaseException as error:  # DCP's is no Exception
        needed = BYTES_PER_PARAMETER * folder.stage.model.count_parameters().total
        full = full_disk(error, folder.path, needed)
        if full is None:
            raise
        refusal = full
        # From Python 3.13 on, torch's half-written files complain with a traceback when they are collected.
        sys.unraisablehook = lambda unraisable: None
    print(refusal, file=sys.stderr)
    with suppress(OSError):
        write_atomically(folder.refused_file, str(refusal))
    return EXIT_USER_ERROR


def _train(folder: StageFolder, started: float) -> int:
    from tst_titan.titan.preflight import check_job, check_space, check_start

    one_process_defaults()
    rank = int(os.environ["RANK"])
    # Everything that can be refused is refused here, before any process group is made.
    parent = folder.parent_manifest()
    data = check_job(folder, first_on_node=os.environ["LOCAL_RANK"] == "0")
    identity = folder.identity(data.identity, parent["identity"] if parent else None)
    if folder.start and not complete_checkpoints(folder.checkpoint_folder(identity)):
        check_start(folder, data, first_on_node=os.environ["LOCAL_RANK"] == "0")
    with sole_writer(folder) if rank == 0 else nullcontext():
        _log_to_file(folder, rank)
        if rank == 0:
            check_space(folder, folder.checkpoint_folder(identity))
            _say_where_it_starts(folder, identity, parent)
        return _run(folder, identity, parent, data, started, rank)


def _run(
    folder: StageFolder, identity: str, parent: dict[str, Any] | None, data: Any, started: float, rank: int
) -> int:
    import torch

    from tst_titan.titan import cpu

    device = cpu.prepare()
    set_threads(folder)
    torch.use_deterministic_algorithms(device == "cpu")
    from tst_titan.titan.job import Job
    from tst_titan.titan.manifest import write_stage_manifest

    device_name = torch.cuda.get_device_name() if device == "cuda" else processor_name()
    job = Job(folder, identity, parent, device_name)
    trainer = job.trainer_config().build()
    try:
        trainer.train()
        interrupted = trainer.interrupted
    except (RuntimeError, FloatingPointError) as error:
        if isinstance(error, FloatingPointError) or "not finite" in str(error):
            raise UserError(_not_finite(job, error)) from None
        raise
    finally:
        trainer.close()
    if not interrupted and rank == 0:
        left_out = trainer.dataloader.left_out
        if left_out:
            read = folder.metrics.read()[-1]["data_tokens"]
            print(
                f"{folder.title}  {left_out:,} of {read:,} data tokens left out: no place behind filled bags",
                file=sys.stderr,
            )
        write_stage_manifest(job, data, started, left_out)
    if interrupted and rank == 0:
        folder.stop_file.unlink(missing_ok=True)
        folder.interrupted_file.touch()
        print(f"{folder.title}  stopped on request at step {trainer.step}", file=sys.stderr)
    alone = torch.distributed.get_world_size() == 1
    torch.distributed.destroy_process_group()
    # One of several that ends with another status would have the others killed while they write.
    return EXIT_INTERRUPTED if interrupted and alone else 0


def one_process_defaults() -> None:
    """Stand in for torchrun where the stage is a single process: its environment, with a port that is free."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def set_threads(folder: StageFolder) -> None:
    """CPU ranks share the cores; more threads than cores thrash."""
    import torch

    runtime = folder.runtime.for_model(folder.stage.model.count_parameters().total)
    cores = len(os.sched_getaffinity(0))
    shared = min(cores, runtime.cpus_per_node or cores) // runtime.processes_per_node
    torch.set_num_threads(runtime.cpu_threads or max(shared, 1))


def _log_to_file(folder: StageFolder, rank: int) -> None:
    """torchtitan logs through the root logger: into the stage's own folder, a file a rank."""
    path = folder.path / "logs" / f"rank{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    job, gpus = os.environ.get("SLURM_JOB_ID", "none"), os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    root.info("rank %d on node %s, process %d, Slurm job %s, GPUs %s", rank, here, os.getpid(), job, gpus)


def _say_where_it_starts(folder: StageFolder, identity: str, parent: dict[str, Any] | None) -> None:
    own = complete_checkpoints(folder.checkpoint_folder(identity))
    others = [path for path in (folder.path / "checkpoint").glob("*") if path.name != identity[:12]]
    title = folder.title
    if own:
        print(f"{title}  resumes from its checkpoint of step {max(own)}", file=sys.stderr)
        return
    if others:
        print(
            f"{title}  has checkpoints of another config ({', '.join(path.name for path in others)}); "
            "they are left alone and not used",
            file=sys.stderr,
        )
    counts = folder.stage.model.count_parameters()
    active = "" if counts.active == counts.total else f", {counts.active:,} active"
    print(f"{title}  {counts.total:,} parameters{active}", file=sys.stderr)
    origin = folder.start["path"] if folder.start else "nothing"
    if parent:
        origin = f"{parent['lineage']} at step {parent['end_step']}"
    print(f"{title}  starts from {origin}", file=sys.stderr)


def _not_finite(job: Any, error: Exception) -> str:
    logged = job.folder.metrics.read()
    until = f"; step {logged[-1]['step']} was the last logged one that still was" if logged else ""
    good = complete_checkpoints(job.folder.checkpoint_folder(job.identity))
    kept = "no checkpoint was written yet"
    if good:
        kept = f"the last good checkpoint, {good[max(good)]}, is kept"
    elif job.parent is not None:
        kept = (
            f"the last good checkpoint is the parent's, {job.folder.parent.path / job.parent['checkpoint']}"
        )
    what = str(error).removesuffix(" Stopping training.").rstrip(".")
    return (
        f"{job.folder.path}: {what}{until}; {kept}. Try a lower learning rate, a longer warm-up or a smaller "
        f"max_gradient_norm (found learning_rate {job.stage.optimizer.learning_rate:g}, warmup_steps "
        f"{job.stage.schedule.warmup_steps}, max_gradient_norm {job.stage.optimizer.max_gradient_norm:g})"
    )


if __name__ == "__main__":
    sys.exit(main())
