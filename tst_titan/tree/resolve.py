"""Resolve experiments at a scale into runs and stages: the stage tree, before anything runs.

Stages that runs share (same recipe, same lineage) appear once; that is how sweeps save compute.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tst_titan.config.experiment import (
    Collection,
    ExperimentConfig,
    ProjectConfig,
    RunSpec,
    ScaleConfig,
    StartFrom,
)
from tst_titan.config.load import choose_file, did_you_mean, dump, load, parse, parse_yaml, read_yaml
from tst_titan.config.schema import RecipeOptions, RuntimeConfig, StageConfig
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.models.family import ModelConfig, class_of
from tst_titan.tree.draft import Draft, Drafter, share_trunks
from tst_titan.tree.folder import stage_yaml
from tst_titan.tree.grid import all_runs
from tst_titan.tree.start import start_name


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
class Start:
    """What a run begins with, in place of new weights.

    Attributes:
        config: as the experiment says.
        run: of these results, whose exported final model it is; None if it is somebody else's.
    """

    config: StartFrom
    run: Run | None

    @property
    def name(self) -> str:
        """Of its folder below ``<results>/start``, and in the lineage."""
        return start_name(self.config)


@dataclass(frozen=True)
class Run:
    """A path of stages from nothing, or a start, to a final model, with what the comparison needs to know of it."""

    name: str
    label: str
    role: str
    seed: int
    size: str
    length: str
    group: str
    axes: dict[str, Any]
    spec: RunSpec
    stages: tuple[Stage, ...]
    start: Start | None = None

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

    @property
    def elsewhere(self) -> dict[str, RunSpec]:
        """The runs that another trainer made, by name."""
        return {name: run for name, run in self.config.runs.items() if run.made_elsewhere is not None}

    @property
    def trained(self) -> tuple[Run, ...]:
        """Its runs, and before them those whose final models they start from."""
        found: list[Run] = []
        waiting = list(self.runs)
        while waiting:
            run = waiting.pop()
            found.insert(0, run)
            if run.start is not None and run.start.run is not None:
                waiting.append(run.start.run)
        return tuple({f"{run.recipe}/{run.lineage}": run for run in found}.values())


def _typed(value: Any) -> Any:
    """A mapping's texts as YAML reads them."""
    if not isinstance(value, dict):
        return value
    return {key: parse_yaml(each) if isinstance(each, str) else _typed(each) for key, each in value.items()}


