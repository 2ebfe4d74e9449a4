"""Resolve experiments at a scale into runs and stages: the stage tree, before anything runs.

Stages that runs share (same recipe, same lineage) appear once; that is how sweeps save compute.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tst_titan.config.experiment import (
    BagSpec,
    ExperimentConfig,
    GridLimits,
    GridSpec,
    ProjectConfig,
    RunSpec,
    ScaleConfig,
    SizeConfig,
)
from tst_titan.config.load import choose_file, dump, load, parse, write_if_changed
from tst_titan.config.parallel import check_parallel
from tst_titan.config.pieces import cut_into_pieces, schedule_of, segment_name
from tst_titan.config.schema import (
    DataConfig,
    HandoverConfig,
    ModelConfig,
    OptimizerConfig,
    RuntimeConfig,
    StageConfig,
    SuperpositionConfig,
)
from tst_titan.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One torchtitan job of the tree."""

    recipe: str
    lineage: str
    config: StageConfig
    runtime: RuntimeConfig

    @property
    def parent(self) -> str | None:
        """Lineage of the parent stage; None for a root."""
        head, _, _ = self.lineage.rpartition("/")
        return head or None

    @property
    def path(self) -> str:
        """``<recipe>/<lineage>``, unique in the tree."""
        return f"{self.recipe}/{self.lineage}"


@dataclass(frozen=True)
class Run:
    """A path of stages from nothing to a final model, with what the comparison needs to know of it."""

    name: str
    label: str
    role: str
    seed: int
    size: str
    group: str
    axes: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def recipe(self) -> str:
        """What all stages of the run share."""
        return self.stages[-1].recipe

    @property
    def lineage(self) -> str:
        """Lineage of the last stage."""
        return self.stages[-1].lineage


@dataclass(frozen=True)
class Experiment:
    """A resolved experiment."""

    name: str
    config: ExperimentConfig
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Catalog:
    """The folder of configs that names refer to, with what was read from it."""

    folder: Path
    _models: dict[str, ModelConfig] = field(default_factory=dict)

    def project(self, content: Mapping[str, Any], source: str) -> ProjectConfig:
        """The project's own settings, checked."""
        return parse(ProjectConfig, content, source)

    def scale(self, name: str) -> ScaleConfig:
        """configs/scales/<name>.yaml."""
        return load(ScaleConfig, choose_file(self.folder / "scales", name, "scale"))

    def experiment(self, name: str) -> ExperimentConfig:
        """configs/experiments/<name>.yaml."""
        return load(ExperimentConfig, choose_file(self.folder / "experiments", name, "experiment"))

    def experiments(self) -> list[str]:
        """Names of all experiments."""
        return sorted(path.stem for path in (self.folder / "experiments").glob("*.yaml"))

    def model(self, name: str) -> ModelConfig:
        """configs/models/<name>.yaml."""
        if name not in self._models:
            self._models[name] = load(ModelConfig, choose_file(self.folder / "models", name, "model"))
        return self._models[name]


def resolve(catalog: Catalog, experiment_name: str, scale_name: str) -> Experiment:
    """All runs of one experiment at one scale.

    Raises:
        UserError: an unknown name, a size or length that the scale lacks, or an inconsistent run.
    """
    experiment = catalog.experiment(experiment_name)
    scale = catalog.scale(scale_name)
    seeds = min(experiment.seeds, scale.grid.seeds or experiment.seeds)
    runs: dict[str, Run] = {}
    for name, spec in _all_runs(experiment, scale.grid):
        for seed in range(scale.seed, scale.seed + seeds):
            full_name = f"{name}-seed{seed}" if seeds > 1 else name
            where = f"configs/experiments/{experiment_name}.yaml: run {name} at scale {scale_name}"
            runs[full_name] = _Resolver(catalog, scale, scale_name, experiment, where).run(
                full_name, spec, seed
            )
    return Experiment(experiment_name, experiment, tuple(_with_longest_reads(runs.values())))


