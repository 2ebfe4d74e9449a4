"""Shapes of configs/models: parameters against the built modules and transformers, FLOPs against torch's counter."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from tests.shipped import shipped_root
from tests.stages import SHAPES
from tst_titan.config.load import load
from tst_titan.config.schema import ModelConfig
from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.models.deepseek_v3 import deepseekv3_configs  # noqa: E402
from torchtitan.models.llama3 import llama3_configs  # noqa: E402
from torchtitan.models.qwen3 import qwen3_configs  # noqa: E402

from tst_titan.titan.models import build_model_spec  # noqa: E402

MODELS = shipped_root() / "configs" / "models"
# Parameters of the published shapes, embeddings untied, counted by hand from arXiv 2605.06546's table of shapes.
PUBLISHED = {
    "dense-270m": 2 * 128256 * 576 + 30 * (2 * 576 * 64 * 12 + 3 * 576 * 1536 + 2 * 576) + 576,
    "dense-600m": 2 * 128256 * 960 + 32 * (2 * 960 * 64 * 20 + 3 * 960 * 2560 + 2 * 960) + 960,
    "dense-3b": 2 * 128256 * 2048 + 36 * (2 * 2048 * 128 * 20 + 3 * 2048 * 11008 + 2 * 2048) + 2048,
}


def built(model: ModelConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model_spec(model).model.build()


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shape_counts_as_its_built_module(path):
    model = load(ModelConfig, path)
    counts = model.count_parameters()
    parameters = dict(built(model).named_parameters())
    total = sum(p.numel() for p in parameters.values())
    ends = sum(
        p.numel() for name, p in parameters.items() if name in ("tok_embeddings.weight", "lm_head.weight")
    )
    assert counts.total == total
    assert counts.non_embedding == total - ends
    experts = sum(p.numel() for name, p in parameters.items() if "inner_experts" in name)
    unused = experts * (1 - model.moe.top_k / model.moe.n_experts) if model.moe else 0
    assert counts.active == total - unused


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_the_published_shapes(name, total):
    assert load(ModelConfig, MODELS / f"{name}.yaml").count_parameters().total == total


def test_the_names_of_the_paper_are_near_the_counts():
    counts = {path.stem: load(ModelConfig, path).count_parameters() for path in MODELS.glob("*.yaml")}
    assert counts["dense-270m"].total / 1e6 == pytest.approx(254, abs=1)
    assert counts["dense-600m"].total / 1e6 == pytest.approx(561, abs=1)
    assert counts["moe-10b-a1b"].total / 1e9 == pytest.approx(9.8, abs=0.1)
    assert counts["moe-10b-a1b"].active / 1e9 == pytest.approx(1.2, abs=0.2)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_transformers_counts_the_same(path):
    from transformers import AutoModelForCausalLM

    model = load(ModelConfig, path)
    with torch.device("meta"):
        exported = AutoModelForCausalLM.from_config(model.hugging_face())
    assert sum(p.numel() for p in exported.parameters()) == model.count_parameters().total


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_flops_agree_with_torchs_counter(shape):
    model = ModelConfig.model_validate(shape)
    length, sequences = 16, 2
    module = build_model_spec(model, expert_precision="float32").model.build()
    module.init_states()
    for part in module.modules():
        if hasattr(part, "sdpa_backends"):
            part.sdpa_backends = [SDPBackend.MATH]  # torch's counter does not know the CPU's flash kernel
    tokens = torch.randint(0, model.vocab_size, (sequences, length))
    with FlopCounterMode(display=False) as counter:
        module(tokens).sum().backward()
    by_operation = counter.get_flop_counts()["Global"]
    counted = counter.get_total_flops()
    if model.moe is not None and not any("grouped" in str(operation) for operation in by_operation):
        # Nor does it know grouped products: the experts' part is added by hand, the rest is counted.
        layers = sum(name.endswith("inner_experts") for name, _ in module.named_modules())
        experts = 3 * model.dim * model.moe.expert_ffn_dim * model.moe.top_k * layers
        counted += 6 * experts * tokens.numel()
    assert counted == model.flops_per_latent(length) * tokens.numel()


# torchtitan's own smallest flavours, as our configs write them (their vocabulary is 2048, their context unimportant).
FLAVOURS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "llama3": (
        llama3_configs["debugmodel"],
        {"n_layers": 6, "n_heads": 16, "n_kv_heads": 16, "ffn_dim": 768},
    ),
    "qwen3": (
        qwen3_configs["debugmodel_moe"],
        {
            "n_layers": 8,
            "n_heads": 16,
            "n_kv_heads": 8,
            "head_dim": 128,
            "moe": {"n_experts": 64, "top_k": 8, "expert_ffn_dim": 768},
            "norm_eps": 1e-6,
        },
    ),
    "deepseek_v3": (
        partial(deepseekv3_configs["debugmodel"], moe_comm_backend="standard"),
        {
            "n_layers": 6,
            "n_heads": 16,
            "n_kv_heads": 16,
            "ffn_dim": 1024,
            "moe": {"n_experts": 8, "top_k": 3, "expert_ffn_dim": 256, "n_shared_experts": 2},
            "n_dense_layers": 1,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
    ),
}


def drawn(config: Any) -> dict[str, torch.Tensor]:
    """State of a part of a model, initialised from a fixed seed."""
    torch.manual_seed(3)
    part = config.build()
    with torch.no_grad():
        part.init_states()
    return part.state_dict()


@pytest.mark.parametrize("family", FLAVOURS)
def test_the_initialisation_is_torchtitans_own(family):
    flavour, shape = FLAVOURS[family]
    theirs = flavour(attn_backend="flex")
    model = ModelConfig.model_validate(
        {"family": family, "dim": 256, "vocab_size": 2048, "max_sequence_length": 64, **shape}
    )
    ours = build_model_spec(model).model
    parts = [(getattr(ours, name), getattr(theirs, name)) for name in ("tok_embeddings", "norm", "lm_head")]
    for our_part, their_part in [*parts, (ours.layers[3], theirs.layers[3])]:
        torch.testing.assert_close(drawn(our_part), drawn(their_part), rtol=0, atol=0)
    assert ours.norm.eps == model.norm_eps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_heads": 2}, "n_kv_heads (2) must be n_heads (4)"),
        ({"head_dim": 8}, "leave head_dim out"),
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim (3) must be even"),
        ({"n_dense_layers": 3}, "n_dense_layers (3) must leave at least one of n_layers (3)"),
        ({"tied_embeddings": True}, "leave tied_embeddings out"),
        ({"moe": {"n_experts": 8, "top_k": 2, "expert_ffn_dim": 4, "n_groups": 3}}, "groups of at least 2"),
        ({"moe": {"n_experts": 8, "top_k": 3, "expert_ffn_dim": 4, "n_groups": 4}}, "must hold top_k (3)"),
    ],
)
def test_shapes_that_deepseek_v3_cannot_have(change, words):
    with pytest.raises(ValidationError) as error:
        ModelConfig.model_validate(SHAPES["deepseek_v3"] | change)
    assert words in str(error.value)


def test_rotations_slow_down_between_two_wavelengths_in_order():
    scaling = {"factor": 8.0, "low_freq_factor": 4.0}
    with pytest.raises(
        ValidationError, match=r"high_freq_factor \(4\) must be more than low_freq_factor \(4\)"
    ):
        ModelConfig.model_validate({**SHAPES["llama3"], "rope_scaling": scaling})
