"""Qwen3, dense or with experts: grouped-query attention with normalised queries and keys.

Its router takes a softmax before the top k, and the chosen experts' weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from tst_titan.models.family import BiaslessRouter, GroupedQueryModel, Layer, TorchtitanParts


def _choose_with_bias(gate: Any, _: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace a router's output: logits (N, E), weights (N, k) of the chosen experts, their numbers (N, k).

    Only the choice changes: the weights of the chosen experts stay those of the plain router.
    """
    import torch

    logits, weights, _ = output
    probabilities = logits.softmax(-1, dtype=torch.float32)
    chosen = (probabilities + gate.expert_bias).topk(gate.top_k, dim=-1).indices
    shares = probabilities.gather(-1, chosen)
    return logits, (shares / shares.sum(-1, keepdim=True)).to(weights.dtype), chosen


class Qwen3(GroupedQueryModel):
    """The shape of a Qwen3."""

    router_without_bias: ClassVar = BiaslessRouter("qwen3_moe", "model.layers.{}.mlp.gate", _choose_with_bias)

    family: Literal["qwen3"] = Field(
        description="torchtitan.models.qwen3 and transformers' Qwen3ForCausalLM or Qwen3MoeForCausalLM"
    )

    def layers(self) -> Iterator[Layer]:
        """Queries and keys are normalised per head, too."""
        for layer in super().layers():
            yield replace(layer, gains=layer.gains + 2 * self.resolved_head_dim)

    def torchtitan(self) -> TorchtitanParts:
        """torchtitan's own layers and initialisation."""
        from torchtitan.models import qwen3
        from torchtitan.models.common import CosSinRoPE
        from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter

        build = partial(
            qwen3._build_qwen3_moe_layers if self.moe else qwen3._build_qwen3_layers,
            n_layers=self.n_layers,
            dim=self.dim,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.resolved_head_dim,
            rope=CosSinRoPE.Config(
                dim=self.resolved_head_dim, max_seq_len=self.max_sequence_length, theta=self.rope_theta
            ),
            attn_backend="flex",
        )
        if self.moe is None:
            layers = build(hidden_dim=self.ffn_dim or 0)
        else:
            layers = build(
                moe_hidden_dim=self.moe.expert_ffn_dim,
                num_experts=self.moe.n_experts,
                top_k=self.moe.top_k,
                moe_comm_backend="standard",
            )
        ends = self.torchtitan_ends(qwen3._EMBEDDING_INIT, qwen3._LINEAR_INIT, qwen3._NORM_INIT)
        model = qwen3.Qwen3Model.Config(layers=layers, **ends)
        return TorchtitanParts(model, qwen3.parallelize_qwen3, Qwen3StateDictAdapter)

    def hugging_face(self, **beside: Any) -> Any:
        """A ``Qwen3Config`` or, with experts, a ``Qwen3MoeConfig``."""
        from transformers import Qwen3Config, Qwen3MoeConfig

        shape = self.hugging_face_shape() | beside
        if self.moe is None:
            return Qwen3Config(
                architectures=["Qwen3ForCausalLM"], intermediate_size=self.ffn_dim or 0, **shape
            )
        return Qwen3MoeConfig(
            architectures=["Qwen3MoeForCausalLM"],
            num_experts=self.moe.n_experts,
            num_experts_per_tok=self.moe.top_k,
            moe_intermediate_size=self.moe.expert_ffn_dim,
            intermediate_size=self.moe.expert_ffn_dim,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            **shape,
        )
