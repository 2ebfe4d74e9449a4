"""Start parts of a model anew at the switch, as the paper's table 2 does for embedding and LM head."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import nn
from torchtitan.components.optimizer import OptimizersContainer

MODULE_OF_PART = {"embedding": "tok_embeddings", "lm_head": "lm_head"}


@torch.no_grad()
def reinitialize_parts(
    parts: Iterable[str], model: nn.Module, optimizers: OptimizersContainer, seed: int
) -> None:
    """Draw new weights for the parts and clear their optimizer moments; everything else stays.

    Args:
        parts: ``embedding``, ``lm_head``.
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
