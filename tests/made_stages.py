"""Stage folders as training leaves them, with a loss curve whose formula the test knows, and evaluations beside them.

tests/titan holds their manifests against a real one's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Loss = Callable[[int, str, int], float]


@dataclass(frozen=True)
class Shape:
    """What every stage of a run shares; ``experts``: layers and experts of a mixture, whose load is then logged."""

    latents_per_step: int = 4096
    flops_per_latent: float = 1e6
    seconds_per_step: float = 0.36
    world_size: int = 1
    log_every: int = 10
    corpus_tokens: int | None = None
    device: str = "cpu"
    parameters: int = 1000
    data_identity: str = "data"
    experts: tuple[int, int] | None = None


COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of every stage written here."""


def write_run(
    root: Path,
    stages: Sequence[tuple[str, int, int]],
    loss: Loss,
    noise: float = 0.0,
    seed: int = 0,
    shape: Shape = Shape(),
) -> tuple[str, ...]:
    """Write the stages of one run below ``root`` and return their folders, root first.

    Args:
        stages: (phase, bag size, end step) of each stage; output-only bags would count other data tokens.
        loss: nats per token as a function of step, phase and bag size.
        noise: standard deviation of independent normal noise on every logged loss.
    """
    rng = np.random.default_rng(seed)
    folder, start = root, 0
    totals = {"latents": 0, "data_tokens": 0, "flops": 0.0, "seconds": 0.0}
    parent: str | None = None
    written = []
    for phase, bag_size, end in stages:
        folder = folder / f"{phase}{bag_size if phase == 'bag' else ''}-{end}"
        if (folder / "manifest.json").exists():
            manifest = json.loads((folder / "manifest.json").read_text())
        else:
            manifest = _write_stage(
                folder, (phase, bag_size, start, end), totals, parent, loss, noise, rng, shape
            )
        totals = {key: manifest[key] for key in totals}
        parent, start = manifest["identity"], end
        written.append(str(folder))
    return tuple(written)


