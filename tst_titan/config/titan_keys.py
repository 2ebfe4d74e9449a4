"""Keys of torchtitan's config by dotted path: whose they are, and whether they change a result.

Names and types are torchtitan's and checked where it is imported (``tst_titan/titan/keys.py``); this module says what
holds without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

OWNED = {
    "model_spec": "the model's file in configs/models",
    "hf_assets_path": "tokenizer of the corpus",
    "tokenizer": "tokenizer of the corpus",
    "dump_folder": "results of the project",
    "dataloader": "corpus of a size, and its file in configs/corpora",
    "optimizer": "learning_rate of a size, weight_decay of a scale, and optimizer",
    "lr_scheduler": "warmup_steps of a size, decay_fraction of a scale, and schedule",
    "loss": "loss of a run's bags, and runtime.loss_chunks",
    "validator": "runtime.heldout, and evaluation of a scale",
    "checkpoint": "runtime (checkpoint_every, keep_last_checkpoints, async_checkpoint), and handover of a run",
    "training.steps": "steps of a size",
    "training.seq_len": "sequence_length of a size",
    "training.global_batch_size": "batch_sequences of a size",
    "training.local_batch_size": "runtime.micro_batch_sequences",
    "training.max_norm": "max_gradient_norm of a scale",
    "training.mixed_precision_param": "precision of a scale",
    "metrics.log_freq": "runtime.log_every",
    "metrics.enable_wandb": "wandb of the project",
    "parallelism.data_parallel_replicate_degree": "runtime.parallel.replicate",
    "parallelism.data_parallel_shard_degree": "runtime.parallel.shard",
    "parallelism.tensor_parallel_degree": "runtime.parallel.tensor",
    "parallelism.expert_parallel_degree": "runtime.parallel.expert",
    "parallelism.context_parallel_degree": "runtime.parallel.context",
    "parallelism.pipeline_parallel_degree": "runtime.parallel.pipeline",
    "parallelism.spmd_backend": "nothing: partial_dtensor is the one that works (docs/architecture.md)",
    "compile.enable": "runtime.compile",
    "comm.init_timeout_seconds": "runtime.init_timeout_s",
    "comm.train_timeout_seconds": "runtime.train_timeout_s",
    "debug.seed": "seed of a scale",
    "debug.deterministic": "runtime.deterministic",
}
"""What the pipeline sets, by torchtitan's key or by the mapping that holds it, and by which key of ours."""

_HOW = (
    "parallelism",
    "activation_checkpoint",
    "compile",
    "comm",
    "profiler",
    "metrics",
    "debug",
    "training.gc_freq",
    "training.gc_debug",
    "training.enable_cpu_offload",
    "training.disable_cuda_graphs",
)
_WHAT = ("debug.moe_force_load_balance",)


def _is_within(key: str, names: Mapping[str, Any] | tuple[str, ...]) -> str | None:
    """The name that is the key or a mapping around it."""
    return next((name for name in names if key == name or key.startswith(f"{name}.")), None)


def changes_result(key: str) -> bool:
    """Whether a key belongs to a stage's identity; how it is computed does not (as ``RuntimeConfig``)."""
    return _is_within(key, _WHAT) is not None or _is_within(key, _HOW) is None


def _flat(content: Any) -> Any:
    """``{training: {gc_freq: 10}}`` as ``{training.gc_freq: 10}``."""
    return dict(_leaves(content, "")) if isinstance(content, Mapping) else content


def _leaves(content: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _not_owned(content: dict[str, Any]) -> dict[str, Any]:
    for key, value in content.items():
        if owner := _is_within(key, OWNED):
            raise ValueError(f"key {key} (found {value!r}) is the pipeline's; it is set by {OWNED[owner]}")
    return content


TitanKeys = Annotated[dict[str, Any], BeforeValidator(_flat), AfterValidator(_not_owned)]
