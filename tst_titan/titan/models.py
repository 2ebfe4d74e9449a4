"""torchtitan's decoders from a ``ModelConfig``: any shape, from YAML alone.

Layers, initialisation, parallelisation and Hugging Face key mapping are torchtitan's own, as the family's file in
``tst_titan/models`` says; this module sets what no layer builder takes. It imports torchtitan: on a machine without an
accelerator call ``tst_titan.titan.cpu.prepare()`` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torchtitan.components.optimizer import register_moe_load_balancing_hook
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import ComplexRoPE, RMSNorm, ScaledDotProductAttention
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.moe import GroupedExperts
from torchtitan.protocols.model_spec import ModelSpec

from tst_titan.models.family import ModelConfig
from tst_titan.models.recipe import Recipe

ExpertPrecision = Literal["bfloat16", "float32"]


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


class NoRotation(ComplexRoPE):
    """What stands for rotary positions in a layer that has none (NoPE, arXiv 2501.18795)."""

    @dataclass(kw_only=True, slots=True)
    class Config(ComplexRoPE.Config):
        pass

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries (B, L, N, H) and keys as they are."""
        return query, key


def build_model_spec(model: ModelConfig, *, expert_precision: ExpertPrecision = "bfloat16") -> ModelSpec:
    """torchtitan's bundle for ``model``: config tree, parallelisation, balancing hook and state-dict adapter.

    Attention is causal over the whole window and needs no positions. ``expert_precision`` is the precision of the
    experts' matrix products; torchtitan's own is bfloat16 whatever the model's dtype.
    """
    parts = model.torchtitan()
    _finish(parts.model, model, expert_precision)
    return ModelSpec(
        name=model.family,
        flavor=f"{model.dim}x{model.n_layers}",
        model=parts.model,
        parallelize_fn=parts.parallelize,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=register_moe_load_balancing_hook if model.moe else None,
        state_dict_adapter=parts.adapter,
    )


def _finish(config: Decoder.Config, model: ModelConfig, expert_precision: ExpertPrecision) -> None:
    """Set what the builders leave at their own defaults: attention, norm epsilon, balancing, experts' precision."""
    of_recipe = isinstance(model, Recipe)  # whose norms and balancing are its own
    for name, norm, _, _ in [] if of_recipe else config.traverse(RMSNorm.Config):
        norm.eps = model.eps_of(name)
    for number, layer in enumerate(config.layers):
        if not model.is_rotated(number):
            rope = layer.attention.rope
            layer.attention.rope = NoRotation.Config(dim=rope.dim, max_seq_len=rope.max_seq_len)
        # The builders want attention by a name that needs positions; this one does not.
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
        if layer.moe is None or model.moe is None:
            continue
        if not of_recipe:
            layer.moe.load_balance_coeff = model.moe.load_balance_coefficient
        stock = layer.moe.routed_experts.inner_experts
        if expert_precision == "float32" and type(stock) is GroupedExperts.Config:
            layer.moe.routed_experts.inner_experts = FullPrecisionExperts.Config(
                dim=stock.dim,
                hidden_dim=stock.hidden_dim,
                num_experts=stock.num_experts,
                param_init=stock.param_init,
            )
