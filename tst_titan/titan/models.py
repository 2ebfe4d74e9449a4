"""torchtitan's decoders from a ``ModelConfig``: any shape, from YAML alone.

Layers, initialisation, parallelisation and Hugging Face key mapping are torchtitan's own; this module fills in the
shape and the few settings that its layer builders do not take. It imports torchtitan: on a machine without an
accelerator call ``tst_titan.titan.cpu.prepare()`` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torchtitan.components.optimizer import register_moe_load_balancing_hook
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models import llama3, qwen3
from torchtitan.models.common import (
    ComplexRoPE,
    CosSinRoPE,
    Embedding,
    Linear,
    RMSNorm,
    ScaledDotProductAttention,
    TransformerBlock,
)
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.moe import GroupedExperts
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter
from torchtitan.protocols.model_spec import ModelSpec

from tst_titan.config.schema import ModelConfig
from tst_titan.errors import UserError

ExpertCommBackend = Literal["standard", "deepep", "hybridep", "minimal_async_ep"]
ExpertPrecision = Literal["bfloat16", "float32"]

# The builders want a name; SDPA, which needs no positions, is set in its place afterwards.
_PLACEHOLDER_ATTENTION = "flex"


class FullPrecisionExperts(GroupedExperts):
    """torchtitan's experts without their cast to bfloat16: the three products in the precision of the input."""

    @dataclass(kw_only=True, slots=True)
    class Config(GroupedExperts.Config):
        pass

    def forward(self, x_RD: torch.Tensor, num_tokens_per_expert_E: torch.Tensor) -> torch.Tensor:
        """Latents sorted by expert (R, D) and how many each expert gets (E,) -> outputs (R, D) in x's dtype."""
        ends_E = torch.cumsum(num_tokens_per_expert_E, dim=0, dtype=torch.int32)
        gate_EFD, down_EDF, up_EFD = (
            weight.to_local() if isinstance(weight, DTensor) else weight
            for weight in (self.w1_EFD, self.w2_EDF, self.w3_EFD)
        )
        gate_RF = self._grouped_mm(A=x_RD, B_t=gate_EFD.to(x_RD.dtype).transpose(-2, -1), offs=ends_E)
        up_RF = self._grouped_mm(A=x_RD, B_t=up_EFD.to(x_RD.dtype).transpose(-2, -1), offs=ends_E)
        return self._grouped_mm(
            A=functional.silu(gate_RF) * up_RF, B_t=down_EDF.to(x_RD.dtype).transpose(-2, -1), offs=ends_E
        )


def build_model_spec(
    model: ModelConfig,
    *,
    expert_comm_backend: ExpertCommBackend = "standard",
    expert_precision: ExpertPrecision = "bfloat16",
) -> ModelSpec:
    """torchtitan's bundle for ``model``: config tree, parallelisation, balancing hook and state-dict adapter.

    Embeddings are untied, attention is causal over the whole window and needs no positions. ``expert_precision``
    is the precision of the experts' matrix products; torchtitan's own is bfloat16 whatever the model's dtype.

    Raises:
        UserError: an expert backend other than "standard" for a model without experts.
    """
    if model.moe is None and expert_comm_backend != "standard":
        raise UserError(
            f"expert_comm_backend {expert_comm_backend!r} needs a model with experts; "
            f"a dense {model.family} has none: use 'standard'"
        )
    if model.family == "llama3":
        config: Decoder.Config = _llama3_config(model)
        adapter: type = Llama3StateDictAdapter
        parallelize, hook = llama3.parallelize_llama, None
    else:
        config = _qwen3_config(model, expert_comm_backend)
        adapter = Qwen3StateDictAdapter
        parallelize, hook = qwen3.parallelize_qwen3, register_moe_load_balancing_hook
    _finish(config, model, expert_precision)
    return ModelSpec(
        name=model.family,
        flavor=f"{model.dim}x{model.n_layers}",
        model=config,
        parallelize_fn=parallelize,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=hook,
        state_dict_adapter=adapter,
    )


def _llama3_config(model: ModelConfig) -> Decoder.Config:
    """Llama with untied embeddings and plain rotary positions (no Llama-3.1 frequency scaling)."""
    rope = ComplexRoPE.Config(
        dim=model.resolved_head_dim, max_seq_len=model.max_sequence_length, theta=model.rope_theta
    )
    layers = llama3._build_llama3_layers(
        n_layers=model.n_layers,
        dim=model.dim,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        hidden_dim=model.ffn_dim or 0,
        rope=rope,
        attn_backend=_PLACEHOLDER_ATTENTION,
    )
    return llama3.Llama3Model.Config(
        dim=model.dim,
        vocab_size=model.vocab_size,
        layers=layers,
        **_ends(model, llama3._EMBEDDING_INIT, llama3._output_linear_init(model.dim), llama3._NORM_INIT),
    )


def _qwen3_config(model: ModelConfig, expert_comm_backend: str) -> Decoder.Config:
    """Qwen3, dense or with experts (softmax before top-k, the chosen experts' weights normalised to sum 1)."""
    build = partial(
        qwen3._build_qwen3_moe_layers if model.moe else qwen3._build_qwen3_layers,
        n_layers=model.n_layers,
        dim=model.dim,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        head_dim=model.resolved_head_dim,
        rope=CosSinRoPE.Config(
            dim=model.resolved_head_dim, max_seq_len=model.max_sequence_length, theta=model.rope_theta
        ),
        attn_backend=_PLACEHOLDER_ATTENTION,
    )
    if model.moe is None:
        layers: list[TransformerBlock.Config] = build(hidden_dim=model.ffn_dim or 0)
    else:
        layers = build(
            moe_hidden_dim=model.moe.expert_ffn_dim,
            num_experts=model.moe.n_experts,
            top_k=model.moe.top_k,
            moe_comm_backend=expert_comm_backend,
        )
    return qwen3.Qwen3Model.Config(
        dim=model.dim,
        vocab_size=model.vocab_size,
        layers=layers,
        **_ends(model, qwen3._EMBEDDING_INIT, qwen3._LINEAR_INIT, qwen3._NORM_INIT),
    )


def _ends(model: ModelConfig, embedding_init: dict, head_init: dict, norm_init: dict) -> dict:
    """What stands before and after the layers."""
    return {
        "tok_embeddings": Embedding.Config(
            num_embeddings=model.vocab_size, embedding_dim=model.dim, param_init=embedding_init
        ),
        "norm": RMSNorm.Config(normalized_shape=model.dim, param_init=norm_init),
        "lm_head": Linear.Config(in_features=model.dim, out_features=model.vocab_size, param_init=head_init),
    }


def _finish(config: Decoder.Config, model: ModelConfig, expert_precision: ExpertPrecision) -> None:
    """Set what the builders leave at their own defaults: attention, norm epsilon, balancing, experts' precision."""
    for _, norm, _, _ in config.traverse(RMSNorm.Config):
        norm.eps = model.norm_eps
    for layer in config.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
        if layer.moe is None or model.moe is None:
            continue
        layer.moe.load_balance_coeff = model.moe.load_balance_coefficient
        if expert_precision == "float32":
            stock = layer.moe.routed_experts.inner_experts
            layer.moe.routed_experts.inner_experts = FullPrecisionExperts.Config(
                dim=stock.dim,
                hidden_dim=stock.hidden_dim,
                num_experts=stock.num_experts,
                param_init=stock.param_init,
            )
