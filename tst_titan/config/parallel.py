"""Refuse layouts of processes that cannot work, with the sentence that says why."""

from __future__ import annotations

from tst_titan.config.schema import RuntimeConfig, StageConfig
from tst_titan.errors import UserError


def data_parallel_ranks(runtime: RuntimeConfig) -> int:
    """Ranks that read different sequences."""
    p = runtime.parallel
    return runtime.world_size // (p.tensor * p.context * p.pipeline)


def check_parallel(stage: StageConfig, runtime: RuntimeConfig, where: str) -> None:
    """Check the degrees against the processes and the model.

    Raises:
        UserError: names ``where``, the key, the value and what would be valid.
    """
    p, world, model = runtime.parallel, runtime.world_size, stage.model

    def refuse(key: str, value: object, reason: str) -> None:
        raise UserError(f"{where}: key runtime.parallel.{key}: found {value}; {reason}")

    if p.pipeline > 1:
        refuse(
            "pipeline",
            p.pipeline,
            "torchtitan 0.3.0's pipeline schedules call torch 2.13 with arguments that it rejects; use shard, "
            "tensor or expert instead and leave pipeline at 1",
        )
    if p.context > 1:
        refuse(
            "context",
            p.context,
            "context parallel needs per-document positions, which superposed latents do not have; leave it at 1",
        )
    if p.tensor > 1 and stage.optimizer.muon:
        refuse("tensor", p.tensor, "torchtitan 0.3.0's Muon wants whole rows: use shard, or leave out muon")
    if world % p.tensor:
        refuse("tensor", p.tensor, f"it must divide the {world} processes")
    if model.n_heads % p.tensor or model.n_kv_heads % p.tensor:
        refuse(
            "tensor",
            p.tensor,
            f"it must divide n_heads ({model.n_heads}) and n_kv_heads ({model.n_kv_heads})",
        )
    ranks = data_parallel_ranks(runtime)
    replicate = p.replicate or 1
    if ranks % replicate:
        refuse("replicate", replicate, f"it must divide the {ranks} data-parallel ranks")
    if p.shard and p.shard * replicate != ranks:
        refuse(
            "shard",
            p.shard,
            f"replicate x shard must be the {ranks} data-parallel ranks; 0 takes what is left",
        )
    if model.moe is None:
        if p.expert > 1:
            refuse("expert", p.expert, "the model is dense and has no experts; leave it at 1")
    else:
        if model.moe.n_experts % p.expert:
            refuse("expert", p.expert, f"it must divide n_experts ({model.moe.n_experts})")
        shard = ranks // replicate
        if (shard * p.tensor) % p.expert:
            refuse("expert", p.expert, f"it must divide shard x tensor ({shard * p.tensor})")
        if p.expert > 1 and p.tensor > 1 and p.expert % p.tensor:
            refuse("expert", p.expert, f"with tensor parallel it must be a multiple of tensor ({p.tensor})")
    if stage.data.batch_sequences % ranks:
        raise UserError(
            f"{where}: key batch_sequences: found {stage.data.batch_sequences}; it must be a multiple of the "
            f"{ranks} data-parallel ranks"
        )
    micro = runtime.micro_batch_sequences or stage.data.batch_sequences // ranks
    if stage.data.batch_sequences % (micro * ranks):
        raise UserError(
            f"{where}: key runtime.micro_batch_sequences: found {micro}; micro_batch_sequences times the {ranks} "
            f"data-parallel ranks must divide data.batch_sequences ({stage.data.batch_sequences})"
        )
    length = stage.latents_per_sequence
    if length % p.tensor or length % runtime.loss_chunks:
        raise UserError(
            f"{where}: key sequence_length: found {stage.data.sequence_length}, which makes sequences of {length} "
            f"latents; that must be a multiple of runtime.parallel.tensor ({p.tensor}) and runtime.loss_chunks "
            f"({runtime.loss_chunks})"
        )
