"""Which tokens may move a position's logits, its loss and its gradient: only its past and its own target bag."""

from __future__ import annotations

import pytest
import torch

from tst_titan.superposition import (
    LOSSES,
    SIDES,
    bag_embedding,
    bag_labels,
    bag_loss,
    target_weights,
    tokens_per_window,
)

LATENTS, BAG, VOCAB, WIDTH = 4, 3, 40, 8


class Chain:
    """Bag embedding, a strictly causal stand-in for the transformer, head and loss; every weight is random."""

    def __init__(self, sides: str, loss: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
        self.mix = torch.rand(LATENTS, LATENTS, generator=generator, dtype=torch.float64).add_(0.1).tril_()
        self.head = torch.randn(WIDTH, VOCAB, generator=generator, dtype=torch.float64)
        self.sides, self.loss = sides, loss

    def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Window (T,) -> logits (LATENTS, VOCAB) and losses (LATENTS,)."""
        inputs, labels = bag_labels(tokens[None], BAG, self.sides)
        inputs, labels = inputs.view(LATENTS, -1), labels.reshape(LATENTS, -1)
        hidden = torch.tanh(self.mix @ bag_embedding(self.embedding, inputs))
        logits = hidden @ self.head
        weights = target_weights("power", labels.shape[1]) if self.loss == "mce" else None
        losses = [bag_loss(self.loss, logits[j : j + 1], labels[j : j + 1], weights) for j in range(LATENTS)]
        return logits, torch.stack(losses)


def _past(position: int, sides: str) -> range:
    """Tokens of the window that a latent's prediction may depend on."""
    return range(position + 1) if sides == "output_only" else range((position + 1) * BAG)


def _target(position: int, sides: str) -> range:
    first = position + 1 if sides == "output_only" else (position + 1) * BAG
    return range(first, first + (1 if sides == "input_only" else BAG))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sides", SIDES)
def test_a_changed_token_moves_exactly_what_follows_it_and_what_predicts_it(sides: str, loss: str) -> None:
    chain = Chain(sides, loss)
    window = tokens_per_window(LATENTS, BAG, sides)
    tokens = torch.arange(window)
    logits, losses = (value.detach() for value in chain(tokens))
    for place in range(window):
        changed = tokens.clone()
        changed[place] = VOCAB - 1  # a token that the window does not hold
        new_logits, new_losses = (value.detach() for value in chain(changed))
        for j in range(LATENTS):
            in_past, in_target = place in _past(j, sides), place in _target(j, sides)
            assert torch.equal(new_logits[j], logits[j]) != in_past, (place, j)
            assert torch.equal(new_losses[j], losses[j]) != (in_past or in_target), (place, j)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sides", SIDES)
def test_a_position_s_loss_has_a_gradient_at_the_embeddings_of_its_past_alone(sides: str, loss: str) -> None:
    chain = Chain(sides, loss)
    window = tokens_per_window(LATENTS, BAG, sides)
    for j in range(LATENTS):
        _, losses = chain(torch.arange(window))  # token i stands at place i, so that row i is its gradient
        (gradient,) = torch.autograd.grad(losses[j], chain.embedding)
        touched = gradient.abs().sum(1).nonzero().flatten().tolist()
        assert touched == list(_past(j, sides)), j