def stages_of(experiments: Iterable[Experiment]) -> dict[str, Stage]:
    """All stages by path, each once. The longest read through a stage wins in its run-time config."""
    stages: dict[str, Stage] = {}
    for experiment in experiments:
        for stage in itertools.chain.from_iterable(run.stages for run in experiment.runs):
            known = stages.get(stage.path)
            if known is not None and known.config != stage.config:
                raise UserError(
                    f"two runs disagree about stage {stage.path}; this is a bug in the naming of recipes"
                )
            if known is None or known.runtime.run_tokens_per_lane < stage.runtime.run_tokens_per_lane:
                stages[stage.path] = stage
    return stages


def render(stages: Mapping[str, Stage], results: Path) -> None:
    """Write every stage's stage.yaml and runtime.yaml, only where the content changed."""
    for stage in stages.values():
        folder = results / "train" / stage.path
        write_if_changed(folder / "stage.yaml", dump(stage.config))
        write_if_changed(folder / "runtime.yaml", dump(stage.runtime))


def _all_runs(experiment: ExperimentConfig, limits: GridLimits) -> Iterator[tuple[str, RunSpec]]:
    yield from experiment.runs.items()
    if experiment.grid is not None:
        yield from _grid_runs(experiment.grid, limits)


def _grid_runs(grid: GridSpec, limits: GridLimits) -> Iterator[tuple[str, RunSpec]]:
    """The product of the axes; the baseline of every (size, length, ...) appears once."""

    def axis(name: str, absent: Any) -> Sequence[Any]:
        wanted = getattr(grid, name)
        return (getattr(limits, name) or wanted) if wanted else (absent,)

    seen = set()
    for size, length, rate, epochs, weights, bag_size, fraction in itertools.product(
        axis("size", None),
        axis("length", "short"),
        axis("learning_rate_times", 1.0),
        axis("epochs", None),
        axis("weights", "uniform"),
        (1, *axis("bag_size", 1)) if grid.bag_size else (1, None),
        axis("bag_fraction", None),
    ):
        is_baseline = bag_size == 1 or fraction == 0
        bags = () if is_baseline else (BagSpec(bag_size=bag_size, bag_fraction=fraction, weights=weights),)
        spec = RunSpec(size=size, length=length, learning_rate_times=rate, epochs=epochs, bags=bags)
        parts = [size, length if grid.length else None]
        parts += [f"lr{rate:g}x" if grid.learning_rate_times else None]
        parts += [f"epochs{epochs:g}" if epochs else None]
        if is_baseline:
            parts.append("baseline")
        else:
            parts += [f"s{bag_size}" if bag_size else "tst", f"r{fraction:g}" if fraction else None]
            parts += [weights if weights != "uniform" else None]
        name = "-".join(part for part in parts if part)
        if name not in seen:
            seen.add(name)
            yield name, spec


