"""What an exported folder holds beyond Hugging Face's own format: the expert biases, and loading a model with them.

torchtitan balances experts without an auxiliary loss (arXiv 2408.15664): a bias per expert, moved after each optimizer
step, is added to the scores by which the top k are chosen, and only then. Where an architecture of transformers has
no place for it, no value of its weights has the same effect: the export then writes the biases to a file of their own,
and whoever measures an exported model loads it here, so that the model that was trained is measured.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tst_titan.config.load import load
from tst_titan.models.family import ModelConfig, families

SHAPE_FILE = "torchtitan.yaml"
"""Beside weights under torchtitan's names: the model that they are of, where transformers has no such architecture."""

EXPERT_BIAS_FILE = "expert_bias.safetensors"
"""Biases, float32 of shape (experts,), each under the name of its router with ``.expert_bias`` appended."""


def load_exported(folder: Path, device: str = "cpu") -> Any:
    """The exported model in float32 and evaluation mode, its experts chosen as in training.

    Args:
        folder: written by ``tst-titan export``.
        device: where to put the model.
    """
    model = load_weights(folder)
    restore_expert_bias(model, folder)
    return model.to(device).eval()


def load_weights(folder: Path) -> Any:
    """The exported model in float32, without the biases that its architecture has no place for."""
    import torch

    if (folder / SHAPE_FILE).is_file():
        return _load_torchtitan(folder)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _load_torchtitan(folder: Path) -> Any:
    """torchtitan's model with transformers' manners: ids (B, L) to ``.logits`` (B, L, V), ``.config``, ``.device``."""
    import torch
    from safetensors.torch import load_file

    from tst_titan.titan import cpu

    cpu.prepare()
    from tst_titan.titan.models import build_model_spec

    class Model(torch.nn.Module):
        def __init__(self, shape: ModelConfig):
            super().__init__()
            self.inner = build_model_spec(shape, expert_precision="float32").model.build()
            self.config = SimpleNamespace(
                max_position_embeddings=shape.max_sequence_length, vocab_size=shape.vocab_size
            )

        @property
        def device(self) -> torch.device:
            return next(self.parameters()).device

        def forward(self, ids: torch.Tensor, **_: Any) -> Any:
            return SimpleNamespace(logits=self.inner(ids))

    model = Model(load(ModelConfig, folder / SHAPE_FILE))
    state = [load_file(path) for path in sorted(folder.glob("model*.safetensors"))]
    model.inner.load_state_dict({name: tensor.float() for part in state for name, tensor in part.items()})
    return model


def restore_expert_bias(model: Any, folder: Path) -> None:
    """Let a Hugging Face model choose experts with the biases of its folder, in place, if it has the file."""
    path = folder / EXPERT_BIAS_FILE
    if not path.is_file():
        return
    from safetensors.torch import load_file

    routers = [family.router_without_bias for family in families()]
    router = next(each for each in routers if each and each.model_type == model.config.model_type)
    for name, bias in load_file(path).items():
        gate = model.get_submodule(name.rpartition(".")[0])
        gate.register_buffer("expert_bias", bias, persistent=False)
        gate.register_forward_hook(router.choose)
