"""Runs with the course of real ones, laid out as the workflow does, and a data manifest, for the tests of the report.

The losses follow a power law with a bag phase above it, a spike at the switch and a decay at the end, so that
every part of the figures has something to draw; nothing here is a result.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests import made_stages
from tests.made_stages import Shape

SHAPE = Shape(flops_per_latent=1.5e6, seconds_per_step=0.05, log_every=5, device="CPU", parameters=900_000)
Segment = tuple[str, int, int]
"""Phase, bag size and last step of one stage."""


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
    if bag_steps == total:
        return [("bag", bag_size, total)]
    plain = [("token", 1, round(total * (1 - decay))), ("decay", 1, total)]
    return [("bag", bag_size, bag_steps), *plain] if bag_steps else plain


def write_run(
    results: Path, recipe: str, parts: Sequence[Segment], curve: Curve, experts: tuple[int, int] | None = None
) -> list[str]:
    """Write the stages of a run, each unless it is there already; returns their folders as given.

    Args:
        results: the results folder, relative paths allowed.
        experts: layers and experts of a MoE; its lines then carry ``expert_load``.
    """
    switch = max((end for phase, _, end in parts if phase == "bag"), default=None)
    starts = {phase: start for (_, _, start), (phase, _, _) in itertools.pairwise(parts)}

    def loss(step: int, phase: str, bag_size: int) -> float:
        trend = curve.floor + curve.height * (step + 20.0) ** -0.35
        if phase == "bag":
            return trend + 0.45 * math.log(bag_size)
        if switch is not None:
            trend += 1.2 * math.exp(-(step - switch) / 40.0)
        if phase == "decay":
            trend -= curve.decayed * (step - starts[phase]) / (parts[-1][2] - starts[phase])
        return trend

    shape = replace(SHAPE, experts=experts)
    folder = results / "train" / recipe
    return list(made_stages.write_run(folder, parts, loss, curve.noise, curve.seed, shape))


def write_heldout(results: Path, recipe: str, stages: Sequence[str], nats: float) -> str:
    """A heldout.json beside the run's evaluations; returns its path."""
    path = _evaluations(results, recipe, stages) / "heldout.json"
    return made_stages.write_heldout(path, f"{stages[-1]}/manifest.json", nats, 0.004)


def write_tasks(results: Path, recipe: str, stages: Sequence[str], accuracies: dict[str, float]) -> str:
    """A tasks.json with the given accuracies (fractions); returns its path."""
    return made_stages.write_tasks(_evaluations(results, recipe, stages) / "tasks.json", accuracies)


def _evaluations(results: Path, recipe: str, stages: Sequence[str]) -> Path:
    return results / "evaluate" / recipe / Path(stages[-1]).relative_to(results / "train" / recipe)


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
                      "vocab_size": 1024, "eos_token": "<|end|>", "eos_id": 0,
                      "round_trip": {"documents": 400, "changed": 6, "example": "'\u00c5' becomes 'A'"}},
        "documents": {"read": 1500, "read_bytes": 5_000_000,
                      "read_by_source": {"docstrings": 1400, "prose": 100},
                      "sources": {"docstrings": {
                          "files": 4, "file_bytes": 6_000_000, "records": 1412, "documents": 1400, "without_text": 7,
                          "unreadable": {"not_utf8": 5}, "examples": ["a.jsonl, line 51: not_utf8: caf"],
                          "files_without_text": 0, "not_read": {".txt": 3}}},
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
