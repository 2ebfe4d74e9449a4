"""Initial weights that do not depend on how they are sharded.

A random draw into a sharded tensor takes as many numbers as the shard has elements, so another number of ranks would
mean another model. Here every rank draws the whole tensor, as a single process would, and keeps its part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate
from torchtitan.protocols.module import Module

Initializer = Callable[[torch.Tensor], Any]


def draw_whole_tensors(model_config: Module.Config) -> None:
    """Wrap every initialiser of a torchtitan model config, in place."""
    for _, config, _, _ in model_config.traverse(Module.Config, recurse=True):
        if config.param_init:
            config.param_init = {name: whole(init) for name, init in config.param_init.items()}


def whole(init: Initializer) -> Initializer:
    """The same initialiser, drawing the full tensor on every rank before each keeps its shard."""
    if getattr(init, "draws_whole", False):
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
