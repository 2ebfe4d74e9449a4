"""What a target costs, counted from the stage tree before anything runs.

Every figure follows from the configs: steps, latents and data tokens are counts, FLOPs are those of a latent times
latents, device hours divide them by a stated share of a stated peak, and a checkpoint holds every parameter and
its two Adam moments. Exports, evaluations and the corpus are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tst_titan.config.experiment import PlanConfig
from tst_titan.config.schema import HandoverConfig
from tst_titan.tree.folder import StageFolder, finished_among, sha256_of, stage_yaml
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Experiment, Run, Stage, stages_of

# Training keeps weights and both moments in float32, whatever the precision of the matrix products.
BYTES_PER_PARAMETER = 4 + 4 + 4


@dataclass(frozen=True)
class Cost:
    """Sums over stages.

    Attributes:
        stages: torchtitan jobs.
        steps: optimizer steps.
        latents: positions that the transformer processes.
        data_tokens: tokens read from the corpus.
        flops: forward and backward.
        checkpoint_bytes: on disk after training, the newest checkpoints of every stage.
    """

    stages: int = 0
    steps: int = 0
    latents: int = 0
    data_tokens: int = 0
    flops: float = 0.0
    checkpoint_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(cls, stage: Stage) -> Cost:
        """The cost of one stage."""
        config = stage.config
        steps = config.end_step - config.start_step
        latents = steps * config.latents_per_step
        return cls(
            stages=1,
            steps=steps,
            latents=latents,
            data_tokens=steps * config.data_tokens_per_step,
            flops=latents * config.model.flops_per_latent(config.latents_per_sequence),
            checkpoint_bytes=checkpoint_bytes(stage) * checkpoints_kept(stage),
        )

    @classmethod
    def total(cls, stages: Iterable[Stage]) -> Cost:
        """The cost of several stages."""
        return sum(map(cls.of, stages), cls())

    def device_hours(self, assumed: PlanConfig) -> float:
        """Hours of one device at the assumed speed."""
        return self.flops / (assumed.mfu * assumed.peak_tflops * 1e12) / 3600


def checkpoint_bytes(stage: Stage) -> int:
    """Bytes of one checkpoint of a stage: weights and Adam's moments.

    On disk come some 25 kB a weight matrix (Adam's settings, headers), which show in models of a few megabytes only.
    """
    return BYTES_PER_PARAMETER * stage.config.model.count_parameters().total


def checkpoints_kept(stage: Stage, more: int = 0) -> int:
    """Checkpoints that a finished stage has on disk: one an interval and one at the end, the newest of them.

    Args:
        stage: which one.
        more: than it keeps; while one is written it is one more.
    """
    start, end, every = stage.config.start_step, stage.config.end_step, stage.runtime.checkpoint_every
    written = end // every - start // every + (1 if end % every else 0)
    return min(written, stage.runtime.keep_last_checkpoints + more)


def uncut(run: Run) -> Iterator[Stage]:
    """The run's stages as they would be without other runs: a trunk is not cut where others branch off."""
    pending: Stage | None = None
    for stage in run.stages:
        if pending is not None and _goes_on(pending, stage):
            config = stage.config.model_copy(
                update={"start_step": pending.config.start_step, "handover": pending.config.handover}
            )
            pending = replace(stage, config=config)
            continue
        if pending is not None:
            yield pending
        pending = stage
    if pending is not None:
        yield pending


def _goes_on(parent: Stage, child: Stage) -> bool:
    a, b = parent.config, child.config
    same = (a.phase, a.superposition, a.schedule) == (b.phase, b.superposition, b.schedule)
    return same and b.handover == HandoverConfig()


@dataclass(frozen=True)
class Share:
    """The cost of some runs, three ways.

    Attributes:
        name: the experiment, or "total".
        runs: distinct final models.
        shared: every stage once.
        alone: every run trained from nothing by itself.
        to_do: the stages of ``shared`` that are not done.
    """

    name: str
    runs: int
    shared: Cost
    alone: Cost
    to_do: Cost

    def as_json(self, assumed: PlanConfig) -> dict[str, Any]:
        """Counts and device hours by name."""
        costs = {"shared": self.shared, "alone": self.alone, "to_do": self.to_do}
        return {"runs": self.runs} | {
            key: {**asdict(cost), "device_hours": cost.device_hours(assumed)} for key, cost in costs.items()
        }


@dataclass(frozen=True)
class Plan:
    """The plan of the experiments that a project is about, at its scale."""

    project: Project
    assumed: PlanConfig

    @cached_property
    def done(self) -> frozenset[str]:
        """Paths of the stages that are done, with exactly the configs of this call."""
        results = Path(self.project.results)
        folders = {path: StageFolder(results / "train" / path, results) for path in self.project.stages}
        configs = {
            folder.path: sha256_of(stage_yaml(self.project.stages[path].config))
            for path, folder in folders.items()
        }
        finished = finished_among(folders.values(), configs)
        return frozenset(path for path, folder in folders.items() if folder.path in finished)

    @cached_property
    def experiments(self) -> tuple[Share, ...]:
        """Every experiment by itself: what it shares with others is counted in each."""
        return tuple(self._share(experiment.name, [experiment]) for experiment in self.project.wanted())

    @cached_property
    def total(self) -> Share:
        """All experiments together: every stage once, and in ``alone`` every distinct run once."""
        return self._share("total", self.project.wanted())

    def _share(self, name: str, experiments: list[Experiment]) -> Share:
        stages = stages_of(experiments)
        runs = {f"{run.recipe}/{run.lineage}": run for e in experiments for run in e.trained}
        return Share(
            name=name,
            runs=len(runs),
            shared=Cost.total(stages.values()),
            alone=sum((Cost.total(uncut(run)) for run in runs.values()), Cost()),
            to_do=Cost.total(stage for path, stage in stages.items() if path not in self.done),
        )

    @cached_property
    def bytes_after_pruning(self) -> Mapping[str, int]:
        """Checkpoint bytes that are left when all is done and pruned, by ``keep_checkpoints``."""
        stages = self.project.stages
        final = {f"{run.recipe}/{run.lineage}" for e in self.project.wanted() for run in e.trained}
        children: dict[str, int] = {}
        for stage in stages.values():
            parent = f"{stage.recipe}/{stage.parent}"
            children[parent] = children.get(parent, 0) + 1
        branching = {path for path, count in children.items() if count > 1}
        kept = {"branch_points": final | branching, "final": final}
        sizes = {path: checkpoint_bytes(stage) for path, stage in stages.items()}
        return {"all": self.total.shared.checkpoint_bytes} | {
            policy: sum(size for path, size in sizes.items() if path in paths)
            for policy, paths in kept.items()
        }

    @cached_property
    def corpus_tokens(self) -> Mapping[str, int]:
        """Training tokens that each corpus must have so that no run repeats data."""
        needed: dict[str, int] = {}
        for stage in self.project.stages.values():
            data = stage.config.data
            if data.limit_tokens is None:
                tokens = stage.runtime.run_tokens_per_lane * data.batch_sequences
                needed[data.corpus] = max(needed.get(data.corpus, 0), tokens)
            else:
                needed[data.corpus] = max(needed.get(data.corpus, 0), data.limit_tokens)
        return dict(sorted(needed.items()))

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "scale": self.project.scale_name,
            "results": self.project.results,
            "assumed": self.assumed.model_dump(),
            "bytes_per_parameter": BYTES_PER_PARAMETER,
            "experiments": {share.name: share.as_json(self.assumed) for share in self.experiments},
            "total": self.total.as_json(self.assumed),
            "checkpoint_bytes_after_pruning": dict(self.bytes_after_pruning),
            "corpus_tokens": dict(self.corpus_tokens),
            "stages": [self._stage_json(stage) for _, stage in sorted(self.project.stages.items())],
        }

    def _stage_json(self, stage: Stage) -> dict[str, Any]:
        cost = Cost.of(stage)
        counts = {key: value for key, value in asdict(cost).items() if key != "stages"}
        return {
            "path": stage.path,
            "done": stage.path in self.done,
            **counts,
            "device_hours": cost.device_hours(self.assumed),
        }
