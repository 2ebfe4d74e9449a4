"""Initial weights that do not depend on how they are sharded, and parts that get new ones at the switch.

A random draw into a sharded tensor takes as many numbers as the shard has elements, so another number of ranks would
mean another model. Here every rank draws the whole tensor, as a single process would, and keeps its part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.protocols.module import Module

MODULE_OF_PART = {"embedding": "tok_embeddings", "lm_head": "lm_head"}
Initializer = Callable[[torch.Tensor], Any]


def draw_whole_tensors(model_config: Module.Config) -> None:
    """Wrap every initialiser of a torchtitan model config, in place."""
    for _, config, _, _ in model_config.traverse(Module.Config, recurse=True):
        if config.param_init:
            config.param_init = {name: whole(init) for name, init in config.param_init.items()}


def whole(init: Initializer) -> Initializer:
    """The same initialiser, drawing the full tensor on every rank before each keeps its shard."""
    if getattr(init, "draws_whole", False) or init is skip_param_init:
        return init

    def draw(tensor: torch.Tensor) -> None:
        if not isinstance(tensor, DTensor):
            init(tensor)
            return
        full = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.to_local().device)
        init(full)
        everywhere = [Replicate()] * tensor.device_mesh.ndim
        with torch.no_grad():
            tensor.copy_(DTensor.from_local(full, tensor.device_mesh, everywhere, run_check=False))

    draw.draws_whole = True  # type: ignore[attr-defined]
    return draw


@torch.no_grad()
def reinitialize_parts(
    parts: Iterable[str], model: nn.Module, optimizers: OptimizersContainer, seed: int
) -> None:
    """Draw new weights for the parts and clear their optimizer moments, as the paper's table 2; all else stays.

    Args:
        parts: ``embedding``, ``lm_head``; both where they are tied, and the head's initialisation draws them.
        model: the decoder, sharded or not.
        optimizers: their states of the parts are dropped and start from zero.
        seed: of the draw; another stream than the run's first initialisation.
    """
    torch.manual_seed(seed + 1)
    for part in parts:
        module = model.get_submodule(MODULE_OF_PART[part])
        module.init_states()  # type: ignore[operator]
        for parameter, optimizer in itertools.product(module.parameters(), optimizers.optimizers):
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
