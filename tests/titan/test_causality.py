"""Which tokens move a position of torchtitan's own models: every token of the window is changed in turn."""

import pytest
import torch

from tests.stages import SHAPES
from tst_titan.config.schema import ModelConfig
from tst_titan.superposition import SIDES, bag_labels, tokens_advanced, tokens_per_window
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.titan.models import build_model_spec  # noqa: E402
from tst_titan.titan.superposition import BagLoss, with_bag_embedding  # noqa: E402

LATENTS, BAG, VOCABULARY = 5, 3, 64
ROUNDING = (
    1e-5  # experts multiply all their latents together, so others of a batch may change the last digits
)


def built(shape: dict, sides: str) -> torch.nn.Module:
    spec = build_model_spec(ModelConfig.model_validate(shape), expert_precision="float32")
    torch.manual_seed(0)
    model = with_bag_embedding(spec.model).build()
    with torch.no_grad():
        model.init_states()
    return model.eval()


@torch.no_grad()
def answers(model: torch.nn.Module, tokens: torch.Tensor, sides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (LATENTS, V) and the loss of every latent (LATENTS,)."""
    inputs, labels = bag_labels(tokens[None], BAG, sides)
    logits = model(inputs)
    targets = labels.reshape(LATENTS, -1)
    loss = BagLoss.Config(
        bag_size=targets.shape[1], vocab_size=VOCABULARY, weights=(1.0,) * targets.shape[1]
    ).build()
    losses = [loss(logits[:, j : j + 1], targets[None, j : j + 1])[0] for j in range(LATENTS)]
    return logits[0], torch.stack(losses)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_changed_token_moves_what_follows_it_and_what_predicts_it_and_nothing_else(shape, sides):
    model = built(shape, sides)
    tokens = torch.arange(1, tokens_per_window(LATENTS, BAG, sides) + 1)
    step = tokens_advanced(1, BAG, sides)
    targets = 1 if sides == "input_only" else BAG
    logits, losses = answers(model, tokens, sides)
    for place in range(len(tokens)):
        changed = tokens.clone()
        changed[place] = VOCABULARY - 1
        new_logits, new_losses = answers(model, changed, sides)
        for j in range(LATENTS):
            next_latent = (j + 1) * step  # place of the first token that latent j has not seen
            in_past = place < next_latent
            in_target = next_latent <= place < next_latent + targets
            moved = (new_logits[j] - logits[j]).abs().max().item()
            assert (moved > ROUNDING) == in_past, (place, j, moved)
            loss_moved = abs(new_losses[j] - losses[j]).item()
            assert (loss_moved > ROUNDING) == (in_past or in_target), (place, j, loss_moved)
