"""DeepSeek-V3 (arXiv 2412.19437) without multi-token prediction: latent attention, shared and routed experts.

Its router scores experts with a sigmoid, chooses among the best groups of them, and scales the weights of the chosen,
which sum to 1. Both libraries keep the biases that choose experts in its state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from tst_titan.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Strict
from tst_titan.models.family import Layer, ModelConfig, MoeConfig, TorchtitanParts


class DeepseekV3Experts(MoeConfig):
    """Experts of every layer after the dense ones."""

    n_shared_experts: PositiveInt = Field(
        1, description="experts that process every latent, besides the chosen ones"
    )
    n_groups: PositiveInt = Field(1, description="groups that the routed experts are cut into")
    top_k_groups: PositiveInt = Field(1, description="groups that a latent's experts are chosen from")
    route_scale: PositiveFloat = Field(2.5, description="factor on the chosen experts' weights")


class YarnRopeScaling(Strict):
    """YaRN (arXiv 2309.00071) as in DeepSeek-V3: slower rotations for a longer context, and sharper attention."""

    factor: PositiveFloat = Field(description="new context length divided by the original one")
    original_max_position_embeddings: PositiveInt = Field(4096, description="the original context")
    beta_fast: PositiveFloat = Field(
        32.0,
        description="rotations that turn more often than this in the original context are not slowed down",
    )
    beta_slow: PositiveFloat = Field(
        1.0, description="rotations that turn less often than this slow down by the factor"
    )
    mscale: PositiveFloat = Field(
        1.0,
        description="attention is sharpened by (0.1 mscale ln(factor) + 1)^2; DeepSeek's mscale_all_dim too",
    )


class DeepseekV3(ModelConfig):
    """The shape of a DeepSeek-V3."""

    family: Literal["deepseek_v3"] = Field(
        description="torchtitan.models.deepseek_v3 and transformers' DeepseekV3ForCausalLM"
    )
    ffn_dim: PositiveInt = Field(description="hidden width of the dense layers' feed-forward")
    moe: DeepseekV3Experts
    norm_eps: PositiveFloat = 1e-6
    n_dense_layers: NonNegativeInt = Field(description="first layers, which have no experts")
    q_lora_rank: PositiveInt | None = Field(None, description="width of the queries' latent; default: none")
    kv_lora_rank: PositiveInt = Field(description="width of the latent of keys and values")
    qk_nope_head_dim: PositiveInt = Field(
        description="width of a head's query and key without rotary positions"
    )
    qk_rope_head_dim: PositiveInt = Field(description="width of a head's query and key with rotary positions")
    v_head_dim: PositiveInt = Field(description="width of a head's value")
    rope_scaling: YarnRopeScaling | None = Field(None, description="YaRN; default: none")

    @model_validator(mode="after")
    def _shape_is_consistent(self) -> DeepseekV3:
        moe = self.moe
        if self.n_kv_heads != self.n_heads:
            raise ValueError(
                f"every head has keys and values of its own: n_kv_heads ({self.n_kv_heads}) must be n_heads "
                f"({self.n_heads})"
            )
        if self.head_dim is not None:
            raise ValueError(
                "leave head_dim out; qk_nope_head_dim, qk_rope_head_dim and v_head_dim are the widths"
            )
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim ({self.qk_rope_head_dim}) must be even for rotary positions")
        if self.n_dense_layers >= self.n_layers:
            raise ValueError(
                f"n_dense_layers ({self.n_dense_layers}) must leave at least one of n_layers ({self.n_layers})"
            )
        in_group, rest = divmod(moe.n_experts, moe.n_groups)
        if rest or in_group < 2:
            raise ValueError(
                f"moe.n_groups ({moe.n_groups}) must cut n_experts ({moe.n_experts}) into groups of at least 2"
            )
        if moe.top_k_groups > moe.n_groups or moe.top_k > moe.top_k_groups * in_group:
            raise ValueError(
                f"moe.top_k_groups ({moe.top_k_groups}) must not exceed n_groups ({moe.n_groups}), and its groups of "
                f"{in_group} experts must hold top_k ({moe.top_k})"
            )
        if self.tied_embeddings:
            raise ValueError(
                "torchtitan's deepseek_v3 cannot export tied embeddings: leave tied_embeddings out"
            )
        return self

    def eps_of(self, norm: str) -> float:
        """transformers' DeepseekV3 has fixed that of the latents' norms."""
        return 1e-6 if norm.endswith((".q_norm", ".kv_norm")) else self.norm_eps

    @property
    def qk_head_dim(self) -> int:
        """Width of a head's query and key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def layers(self) -> Iterator[Layer]:
        """Queries, keys and values pass through latents, each with a norm; experts are gated feed-forwards."""
        heads, q_rank, moe = self.n_heads, self.q_lora_rank or 0, self.moe
        queries = heads * self.qk_head_dim * (q_rank or self.dim) + self.dim * q_rank
        keys_and_values = self.dim * (self.kv_lora_rank + self.qk_rope_head_dim)
        keys_and_values += self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        attention = queries + keys_and_values + heads * self.v_head_dim * self.dim
        expert, router = 3 * self.dim * moe.expert_ffn_dim, self.dim * moe.n_experts
        every_latent = attention + router + moe.n_shared_experts * expert
        for number in range(self.n_layers):
            gains = 2 * self.dim + q_rank + self.kv_lora_rank
            if number < self.n_dense_layers:
                dense = attention + 3 * self.dim * self.ffn_dim
                yield Layer(dense, dense, gains)
            else:
                yield Layer(every_latent + moe.n_experts * expert, every_latent + moe.top_k * expert, gains)

    @property
    def attention_width(self) -> int:
        """Keys are wider than values."""
        return self.n_heads * (self.qk_head_dim + self.v_head_dim)

    def torchtitan(self) -> TorchtitanParts:
        """torchtitan's own layers and initialisation."""
        from torchtitan.models import deepseek_v3
        from torchtitan.models.common import ComplexRoPE
        from torchtitan.models.deepseek_v3.state_dict_adapter import DeepSeekV3StateDictAdapter

        moe = self.moe
        grouped = moe.n_groups > 1
        rope = ComplexRoPE.Config(
            dim=self.qk_rope_head_dim, max_seq_len=self.max_sequence_length, theta=self.rope_theta
        )
        yarn = self.rope_scaling
        if yarn is not None:
            rope.scaling, rope.rope_factor = "yarn", yarn.factor
            rope.beta_fast, rope.beta_slow = yarn.beta_fast, yarn.beta_slow
            rope.original_seq_len = yarn.original_max_position_embeddings
        layers = deepseek_v3._build_dsv3_layers(
            n_layers=self.n_layers,
            n_dense_layers=self.n_dense_layers,
            dim=self.dim,
            n_heads=self.n_heads,
            q_lora_rank=self.q_lora_rank or 0,
            kv_lora_rank=self.kv_lora_rank,
            qk_nope_head_dim=self.qk_nope_head_dim,
            qk_rope_head_dim=self.qk_rope_head_dim,
            v_head_dim=self.v_head_dim,
            mscale=yarn.mscale if yarn else 1.0,
            dense_hidden_dim=self.ffn_dim,
            moe_hidden_dim=moe.expert_ffn_dim,
            num_experts=moe.n_experts,
            num_shared_experts=moe.n_shared_experts,
            router_top_k=moe.top_k,
            router_score_func="sigmoid",
            router_num_expert_groups=moe.n_groups if grouped else None,
            router_num_limited_groups=moe.top_k_groups if grouped else None,
            router_route_scale=moe.route_scale,
            router_route_norm=True,
            attn_backend="flex",
            moe_comm_backend="standard",
            non_blocking_capacity_factor=None,
            rope=rope,
        )
        ends = self.torchtitan_ends(
            deepseek_v3._EMBEDDING_INIT, deepseek_v3._output_linear_init(self.dim), deepseek_v3._NORM_INIT
        )
        model = deepseek_v3.DeepSeekV3Model.Config(layers=layers, **ends)
        return TorchtitanParts(model, deepseek_v3.parallelize_deepseekv3, DeepSeekV3StateDictAdapter)

    def hugging_face_rope(self) -> dict[str, Any]:
        """The keys of DeepSeek-V3."""
        if self.rope_scaling is None:
            return super().hugging_face_rope()
        yarn = self.rope_scaling
        return {"rope_type": "yarn", **yarn.model_dump(), "mscale_all_dim": yarn.mscale}

    def hugging_face(self, **beside: Any) -> Any:
        """A ``DeepseekV3Config``."""
        from transformers import DeepseekV3Config

        return DeepseekV3Config(
            architectures=["DeepseekV3ForCausalLM"],
            intermediate_size=self.ffn_dim,
            first_k_dense_replace=self.n_dense_layers,
            q_lora_rank=self.q_lora_rank,
            kv_lora_rank=self.kv_lora_rank,
            qk_nope_head_dim=self.qk_nope_head_dim,
            qk_rope_head_dim=self.qk_rope_head_dim,
            v_head_dim=self.v_head_dim,
            n_routed_experts=self.moe.n_experts,
            n_shared_experts=self.moe.n_shared_experts,
            num_experts_per_tok=self.moe.top_k,
            moe_intermediate_size=self.moe.expert_ffn_dim,
            n_group=self.moe.n_groups,
            topk_group=self.moe.top_k_groups,
            routed_scaling_factor=self.moe.route_scale,
            norm_topk_prob=True,
            num_mtp_layers=0,
            **self.hugging_face_shape(),
            **beside,
        )
