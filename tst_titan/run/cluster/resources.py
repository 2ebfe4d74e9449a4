"""A job's request as resources of Snakemake. Executors read those that they know: locally only threads count."""

from __future__ import annotations

import os
import tempfile

from tst_titan.run.cluster.site import JobRequest

Resources = dict[str, str | int | None]
NAMES = (
    "slurm_partition",
    "slurm_account",
    "qos",
    "constraint",
    "mem_mb",
    "runtime",
    "nodes",
    "tasks",
    "mpi",
    "gres",
    "tasks_per_gpu",
    "slurm_extra",
)


def resources(request: JobRequest, stops_on_signal: bool = False) -> Resources:
    """Values by resource name; None leaves a resource out.

    Several nodes make it an "MPI" job with one task a node: Snakemake then runs the command once, on the job's first
    node, and the launcher starts the others. ``tasks_per_gpu`` 0 keeps the executor from starting a task per GPU,
    each seeing one. The signal goes to the job's steps, not to its batch shell, which would die of it.

    Args:
        request: with memory and wall time.
        stops_on_signal: whether the job turns SIGUSR1 into a checkpoint (training does).
    """
    nodes, gpus = request.nodes or 1, request.gpus or 0
    kind = f":{request.gpu_type}" if request.gpu_type else ""
    options = [request.options] if request.options else []
    if stops_on_signal and request.stop_seconds:
        options.append(f"--signal=USR1@{request.stop_seconds}")
    return {
        "slurm_partition": request.partition,
        "slurm_account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "mem_mb": request.memory_mb,
        "runtime": request.wall_minutes,
        "nodes": nodes,
        "tasks": nodes if nodes > 1 else None,
        "mpi": "srun" if nodes > 1 else None,
        "gres": f"gpu{kind}:{gpus}" if gpus else None,
        "tasks_per_gpu": 0 if gpus else None,
        "slurm_extra": " ".join(options) or None,
    }


def scratch_folder(request: JobRequest) -> str:
    """Folder for temporary files, as the machine that runs the job sees it; created by Snakemake."""
    return os.path.expandvars(request.scratch) if request.scratch else tempfile.gettempdir()