def _write_stage(
    folder: Path,
    place: tuple[str, int, int, int],
    before: dict[str, Any],
    parent: str | None,
    loss: Loss,
    noise: float,
    rng: np.random.Generator,
    shape: Shape,
) -> dict[str, Any]:
    phase, bag_size, start, end = place
    folder.mkdir(parents=True)
    config = f"phase: {phase}\nbag_size: {bag_size}\nstart_step: {start}\nend_step: {end}\nroot: {folder}\n"
    (folder / "stage.yaml").write_text(config)
    digest = hashlib.sha256(config.encode()).hexdigest()
    tokens_per_step = shape.latents_per_step * bag_size
    lines = []
    logged = sorted({*range(start + shape.log_every, end + 1, shape.log_every), end})
    for step in logged:
        done = step - start
        load = None
        if shape.experts is not None:
            layers, number = shape.experts
            load = rng.dirichlet(np.full(number, 4.0 + step / 50), layers).round(5).tolist()
        lines.append(
            {
                "step": step, "phase": phase, "bag_size": bag_size,
                "loss": loss(step, phase, bag_size) + noise * float(rng.standard_normal()),
                "grad_norm": 0.5, "lr": 1e-3,
                "latents": before["latents"] + done * shape.latents_per_step,
                "data_tokens": before["data_tokens"] + done * tokens_per_step,
                "flops": before["flops"] + done * shape.latents_per_step * shape.flops_per_latent,
                "seconds": done * shape.seconds_per_step,
                "latents_per_second": 1.0, "data_tokens_per_second": 1.0, "mfu": None,
                "peak_memory_gib": 1.0, "expert_load": load,
            }
        )  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = end - start
    own = {
        "latents": steps * shape.latents_per_step,
        "data_tokens": steps * tokens_per_step,
        "flops": steps * shape.latents_per_step * shape.flops_per_latent,
        "seconds": steps * shape.seconds_per_step,
    }
    totals = {key: before[key] + own[key] for key in own}
    unique = min(totals["data_tokens"], shape.corpus_tokens or totals["data_tokens"])
    manifest = {
        "format": 1, "recipe": "fake", "lineage": str(folder), "phase": phase, "bag_size": bag_size,
        "start_step": start, "end_step": end, "identity": f"identity-{folder}", "stage_sha256": digest,
        "parent_identity": parent, "data_identity": shape.data_identity,
        **totals, **{f"stage_{key}": value for key, value in own.items()},
        "stage_wall_seconds": own["seconds"] + 5, "stage_device_hours": own["seconds"] / 3600,
        "device_hours": totals["seconds"] / 3600,
        "position": 0, "world_size": shape.world_size,
        "peak_memory_gib": 1.0, "final_loss": lines[-1]["loss"],
        "parameters": {"total": shape.parameters, "active": shape.parameters, "non_embedding": 1},
        "flops_per_latent": shape.flops_per_latent,
        "epochs_read": totals["data_tokens"] / (shape.corpus_tokens or 10**12), "unique_data_tokens": unique,
        "checkpoint": f"checkpoint/abc/step-{end}", "attempts": 1,
        "versions": {"python": "3.11.2", "torch": "2.13.0", "torchtitan": "0.3.0"}, "git_commit": COMMIT,
        "git_dirty": False, "machine": {"host": "h", "device": shape.device, "accelerators": 0, "cpus": 2},
        "finished": "2026-01-01",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def write_measurements(
    stages: Sequence[str],
    loss: Loss,
    windows: np.ndarray,
    every: int = 100,
    noise: float = 0.0,
    seed: int = 0,
) -> None:
    """Write heldout.jsonl of the stages of a run, as training does, with 1, 2, 4, ... steps after a switch.

    Args:
        loss: of next-token prediction, nats per token; of a bag in the bag phase it is taken to be 1 nat lower.
        windows: by how much every window is harder than their mean, shape (windows,).
        noise: standard deviation of independent normal noise on every window of every measurement.
    """
    rng = np.random.default_rng(seed)
    switched = False
    for folder in stages:
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
        start, end, phase, size = (manifest[key] for key in ("start_step", "end_step", "phase", "bag_size"))
        points = {*range(start - start % every, end, every), end, *([start] if start == 0 else [])}
        if switched:
            points |= {start + (1 << power) for power in range(every.bit_length())}
        switched = phase == "bag"
        lines = []
        for step in sorted(point for point in points if (point > start or start == 0) and point <= end):
            token_loss = loss(step, phase, size)
            losses = token_loss + windows + noise * rng.standard_normal(windows.size)
            rest = (end - step) / (end - start)
            totals = {
                key: manifest[key] - rest * manifest[f"stage_{key}"]
                for key in ("latents", "data_tokens", "flops")
            }
            lines.append(
                {
                    "step": step, "phase": phase, "bag_size": size, "tokens": 128 * windows.size,
                    "token_loss": float(losses.mean()), "bag_loss": token_loss - 1 if phase == "bag" else None,
                    "windows": losses.round(5).tolist(), "seconds": 0.1, **totals,
                }
            )  # fmt: skip
        (Path(folder) / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_heldout(path: Path, manifest: str, nats: float, stderr: float = 0.002) -> str:
    """heldout.json for the stage with that manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "nats_per_token": nats, "bits_per_byte": nats * 0.4, "tokens": 300_000, "bytes": 10**6, "documents": 100,
        "sequence_length": 128, "stderr_nats_per_token": stderr, "model": "m", "manifest": manifest,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return str(path)


def write_tasks(path: Path, accuracies: dict[str, float], limit: int | None = None) -> str:
    """tasks.json with these accuracies as acc_norm; acc is 0.1 lower."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tasks = {
        name: {
            "acc": value - 0.1, "acc_stderr": 0.01, "acc_norm": None if name in ("boolq", "winogrande") else value,
            "version": 1, "n": 1000, "samples_limit": limit,
        }
        for name, value in accuracies.items()
    }  # fmt: skip
    content = {"tasks": tasks, "lm_eval_version": "0.4", "batch_size": 8, "add_bos": False, "num_fewshot": 0}
    path.write_text(json.dumps(content))
    return str(path)
