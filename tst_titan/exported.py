"""What an exported folder holds beyond Hugging Face's own format: the expert biases, and loading a model with them.

torchtitan balances experts without an auxiliary loss (arXiv 2408.15664): a bias per expert, moved after every optimizer
step, is added to the router's probabilities when the top k are chosen, and only then. Hugging Face's Qwen3 MoE has no
such bias, and no value of its own weights has the same effect. The export therefore writes the biases to a file of
their own, and whoever measures an exported model loads it here, so that it is the trained one that is measured.
Imports neither torchtitan nor anything of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

EXPERT_BIAS_FILE = "expert_bias.safetensors"
# Place of a layer's bias, float32 of shape (experts,), as seen from the Hugging Face model.
EXPERT_BIAS_KEY = "model.layers.{}.mlp.gate.expert_bias"


def load_exported(folder: Path, device: str = "cpu") -> Any:
    """The exported model in float32 and evaluation mode, its experts chosen as in training.

    Args:
        folder: written by ``tst_titan.titan.export``.
        device: where to put the model.
    """
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    restore_expert_bias(model, folder)
    return model.to(device).eval()


def restore_expert_bias(model: Any, folder: Path) -> None:
    """Let a Hugging Face Qwen3 MoE choose experts with the biases of its folder, in place; the others stay as they are.

    Only the choice changes: the weights of the chosen experts stay those of the plain router.
    """
    from safetensors.torch import load_file

    path = folder / EXPERT_BIAS_FILE
    for name, bias in (load_file(path) if path.is_file() else {}).items():
        gate = model.get_submodule(name.rpartition(".")[0])
        gate.register_buffer("expert_bias", bias, persistent=False)
        gate.register_forward_hook(_choose_with_bias)


def _choose_with_bias(gate: Any, _: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Replace a router's output: logits (N, E), weights (N, k) of the chosen experts, their numbers (N, k)."""
    logits, weights, _ = output
    probabilities = logits.softmax(-1, dtype=torch.float32)
    chosen = (probabilities + gate.expert_bias).topk(gate.top_k, dim=-1).indices
    shares = probabilities.gather(-1, chosen)
    return logits, (shares / shares.sum(-1, keepdim=True)).to(weights.dtype), chosen
