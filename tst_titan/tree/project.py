"""The project as the workflow sees it: the checked config, the experiments asked for, and the rendered files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from tst_titan.config.experiment import ProjectConfig, ScaleConfig
from tst_titan.config.load import read_yaml, to_yaml
from tst_titan.data.config import load_corpus, render_steps
from tst_titan.data.corpus import CorpusConfig
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.models.counts import count_parameters
from tst_titan.run.attempts import Attempts
from tst_titan.run.cluster.site import JobRequest, Kind, SiteConfig
from tst_titan.run.lock import writer_of
from tst_titan.tree.folder import StageFolder
from tst_titan.tree.resolve import Catalog, Experiment, Run, Stage, render, resolve, stages_of


@dataclass(frozen=True)
class Project:
    """Config, catalog and the experiments that this call of Snakemake is about.

    Attributes:
        root: the repository, where configs/ is.
        config: configs/demo.yaml with what the command line changed.
        experiment_names: experiments of the default target, or those that the named targets stand for.
    """

    root: Path
    config: ProjectConfig
    experiment_names: tuple[str, ...]
    _experiments: dict[tuple[str, str], Experiment] = field(default_factory=dict)
    _scales: dict[str, ScaleConfig] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, config: Mapping[str, Any], targets: Iterable[str] = ()) -> Project:
        """Check the config and everything that it names, before any job is planned.

        Args:
            root: the repository.
            config: Snakemake's config dictionary.
            targets: the words of the command line; those that name experiments are what is wanted.

        Raises:
            UserError: the first mistake found, with file, key, value and what would be valid.
        """
        catalog = Catalog(root / "configs")
        project = catalog.project(config, "config (configs/demo.yaml and --config)")
        known = catalog.targets()
        members = [member for word in targets for member in known.get(word, ())]
        members = members or [member for name in project.experiments for member in catalog.members(name)]
        opened = cls(root, project, tuple(dict.fromkeys(members)))
        for name in opened.experiment_names:
            opened.experiment(name)
        return opened

    @property
    def results(self) -> str:
        """Folder of everything that is produced, as given."""
        return self.config.results

    @property
    def scale_name(self) -> str:
        """The scale of this call."""
        return self.config.scale

    @cached_property
    def catalog(self) -> Catalog:
        """The folder of configs."""
        return Catalog(self.root / "configs")

    def scale(self, name: str | None = None) -> ScaleConfig:
        """A scale's config."""
        name = name or self.scale_name
        if name not in self._scales:
            self._scales[name] = self.catalog.scale(name)
        return self._scales[name]

    def experiment(self, name: str, scale: str | None = None) -> Experiment:
        """A resolved experiment, with this project's W&B mode and this site's nodes in its run-time configs."""
        key = (name, scale or self.scale_name)
        if key not in self._experiments:
            experiment = resolve(self.catalog, *key, self.config.seeds)
            runs = tuple(self._as_run_here(run, key[1]) for run in experiment.runs)
            self._experiments[key] = replace(experiment, runs=runs)
        return self._experiments[key]

    def wanted(self) -> list[Experiment]:
        """The experiments of this call."""
        return [self.experiment(name) for name in self.experiment_names]

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """All stages of the wanted experiments by path, each once; where W&B is on, with the run's group."""
        stages = stages_of(self.wanted())
        if self.config.wandb == "off":
            return stages
        runs_through: dict[str, set[str]] = {path: set() for path in stages}
        for run in (run for experiment in self.wanted() for run in experiment.runs):
            for stage in run.stages:
                runs_through[stage.path].add(f"{run.recipe}/{run.lineage}")
        return {path: _with_group(stage, runs_through[path]) for path, stage in stages.items()}

    def corpora(self) -> dict[str, CorpusConfig]:
        """The corpora that the wanted experiments read or measure."""
        names = {stage.config.data.corpus for stage in self.stages.values()}
        names |= {self.corpus_measured(experiment) for experiment in self.wanted() if not experiment.runs}
        folder = self.root / "configs" / "corpora"
        return {name: load_corpus(folder / f"{name}.yaml") for name in sorted(names)}

    def corpus_measured(self, experiment: Experiment) -> str:
        """The corpus of an experiment without runs, in this call's scale.

        Raises:
            UserError: the scale lacks the experiment's size.
        """
        sizes, size = self.scale().sizes, experiment.config.size
        if size not in sizes:
            raise UserError(
                f"configs/experiments/{experiment.name}.yaml: size {size!r} is not defined at scale "
                f"{self.scale_name}; it has: {', '.join(sizes)}"
            )
        return sizes[size].corpus

    def render(self) -> None:
        """Write what the rules take as input, only where its content changed.

        Raises:
            UserError: a corpus's tokenizer has more entries than a model's vocabulary.
        """
        results = Path(self.results)
        corpora = self.corpora()
        self._check_vocabularies(corpora)
        for name, corpus in corpora.items():
            render_steps(corpus, results / "data" / name, root=self.root)
        render(self.stages, results)
        for run in {run.recipe: run for experiment in self.wanted() for run in experiment.runs}.values():
            self._render_recipe(results, run)

    def corpus_of(self, recipe: str) -> str:
        """Corpus of a recipe, from what the main process rendered."""
        return read_yaml(Path(self.results) / "train" / recipe / "recipe.yaml")["corpus"]

    def evaluation_of(self, recipe: str) -> dict[str, Any]:
        """Evaluation settings of a recipe, as rendered."""
        return read_yaml(Path(self.results) / "evaluate" / recipe / "evaluation.yaml")

    def sequence_length_of(self, recipe: str) -> int:
        """Latents per sequence of a recipe, as rendered."""
        return read_yaml(Path(self.results) / "train" / recipe / "recipe.yaml")["sequence_length"]

    def parameters_of(self, recipe: str) -> int:
        """Parameters of a recipe's model, as rendered."""
        return read_yaml(Path(self.results) / "train" / recipe / "recipe.yaml")["parameters"]["total"]

    def evaluates(self, what: str, experiment: str, scale: str) -> bool:
        """Whether an experiment's final models are evaluated: "heldout" or "tasks"."""
        asked = what in self.experiment(experiment, scale).config.evaluate
        return asked and (what != "tasks" or bool(self.scale(scale).evaluation.tasks))

    @cached_property
    def site(self) -> SiteConfig:
        """configs/site.yaml."""
        return SiteConfig.read(self.site_path)

    @property
    def site_path(self) -> Path:
        """Where jobs' demands on a cluster are written down."""
        return self.root / "configs" / "site.yaml"

    def request(self, kind: Kind) -> JobRequest:
        """What a job of a kind asks for."""
        return self.site.request(kind, self.scale_name)

    def requests(self) -> list[JobRequest]:
        """What jobs may ask for, each once: those of all kinds and of the wanted stages."""
        kinds = [self.request(kind) for kind in get_args(Kind) if kind != "train"]
        stages = [self.stage_request(stage.recipe, stage.lineage) for stage in self.stages.values()]
        return list(dict.fromkeys([*kinds, *stages]))

    def stage_request(self, recipe: str, lineage: str) -> JobRequest:
        """What a stage's job asks for, from what was rendered for it and, for the rest, from the site.

        One that died too often without progress is not trained again: it asks for a core and minutes to say so.
        """
        folder = StageFolder.at(Path(self.results) / "train" / recipe / lineage)
        scale = read_yaml(Path(self.results) / "train" / recipe / "recipe.yaml")["scale"]
        request = self.site.train_request(folder.runtime, f"{recipe}/{lineage}", scale)
        if writer_of(folder) is None and Attempts(folder).exhausted():
            small = {
                "nodes": 1,
                "gpus": 0,
                "cpus": 1,
                "memory_mb": 2000,
                "wall_minutes": 5,
                "stop_seconds": 0,
            }
            return request.model_copy(update=small)
        return request

    def _render_recipe(self, results: Path, run: Run) -> None:
        stage = run.stages[0].config
        recipe: dict[str, Any] = {"scale": self.scale_name, "corpus": stage.data.corpus}
        recipe["sequence_length"] = stage.data.sequence_length
        recipe["parameters"] = count_parameters(stage.model).as_manifest()
        write_if_changed(results / "train" / run.recipe / "recipe.yaml", to_yaml(recipe))
        evaluation = self.scale().evaluation.model_dump(mode="json")
        write_if_changed(results / "evaluate" / run.recipe / "evaluation.yaml", to_yaml(evaluation))

    def _as_run_here(self, run: Run, scale: str) -> Run:
        stages = []
        for stage in run.stages:
            runtime = stage.runtime.model_copy(update={"wandb": self.config.wandb})
            stages.append(replace(stage, runtime=self.site.runtime(runtime, stage.path, scale)))
        return replace(run, stages=tuple(stages))

    def _check_vocabularies(self, corpora: Mapping[str, CorpusConfig]) -> None:
        """A tokenizer that is trained here has a known size; the others are checked against their manifest."""
        for stage in self.stages.values():
            tokenizer = corpora[stage.config.data.corpus].tokenizer
            size = getattr(tokenizer, "vocab_size", None)
            if size is not None and size > stage.config.model.vocab_size:
                raise UserError(
                    f"model of stage {stage.path}: key vocab_size: found {stage.config.model.vocab_size}; the "
                    f"tokenizer of configs/corpora/{stage.config.data.corpus}.yaml has {size} entries, so it must "
                    "be at least that"
                )


def _with_group(stage: Stage, runs: set[str]) -> Stage:
    """The stage with its W&B group: the run that it is part of, none if there are several."""
    group = next(iter(runs)) if len(runs) == 1 else None
    return replace(stage, runtime=stage.runtime.model_copy(update={"wandb_group": group}))
