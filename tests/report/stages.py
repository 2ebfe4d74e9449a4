"""Stage folders with known curves, laid out as training leaves them, for the tests of the report.

The losses follow a power law with a bag phase above it, a spike at the switch and a decay at the end, so that
every part of the figures has something to draw; nothing here is a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LATENTS_PER_STEP = 4096
FLOPS_PER_LATENT = 1.5e6
SECONDS_PER_STEP = 0.05
LOG_EVERY = 5
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Segment:
    """One stage to write: phase, bag size, first and last step, counted over the whole run."""

    phase: str
    bag_size: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """Folder name of the stage."""
        return f"bag{self.bag_size}-{self.end}" if self.phase == "bag" else f"{self.phase}-{self.end}"


@dataclass(frozen=True)
class Curve:
    """Shape of a run's loss: ``floor + height * (step + 20) ** -0.35``, minus ``decayed`` at the very end."""

    floor: float = 2.0
    height: float = 5.0
    decayed: float = 0.12
    noise: float = 0.02
    seed: int = 0


def segments(total: int, bag_size: int = 1, bag_steps: int = 0, decay: float = 0.1) -> list[Segment]:
    """Bag, token and decay of one run."""
    decay_start = round(total * (1 - decay))
    parts = [Segment("bag", bag_size, 0, bag_steps)] if bag_steps else []
    if bag_steps == total:
        return parts
    parts += [Segment("token", 1, bag_steps, decay_start), Segment("decay", 1, decay_start, total)]
    return [part for part in parts if part.start < part.end]


def write_run(
    results: Path,
    recipe: str,
    parts: Sequence[Segment],
    curve: Curve,
    experts: tuple[int, int] | None = None,
) -> list[str]:
    """Write the stages of a run, each unless it is there already; returns their folders as given.

    Args:
        results: the results folder, relative paths allowed.
        experts: layers and experts of a MoE; its lines then carry ``expert_load``.
    """
    folders: list[str] = []
    parent: dict[str, Any] | None = None
    lineage = ""
    for part in parts:
        lineage = f"{lineage}/{part.name}" if lineage else part.name
        folder = results / "train" / recipe / lineage
        if not (folder / "manifest.json").exists():
            _write_stage(folder, recipe, lineage, part, parent, parts, curve, experts)
        parent = json.loads((folder / "manifest.json").read_text())
        folders.append(str(folder))
    return folders


def write_heldout(results: Path, recipe: str, stages: Sequence[str], nats: float) -> str:
    """A heldout.json beside the run's evaluations; returns its path."""
    path = results / "evaluate" / recipe / Path(stages[-1]).relative_to(results / "train" / recipe)
    path.mkdir(parents=True, exist_ok=True)
    content = {
        "nats_per_token": nats, "bits_per_byte": nats / 2.1, "tokens": 300_000, "bytes": 900_000,
        "documents": 400, "sequence_length": 128, "stderr_nats_per_token": 0.004, "model": str(path),
        "manifest": f"{stages[-1]}/manifest.json",
    }  # fmt: skip
    (path / "heldout.json").write_text(json.dumps(content))
    return str(path / "heldout.json")


def write_tasks(results: Path, recipe: str, stages: Sequence[str], accuracies: dict[str, float]) -> str:
    """A tasks.json with the given accuracies (fractions); returns its path."""
    path = results / "evaluate" / recipe / Path(stages[-1]).relative_to(results / "train" / recipe)
    path.mkdir(parents=True, exist_ok=True)
    tasks = {
        name: {"acc": value, "acc_stderr": 0.01, "acc_norm": None, "version": 1, "n": 500,
               "samples_limit": None}
        for name, value in accuracies.items()
    }  # fmt: skip
    content = {
        "tasks": tasks,
        "lm_eval_version": "0.4.13",
        "batch_size": 32,
        "add_bos": False,
        "num_fewshot": 0,
    }
    (path / "tasks.json").write_text(json.dumps(content | {"model": str(path)}))
    return str(path / "tasks.json")


