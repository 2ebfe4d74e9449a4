"""Recognise stages made when stage.yaml held every key of the schema (format 1), so that none trains again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tst_titan.config.load import parse, parse_yaml
from tst_titan.config.schema import StageConfig
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_atomically
from tst_titan.run.lock import writer_of
from tst_titan.tree.folder import StageFolder, identity_of, sha256_of, stage_yaml
from tst_titan.tree.resolve import Stage

_FORMAT_1 = "format: 1\n"


def recognise_format_1(stages: Mapping[str, Stage], results: Path) -> list[str]:
    """Give the stages of format 1 that mean what their present configs mean the identities of the present format.

    Contents, checkpoints and times stay, so Snakemake finds nothing to do. A stage whose config has changed since is
    left alone, to be trained again as any other. Interrupted anywhere, the next call finishes: stage.yaml is last.

    Args:
        stages: the stages of this call by path, parents included.
        results: root of all results.

    Returns:
        Paths of the stages that were translated.

    Raises:
        UserError: such a stage is being trained at this moment.
    """
    found = []
    for path, stage in sorted(stages.items(), key=lambda item: item[0].count("/")):
        folder = StageFolder(results / "train" / path, results)
        text = _text(folder.path / "stage.yaml")
        if text.startswith(_FORMAT_1) and parse_format_1(text) == stage.config:
            if writer := writer_of(folder):
                raise UserError(
                    f"{folder.lock_file}: {writer} trains this stage with an earlier version of TST-Titan; "
                    "wait for it or end it, then type the command again"
                )
            _translate(folder, text, stage.config)
            found.append(path)
    return found


def parse_format_1(text: str) -> StageConfig | None:
    """What a stage.yaml of format 1 means today; None if it cannot be said in today's schema."""
    try:
        return parse(StageConfig, parse_yaml(text), "stage.yaml").model_copy(update={"format": 2})
    except UserError:
        return None


def _translate(folder: StageFolder, old_text: str, config: StageConfig) -> None:
    new_text = stage_yaml(config)
    old, new = sha256_of(old_text), sha256_of(new_text)
    parent = read_json(folder.parent.manifest_path, {}) if folder.parent else {}
    # A parent that this function has translated keeps the identity that its children were made with.
    old_parent = parent.get("format_1", parent).get("identity")
    manifest = read_json(folder.manifest_path, {})
    data = read_json(folder.results / "data" / config.data.corpus / "manifest.json", {}).get("identity")
    if manifest.get("stage_sha256") == old:
        data = manifest["data_identity"]
    if data is not None:
        before, now = identity_of(old, data, old_parent), identity_of(new, data, parent.get("identity"))
        old_folder, new_folder = folder.checkpoint_folder(before), folder.checkpoint_folder(now)
        if old_folder.is_dir() and not new_folder.exists():
            old_folder.rename(new_folder)
        if manifest.get("identity") == before:
            export = folder.results / "export" / folder.recipe / folder.lineage / "export.json"
            if (exported := read_json(export, {})).get("identity") == before:
                _rewrite(export, json.dumps(exported | {"identity": now}, indent=2) + "\n")
            changes = {
                "identity": now,
                "stage_sha256": new,
                "parent_identity": parent.get("identity"),
                "checkpoint": manifest["checkpoint"].replace(old_folder.name, new_folder.name),
                "format_1": {"identity": before, "stage_sha256": old},
            }
            _rewrite(folder.manifest_path, json.dumps(manifest | changes, indent=2) + "\n")
    _rewrite(folder.path / "stage.yaml", new_text)


def _rewrite(path: Path, text: str) -> None:
    """Replace a file's content and keep its times: by them Snakemake decides what to run."""
    times = path.stat()
    write_atomically(path, text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except FileNotFoundError:
        return ""
