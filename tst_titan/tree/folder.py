"""A stage's folder: its configs, its identity, its parent and its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tst_titan.config.load import load, parse, read_yaml, to_yaml
from tst_titan.config.schema import RuntimeConfig, StageConfig
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_if_changed
from tst_titan.tree.checkpoint import METADATA, damage
from tst_titan.tree.metrics import MetricsFile
from tst_titan.tree.start import name_in, read_start, start_folder


def stage_yaml(config: StageConfig) -> str:
    """The text of stage.yaml: ``format`` and every key that differs from the default of that format.

    A key that a later release adds, with a default that changes nothing, so leaves every finished stage's text and
    identity as they are. A release that changes a default raises ``format``.
    """
    changed = config.model_dump(mode="json", exclude_defaults=True)
    return to_yaml({"format": config.format, **changed})


def sha256_of(text: str) -> str:
    """Hash of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def identity_of(stage_sha256: str, data_identity: str, parent_identity: str | None) -> str:
    """Hash of all that determines a result: stage.yaml, the data's content, the identity of what it starts from.

    That is the parent's, or for a root that of the weights that it begins with, if they are not new.
    """
    return sha256_of("\n".join([stage_sha256, data_identity, parent_identity or "root"]))


@dataclass(frozen=True)
class StageFolder:
    """``<results>/train/<recipe>/<segment>/<segment>/...`` of one stage.

    Attributes:
        path: the folder.
        results: the root of all results; the corpus is found under it.
    """

    path: Path
    results: Path

    @classmethod
    def at(cls, path: Path) -> StageFolder:
        """The folder at ``path``; the results root is what lies above ``train/``.

        Raises:
            UserError: the path is not below a folder named train.
        """
        absolute = path.resolve()
        for parent in absolute.parents:
            if parent.name == "train":
                return cls(absolute, parent.parent)
        raise UserError(f"{path}: a stage's folder lies below <results>/train/<recipe>/")

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self.path.relative_to(self.results / "train").parts[0]

    @property
    def lineage(self) -> str:
        """The path of segments from the root stage to this one."""
        return "/".join(self.path.relative_to(self.results / "train").parts[1:])

    @property
    def title(self) -> str:
        """How lines about the stage begin."""
        return f"{self.recipe} {self.lineage}"

    @property
    def stop_file(self) -> Path:
        """Touch this file to end training with a checkpoint at the next step."""
        return self.path / "stop"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that trains the stage; says which one it is."""
        return self.path / ".lock"

    @property
    def interrupted_file(self) -> Path:
        """Left by training that stopped on request: torchrun knows only success and failure."""
        return self.path / "logs" / "interrupted"

    @property
    def refused_file(self) -> Path:
        """What the user can mend, in the words of a trainer that gave up: torchrun buries it under tracebacks."""
        return self.path / "logs" / "refused"

    @property
    def parent(self) -> StageFolder | None:
        """The stage that this one starts from; None for a root."""
        return StageFolder(self.path.parent, self.results) if "/" in self.lineage else None

    @cached_property
    def stage(self) -> StageConfig:
        """stage.yaml, validated."""
        return load(StageConfig, self.path / "stage.yaml")

    @cached_property
    def runtime(self) -> RuntimeConfig:
        """runtime.yaml, validated; keys of earlier versions that mean nothing any more are passed over."""
        path = self.path / "runtime.yaml"
        known = {key: value for key, value in read_yaml(path).items() if key in RuntimeConfig.model_fields}
        return parse(RuntimeConfig, known, path)

    @property
    def stage_sha256(self) -> str:
        """Hash of the bytes of stage.yaml."""
        return hashlib.sha256((self.path / "stage.yaml").read_bytes()).hexdigest()

    @cached_property
    def start(self) -> dict[str, Any] | None:
        """Manifest of the weights that a root stage begins with; None for new ones, and for every other stage.

        Raises:
            UserError: it was not made yet.
        """
        name = name_in(self.lineage) if self.parent is None else None
        return None if name is None else read_start(self.results, name)

    @property
    def data_manifest(self) -> Path:
        """Manifest of the corpus that the stage reads."""
        return self.results / "data" / self.stage.data.corpus / "manifest.json"

    @property
    def manifest_path(self) -> Path:
        """manifest.json, written last."""
        return self.path / "manifest.json"

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl, a line a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def metrics(self) -> MetricsFile:
        """What training has logged, all stages before this one included."""
        return MetricsFile(self.metrics_path)

    @property
    def heldout(self) -> MetricsFile:
        """heldout.jsonl, a line a measurement of the held-out loss; absent where none was made."""
        return MetricsFile(self.path / "heldout.jsonl")

    def manifest(self) -> dict[str, Any]:
        """The finished stage's manifest.

        Raises:
            UserError: the stage is not finished, or the file is broken.
        """
        try:
            return json.loads(self.manifest_path.read_text(encoding="utf8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.manifest_path}: missing; the stage is not finished, train it first"
            ) from None
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.manifest_path}: not valid JSON ({error}); train the stage again"
            ) from None

    def last_checkpoint(self, manifest: dict[str, Any], contents: bool = False) -> Path:
        """The finished stage's last checkpoint, which is what its children and its export start from.

        Args:
            manifest: the stage's.
            contents: check the checksums of its files too, not their sizes alone.

        Raises:
            UserError: it was pruned, or is missing or damaged; says how to get it back.
        """
        checkpoint = self.path / manifest["checkpoint"]
        problem = damage(checkpoint, contents)
        if problem is None:
            return checkpoint
        raise self.lost_checkpoint(manifest, problem)

    def lost_checkpoint(self, manifest: dict[str, Any], problem: str) -> UserError:
        """The finished stage's last checkpoint cannot be used for ``problem``: how to get it back."""
        name = Path(manifest["checkpoint"]).name
        record = self.pruned().get(name)
        why = (
            "is missing or incomplete" if not (self.path / manifest["checkpoint"] / METADATA).exists() else ""
        )
        if record is not None:
            why = f"was pruned on {record['when']} (keep_checkpoints: {record['keep_checkpoints']})"
        return UserError(
            f"{self.manifest_path}: key checkpoint: {manifest['checkpoint']} {why or f'is damaged: {problem}'}.\n"
            f"`tst-titan restore {self.path}` trains the stage again (it took {manifest['stage_device_hours']:.2g} "
            f"device hours) and leaves all that is finished as it is.\nOr remove {self.manifest_path.name} there: "
            "snakemake then trains the stage and everything after it anew"
        )

    @property
    def pruned_path(self) -> Path:
        """Which checkpoints were pruned, by step folder."""
        return self.path / "logs" / "pruned.json"

    def pruned(self) -> dict[str, Any]:
        """What `snakemake prune` removed here: for every step folder when, and under which setting."""
        return read_json(self.pruned_path, {})

    def is_finished(self) -> bool:
        """Whether this stage and all before it have the results of their present configs."""
        line = [self]
        while line[0].parent is not None:
            line.insert(0, line[0].parent)
        return self.path in finished_among(line)

    def parent_manifest(self) -> dict[str, Any] | None:
        """The parent's manifest, checked to describe the parent's present stage.yaml and an existing checkpoint.

        Raises:
            UserError: the parent is unfinished, was made from another stage.yaml, or lost its checkpoint.
        """
        parent = self.parent
        if parent is None:
            return None
        manifest = parent.manifest()
        if manifest["stage_sha256"] != parent.stage_sha256:
            raise UserError(
                f"{parent.manifest_path}: key stage_sha256: found {manifest['stage_sha256'][:12]}, but "
                f"{parent.path / 'stage.yaml'} is {parent.stage_sha256[:12]}; the parent was trained with another "
                "config, train it again"
            )
        parent.last_checkpoint(manifest)
        if manifest["end_step"] != self.stage.start_step:
            raise UserError(
                f"{self.path / 'stage.yaml'}: key start_step: found {self.stage.start_step}, but the parent "
                f"{parent.lineage} ends at step {manifest['end_step']}"
            )
        return manifest

    def identity(self, data_identity: str, parent_identity: str | None) -> str:
        """Hash of all that determines the result: this stage.yaml, the data's content, what it starts from."""
        origin = self.start["identity"] if self.start else parent_identity
        return identity_of(self.stage_sha256, data_identity, origin)

    def checkpoint_folder(self, identity: str) -> Path:
        """Checkpoints of this very identity; another config never resumes from them."""
        return self.path / "checkpoint" / identity[:12]

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write manifest.json atomically: its presence means that the stage is finished."""
        write_if_changed(self.manifest_path, json.dumps(content, indent=2) + "\n")


def finished_among(folders: Iterable[StageFolder], configs: Mapping[Path, str] | None = None) -> set[Path]:
    """Paths of the stages that are finished: they and all before them have the results of their configs.

    Snakemake decides by times as well (a newer corpus, a forced rule): ``snakemake -n`` says what it would run.

    Args:
        folders: with the ancestors of each.
        configs: hashes of stage.yaml by path; default those that lie in the folders.
    """
    found: dict[Path, str] = {}
    for folder in sorted(folders, key=lambda folder: len(folder.path.parts)):
        parent = folder.parent
        if parent is not None and parent.path not in found:
            continue
        manifest = read_json(folder.manifest_path, {})
        try:
            config = folder.stage_sha256 if configs is None else configs[folder.path]
        except FileNotFoundError:
            continue
        origin = manifest.get("parent_identity")
        name = name_in(folder.lineage)
        if parent is not None:
            starts_there = origin == found[parent.path]
        elif name is not None:
            start = read_json(start_folder(folder.results, name) / "manifest.json", {})
            starts_there = origin == start.get("identity", "none")
        else:
            starts_there = True
        if manifest.get("stage_sha256") == config and starts_there:
            found[folder.path] = manifest.get("identity", "")
    return set(found)


def complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a folder by step, only those whose metadata was written (DCP writes it last)."""
    found = {}
    for path in folder.glob("step-*"):
        if (path / METADATA).is_file() and path.name[5:].isdigit():
            found[int(path.name[5:])] = path
    return dict(sorted(found.items()))
