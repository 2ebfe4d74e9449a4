"""Write a finished stage's manifest: what was done, from what, by what, at what cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tst_titan.data.manifest import DataManifest
from tst_titan.titan import cpu
from tst_titan.titan.job import Job
from tst_titan.titan.loader import open_lanes

VERSIONS_OF = ("torch", "torchtitan", "datatrove", "snakemake", "transformers", "tst-titan")


def write_stage_manifest(job: Job, data: DataManifest, started: float, left_out: int = 0) -> None:
    """Gather the stage's figures and write manifest.json.

    Args:
        job: the stage.
        data: its corpus.
        started: when its process did, in seconds since 1970.
        left_out: tokens that the stages up to this one have read and no input held.

    Raises:
        RuntimeError: the last step's metrics or checkpoint are missing, so the stage is not finished.
    """
    stage, folder, runtime = job.stage, job.folder, job.runtime
    lines = folder.metrics.read()
    checkpoint = folder.checkpoint_folder(job.identity) / f"step-{stage.end_step}"
    if not lines or lines[-1]["step"] != stage.end_step or not (checkpoint / ".metadata").is_file():
        raise RuntimeError(f"{folder.path}: the last step left no metrics or no checkpoint")
    parent = job.parent or {"latents": 0, "data_tokens": 0, "flops": 0.0, "seconds": 0.0, "device_hours": 0.0}
    last = lines[-1]
    steps = stage.end_step - stage.start_step
    device_hours = last["seconds"] / 3600 * runtime.world_size
    position = _position(job)
    lanes = open_lanes(folder.data_manifest, stage.data)
    folder.write_manifest(
        {
            "format": 1,
            "recipe": folder.recipe,
            "lineage": folder.lineage,
            "phase": stage.phase,
            "bag_size": stage.bag_size,
            "start_step": stage.start_step,
            "end_step": stage.end_step,
            "identity": job.identity,
            "stage_sha256": folder.stage_sha256,
            "parent_identity": (job.parent or folder.start or {}).get("identity"),
            "data_identity": data.identity,
            "latents": last["latents"],
            "data_tokens": last["data_tokens"],
            "flops": last["flops"],
            "seconds": parent["seconds"] + last["seconds"],
            "stage_latents": steps * stage.latents_per_step,
            "stage_data_tokens": steps * stage.data_tokens_per_step,
            "stage_flops": last["flops"] - parent["flops"],
            "stage_seconds": last["seconds"],
            "stage_wall_seconds": time.time() - started,
            "device_hours": parent["device_hours"] + device_hours,
            "stage_device_hours": device_hours,
            "world_size": runtime.world_size,
            "peak_memory_gib": max(line["peak_memory_gib"] for line in lines),
            "final_loss": last["loss"],
            "parameters": stage.model.count_parameters().as_manifest(),
            "flops_per_latent": job.flops_per_latent,
            "position": position,
            "epochs_read": lanes.epochs(position),
            **_left_out(job, left_out),
            "unique_data_tokens": lanes.unique_tokens(position),
            "checkpoint": str(checkpoint.relative_to(folder.path)),
            "attempts": _attempts(folder.path),
            "versions": versions(),
            **git_state(),
            "machine": {
                "host": socket.gethostname(),
                "device": job.device_name,
                "accelerators": runtime.world_size if cpu.has_accelerator() else 0,
                "cpus": len(os.sched_getaffinity(0)),
            },
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _left_out(job: Job, tokens: int) -> dict[str, int]:
    """The key of runs whose bags stay inside documents, in their token stages too."""
    if job.stage.documents.bags_inside:
        return {"left_out_data_tokens": tokens}
    return {key: value for key, value in (job.parent or {}).items() if key == "left_out_data_tokens"}


def _position(job: Job) -> int:
    """Tokens read per lane at the end of the stage."""
    before = job.parent["position"] if job.parent else 0
    return before + (job.stage.end_step - job.stage.start_step) * job.stage.lane_advance


def _attempts(folder: Path) -> int:
    path = folder / "logs" / "attempts.json"
    return json.loads(path.read_text(encoding="utf8"))["count"] if path.is_file() else 1


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit of the code and whether it had uncommitted changes; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}
