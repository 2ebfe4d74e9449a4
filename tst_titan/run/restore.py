"""``tst-titan restore``: train a finished stage again to get its pruned checkpoint back, and change nothing else."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tst_titan.data.manifest import load_manifest
from tst_titan.errors import UserError
from tst_titan.files import read_json
from tst_titan.run import launch
from tst_titan.tree.folder import StageFolder

KEPT = ("metrics.jsonl", "heldout.jsonl", "manifest.json")  # in the order in which they are put back


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan restore``."""
    parser.add_argument("folder", type=Path, help="a finished stage: <results>/train/<recipe>/<segment>/...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train from the nearest ancestor that has its checkpoint, stage by stage; 85 if stopped on request.

    Raises:
        UserError: a stage on the way is not finished, or its data or config changed since.
    """
    folder = StageFolder.at(arguments.folder)
    missing = _missing(folder)
    if not missing:
        print(f"{folder.title}  has its checkpoint", file=sys.stderr)
    for stage in missing:
        _check_unchanged(stage)
    for stage in missing:
        status = _train_again(stage)
        if status:
            return status
    return 0


def _missing(folder: StageFolder) -> list[StageFolder]:
    """The stages to train, the first of which has a parent with a checkpoint or none."""
    found: list[StageFolder] = []
    stage: StageFolder | None = folder
    while stage is not None:
        try:
            stage.last_checkpoint(_manifest(stage), contents=True)
        except UserError:
            _manifest(stage)  # an unfinished stage is another mistake
            found.insert(0, stage)
            stage = stage.parent
        else:
            _put_back(stage)
            break
    return found


def _backup(folder: StageFolder) -> Path:
    return folder.path / "logs" / "before_restore"


def _manifest(folder: StageFolder) -> dict:
    """The manifest as it was before an interrupted restoration."""
    return read_json(_backup(folder) / "manifest.json", None) or folder.manifest()


def _check_unchanged(folder: StageFolder) -> None:
    """The stage must come out as it was: same stage.yaml, same data, same parent."""
    manifest = _manifest(folder)
    parent = _manifest(folder.parent)["identity"] if folder.parent else None
    identity = folder.identity(load_manifest(folder.data_manifest).identity, parent)
    if identity != manifest["identity"]:
        raise UserError(
            f"{folder.manifest_path}: key identity: found {manifest['identity'][:12]}, but the present stage.yaml, "
            f"data and parent give {identity[:12]}; the old checkpoint cannot come back. Remove the manifest: "
            "snakemake then trains the stage and everything after it anew"
        )


def _put_back(folder: StageFolder) -> None:
    """Bring back the files of the first training, if a restoration set them aside."""
    backup = _backup(folder)
    for name in KEPT:
        if (backup / name).is_file():
            (backup / name).replace(folder.path / name)
    shutil.rmtree(backup, ignore_errors=True)


def _train_again(folder: StageFolder) -> int:
    backup = _backup(folder)
    for name in KEPT:
        if (folder.path / name).exists() and not (backup / name).exists():
            backup.mkdir(parents=True, exist_ok=True)
            # With its time: snakemake must not take what follows for outdated.
            shutil.copy2(folder.path / name, backup / f".{name}")
            (backup / f".{name}").rename(backup / name)
    before = _manifest(folder)
    print(f"{folder.title}  is trained again for its checkpoint", file=sys.stderr)
    status = launch.run(argparse.Namespace(folder=folder.path, attempt=None, log=None))
    if status:
        return status
    after = folder.manifest()
    _put_back(folder)
    folder.pruned_path.unlink(missing_ok=True)
    print(
        f"{folder.title}  restored: final loss {after['final_loss']:.6f}, it was {before['final_loss']:.6f}",
        file=sys.stderr,
    )
    return 0
