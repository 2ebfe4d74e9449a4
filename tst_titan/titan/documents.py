"""Attention that stays inside the documents of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import create_mask
from torchtitan.models.common.attention import FlexAttention


class DocumentAttention(FlexAttention):
    """torchtitan's flex attention; without a mask, attention over the whole window, and on a CPU a dense mask.

    Flex attention has no backward pass on CPUs.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        pass

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: Any = None,
        scale: float | None = None,
        enable_gqa: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Queries, keys and values (B, L, N, H) -> (B, L, N, H); ``attention_masks``: torchtitan's block mask."""
        if attention_masks is not None and q_BLNH.device.type != "cpu":
            return super().forward(
                q_BLNH,
                k_BLNH,
                v_BLNH,
                attention_masks=attention_masks,
                scale=scale,
                enable_gqa=enable_gqa,
                **kwargs,
            )
        mask = None
        if attention_masks is not None:
            batch, length = q_BLNH.shape[:2]
            mask = create_mask(attention_masks.mask_mod, batch, 1, length, length, device="cpu")
        q, k, v = (each.transpose(1, 2) for each in (q_BLNH, k_BLNH, v_BLNH))
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=enable_gqa
        )
        return out.transpose(1, 2)