@dataclass(frozen=True)
class _Resolver:
    """Turns one RunSpec into a Run; ``where`` names it in errors."""

    catalog: Catalog
    scale: ScaleConfig
    scale_name: str
    experiment: ExperimentConfig
    where: str

    def run(self, name: str, spec: RunSpec, seed: int) -> Run:
        size_name = spec.size or self.experiment.size
        size = self._size(size_name)
        steps = self._total_steps(size, spec)
        bags = tuple(self._with_defaults(bag, size) for bag in spec.bags)
        rate = spec.learning_rate or size.learning_rate * spec.learning_rate_times
        limit = None
        if spec.epochs is not None:
            limit = round(steps * size.batch_sequences * size.sequence_length / spec.epochs)
        recipe = self._recipe_name(size_name, size, rate, seed, limit)
        data = DataConfig(
            corpus=size.corpus,
            sequence_length=size.sequence_length,
            batch_sequences=size.batch_sequences,
            allow_repeat=self.scale.allow_repeat or spec.epochs is not None,
            limit_tokens=limit,
        )
        optimizer = OptimizerConfig(
            learning_rate=rate,
            weight_decay=self.scale.weight_decay,
            max_gradient_norm=self.scale.max_gradient_norm,
        )
        stages = []
        lineage = ""
        for piece in cut_into_pieces(steps, bags, self.scale.decay_fraction, spec.phase_decay, self.where):
            first_token = piece.bag is None and piece.start == piece.phase_start and piece.start > 0
            handover = None if piece.start == 0 else (spec.handover if first_token else HandoverConfig())
            config = parse(
                StageConfig,
                {
                    "phase": piece.phase,
                    "start_step": piece.start,
                    "end_step": piece.end,
                    "seed": seed,
                    "precision": self.scale.precision,
                    "model": self.catalog.model(size.model),
                    "data": data,
                    "superposition": _superposition(piece.bag),
                    "optimizer": optimizer,
                    "schedule": schedule_of(piece, size, spec),
                    "handover": handover,
                },
                self.where,
            )
            segment = segment_name(piece, handover, spec.phase_decay)
            lineage = f"{lineage}/{segment}" if lineage else segment
            runtime = size.runtime or self.scale.runtime
            check_parallel(config, runtime, self.where)
            stages.append(Stage(recipe, lineage, config, runtime))
        return Run(
            name=name,
            label=spec.label or name,
            role=spec.role or ("tst" if bags else "baseline"),
            seed=seed,
            size=size_name,
            group=f"{size_name}-{spec.length}" if self.experiment.grid is not None else "",
            axes=_axes(bags, rate, spec, self.catalog.model(size.model)),
            stages=tuple(stages),
        )

    def _size(self, name: str) -> SizeConfig:
        sizes: Mapping[str, SizeConfig] = self.scale.sizes  # type: ignore[assignment]
        if name not in sizes:
            raise UserError(f"{self.where}: size {name!r} is not defined; the scale has: {', '.join(sizes)}")
        return sizes[name]

    def _total_steps(self, size: SizeConfig, spec: RunSpec) -> int:
        if spec.length not in size.steps:
            known = ", ".join(f"{key} ({value})" for key, value in size.steps.items())
            raise UserError(f"{self.where}: key length: found {spec.length!r}; this size has: {known}")
        return round(size.steps[spec.length] * spec.times)

    def _with_defaults(self, bag: BagSpec, size: SizeConfig) -> BagSpec:
        return bag.model_copy(
            update={
                "bag_size": bag.bag_size or size.tst.bag_size,
                "bag_fraction": bag.bag_fraction or size.tst.bag_fraction,
            }
        )

    def _recipe_name(
        self, size_name: str, size: SizeConfig, rate: float, seed: int, limit: int | None
    ) -> str:
        parts = [self.scale_name, size_name]
        if rate != size.learning_rate:
            parts.append(f"lr{rate:.3g}")
        if limit is not None:
            parts.append(f"limit{limit}")
        if seed != self.scale.seed:
            parts.append(f"seed{seed}")
        return "-".join(parts)


def _superposition(bag: BagSpec | None) -> SuperpositionConfig | None:
    if bag is None:
        return None
    assert bag.bag_size is not None
    return SuperpositionConfig(
        bag_size=bag.bag_size, sides=bag.sides, weights=bag.weights, loss=bag.loss, feeding=bag.feeding
    )


def _axes(bags: Sequence[BagSpec], rate: float, spec: RunSpec, model: ModelConfig) -> dict[str, Any]:
    axes: dict[str, Any] = {
        "bag_size": max((bag.bag_size or 1 for bag in bags), default=1),
        "bag_fraction": sum(bag.bag_fraction or 0.0 for bag in bags),
        "lr": rate,
        "weighting": str(bags[0].weights) if bags else "uniform",
        "sides": bags[0].sides if bags else "full",
        "width": model.dim,
    }
    if bags:
        axes["feeding"] = bags[0].feeding
    if spec.epochs is not None:
        axes["epochs"] = spec.epochs
    return axes


def _with_longest_reads(runs: Iterable[Run]) -> Iterator[Run]:
    """Note in every stage how many tokens per lane its run needs, so that a shortage shows before training."""
    for run in runs:
        position = sum((s.config.end_step - s.config.start_step) * s.config.lane_advance for s in run.stages)
        needed = position + max(stage.config.bag_size for stage in run.stages)
        stages = tuple(
            replace(s, runtime=s.runtime.model_copy(update={"run_tokens_per_lane": needed}))
            for s in run.stages
        )
        yield replace(run, stages=stages)
