"""Where the numbers come from: the stages behind an experiment, their configs, versions and machines."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan.compare.results import Results
from tst_titan.compare.stages import StageFacts
from tst_titan.data.manifest import DataManifest, load_manifest
from tst_titan.errors import UserError
from tst_titan.files import read_object
from tst_titan.text import GAP, duration

_MOST_CONFIGS = 16


@dataclass(frozen=True)
class StageRow:
    """One stage: what the comparison knows of it, its manifest, and what both leave to be said.

    Attributes:
        manifest: empty where it cannot be read: a page can outlive the runs that it shows.
        resolved: text of stage.yaml; "" where there are too many stages to show them all.
        problem: why the manifest could not be read; "" if it could.
    """

    facts: StageFacts
    manifest: dict[str, Any]
    commit: str
    resolved: str
    problem: str


@dataclass(frozen=True)
class Provenance:
    """All stages of the page, each once.

    Attributes:
        device_hours: sum over the stages listed.
        versions: every set of package versions that was used, with the number of stages.
        machines, commits: the same for machines and commits.
    """

    stages: list[StageRow]
    device_hours: str
    versions: dict[tuple[tuple[str, str], ...], int]
    machines: dict[str, int]
    commits: dict[str, int]


def provenance_of(results: Results) -> Provenance:
    """Everything about the stages behind an experiment; stages that runs share count once."""
    stages = {stage.manifest: stage for run in results.runs for stage in run.stages}
    rows = [_row(stage, with_config=len(stages) <= _MOST_CONFIGS) for stage in stages.values()]
    known = [row.manifest for row in rows if not row.problem]
    hours = [hours for manifest in known if (hours := manifest.get("stage_device_hours")) is not None]
    return Provenance(
        stages=rows,
        device_hours=duration(math.fsum(hours)) if hours else GAP,
        versions=Counter(tuple(manifest.get("versions", {}).items()) for manifest in known),
        machines=Counter(map(_machine, known)),
        commits=Counter(map(_commit, known)),
    )


def data_section(path: Path) -> dict[str, Any]:
    """What the page says about a corpus, from its manifest.

    Raises:
        UserError: the manifest is missing or malformed.
    """
    manifest = load_manifest(path)
    return {"path": path.as_posix(), "manifest": manifest, "flow": _flow(manifest)}


def _flow(manifest: DataManifest) -> list[tuple[str, str, int]]:
    """What became of the documents: (what, detail, documents), in the order of the pipeline."""
    documents = manifest.documents
    rows = []
    for source, account in documents.sources.items():
        left = {"without text": account.without_text} | account.unreadable
        rows += [("record not read", f"{source}: {why}", count) for why, count in left.items() if count]
        rows += [("file not read", f"{source}: {kind}", count) for kind, count in account.not_read.items()]
    rows += [("read", source, count) for source, count in documents.read_by_source.items()]
    for name, reasons in documents.dropped.items():
        rows += [(f"dropped by {name.replace('_', ' ')}", reason, count) for reason, count in reasons.items()]
    rows += [("removed as duplicate", kind, count) for kind, count in documents.duplicates.items()]
    return [*rows, ("kept", "train and held out", documents.kept)]


def _row(stage: StageFacts, with_config: bool) -> StageRow:
    """One row of the stage table."""
    config = Path(stage.directory) / "stage.yaml"
    resolved = config.read_text(encoding="utf-8") if with_config and config.is_file() else ""
    try:
        manifest = read_object(Path(stage.manifest), "the stage's folder is gone")
    except UserError as error:
        return StageRow(stage, {}, GAP, resolved, str(error))
    return StageRow(stage, manifest, _commit(manifest), resolved, "")


def _machine(manifest: dict[str, Any]) -> str:
    """Host, device and processes of one stage."""
    machine = manifest.get("machine") or {}
    parts = [str(machine.get("device", "unknown device"))]
    if machine.get("cpus") is not None:
        parts.append(f"{machine['cpus']} CPU cores")
    parts.append(f"{manifest.get('world_size', '?')} process(es)")
    host = machine.get("host")
    return ", ".join(parts) + (f" on {host}" if host else "")


def _commit(manifest: dict[str, Any]) -> str:
    """Short commit, marked where the tree had changes."""
    commit = manifest.get("git_commit")
    if not commit:
        return "unknown"
    return str(commit)[:12] + (" with local changes" if manifest.get("git_dirty") else "")
