"""Llama 3: grouped-query attention, plain rotary positions (no Llama-3.1 frequency scaling), no experts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tst_titan.models.family import GroupedQueryModel, TorchtitanParts


class Llama3(GroupedQueryModel):
    """The shape of a Llama 3."""

    family: Literal["llama3"] = Field(
        description="torchtitan.models.llama3 and transformers' LlamaForCausalLM"
    )

    @model_validator(mode="after")
    def _has_no_experts(self) -> Llama3:
        if self.moe is not None:
            raise ValueError(
                "torchtitan's llama3 has no experts: leave moe out, or take a family that has them"
            )
        if self.head_dim is not None and self.head_dim != self.dim // self.n_heads:
            raise ValueError("family llama3 has head_dim = dim / n_heads; leave head_dim out")
        return self

    def torchtitan(self) -> TorchtitanParts:
        """torchtitan's own layers and initialisation."""
        from torchtitan.models import llama3
        from torchtitan.models.common import ComplexRoPE
        from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

        layers = llama3._build_llama3_layers(
            n_layers=self.n_layers,
            dim=self.dim,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            hidden_dim=self.ffn_dim or 0,
            rope=ComplexRoPE.Config(
                dim=self.resolved_head_dim, max_seq_len=self.max_sequence_length, theta=self.rope_theta
            ),
            attn_backend="flex",
        )
        ends = self.torchtitan_ends(
            llama3._EMBEDDING_INIT, llama3._output_linear_init(self.dim), llama3._NORM_INIT
        )
        model = llama3.Llama3Model.Config(layers=layers, **ends)
        return TorchtitanParts(model, llama3.parallelize_llama, Llama3StateDictAdapter)

    def hugging_face(self, **beside: Any) -> Any:
        """A ``LlamaConfig``."""
        from transformers import LlamaConfig

        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            intermediate_size=self.ffn_dim or 0,
            **self.hugging_face_shape(),
            **beside,
        )
