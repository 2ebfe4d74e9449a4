"""The project as the workflow sees it: the checked config, the experiments asked for, and the rendered files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tst_titan.config.corpus import CorpusConfig, load_corpus
from tst_titan.config.experiment import ProjectConfig, ScaleConfig
from tst_titan.config.load import read_yaml, to_yaml
from tst_titan.data.settings import render as render_corpus
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.models.family import ModelConfig
from tst_titan.tree.draft import ScaleError
from tst_titan.tree.resolve import Catalog, Experiment, Run, Stage, Start, render, resolve, stages_of
from tst_titan.tree.start import render_start


@dataclass(frozen=True)
class Project:
    """Config, catalog and the experiments that this call of Snakemake is about.

    Attributes:
        root: the repository.
        catalog: its configs/.
        config: configs/demo.yaml with what the command line changed.
        experiment_names: experiments of the default target, or those that the named targets stand for.
        corpus_names: corpora whose files are targets by themselves.
    """

    root: Path
    catalog: Catalog
    config: ProjectConfig
    experiment_names: tuple[str, ...]
    corpus_names: tuple[str, ...] = ()
    _experiments: dict[tuple[str, str], Experiment] = field(default_factory=dict)
    _scales: dict[str, ScaleConfig] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, config: Mapping[str, Any], targets: Iterable[str] = ()) -> Project:
        """Check the config and everything that it names, before any job is planned.

        Args:
            root: the repository.
            config: Snakemake's config dictionary.
            targets: what is asked for; names of experiments and tables say what this call is about. With other targets
                only (a file, ``prune``), an experiment of the config that the scale cannot express is left out.

        Raises:
            UserError: the first mistake found, with file, key, value and what would be valid.
        """
        catalog = Catalog(root / "configs")
        project = catalog.project(config, "config (configs/demo.yaml and --config)")
        known, targets = catalog.targets(), tuple(targets)
        for word in targets:
            if word in catalog.broken:
                raise UserError(catalog.broken[word])
        asked = [member for word in targets for member in known.get(word, ())]
        names = asked or [member for name in project.experiments for member in catalog.members(name)]
        below = f"{project.results}/data/"
        corpora = {word.removeprefix(below).partition("/")[0] for word in targets if word.startswith(below)}
        opened = cls(root, catalog, project, tuple(dict.fromkeys(names)), tuple(sorted(corpora)))
        if asked or not set(targets) - {"plan"}:
            for name in opened.experiment_names:
                opened._experiment_that_fits(name, asked=bool(asked))
            return opened
        return replace(opened, experiment_names=tuple(filter(opened._fits, opened.experiment_names)))

    def _fits(self, name: str) -> bool:
        try:
            self.experiment(name)
        except ScaleError:
            return False
        return True

    def _experiment_that_fits(self, name: str, asked: bool) -> None:
        """Resolve an experiment; one of the config, which nobody named here, is refused with those that would do."""
        try:
            self.experiment(name)
        except ScaleError as error:
            alone = (name for name in self.catalog.sound() if self.catalog.members(name) == (name,))
            fitting = [each for each in alone if self._fits(each)]
            if asked or not fitting:
                raise
            raise UserError(
                f"{error}\nScale {self.scale_name} cannot express {name}, which the config asks for. Name what you "
                f"want, as in `snakemake {fitting[0]}`, or set experiments; it can express: {', '.join(fitting)}"
            ) from None

    @property
    def results(self) -> str:
        """Folder of everything that is produced, as given."""
        return self.config.results

    @property
    def scale_name(self) -> str:
        """The scale of this call."""
        return self.config.scale

    def scale(self, name: str | None = None) -> ScaleConfig:
        """A scale's config."""
        name = name or self.scale_name
        if name not in self._scales:
            self._scales[name] = self.catalog.scale(name)
        return self._scales[name]

    def experiment(self, name: str, scale: str | None = None) -> Experiment:
        """A resolved experiment, with this project's W&B mode in its run-time configs."""
        key = (name, scale or self.scale_name)
        if key not in self._experiments:
            experiment = resolve(self.catalog, *key, self.config.seeds_of(name))
            runs = tuple(self._with_wandb(run) for run in experiment.runs)
            self._experiments[key] = replace(experiment, runs=runs)
        return self._experiments[key]

    def wanted(self) -> list[Experiment]:
        """The experiments of this call."""
        return [self.experiment(name) for name in self.experiment_names]

    def trained(self) -> list[Run]:
        """Their runs, and those whose final models these start from."""
        return [run for experiment in self.wanted() for run in experiment.trained]

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """All stages of the wanted experiments by path, each once; where W&B is on, with the run's group."""
        stages = stages_of(self.wanted())
        if self.config.wandb == "off":
            return stages
        runs_through: dict[str, set[str]] = {path: set() for path in stages}
        for run in self.trained():
            for stage in run.stages:
                runs_through[stage.path].add(f"{run.recipe}/{run.lineage}")
        return {path: _with_group(stage, runs_through[path]) for path, stage in stages.items()}

    def corpora(self) -> dict[str, CorpusConfig]:
        """The corpora that the wanted experiments read or measure."""
        names = {stage.config.data.corpus for stage in self.stages.values()}
        names |= {self.corpus_measured(experiment) for experiment in self.wanted() if not experiment.runs}
        return self._corpora(names)

    def _corpora(self, names: Iterable[str]) -> dict[str, CorpusConfig]:
        folder = self.root / "configs" / "corpora"
        return {name: load_corpus(folder / f"{name}.yaml") for name in sorted(names)}

    def corpus_measured(self, experiment: Experiment) -> str:
        """The corpus of an experiment without runs, in this call's scale.

        Raises:
            ScaleError: the scale lacks the experiment's size.
        """
        sizes, size = self.scale().sizes, experiment.config.size
        if size not in sizes:
            raise ScaleError(
                f"configs/experiments/{experiment.name}.yaml: size {size!r} is not defined at scale "
                f"{self.scale_name}; it has: {', '.join(sizes)}"
            )
        return sizes[size].corpus

    def render(self) -> None:
        """Write what the rules take as input, only where its content changed.

        Raises:
            UserError: as `check_models`.
        """
        results = Path(self.results)
        corpora = self.corpora()
        self.check_models(corpora)
        self._render_starts(results)
        for name, corpus in (corpora | self._corpora(self.corpus_names)).items():
            render_corpus(corpus, results / "data" / name, root=self.root)
        render(self.stages, results)
        for run in {run.recipe: run for run in self.trained()}.values():
            self._render_recipe(results, run)

    def _render_starts(self, results: Path) -> None:
        found: dict[str, tuple[Start, ModelConfig]] = {}
        for run in self.trained():
            if run.start is None:
                continue
            new = (run.start, run.stages[0].config.model)
            if found.setdefault(run.start.name, new) != new:
                raise UserError(
                    f"key start_from: two runs start from {run.start.name}, but with another model or another place of "
                    "that name: give one of them a model of the same shape, or its folder another name"
                )
            other = run.start.run
            export = None if other is None else f"{other.recipe}/{other.lineage}"
            render_start(run.start.config, export, new[1], results)

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

    def tasks(self) -> tuple[str, ...]:
        """The tasks that the wanted experiments evaluate."""
        asked = any(self.evaluates("tasks", name, self.scale_name) for name in self.experiment_names)
        return self.scale().evaluation.tasks if asked else ()

    def _render_recipe(self, results: Path, run: Run) -> None:
        stage = run.stages[0].config
        recipe: dict[str, Any] = {"scale": self.scale_name, "corpus": stage.data.corpus}
        recipe["sequence_length"] = stage.data.sequence_length
        recipe["parameters"] = stage.model.count_parameters().as_manifest()
        write_if_changed(results / "train" / run.recipe / "recipe.yaml", to_yaml(recipe))
        evaluation = self.scale().evaluation.model_dump(mode="json")
        write_if_changed(results / "evaluate" / run.recipe / "evaluation.yaml", to_yaml(evaluation))

    def _with_wandb(self, run: Run) -> Run:
        mode = {"wandb": self.config.wandb}
        stages = (replace(stage, runtime=stage.runtime.model_copy(update=mode)) for stage in run.stages)
        start = run.start
        if start is not None and start.run is not None:
            start = replace(start, run=self._with_wandb(start.run))
        return replace(run, stages=tuple(stages), start=start)

    def check_models(self, corpora: Mapping[str, CorpusConfig]) -> None:
        """A tokenizer that is trained here has a known size; the others are checked against their manifest.

        Raises:
            UserError: a corpus's tokenizer has more entries than a model's vocabulary, or is trained here for a model
                from elsewhere, or tasks are asked of a model that transformers cannot load.
        """
        for run in self.trained():
            corpus = run.stages[0].config.data.corpus
            if run.start is not None and run.start.run is None and corpora[corpus].tokenizer.kind == "train":
                raise UserError(
                    f"configs/corpora/{corpus}.yaml: key tokenizer.kind: found 'train'; run {run.name} starts from "
                    f"{run.start.config.path}, whose tokenizer the corpus must have: {{kind: hub, name: owner/name, "
                    "eos_token: ...} or {kind: file, path: .../tokenizer.json, eos_token: ...}"
                )
        for experiment in self.wanted():
            for run in (
                experiment.trained if self.evaluates("tasks", experiment.name, self.scale_name) else ()
            ):
                if not run.stages[0].config.model.in_transformers:
                    named = {str(name): size.model for name, size in self.scale().sizes.items()}
                    raise UserError(
                        f"configs/scales/{self.scale_name}.yaml: key evaluation.tasks: found "
                        f"{', '.join(self.scale().evaluation.tasks)}, but lm-eval loads models through transformers: "
                        f"give configs/models/{named[run.size]}.yaml the key hugging_face_config, or ask for no tasks "
                        "(held-out loss is measured either way)"
                    )
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
