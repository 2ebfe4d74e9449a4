"""``tst-titan prune``: remove the checkpoints that nothing needs any more.

What is needed is read from the results alone: every stage.yaml that was ever rendered there and is not finished may
still be trained, whichever target the present call names, so its parent's last checkpoint stays.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import get_args

from tst_titan.config.experiment import KeepCheckpoints, ProjectConfig
from tst_titan.config.load import parse, read_yaml
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_atomically
from tst_titan.run.lock import writer_of
from tst_titan.text import in_bytes
from tst_titan.tree.folder import StageFolder, finished_among
from tst_titan.tree.resolve import Stage

POLICIES: tuple[KeepCheckpoints, ...] = get_args(KeepCheckpoints)
OTHER_CONFIG = "of another config"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan prune``."""
    parser.add_argument("--keep", choices=POLICIES, help="default: keep_checkpoints of the config")
    parser.add_argument("--results", type=Path, help="default: results of the config")
    parser.add_argument("--configfile", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    parser.add_argument(
        "--other-configs",
        action="store_true",
        help="of finished stages, also the checkpoints of earlier configs",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove, or say what would be removed.

    Raises:
        UserError: a mistake in the config.
    """
    config = parse(ProjectConfig, read_yaml(arguments.configfile), arguments.configfile)
    pruning = Pruning(
        arguments.results or Path(config.results),
        arguments.keep or config.keep_checkpoints,
        arguments.other_configs,
    )
    text = pruning.text(arguments.dry_run)
    if not arguments.dry_run:
        pruning.remove()
    print(text)
    return 0


@dataclass(frozen=True)
class Found:
    """A checkpoint on disk and what is to become of it.

    Attributes:
        path: the step's folder.
        kept_for: why it stays; None if nothing needs it.
    """

    stage: StageFolder
    path: Path
    kept_for: str | None

    @cached_property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Pruning:
    """One pass over a results folder.

    Attributes:
        results: the root of all results.
        keep: ``all``; ``branch_points``, final models and stages that several others start from; ``final``.
        other_configs: remove what earlier configs of finished stages left as well.
    """

    results: Path
    keep: KeepCheckpoints
    other_configs: bool = False

    @cached_property
    def folders(self) -> Mapping[Path, StageFolder]:
        """All rendered stages by path."""
        root = self.results.resolve() / "train"
        found = {}
        for path, folders, files in os.walk(root):
            # Checkpoints of many ranks are many files, and no stage lies below them.
            folders[:] = sorted(set(folders) - {"checkpoint", "logs"})
            if "stage.yaml" in files:
                found[Path(path)] = StageFolder(Path(path), root.parent)
        return found

    @cached_property
    def finished(self) -> set[Path]:
        """Paths of the stages that are finished."""
        return finished_among(self.folders.values())

    @cached_property
    def children(self) -> Mapping[Path, tuple[StageFolder, ...]]:
        """The stages that start from a stage."""
        found: dict[Path, tuple[StageFolder, ...]] = dict.fromkeys(self.folders, ())
        for folder in self.folders.values():
            if folder.parent is not None and folder.parent.path in found:
                found[folder.parent.path] += (folder,)
        return found

    @cached_property
    def final(self) -> Mapping[Path, str]:
        """Last stages of runs, with the name of a run, from the comparisons that were ever rendered."""
        root = self.results.resolve() / "train"
        found: dict[Path, str] = {}
        for spec in sorted(self.results.glob("compare/*/*/spec.yaml")):
            for planned in read_yaml(spec)["runs"]:
                if not planned["stages"]:
                    continue  # made elsewhere
                last = StageFolder.at(Path(planned["stages"][-1]))
                path = root / last.recipe / last.lineage
                found.setdefault(path, f"{spec.parent.name}: {planned['name']}")
        return found

    @cached_property
    def starts(self) -> Mapping[Path, str]:
        """Checkpoints that runs begin with (`start_from`), with the name of the start."""
        found = {}
        for config in sorted(self.results.glob("start/*/config.yaml")):
            found[(self.results / read_yaml(config)["path"]).resolve()] = config.parent.name
        return found

    @cached_property
    def checkpoints(self) -> tuple[Found, ...]:
        """Every checkpoint below the results, whole, half-written or set aside as damaged."""
        return tuple(
            Found(folder, path, self._reason(folder, path))
            for folder in self.folders.values()
            for path in sorted((folder.path / "checkpoint").glob("*/*-*"), key=_step)
        )

    def _reason(self, folder: StageFolder, checkpoint: Path) -> str | None:
        """Why a checkpoint stays, None if nothing needs it."""
        if writer_of(folder) is not None:
            return "the stage is being trained"
        if checkpoint in self.starts:
            return f"runs start from it (start/{self.starts[checkpoint]})"
        if folder.path not in self.finished:
            return "the stage is not finished"
        manifest = folder.manifest()
        if checkpoint.parent.name != manifest["identity"][:12]:
            return None if self.other_configs else OTHER_CONFIG
        if self.keep == "all":
            return "keep_checkpoints: all"
        if checkpoint != folder.path / manifest["checkpoint"]:
            return None
        children = self.children[folder.path]
        unfinished = [child for child in children if child.path not in self.finished]
        if folder.path in self.final:
            return f"final model of {self.final[folder.path]}"
        if unfinished:
            more = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
            return f"{unfinished[0].lineage} is not finished{more}"
        if not children:
            return "nothing follows it"
        if self.keep == "branch_points" and len(children) > 1:
            return f"{len(children)} stages start from it"
        return None

    @property
    def removable(self) -> tuple[Found, ...]:
        """What nothing needs any more."""
        return tuple(found for found in self.checkpoints if found.kept_for is None)

    def remove(self) -> None:
        """Remove what nothing needs."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for found in self.removable:
            # Recorded first, and no longer whole before it is gone: a crash in between leaves nothing to trip over.
            record = found.stage.pruned() | {found.path.name: {"when": when, "keep_checkpoints": self.keep}}
            write_atomically(found.stage.pruned_path, json.dumps(record, indent=2) + "\n")
            (found.path / ".metadata").unlink(missing_ok=True)
            shutil.rmtree(found.path)
            if not any(found.path.parent.iterdir()):
                found.path.parent.rmdir()

    def text(self, dry_run: bool = False) -> str:
        """A line for every checkpoint, and the sums."""
        verb = "would remove" if dry_run else "removed"
        lines = []
        for found in self.checkpoints:
            fate = f"kept: {found.kept_for}" if found.kept_for else verb
            lines.append(f"{found.stage.title}  {found.path.name}  {in_bytes(found.bytes)}  {fate}")
        gone, kept = self.removable, [found for found in self.checkpoints if found.kept_for]
        lines.append(
            f"keep_checkpoints: {self.keep}: {verb} {len(gone)} checkpoints, {in_bytes(sum(f.bytes for f in gone))}; "
            f"kept {len(kept)}, {in_bytes(sum(f.bytes for f in kept))}"
        )
        if self.keep == "all":
            lines.append(
                "Choose branch_points or final to remove checkpoints: --config keep_checkpoints=final"
            )
        others = [found for found in kept if found.kept_for == OTHER_CONFIG]
        if others:
            lines.append(
                f"{in_bytes(sum(f.bytes for f in others))} are of earlier configs of finished stages; "
                "`tst-titan prune --other-configs` removes them as well"
            )
        return "\n".join(lines)


def check_parents(stages: Mapping[str, Stage], results: Path) -> None:
    """Refuse to start where a stage that is to be trained starts from a checkpoint that is gone.

    Raises:
        UserError: names the stage, its parent's checkpoint, and how to get it back.
    """
    root = results.resolve()
    folders = {path: StageFolder(root / "train" / stage.path, root) for path, stage in stages.items()}
    finished = finished_among(folders.values())
    for path, folder in folders.items():
        parent = folder.parent
        if parent is None or parent.path not in finished or folder.path in finished or _has_new_data(parent):
            continue
        try:
            parent.last_checkpoint(parent.manifest())
        except UserError as error:
            raise UserError(f"stage {stages[path].path} is to be trained, but {error}") from None


def _has_new_data(folder: StageFolder) -> bool:
    """Whether the stage will be trained again in any case, because its corpus changed."""
    data = read_json(folder.data_manifest, {})
    return data.get("identity") != folder.manifest().get("data_identity")


def _step(path: Path) -> tuple[str, int]:
    number = path.name.removeprefix("step-")
    return path.parent.name, int(number) if number.isdigit() else -1
