"""configs/site.yaml: partition, account, nodes, GPUs, memory, wall time and scratch of every job.

The most special value wins: a stage's, then the scale's, then the kind's, then the one for all. What a stage needs by
its size (nodes, GPUs, memory, wall time) comes from the scale's ``runtime`` unless this file says otherwise.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tst_titan.config.load import load
from tst_titan.config.schema import NonNegativeInt, PositiveInt, RuntimeConfig, Strict
from tst_titan.errors import UserError

Kind = Literal["data", "deduplicate", "train", "evaluate", "small"]
# A stage's come from its runtime config, the memory of an evaluation from the model's size.
NEEDED: dict[Kind, tuple[str, ...]] = {
    "data": ("cpus", "memory_mb", "wall_minutes"),
    "deduplicate": ("cpus", "memory_mb", "wall_minutes"),
    "evaluate": ("cpus", "wall_minutes"),
    "small": ("cpus", "memory_mb", "wall_minutes"),
}
Word = Annotated[str, Field(pattern=r"^[^\s'\"]+$")]


class JobRequest(Strict):
    """What a job asks for. A key that is left out keeps the more general value; all are optional at every level."""

    partition: Word | None = Field(None, description="default: the cluster's own default partition")
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = Field(None, description="features that a node must have, e.g. a100|h100")
    nodes: PositiveInt | None = Field(None, description="train only; other jobs take one node")
    gpus: NonNegativeInt | None = Field(
        None, description="GPUs of each node; in training one process each, 0 trains on CPUs"
    )
    gpu_type: Word | None = Field(None, description="the cluster's name of the GPU, as in --gres=gpu:a100:8")
    cpus: PositiveInt | None = Field(None, description="cores of each node")
    memory_mb: PositiveInt | None = Field(None, description="memory of each node, MB")
    wall_minutes: PositiveInt | None = Field(
        None, description="wall time of one job; a longer stage takes several"
    )
    stop_seconds: NonNegativeInt | None = Field(
        None, description="how long before the end of its time a stage is asked for a checkpoint; 0: not"
    )
    scratch: str | None = Field(
        None, description="folder for temporary files; default the node's own; $VARIABLES are the node's"
    )
    scratch_on_nodes_only: bool | None = Field(None, description="the submitting machine lacks the folder")
    options: str | None = Field(None, description="further options of sbatch, as written there")

    def over(self, other: JobRequest) -> JobRequest:
        """This request, with ``other``'s values where this one is silent."""
        return JobRequest.model_validate(other.model_dump() | self.model_dump(exclude_none=True))


class SiteConfig(Strict):
    """The whole file."""

    all: JobRequest = Field(JobRequest(), description="for every job")
    kinds: dict[Kind, JobRequest] = Field({}, description="by kind of rule")
    scales: dict[str, dict[Kind, JobRequest]] = Field({}, description="by scale, then kind")
    stages: dict[str, JobRequest] = Field(
        {}, description="by pattern of <recipe>/<lineage>, e.g. paper-moe/*; the last match wins"
    )

    @model_validator(mode="after")
    def _sizes_belong_to_a_kind(self) -> SiteConfig:
        for key in ("nodes", "gpus", "cpus", "memory_mb", "wall_minutes"):
            if (found := getattr(self.all, key)) is not None:
                raise ValueError(f"all.{key}: found {found}; jobs differ too much, give it by kind")
        for where, kinds in (("kinds", self.kinds), *((f"scales.{n}", k) for n, k in self.scales.items())):
            for kind, request in kinds.items():
                if kind != "train" and (request.nodes or 1) > 1:
                    raise ValueError(
                        f"{where}.{kind}.nodes: found {request.nodes}; only train runs on several nodes"
                    )
        return self

    @classmethod
    def read(cls, path: Path) -> SiteConfig:
        """The file.

        Raises:
            UserError: a mistake in it, or a kind of job without cores, wall time or memory.
        """
        site = load(cls, path)
        for kind, needed in NEEDED.items():
            for key in needed:
                if getattr(site.request(kind, ""), key) is None:
                    raise UserError(f"{path}: missing key kinds.{kind}.{key}; every such job needs one")
        return site

    def request(self, kind: Kind, scale: str) -> JobRequest:
        """What a job of this kind asks for."""
        merged = self.kinds.get(kind, JobRequest()).over(self.all)
        return self.scales.get(scale, {}).get(kind, JobRequest()).over(merged)

    def stage_request(self, stage: str, scale: str) -> JobRequest:
        """What a stage asks for by this file alone, without its runtime config.

        Args:
            stage: ``<recipe>/<lineage>``.
            scale: name of the scale.
        """
        request = self.request("train", scale)
        for pattern, own in self.stages.items():
            if fnmatchcase(stage, pattern):
                request = own.over(request)
        return request

    def runtime(self, runtime: RuntimeConfig, stage: str, scale: str) -> RuntimeConfig:
        """A stage's runtime config with this file's nodes, GPUs, cores, memory and wall time in place.

        Raises:
            UserError: the parallelism of the scale does not fit the GPUs of the site.
        """
        request = self.stage_request(stage, scale)
        change: dict[str, int] = {}
        if request.gpus is not None:
            change["gpus_per_node"] = request.gpus
            if request.gpus:
                change["processes_per_node"] = request.gpus
        for key in ("nodes", "memory_mb", "wall_minutes"):
            if (value := getattr(request, key)) is not None:
                change[key] = value
        if request.cpus is not None:
            change["cpus_per_node"] = request.cpus
        return RuntimeConfig.model_validate(runtime.model_dump() | change)

    def train_request(self, runtime: RuntimeConfig, stage: str, scale: str) -> JobRequest:
        """What a stage's job asks for, its runtime config included (that is what training will use)."""
        known = JobRequest(
            nodes=runtime.nodes,
            gpus=runtime.gpus_per_node,
            cpus=runtime.cores_per_node,
            memory_mb=runtime.memory_mb,
            wall_minutes=runtime.wall_minutes,
        )
        return known.over(self.stage_request(stage, scale))
