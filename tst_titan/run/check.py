"""``tst-titan check``: every mistake in the files of configs/, found before anything runs.

Loads every file, and resolves every experiment at every scale that can express it. Reads only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tst_titan.config.corpus import load_corpus
from tst_titan.config.experiment import Collection, ProjectConfig
from tst_titan.config.load import choose_file, parse, read_yaml
from tst_titan.data.settings import SETTINGS
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.evaluate.harness import refuse_unknown
from tst_titan.run.recipes import mistakes, questions
from tst_titan.text import text_table
from tst_titan.tree.draft import ScaleError
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Catalog, check_name

KINDS = ("models", "corpora", "tasks", "scales", "experiments")
# How a message on a run begins: where it was met, not what is wrong.
RUN = re.compile(r"^configs/experiments/[^:]+\.yaml: run (\S+) at scale (\S+?): ")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan check``."""
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a file of ``configs/`` here, then every mistake; 2 if there is one.

    Raises:
        UserError: there is no folder ``configs`` here.
    """
    root = Path.cwd()
    if not (root / "configs").is_dir():
        raise UserError(
            f"{root}: has no folder configs; call tst-titan check where Snakefile and configs/ are"
        )
    check = Check(root)
    check.all()
    print(text_table(("file", "", ""), check.lines(), words=3))
    mistakes = check.mistakes()
    if mistakes:
        print("\n" + "\n".join(mistakes))
    files = f"{len(check.found)} files"
    print(f"\n{files}, {len(mistakes)} mistake{'s' * (len(mistakes) != 1)}")
    return EXIT_USER_ERROR if mistakes else 0


@dataclass
class Found:
    """What one file holds, in a few words, and what is wrong with it."""

    says: str = ""
    mistakes: list[str] = field(default_factory=list)


@dataclass
class Check:
    """All files of a project's configs.

    Attributes:
        root: the folder that holds ``configs``.
        found: by the file's path from there, in the order of ``KINDS``.
    """

    root: Path
    found: dict[str, Found] = field(default_factory=dict)
    _catalog: Catalog = field(init=False)

    def __post_init__(self) -> None:
        self._catalog = Catalog(self.root / "configs")

    def all(self) -> None:
        """Check every file."""
        readers: dict[str, Callable[[Path], str]] = {
            "models": self._model,
            "corpora": self._corpus,
            "tasks": lambda path: f"lm-eval task {read_yaml(path).get('task', path.stem)}",
            "scales": self._scale,
            "experiments": self._entry,
        }
        for kind in KINDS:
            for path in sorted((self.root / "configs" / kind).glob("*.y*ml")):
                self._try(path, readers[kind])
        self._resolve_all()
        for path in sorted((self.root / "configs").glob("*.y*ml")):
            self._try(path, self._project)

    def lines(self) -> list[tuple[str, str, str]]:
        """File, whether it is fine, what it holds."""
        return [(name, "wrong" if found.mistakes else "ok", found.says) for name, found in self.found.items()]

    def mistakes(self) -> list[str]:
        """Every mistake in a sentence that names its file."""
        sentences: dict[str, None] = {}
        for name, found in self.found.items():
            for mistake in found.mistakes:
                text = mistake.replace(f"{self.root}/", "")
                sentences[text if text.startswith("configs/") else f"{name}: {text}"] = None
        return list(sentences)

    def _try(self, path: Path, read: Callable[[Path], str]) -> None:
        found = self.found[str(path.relative_to(self.root))] = Found()
        try:
            if path.suffix != ".yaml":
                raise UserError(
                    f"nothing reads a file that ends in {path.suffix}; rename it to {path.stem}.yaml"
                )
            found.says = read(path)
        except UserError as error:
            found.mistakes += str(error).splitlines()

    def _model(self, path: Path) -> str:
        counts = self._catalog.model(path.stem).count_parameters()
        active = "" if counts.active == counts.total else f", {counts.active:,} active"
        return f"{counts.total:,} parameters{active}"

    def _corpus(self, path: Path) -> str:
        corpus = load_corpus(path)
        for settings in SETTINGS.values():
            settings.of(corpus, self.root)  # tokenizer and pins that it names are there
        return ", ".join(source.label for source in corpus.sources)

    def _scale(self, path: Path) -> str:
        scale = self._catalog.scale(path.stem)
        for name, size in scale.sizes.items():
            for kind, value in (("model", size.model), ("corpus", size.corpus)):
                folder = self.root / "configs" / {"model": "models", "corpus": "corpora"}[kind]
                try:
                    choose_file(folder, value, kind)
                except UserError as error:
                    raise UserError(f"key sizes.{name}.{kind}: {error}") from None
        refuse_unknown(scale.evaluation.tasks, [self.root / "configs" / "tasks"])
        return f"sizes {', '.join(scale.sizes)}"

    def _entry(self, path: Path) -> str:
        check_name(path)
        entry = self._catalog.entry(path.stem)
        if isinstance(entry, Collection):
            return f"collection of {len(self._catalog.members(path.stem))}"
        self._catalog.experiment(path.stem)
        return ""

    def _project(self, path: Path) -> str:
        config = self._catalog.project(read_yaml(path), path.relative_to(self.root).as_posix())
        choose_file(self.root / "configs/scales", config.scale, "scale")
        for name in config.experiments:
            self._catalog.members(name)
        return f"{', '.join(config.experiments)} at scale {config.scale}"

    def _sound(self, kind: str) -> list[str]:
        return [
            Path(name).stem
            for name, found in self.found.items()
            if name.startswith(f"configs/{kind}/") and not found.mistakes
        ]

    def _resolve_all(self) -> None:
        """Every sound experiment at every sound scale; a mistake that several experiments meet is the scale's."""
        experiments = [name for name in self._sound("experiments") if self._catalog.members(name) == (name,)]
        expressed: dict[str, list[str]] = {name: [] for name in experiments}
        refusals: dict[str, str] = {}
        met: dict[str, list[tuple[str, str, str]]] = {}
        asked: list[dict[str, Any]] = []
        for scale in self._sound("scales"):
            if broken := self._broken_parts(scale):
                self.found[f"configs/scales/{scale}.yaml"].mistakes.append(
                    f"needs {' and '.join(broken)}, with mistakes of its own"
                )
                continue
            project = self._at(scale, tuple(experiments))
            for name in experiments:
                try:
                    alone = replace(project, experiment_names=(name,))
                    alone.check_models(alone.corpora())
                    expressed[name].append(scale)
                    asked += questions(alone.experiment(name), scale)
                except ScaleError as error:
                    refusals.setdefault(name, str(error))
                except UserError as error:
                    for line in str(error).splitlines():
                        met.setdefault(RUN.sub("", line), []).append((name, scale, line))
        for line in mistakes(asked):
            place = RUN.match(line)
            assert place is not None
            name = Path(line.split(":")[0]).stem
            met.setdefault(RUN.sub("", line), []).append((name, place[2], line))
        for mistake, places in met.items():
            self._attribute(mistake, places)
        for name in experiments:
            found = self.found[f"configs/experiments/{name}.yaml"]
            found.says = f"at {', '.join(expressed[name])}" if expressed[name] else "at no scale"
            if not expressed[name] and not found.mistakes and name in refusals:
                found.mistakes.append(f"no scale can express it: {refusals[name]}")

    def _broken_parts(self, scale: str) -> list[str]:
        sizes = self._catalog.scale(scale).sizes.values()
        parts = [f"configs/models/{size.model}.yaml" for size in sizes]
        parts += [f"configs/corpora/{size.corpus}.yaml" for size in sizes]
        return [part for part in dict.fromkeys(parts) if self.found[part].mistakes]

    def _at(self, scale: str, experiments: tuple[str, ...]) -> Project:
        config = {"scale": scale, "experiments": experiments}
        return Project(self.root, self._catalog, parse(ProjectConfig, config, "tst-titan check"), experiments)

    def _attribute(self, mistake: str, places: list[tuple[str, str, str]]) -> None:
        names = list(dict.fromkeys(name for name, _, _ in places))
        scales = list(dict.fromkeys(scale for _, scale, _ in places))
        if len(names) == 1:
            also = f" (and at {', '.join(scales[1:])})" if len(scales) > 1 else ""
            self.found[f"configs/experiments/{names[0]}.yaml"].mistakes.append(places[0][2] + also)
            return
        for scale in scales:
            here = list(dict.fromkeys(name for name, at, _ in places if at == scale))
            met_by = here[0] + (f" and {len(here) - 1} more" if len(here) > 1 else "")
            self.found[f"configs/scales/{scale}.yaml"].mistakes.append(f"{mistake} (met by {met_by})")