@dataclass(frozen=True)
class Catalog:
    """The folder of configs that names refer to, with what was read from it: models and experiments once each."""

    folder: Path
    _models: dict[str, ModelConfig] = field(default_factory=dict)
    _entries: dict[str, ExperimentConfig | Collection] = field(default_factory=dict)

    def project(self, content: Mapping[str, Any], source: str) -> ProjectConfig:
        """The project's own settings, checked.

        Of ``--config plan='{mfu: 0.25}'`` Snakemake makes a mapping of texts, where a file gives numbers.
        """
        return parse(ProjectConfig, {key: _typed(value) for key, value in content.items()}, source)

    def scale(self, name: str) -> ScaleConfig:
        """configs/scales/<name>.yaml."""
        path = choose_file(self.folder / "scales", name, "scale")
        check_name(path)
        return load(ScaleConfig, path)

    def entry(self, name: str) -> ExperimentConfig | Collection:
        """configs/experiments/<name>.yaml: an experiment, or a collection of others."""
        if name not in self._entries:
            path = choose_file(self.folder / "experiments", name, "experiment")
            content = read_yaml(path)
            if "experiments" in content:
                self._entries[name] = parse(Collection, content, path)
            else:
                self._entries[name] = parse(ExperimentConfig, content, path)
        return self._entries[name]

    def experiment(self, name: str) -> ExperimentConfig:
        """An experiment that has runs, or a corpus, of its own.

        Raises:
            UserError: unknown, or a collection of several.
        """
        entry = self.entry(name)
        if isinstance(entry, Collection):
            raise UserError(f"{name} is a collection of {', '.join(entry.experiments)}; name one of these")
        if entry.runs_of is None:
            return entry
        other = self.entry(entry.runs_of)
        if not isinstance(other, ExperimentConfig) or other.runs_of is not None:
            raise UserError(
                f"configs/experiments/{name}.yaml: key runs_of: found {entry.runs_of!r}, which has no runs of its own"
            )
        keys = ("runs", "grid", "size", "seeds", "start_from", *RecipeOptions.model_fields)
        taken = {key: getattr(other, key) for key in keys}
        return entry.model_copy(update=taken)

    def experiments(self) -> list[str]:
        """Names of all experiments and collections.

        Raises:
            UserError: a name cannot be that of a target and of a folder in the results.
        """
        paths = sorted((self.folder / "experiments").glob("*.yaml"))
        for path in paths:
            check_name(path)
        return [path.stem for path in paths]

    def members(self, name: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The experiments that a name stands for: itself, or what a collection holds, each once.

        Raises:
            UserError: an unknown name, or a collection that holds itself.
        """
        if name in above:
            raise UserError(f"configs/experiments/{name}.yaml: key experiments: it holds itself")
        entry = self.entry(name)
        if isinstance(entry, ExperimentConfig):
            return (name,)
        found = [member for part in entry.experiments for member in self.members(part, (*above, name))]
        return tuple(dict.fromkeys(found))

    def tables(self) -> dict[str, str]:
        """Tables of the paper by name, with the experiment that each is read from.

        Raises:
            UserError: two experiments have a table of one name, or a table has an experiment's.
        """
        names = self.experiments()
        found: dict[str, str] = {}
        for name in self.sound():
            entry = self.entry(name)
            for table in entry.tables if isinstance(entry, ExperimentConfig) else ():
                if table in found or table in names:
                    other = found.get(table, table)
                    raise UserError(
                        f"configs/experiments/{name}.yaml: key tables: {table} is taken by {other}.yaml"
                    )
                found[table] = name
        return found

    def model(self, name: str) -> ModelConfig:
        """configs/models/<name>.yaml."""
        if name not in self._models:
            path = choose_file(self.folder / "models", name, "model")
            content = read_yaml(path)
            self._models[name] = parse(class_of(content), content, path)
        return self._models[name]

    def targets(self) -> dict[str, tuple[str, ...]]:
        """Every name that can be asked for, with the experiments that it is about: tables are their experiment's.

        Without the files that have a mistake: what is not asked for stops nobody.
        """
        owners = self.tables()
        return {name: self.members(owners.get(name, name)) for name in (*self.sound(), *owners)}

    @cached_property
    def broken(self) -> dict[str, str]:
        """Experiments and collections that cannot be read, or hold one that cannot, with the first mistake of each."""
        found = {}
        for name in self.experiments():
            try:
                self.members(name)
            except UserError as error:
                found[name] = str(error)
        return found

    def sound(self) -> list[str]:
        """Names of the experiments and collections without a mistake."""
        return [name for name in self.experiments() if name not in self.broken]


def check_name(path: Path) -> None:
    """The name of an experiment's or scale's file is that of a folder; an experiment's that of a target, too.

    Raises:
        UserError: it cannot be.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", path.stem):
        raise UserError(
            f"{path}: its name is that of a folder of results: letters, digits and _ . - only; rename the file"
        )


def resolve(
    catalog: Catalog,
    experiment_name: str,
    scale_name: str,
    seeds: int | None = None,
    above: tuple[str, ...] = (),
) -> Experiment:
    """All runs of one experiment at one scale.

    Args:
        seeds: number of seeds, instead of the experiment's and the scale's.
        above: experiments whose runs start from this one's.

    Raises:
        UserError: an unknown name, a size or length that the scale lacks, or an inconsistent run.
    """
    experiment = catalog.experiment(experiment_name)
    scale = catalog.scale(scale_name)
    models: dict[str, ModelConfig] = {name: catalog.model(size.model) for name, size in scale.sizes.items()}
    drafter = Drafter(scale, scale_name, experiment.size, models, experiment, experiment.start_from)
    seeds = seeds or min(experiment.seeds, scale.grid.seeds or experiment.seeds)
    drafts = []
    for name, spec in all_runs(experiment, scale.grid):
        where = f"configs/experiments/{experiment_name}.yaml: run {name} at scale {scale_name}"
        for seed in range(scale.seed, scale.seed + seeds):
            full_name = f"{name}-seed{seed}" if seeds > 1 else name
            drafts.append(drafter.draft(full_name, spec, seed, where))
    in_groups = experiment.grid is not None
    starts: dict[StartFrom | None, Start | None] = {None: None}
    for draft in drafts:
        if draft.start_from is not None and draft.start_from not in starts:
            starts[draft.start_from] = _start(catalog, draft, scale_name, (*above, experiment_name))
    runs = [_run(draft, in_groups, starts[draft.start_from]) for draft in share_trunks(drafts)]
    return Experiment(experiment_name, experiment, tuple(_with_longest_reads(runs)))


def _start(catalog: Catalog, draft: Draft, scale_name: str, above: tuple[str, ...]) -> Start:
    config = draft.start_from
    assert config is not None
    if config.run is None:
        return Start(config, None)
    experiment_name, _, run_name = config.run.partition("/")
    where = f"{draft.where}: key start_from.run: found {config.run!r}"
    if experiment_name in above:
        raise UserError(f"{where}; an experiment cannot start from itself: move that run to another file")
    # One seed: several runs of an experiment over seeds start from one model, as they would from a published one.
    other = resolve(catalog, experiment_name, scale_name, 1, above)
    for run in other.runs:
        if run.name == run_name:
            return Start(config, run)
    known = [run.name for run in other.runs]
    raise UserError(f"{where}{did_you_mean(run_name, known)}; {experiment_name} has: {', '.join(known)}")


def _run(draft: Draft, in_groups: bool, start: Start | None) -> Run:
    return Run(
        start=start,
        name=draft.name,
        label=draft.spec.label or draft.name.removesuffix(f"-seed{draft.seed}"),
        role=draft.spec.resolved_role,
        seed=draft.seed,
        size=draft.size_name,
        length=draft.spec.length,
        group=draft.spec.group
        or (f"{draft.size_name}-{draft.spec.length}" if in_groups else draft.own_options),
        axes=draft.axes(),
        spec=draft.spec,
        stages=tuple(Stage(draft.recipe, *stage) for stage in draft.stages()),
    )


def stages_of(experiments: Iterable[Experiment]) -> dict[str, Stage]:
    """All stages by path, each once. The longest read through a stage wins in its run-time config."""
    stages: dict[str, Stage] = {}
    for experiment in experiments:
        for stage in itertools.chain.from_iterable(run.stages for run in experiment.trained):
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
        write_if_changed(folder / "stage.yaml", stage_yaml(stage.config))
        write_if_changed(folder / "runtime.yaml", dump(stage.runtime))


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
