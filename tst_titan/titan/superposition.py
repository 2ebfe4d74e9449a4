"""Bag embedding and bag loss as torchtitan modules: stock weights and keys, sharded ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Shard
from torchtitan.components.loss import BaseLoss
from torchtitan.config import CompileConfig
from torchtitan.models.common import Embedding

from tst_titan.superposition import VocabShard, bag_embedding, bag_loss, target_weights


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


class BagLoss(BaseLoss):
    """Loss of every latent over the bag of tokens that it predicts.

    torchtitan divides by the number of labels, s per latent; the loss is a mean over latents, so that a
    cross-entropy starts near ln(V) for every bag size.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        bag_size: int
        vocab_size: int
        name: str = "mce"
        weights: tuple[float, ...] | None = None
        """Weight of the i-th target, normalised; only for mce."""

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None):
        # The loss is one hand-fused autograd function: nothing is left for the compiler.
        del compile_config
        self.bag_size = config.bag_size
        self.vocab_size = config.vocab_size
        self.name = config.name
        self.weights = None if config.weights is None else target_weights(config.weights, config.bag_size)

    def __call__(
        self,
        pred: torch.Tensor,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum of the loss over this rank's latents, divided by the latents of the whole batch.

        Args:
            pred: logits (B, L, V), or this rank's columns of them as a DTensor sharded over the vocabulary.
            labels: token ids (B, L, s).
            global_valid_tokens: labels of the whole batch, s times the number of latents.

        Raises:
            RuntimeError: the logits are a part of the vocabulary and nothing says which.
        """
        shard = None
        if isinstance(pred, DTensor):
            if any(
                isinstance(placement, Shard) and placement.dim == pred.ndim - 1
                for placement in pred.placements
            ):
                shard = VocabShard.of_group(pred.shape[-1], pred.device_mesh.get_group("tp"))
            pred = pred.to_local()
        if shard is None and pred.shape[-1] != self.vocab_size:
            raise RuntimeError(
                f"the head gives {pred.shape[-1]} logits of a vocabulary of {self.vocab_size} and does not say which: "
                "a sharded head must give a DTensor, as torchtitan's spmd_backend partial_dtensor does"
            )
        if self.weights is not None and self.weights.device != pred.device:
            self.weights = self.weights.to(pred.device)
        loss = bag_loss(
            self.name,
            pred.flatten(0, 1),
            labels.flatten(0, 1),
            self.weights,
            shard=shard,
            # Nobody reads the head's output again: its storage takes the gradient.
            overwrite_logits=pred.requires_grad,
        )
        if global_valid_tokens is not None:
            loss = loss * self.bag_size / global_valid_tokens
        return loss, {}