def write_data_manifest(folder: Path) -> Path:
    """A data manifest as the data pipeline writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    split: dict[str, Any] = {
        "documents": 900, "tokens": 1_000_000, "text_bytes": 3_100_000,
        "text_bytes_by_source": {"docstrings": 3_000_000, "prose": 100_000},
        "shards": [{"path": "tokens/train/00000.ds", "tokens": 1_000_000, "documents": 900, "size": 2_000_000,
                    "sha256": "a" * 64, "index_sha256": "b" * 64}],
    }  # fmt: skip
    content = {
        "format": 1, "corpus": "packages", "identity": "c" * 64, "dtype": "uint16",
        "tokenizer": {"path": "tokenizer/tokenizer.json", "sha256": "d" * 64, "source": "train",
                      "vocab_size": 1024, "eos_token": "<|end|>", "eos_id": 0},
        "documents": {"read": 1500, "read_bytes": 5_000_000,
                      "read_by_source": {"docstrings": 1400, "prose": 100},
                      "dropped": {"gopher_quality": {"too_short": 210, "symbols": 40},
                                  "gopher_repetition": {"dup_lines": 50}},
                      "duplicates": {"exact": 120, "near": 80}, "kept": 1000},
        "train": split,
        "heldout": split | {"documents": 100, "tokens": 310_000,
                            "shards": [split["shards"][0] | {"path": "tokens/heldout/00000.ds"}]},
        "config_sha256": "e" * 64, "versions": {"datatrove": "0.10.1", "tokenizers": "0.22.1"},
        "seconds": {"read": 2.0, "filter": 4.5}, "warnings": ["The prose source is small."],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder / "manifest.json"


def loss_at(step: np.ndarray, part: Segment, parts: Sequence[Segment], curve: Curve) -> np.ndarray:
    """Loss without noise at the steps of one stage."""
    trend = curve.floor + curve.height * (step + 20.0) ** -0.35
    if part.phase == "bag":
        return trend + 0.45 * np.log(part.bag_size)
    switch = max((other.end for other in parts if other.phase == "bag"), default=None)
    if switch is not None:
        trend = trend + 1.2 * np.exp(-(step - switch) / 40.0)
    if part.phase == "decay":
        trend = trend - curve.decayed * (step - part.start) / (part.end - part.start)
    return trend


def _write_stage(
    folder: Path,
    recipe: str,
    lineage: str,
    part: Segment,
    parent: dict[str, Any] | None,
    parts: Sequence[Segment],
    curve: Curve,
    experts: tuple[int, int] | None,
) -> None:
    """stage.yaml, metrics.jsonl and manifest.json of one stage."""
    folder.mkdir(parents=True)
    config = f"phase: {part.phase}\nbag_size: {part.bag_size}\nend_step: {part.end}\nseed: {curve.seed}\n"
    (folder / "stage.yaml").write_text(config)
    before = parent or {"latents": 0, "data_tokens": 0, "flops": 0.0, "seconds": 0.0, "identity": None}
    digest = hashlib.sha256(f"{recipe}/{lineage}".encode()).hexdigest()
    rng = np.random.default_rng([curve.seed, int(digest[:8], 16)])
    steps = np.arange(part.start + LOG_EVERY, part.end + 1, LOG_EVERY)
    losses = loss_at(steps, part, parts, curve) + curve.noise * rng.standard_normal(steps.size)
    lines = []
    for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
        done = step - part.start
        line = {
            "step": step, "phase": part.phase, "bag_size": part.bag_size, "loss": loss, "grad_norm": 0.5,
            "lr": 2e-3, "latents": before["latents"] + done * LATENTS_PER_STEP,
            "data_tokens": before["data_tokens"] + done * LATENTS_PER_STEP * part.bag_size,
            "flops": before["flops"] + done * LATENTS_PER_STEP * FLOPS_PER_LATENT,
            "seconds": done * SECONDS_PER_STEP, "latents_per_second": 8e4,
            "data_tokens_per_second": 8e4 * part.bag_size, "mfu": None, "peak_memory_gib": 0.5,
            "expert_load": None,
        }  # fmt: skip
        if experts is not None:
            layers, number = experts
            line["expert_load"] = rng.dirichlet(np.full(number, 4.0 + step / 50), layers).round(5).tolist()
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    done = part.end - part.start
    own = {
        "latents": done * LATENTS_PER_STEP, "data_tokens": done * LATENTS_PER_STEP * part.bag_size,
        "flops": done * LATENTS_PER_STEP * FLOPS_PER_LATENT, "seconds": done * SECONDS_PER_STEP,
    }  # fmt: skip
    manifest = {
        "format": 1, "recipe": recipe, "lineage": lineage, "phase": part.phase, "bag_size": part.bag_size,
        "start_step": part.start, "end_step": part.end, "identity": digest,
        "stage_sha256": hashlib.sha256(config.encode()).hexdigest(), "parent_identity": before["identity"],
        "data_identity": "c" * 64, **{key: before[key] + value for key, value in own.items()},
        **{f"stage_{key}": value for key, value in own.items()},
        "stage_wall_seconds": own["seconds"] + 9.5, "stage_device_hours": own["seconds"] / 3600,
        "device_hours": (before["seconds"] + own["seconds"]) / 3600, "position": 0, "world_size": 1,
        "peak_memory_gib": 0.5, "final_loss": losses[-1],
        "parameters": {"total": 900_000, "active": 900_000, "non_embedding": 600_000},
        "flops_per_latent": FLOPS_PER_LATENT, "epochs_read": 0.4, "unique_data_tokens": before["data_tokens"]
        + own["data_tokens"], "checkpoint": f"checkpoint/{digest[:12]}/step-{part.end}", "attempts": 1,
        "versions": {"python": "3.11.2", "torch": "2.13.0", "torchtitan": "0.3.0"}, "git_commit": COMMIT,
        "git_dirty": False, "machine": {"host": "node-1", "device": "CPU", "accelerators": 0, "cpus": 2},
        "finished": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
