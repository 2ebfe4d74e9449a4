"""How evenly the experts are used: the share of latents that each expert of each layer received."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torchtitan.protocols.model_spec import ModelSpec


class ExpertLoad:
    """Keeps the expert counts of the latest step, before torchtitan's balancing hook clears them."""

    def __init__(self, model_parts: list[nn.Module], groups: list[dist.ProcessGroup]):
        self.model_parts = model_parts
        self.groups = groups
        self.counts: torch.Tensor | None = None

    @classmethod
    def attach_to(cls, spec: ModelSpec) -> None:
        """Count before the spec's own balancing hook runs (hooks run in the order of their registration)."""
        build = spec.post_optimizer_build_fn

        def build_and_count(optimizers: Any, model_parts: list[nn.Module], parallel_dims: Any) -> None:
            # The ranks whose counts torchtitan's balancing adds up, too.
            spread = parallel_dims.ep_enabled and parallel_dims.tp > 1
            meshes = [parallel_dims.get_optional_mesh(name) for name in (["tp"] if spread else []) + ["loss"]]
            load = cls(model_parts, [mesh.get_group() for mesh in meshes if mesh is not None])
            optimizers.register_step_pre_hook(load.record)
            optimizers.expert_load = load
            if build is not None:
                build(optimizers, model_parts, parallel_dims)

        spec.post_optimizer_build_fn = build_and_count

    @torch.no_grad()
    def record(self, *args: Any) -> None:
        """Copy the counts of this step, shape (layers, experts)."""
        counts = []
        for part in self.model_parts:
            for module in part.modules():
                load = getattr(module, "tokens_per_expert_E", None)
                if load is not None:
                    counts.append(load.to_local() if isinstance(load, DTensor) else load)
        self.counts = torch.stack(counts).float() if counts else None

    def shares(self) -> list[list[float]] | None:
        """Share of each expert among the choices of its layer, over all ranks. Collective."""
        if self.counts is None:
            return None
        counts = self.counts.clone()
        for group in self.groups:
            dist.all_reduce(counts, group=group)
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        return [[round(value, 6) for value in layer] for layer in shares.tolist()]
