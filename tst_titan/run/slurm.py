"""What a Slurm cluster has, and whether jobs ask for more: refused before anything is submitted.

Slurm itself queues a job that no node can ever run, or fails it without a word, and Snakemake would submit it again.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan.config.load import did_you_mean
from tst_titan.errors import UserError

WHERE = (
    "Partition, account and scratch belong into workflow/profiles/slurm/config.yaml; nodes, GPUs, memory and time of a "
    "stage are `runtime` of its scale, configs/scales/*.yaml"
)
# Resources that the executor turns into options of sbatch, and Snakemake's own.
KNOWN = {
    "attempt",
    *("_cores", "_nodes", "tmpdir"),
    *("mem", "mem_mb", "mem_mib", "mem_mb_per_cpu", "disk", "disk_mb", "disk_mib"),
    *(
        "runtime",
        "slurm_partition",
        "slurm_account",
        "qos",
        "constraint",
        "reservation",
        "slurm_cluster",
        "cluster",
        "clusters",
    ),
    *("nodes", "tasks", "tasks_per_node", "tasks_per_gpu", "cpus_per_task", "cpus_per_gpu", "mpi"),
    *("gres", "gpu", "gpu_model", "gpu_manufacturer", "slurm_extra", "slurm_requeue"),
}
SINFO = ["sinfo", "--noheader", "--exact", "--all", "--format=%R|%P|%l|%D|%c|%m|%G"]


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind in one partition.

    Attributes:
        minutes: longest wall time of a job; None without a limit.
        gpus: on each node, by the cluster's names of their types; "" for those without.
    """

    partition: str
    is_default: bool
    minutes: int | None
    count: int
    cpus: int
    memory_mb: int
    gpus: Mapping[str, int]


@dataclass(frozen=True)
class Demand:
    """What one job asks for."""

    job: str
    partition: str | None
    minutes: int
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    gpu_type: str
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, job: str, threads: int, resources: Mapping[str, Any]) -> Demand:
        """From a job's resources in Snakemake."""
        _, kind, count = ("::" + str(resources.get("gres") or "gpu:0")).rsplit(":", 2)
        return cls(
            job=job,
            partition=resources.get("slurm_partition"),
            minutes=int(resources.get("runtime") or 0),
            nodes=int(resources.get("nodes") or 1),
            cpus=threads,
            memory_mb=int(resources.get("mem_mb") or 0),
            gpus=int(count),
            gpu_type="" if kind == "gpu" else kind,
            unknown=tuple(sorted(set(resources.keys()) - KNOWN)),
        )


def cluster_nodes() -> list[Nodes]:
    """All partitions' nodes, from sinfo.

    Raises:
        UserError: there is no cluster to ask.
    """
    try:
        done = subprocess.run(SINFO, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise UserError(
            f"sinfo: {reason}; snakemake --profile slurm runs where jobs can be submitted (a login node)"
        ) from None
    return [parse_nodes(line) for line in done.stdout.splitlines() if line]


def parse_nodes(line: str) -> Nodes:
    """One line of sinfo."""
    name, marked, limit, count, cpus, memory, gres = line.split("|")
    gpus: dict[str, int] = {}
    for kind, number in re.findall(r"gpu(?::([^:,(]+))?:(\d+)", gres):
        gpus[kind] = gpus.get(kind, 0) + int(number)
    return Nodes(name, marked.endswith("*"), _minutes(limit), int(count), int(cpus), int(memory), gpus)


def check(demands: Iterable[Demand], nodes: Iterable[Nodes]) -> None:
    """Refuse what the cluster cannot give.

    Args:
        demands: of all jobs that would be submitted.
        nodes: what the cluster has.

    Raises:
        UserError: one line per kind of mistake, with what was found and what the site has.
    """
    known = list(nodes)
    problems: dict[str, str] = {}
    for demand in demands:
        for problem in _problems(demand, known):
            problems.setdefault(problem, demand.job)
    if problems:
        lines = [f"{job}: {problem}" for problem, job in problems.items()]
        raise UserError("\n".join([*lines, WHERE]))


def check_scratch(folder: str) -> None:
    """Refuse a folder for temporary files that is here and cannot be written; only the nodes may have others.

    Raises:
        UserError: it cannot be written.
    """
    if Path(folder).is_absolute() and Path(folder).is_dir():
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(
                f"resource tmpdir: found {folder}; cannot write there: {error.strerror}. Give a folder "
                "that you may write: default-resources in workflow/profiles/slurm/config.yaml"
            ) from None


def _problems(demand: Demand, known: list[Nodes]) -> Iterable[str]:
    for name in demand.unknown:
        yield f"resource {name!r} is unknown{did_you_mean(name, sorted(KNOWN))}"
    names = ", ".join(sorted({nodes.partition for nodes in known}))
    if demand.partition is None:
        mine = [nodes for nodes in known if nodes.is_default]
        if not mine:
            yield f"resource slurm_partition: missing, and this cluster has no default; its partitions: {names}"
            return
    else:
        wanted = demand.partition.split(",")
        mine = [nodes for nodes in known if nodes.partition in wanted]
        if not mine:
            yield f"resource slurm_partition: found {demand.partition!r}; this cluster's partitions: {names}"
            return
    where = f"partition {mine[0].partition}" if len({n.partition for n in mine}) == 1 else demand.partition
    yield from _too_much(demand, mine, str(where))


def _too_much(demand: Demand, mine: list[Nodes], where: str) -> Iterable[str]:
    limits = [nodes.minutes for nodes in mine]
    if None not in limits and demand.minutes > (most := max(limit for limit in limits if limit is not None)):
        yield (
            f"resource runtime: found {demand.minutes} minutes; {where} allows {most}. A stage that takes longer takes "
            "several jobs"
        )
    if demand.gpus:
        kinds = {kind: 0 for nodes in mine for kind in nodes.gpus}
        for nodes in mine:
            for kind, number in nodes.gpus.items():
                kinds[kind] = max(kinds[kind], number)
        has = ", ".join(f"{number} {kind}".strip() for kind, number in kinds.items()) or "none"
        if demand.gpu_type and demand.gpu_type not in kinds:
            yield f"resource gres: found GPUs of type {demand.gpu_type!r}; the nodes of {where} have at most: {has}"
            return
        most = kinds[demand.gpu_type] if demand.gpu_type else max(kinds.values(), default=0)
        if demand.gpus > most:
            yield f"resource gres: found {demand.gpus} GPUs a node; the nodes of {where} have at most: {has}"
    sizes = (
        ("threads", demand.cpus, max(nodes.cpus for nodes in mine), "cores"),
        ("resource mem_mb", demand.memory_mb, max(nodes.memory_mb for nodes in mine), "MB"),
    )
    for key, found, most, unit in sizes:
        if found > most:
            yield f"{key}: found {found}; the nodes of {where} have at most {most} {unit}"
    if demand.nodes > (count := sum(nodes.count for nodes in mine)):
        yield f"resource nodes: found {demand.nodes}; {where} has {count}"


def _minutes(limit: str) -> int | None:
    """Slurm's ``days-hours:minutes:seconds`` in minutes, rounded down; None for ``infinite``."""
    if limit.lower() in ("infinite", "n/a"):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, minutes, _ = [0, 0, 0, *parts][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes
