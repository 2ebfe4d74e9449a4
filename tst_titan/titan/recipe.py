"""Read a torchtitan recipe: its model, and what planning wants to know of it."""

from __future__ import annotations

import inspect
import logging
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from tst_titan.config.load import did_you_mean
from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss  # noqa: E402
from torchtitan.models import _supported_models  # noqa: E402
from torchtitan.models.common.attention import GQAttention  # noqa: E402
from torchtitan.models.common.decoder import Decoder  # noqa: E402
from torchtitan.models.deepseek_v3.model import Attention as LatentAttention  # noqa: E402
from torchtitan.protocols.model_spec import ModelSpec  # noqa: E402
from torchtitan.trainer import Trainer  # noqa: E402

from tst_titan.titan.superposition import embedding_of  # noqa: E402


class RefusedError(Exception):
    """A recipe that is not there, or whose model the pipeline cannot train.

    Attributes:
        key: ``module`` or ``config``.
        found: its value.
    """

    def __init__(self, key: str, found: str, reason: str):
        super().__init__(reason)
        self.key, self.found = key, found


def model_spec(module: str, config: str) -> ModelSpec:
    """torchtitan's bundle of a recipe's model, made anew.

    Raises:
        RefusedError: unknown names, a recipe that cannot be made here, no decoder with one token embedding, several
            targets of its own, or attention that needs masks.
    """
    registry = _registry(module)
    known = [
        name
        for name, value in inspect.getmembers(registry, inspect.isfunction)
        if value.__module__ == registry.__name__ and not name.startswith("_")
    ]
    if not callable(getattr(registry, config, None)):
        raise RefusedError(
            "config", config, f"unknown{did_you_mean(config, known)}; {module} has: {', '.join(known)}"
        )
    logging.disable(logging.WARNING)  # of its checkpoints, which are not used
    try:
        recipe = getattr(registry, config)()
    except Exception as error:  # whatever a recipe asks for that is not here
        raise RefusedError("config", config, f"cannot be made here: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
    if not isinstance(recipe, Trainer.Config) or recipe.model_spec is None:
        raise RefusedError("config", config, "it makes no config of torchtitan's Trainer with a model")
    model = recipe.model_spec.model
    if not isinstance(model, Decoder.Config) or embedding_of(model) is None:
        kind = type(model).__qualname__.removesuffix(".Config")
        raise RefusedError(
            "config", config, f"its model is a {kind}; a bag needs a decoder with one token embedding"
        )
    loss: Any = recipe.loss.loss_fn if isinstance(recipe.loss, ChunkedLossWrapper.Config) else recipe.loss
    if not isinstance(loss, CrossEntropyLoss.Config) or getattr(model, "mtp_layers", None):
        kind = type(loss).__qualname__.removesuffix(".Config")
        raise RefusedError(
            "config",
            config,
            f"its loss is {kind}, with targets of its own, which the pipeline's would replace; take a recipe with "
            "CrossEntropyLoss, or superpose this one by torchtitan's own command (docs/models.md)",
        )
    for layer in model.layers:
        attention = type(layer.attention)
        if attention not in (GQAttention.Config, LatentAttention.Config):
            raise RefusedError(
                "config",
                config,
                f"its attention, {attention.__module__}, needs masks of its own; the pipeline's is causal over the "
                "whole window. Valid are grouped-query and latent attention: llama3, qwen3, deepseek_v3",
            )
    return recipe.model_spec


@cache
def facts_of(module: str, config: str) -> dict[str, Any]:
    """Shape and counts, by the keys of `tst_titan.models.recipe.Recipe`.

    Raises:
        RefusedError: as `model_spec`.
    """
    model: Any = model_spec(module, config).model
    try:
        with torch.device("meta"):
            built = model.build()
    except Exception as error:  # kernels or libraries that are not here
        raise RefusedError("config", config, f"its model cannot be built here: {error}") from error
    attention, rope = model.layers[0].attention, model.layers[0].attention.rope
    experts = next((layer.moe for layer in model.layers if layer.moe), None)
    share = experts.router.top_k / experts.num_experts if experts else 1.0
    embedding = model.vocab_size * model.dim
    total = active = multiplied = 0.0
    for name, parameter in built.named_parameters():
        of_expert = ".inner_experts." in name
        used = parameter.numel() * (share if of_expert else 1)
        total, active = total + parameter.numel(), active + used
        # Of each expert's matrices there is one tensor; gains and biases multiply nothing.
        if parameter.ndim == (3 if of_expert else 2) and name != "tok_embeddings.weight":
            multiplied += used
    tied = bool(model.enable_weight_tying)
    # What torchtitan counts grows with the length by six times the widths of the products of attention.
    flops = [model.get_nparams_and_flops(built, length)[1] for length in (1, 2)]
    return {
        "dim": model.dim,
        "n_layers": len(model.layers),
        "n_heads": attention.n_heads,
        "n_kv_heads": getattr(attention, "n_kv_heads", None) or attention.n_heads,
        "vocab_size": model.vocab_size,
        "max_sequence_length": rope.max_seq_len,
        "rope_theta": float(rope.theta),
        "norm_eps": model.norm.eps,
        "tied_embeddings": tied,
        "moe": experts
        and {
            "n_experts": experts.num_experts,
            "top_k": experts.router.top_k,
            "expert_ffn_dim": experts.routed_experts.inner_experts.hidden_dim,
        },
        "counts": {
            "total": round(total),
            "active": round(active),
            "non_embedding": round(total) - (embedding if tied else 2 * embedding),
            "multiplied": round(multiplied) + (embedding if tied else 0),
            "attention_width": (flops[1] - flops[0]) // (6 * len(model.layers)),
        },
    }


def _registry(module: str) -> ModuleType:
    """The module that holds a recipe, found as torchtitan finds it."""
    own = f"torchtitan.models.{module}.config_registry"
    for name in [own] if module in _supported_models else [f"{module}.config_registry", module]:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise RefusedError(
                    "module", module, f"it needs {error.name}, which is not installed"
                ) from None
        except (ImportError, TypeError, ValueError) as error:
            raise RefusedError("module", module, f"cannot be imported: {error}") from None
    known = sorted(_supported_models)
    raise RefusedError(
        "module",
        module,
        f"unknown{did_you_mean(module, known)}; torchtitan has: {', '.join(known)}; or name a module that can be "
        "imported",
    )
