"""Write and train small stages in tests, exactly as the workflow does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.corpus import write_corpus
from tst_titan.config.schema import StageConfig
from tst_titan.files import write_if_changed
from tst_titan.run import warm
from tst_titan.tree.folder import StageFolder, stage_yaml

DENSE = {
    "family": "llama3",
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "ffn_dim": 64,
    "vocab_size": 64,
    "max_sequence_length": 64,
}
MOE = {
    "family": "qwen3",
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "moe": {"n_experts": 4, "top_k": 2, "expert_ffn_dim": 32},
    "vocab_size": 64,
    "max_sequence_length": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama3": DENSE,
    "llama3_2": {
        **DENSE,
        "tied_embeddings": True,
        "rope_theta": 10000.0,
        "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 16},
    },
    "smollm3": {**DENSE, "tied_embeddings": True, "no_rope_layer_interval": 2},
    "qwen3": {**{key: value for key, value in MOE.items() if key != "moe"}, "ffn_dim": 48},
    "qwen3_moe": MOE,
    "deepseek_v3": {
        "family": "deepseek_v3",
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 4,
        "ffn_dim": 48,
        "moe": {"n_experts": 8, "top_k": 2, "expert_ffn_dim": 16, "n_groups": 4, "top_k_groups": 2},
        "vocab_size": 64,
        "max_sequence_length": 64,
        "n_dense_layers": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
    },
}
"""A small shape of every architecture, for tests of what each of them must do."""
SCHEDULE = {"warmup_steps": 2}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What Snakemake sets for a job of one thread."""
# What pytest, and libraries imported in its process, set: with it every test would be unlike the server.
_OF_TESTS = {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "HF_XET_HIGH_PERFORMANCE"}


@dataclass(frozen=True)
class Tree:
    """A results folder with a corpus, where stages of one recipe can be trained.

    Attributes:
        results: root of the results.
        model: shape of the recipe.
        runtime: changes to the run-time config.
    """

    results: Path
    model: dict[str, Any] = field(default_factory=lambda: DENSE)
    runtime: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    recipe: str = "test"

    @classmethod
    def make(cls, results: Path, **changes: Any) -> Tree:
        """A new tree with its corpus."""
        if not (results / "data" / "tiny" / "manifest.json").exists():
            write_corpus(results / "data" / "tiny")
        return cls(results, **changes)

    def with_runtime(self, **runtime: Any) -> Tree:
        """The same tree with another run-time config."""
        return replace(self, runtime={**self.runtime, **runtime})

    def stage(self, lineage: str, **changes: Any) -> StageFolder:
        """Write stage.yaml and runtime.yaml of the last segment of ``lineage``; keys not given are derived."""
        segments = [segment.split("-") for segment in lineage.split("/")]
        kind, end = segments[-1][0], int(segments[-1][1])
        start = int(segments[-2][1]) if len(segments) > 1 else 0
        content: dict[str, Any] = {
            "phase": "bag" if kind.startswith("bag") else kind,
            "start_step": start,
            "end_step": end,
            "seed": 0,
            "precision": "float32",
            "model": self.model,
            "data": {"corpus": "tiny", "sequence_length": 16, "batch_sequences": 4, **self.data},
            "optimizer": {"learning_rate": 0.01},
            "schedule": SCHEDULE,
        }
        if kind.startswith("bag"):
            content["superposition"] = {"bag_size": int(kind[3:])}
        if start:
            content["handover"] = {}
        content.update(changes)
        folder = self.results / "train" / self.recipe / lineage
        write_if_changed(folder / "stage.yaml", stage_yaml(StageConfig.model_validate(content)))
        runtime = {"log_every": 1, "checkpoint_every": 4, "cpu_threads": 1, **self.runtime}
        write_if_changed(folder / "runtime.yaml", json.dumps(runtime))
        return StageFolder.at(folder)


@cache
def _servers() -> str:
    """Where the servers of this test process listen: its stages import once, as those of one Snakemake do."""
    warm.offer()
    return os.environ.pop(warm.SERVERS)


def train(folder: StageFolder, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Train a stage through the command that the rule calls."""
    environment = {key: value for key, value in os.environ.items() if key not in _OF_TESTS}
    done = subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", "train", str(folder.path), *arguments],
        env=environment | {warm.SERVERS: _servers()} | dict.fromkeys(ONE_THREAD, "1"),
        capture_output=True,
        text=True,
    )
    if check and done.returncode:
        raise AssertionError(f"training failed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def losses(folder: StageFolder) -> dict[int, float]:
    """Loss by step."""
    lines = map(json.loads, folder.metrics_path.read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def final_tensors(folder: StageFolder) -> dict[str, Any]:
    """All tensors of the stage's last checkpoint by name, optimizer included, on one process."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    path = folder.path / folder.manifest()["checkpoint"]
    metadata = FileSystemReader(str(path)).read_metadata()
    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(tensors, checkpoint_id=str(path), no_dist=True)
    return tensors
