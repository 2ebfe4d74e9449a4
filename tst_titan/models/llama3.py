"""Llama 3 and what is built like it (SmolLM2, SmolLM3): grouped-query attention, rotary positions, no experts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tst_titan.config.strict import PositiveFloat, PositiveInt, Strict
from tst_titan.models.family import GroupedQueryModel, TorchtitanParts


class Llama3RopeScaling(Strict):
    """Slower rotations for a longer context (Llama 3.1, arXiv 2407.21783): only of the slow ones."""

    factor: PositiveFloat = Field(description="how much the slowest rotations slow down")
    low_freq_factor: PositiveFloat = Field(
        1.0,
        description="rotations whose wavelength exceeds the original context divided by this slow down fully",
    )
    high_freq_factor: PositiveFloat = Field(
        4.0,
        description="rotations whose wavelength is below the original context divided by this do not slow down",
    )
    original_max_position_embeddings: PositiveInt = Field(8192, description="the original context")

    @model_validator(mode="after")
    def _factors_are_in_order(self) -> Llama3RopeScaling:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor:g}) must be more than low_freq_factor "
                f"({self.low_freq_factor:g})"
            )
        return self


class Llama3(GroupedQueryModel):
    """The shape of a Llama 3."""

    family: Literal["llama3"] = Field(
        description="torchtitan.models.llama3 and transformers' LlamaForCausalLM or SmolLM3ForCausalLM"
    )
    rope_scaling: Llama3RopeScaling | None = Field(None, description="as in Llama 3.1 and 3.2; default: none")
    no_rope_layer_interval: PositiveInt | None = Field(
        None,
        description="every n-th layer has no rotary positions, as in SmolLM3; default: all layers have them",
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

    def is_rotated(self, layer: int) -> bool:
        """All but the last of every ``no_rope_layer_interval`` layers."""
        return self.no_rope_layer_interval is None or (layer + 1) % self.no_rope_layer_interval != 0

    def torchtitan(self) -> TorchtitanParts:
        """torchtitan's own layers and initialisation."""
        from torchtitan.models import llama3
        from torchtitan.models.common import ComplexRoPE
        from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

        rope = ComplexRoPE.Config(
            dim=self.resolved_head_dim, max_seq_len=self.max_sequence_length, theta=self.rope_theta
        )
        if self.rope_scaling is not None:
            rope.scaling = "llama"
            rope.scaling_factor = self.rope_scaling.factor
            rope.low_freq_factor = self.rope_scaling.low_freq_factor
            rope.high_freq_factor = self.rope_scaling.high_freq_factor
            rope.original_max_position_embeddings = self.rope_scaling.original_max_position_embeddings
        layers = llama3._build_llama3_layers(
            n_layers=self.n_layers,
            dim=self.dim,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            hidden_dim=self.ffn_dim or 0,
            rope=rope,
            attn_backend="flex",
        )
        ends = self.torchtitan_ends(
            llama3._EMBEDDING_INIT, llama3._output_linear_init(self.dim), llama3._NORM_INIT
        )
        model = llama3.Llama3Model.Config(layers=layers, **ends)
        return TorchtitanParts(model, llama3.parallelize_llama, Llama3StateDictAdapter)

    def hugging_face_rope(self) -> dict[str, Any]:
        """The keys of Llama 3.1."""
        if self.rope_scaling is None:
            return super().hugging_face_rope()
        return {"rope_type": "llama3", **self.rope_scaling.model_dump()}

    def hugging_face(self, **beside: Any) -> Any:
        """A ``LlamaConfig`` or, where layers have no rotary positions, a ``SmolLM3Config``."""
        from transformers import LlamaConfig, SmolLM3Config

        shape = {"intermediate_size": self.ffn_dim or 0, **self.hugging_face_shape(), **beside}
        if self.no_rope_layer_interval is None:
            return LlamaConfig(architectures=["LlamaForCausalLM"], **shape)
        del shape["head_dim"]  # no key of its config
        return SmolLM3Config(
            architectures=["SmolLM3ForCausalLM"],
            no_rope_layer_interval=self.no_rope_layer_interval,
            pad_token_id=None,  # its own lies beyond a smaller vocabulary
            **shape,
        )
