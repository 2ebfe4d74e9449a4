"""Where the numbers come from: the stages behind an experiment, their configs, versions and machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan.compare.stages import StageFacts
from tst_titan.data.manifest import DataManifest, load_manifest
from tst_titan.errors import UserError
from tst_titan.files import read_object
from tst_titan.report.read import Experiment
from tst_titan.text import GAP, amount, duration

_MOST_CONFIGS = 16


@dataclass(frozen=True)
class StageRow:
    """One stage, from its manifest.

    Attributes:
        manifest, metrics, config: paths, as in comparison.json; a run made elsewhere has no config.
        device_hours: hours of training time the number of devices; None where the manifest is gone.
        resolved: text of stage.yaml; "" where there are too many stages to show them all.
        problem: why the manifest could not be read; "" if it could.
    """

    directory: str
    manifest: str
    metrics: str
    config: str
    phase: str
    steps: str
    parameters: str
    device_hours: float | None
    device_time: str
    memory: str
    commit: str
    finished: str
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
    versions: list[tuple[dict[str, str], int]]
    machines: list[tuple[str, int]]
    commits: list[tuple[str, int]]


def stages_of(experiment: Experiment) -> list[StageFacts]:
    """Stages of an experiment in order, each once, as comparison.json has them."""
    found = {stage.manifest: stage for run in experiment.runs for stage in run.stages}
    return list(found.values())


def provenance_of(experiments: Sequence[Experiment]) -> Provenance:
    """Everything about the stages behind some experiments; stages that they share count once."""
    stages = {stage.manifest: stage for experiment in experiments for stage in stages_of(experiment)}
    manifests = {path: _manifest(path) for path in stages}
    with_config = len(stages) <= _MOST_CONFIGS
    facts = [_facts(stage, manifests[path], with_config) for path, stage in stages.items()]
    known = [manifest for manifest in manifests.values() if "problem" not in manifest]
    hours = [stage.device_hours for stage in facts if stage.device_hours is not None]
    return Provenance(
        stages=facts,
        device_hours=duration(math.fsum(hours)) if hours else GAP,
        versions=[(dict(key), n) for key, n in _counted(tuple(m.get("versions", {}).items()) for m in known)],
        machines=_counted(_machine(manifest) for manifest in known),
        commits=_counted(_commit(manifest) for manifest in known),
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


def _manifest(path: str) -> dict[str, Any]:
    """The manifest, or the problem with it: a page can outlive the runs that it shows."""
    try:
        return read_object(Path(path), "the stage's folder is gone")
    except UserError as error:
        return {"problem": str(error)}


def _facts(stage: StageFacts, manifest: dict[str, Any], with_config: bool) -> StageRow:
    """One row of the stage table."""
    config = Path(stage.directory) / "stage.yaml"
    hours = manifest.get("stage_device_hours")
    parameters = (manifest.get("parameters") or {}).get("total")
    memory = manifest.get("peak_memory_gib")
    return StageRow(
        directory=stage.directory,
        manifest=stage.manifest,
        metrics=stage.metrics,
        config="" if "made_by" in manifest else config.as_posix(),
        phase=stage.phase + (f", s = {stage.bag_size:g}" if stage.phase == "bag" else ""),
        steps=f"{stage.start_step:,} to {stage.end_step:,}",
        parameters=GAP if parameters is None else amount(parameters),
        device_hours=hours,
        device_time=GAP if hours is None else duration(hours),
        memory=GAP if memory is None else f"{memory:.2f} GiB",
        commit=_commit(manifest) if "problem" not in manifest else GAP,
        finished=str(manifest.get("finished", GAP)),
        resolved=config.read_text(encoding="utf-8") if with_config and config.is_file() else "",
        problem=manifest.get("problem", ""),
    )


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


def _counted(items: Any) -> list[tuple[Any, int]]:
    """Distinct items in order with their number."""
    counts: dict[Any, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return list(counts.items())
