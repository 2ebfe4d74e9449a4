"""The bag embedding as a torchtitan module: stock weights and keys, another forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from torchtitan.models.common import Embedding

from tst_titan.superposition import VocabShard, bag_embedding


class BagEmbedding(Embedding):
    """Embeds bags of token ids, shape (B, L, s), as the mean of their rows, shape (B, L, D).

    The mean is accumulated in float32 and cast back (arXiv 2605.06546, method). Under tensor parallelism the
    rows are sharded over the vocabulary and the result is this rank's partial sum, as for the stock module.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Embedding.Config):
        pass

    # torchtitan's sharding config refers to the argument by its name.
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Mean embedding of each bag.

        Args:
            input: token ids, int64, shape (B, L, s).
        """
        weight = self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight
        shard = None if self.tp_group is None else VocabShard.of_group(self.num_embeddings, self.tp_group)
        return bag_embedding(weight, input, shard)


def superpose_input(model_config: object) -> None:
    """Swap the token embedding of a torchtitan decoder config for the bag embedding, same shape and initialisation."""
    stock: Embedding.Config = model_config.tok_embeddings  # type: ignore[attr-defined]
    model_config.tok_embeddings = BagEmbedding.Config(  # type: ignore[attr-defined]
        num_embeddings=stock.num_embeddings,
        embedding_dim=stock.embedding_dim,
        param_init=stock.param_init,
    )
