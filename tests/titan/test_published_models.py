"""The published models in configs/models: every key, parameter and logit as transformers has them."""

import json
from functools import partial
from typing import Any

import pytest
import torch

from tests.shipped import shipped_root
from tests.titan.test_export import assert_same_logits, export, fresh
from tst_titan.config.load import load
from tst_titan.config.schema import ModelConfig
from tst_titan.models.exported import load_exported
from tst_titan.titan.start import check_config

MODELS = shipped_root() / "configs" / "models"
LLAMA_3_2 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 50000.0,
    "factor": 40.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}


def plain(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def grouped(
    hidden: int, layers: int, heads: int, kv: int, ffn: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    """The keys of config.json that grouped-query models have in common."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        **more,
    }


smollm2 = partial(
    grouped,
    model_type="llama",
    vocabulary=49152,
    max_position_embeddings=8192,
    rope_parameters=plain(100000.0),
    rms_norm_eps=1e-5,
)
qwen3 = partial(
    grouped,
    vocabulary=151936,
    head_dim=128,
    max_position_embeddings=40960,
    rope_parameters=plain(1000000.0),
    rms_norm_eps=1e-6,
)
# Written from the config.json files that were published, with the total that each model's page names.
PUBLISHED: dict[str, tuple[dict[str, Any], int | None]] = {
    "smollm2-135m": (smollm2(576, 30, 9, 3, 1536), 134_515_008),
    "smollm2-360m": (smollm2(960, 32, 15, 5, 2560), 361_821_120),
    "smollm3-3b": (
        grouped(
            2048,
            36,
            16,
            4,
            11008,
            128256,
            model_type="smollm3",
            max_position_embeddings=65536,
            rope_parameters=plain(5000000.0),
            rms_norm_eps=1e-6,
            no_rope_layer_interval=4,
            pad_token_id=None,
        ),
        3_075_098_624,
    ),
    "llama-3.2-1b": (
        grouped(
            2048,
            16,
            32,
            8,
            8192,
            128256,
            model_type="llama",
            max_position_embeddings=131072,
            rope_parameters=LLAMA_3_2,
            rms_norm_eps=1e-5,
        ),
        1_235_814_400,
    ),
    "qwen3-0.6b": (qwen3(1024, 28, 16, 8, 3072, model_type="qwen3"), 596_049_920),
    "qwen3-30b-a3b": (
        qwen3(
            2048,
            48,
            32,
            4,
            768,
            model_type="qwen3_moe",
            tie_word_embeddings=False,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            norm_topk_prob=True,
        ),
        30_532_122_624,
    ),
    "moonlight-16b-a3b": (
        grouped(
            2048,
            27,
            16,
            16,
            11264,
            163840,
            model_type="deepseek_v3",
            tie_word_embeddings=False,
            max_position_embeddings=8192,
            rope_parameters=plain(50000.0),
            rms_norm_eps=1e-5,
            first_k_dense_replace=1,
            q_lora_rank=None,
            kv_lora_rank=512,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            moe_intermediate_size=1408,
            n_group=1,
            topk_group=1,
            routed_scaling_factor=2.446,
            norm_topk_prob=True,
            num_nextn_predict_layers=0,
        ),
        None,
    ),
}
# Rotations depend on no longest sequence; their tables do.
CUT = {"n_layers": 2, "vocab_size": 64, "max_sequence_length": 4096}
CUT_THERE = {
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "max_position_embeddings": 4096,
    "intermediate_size": 64,
}


def theirs(name: str, **changes: Any) -> Any:
    """transformers' config of a published model."""
    from transformers import AutoConfig

    content = {**PUBLISHED[name][0], **changes}
    return AutoConfig.for_model(content.pop("model_type"), **content)


def ours(name: str, **changes: Any) -> ModelConfig:
    """The file in configs/models."""
    content = load(ModelConfig, MODELS / f"{name}.yaml").model_dump(exclude_defaults=True)
    experts = {**content["moe"], **changes.pop("moe")} if "moe" in changes else content.get("moe")
    return ModelConfig.model_validate({**content, **changes, **({"moe": experts} if experts else {})})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_and_the_parameters_are_the_published_ones(tmp_path, name):
    from transformers import AutoModelForCausalLM

    said = ours(name).hugging_face().to_dict()
    wanted = theirs(name).to_dict()
    wanted.pop("architectures", None)
    assert {key: said[key] for key in wanted} == wanted
    rope = wanted.pop("rope_parameters")
    older = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope if len(rope) > 1 else None}
    (tmp_path / "config.json").write_text(json.dumps(wanted | older))  # as transformers 4 wrote it
    check_config(tmp_path / "config.json", ours(name))
    with torch.device("meta"):
        counted = sum(p.numel() for p in AutoModelForCausalLM.from_config(theirs(name)).parameters())
    assert ours(name).count_parameters().total == counted
    assert PUBLISHED[name][1] in (None, counted)


@pytest.mark.parametrize(
    ("name", "cut", "cut_there"),
    [
        ("smollm2-135m", {}, {}),
        ("smollm2-360m", {}, {}),
        ("smollm3-3b", {"no_rope_layer_interval": 2}, {"no_rope_layer_interval": 2}),
        ("llama-3.2-1b", {}, {}),
        ("qwen3-0.6b", {}, {}),
        (
            "qwen3-30b-a3b",
            {"moe": {"n_experts": 16, "expert_ffn_dim": 64}},
            {"num_experts": 16, "moe_intermediate_size": 64},
        ),
        (
            "moonlight-16b-a3b",
            {"moe": {"n_experts": 16, "expert_ffn_dim": 64}},
            {"n_routed_experts": 16, "moe_intermediate_size": 64},
        ),
        (
            "moonlight-16b-a3b",
            {
                "moe": {"n_experts": 16, "expert_ffn_dim": 64, "n_groups": 4, "top_k_groups": 2},
                "rope_scaling": {"factor": 40.0, "original_max_position_embeddings": 4096},
            },
            {
                "n_routed_experts": 16,
                "moe_intermediate_size": 64,
                "n_group": 4,
                "topk_group": 2,
                "rope_parameters": YARN,
            },
        ),
    ],
)
def test_two_layers_compute_what_transformers_computes(tmp_path, name, cut, cut_there):
    """With narrower feed-forwards; on the first and on late positions, where alone scalings tell in slow rotations."""
    width = {} if name == "qwen3-30b-a3b" else {"ffn_dim": 64}
    shape = ours(name, **CUT, **width, **cut)
    model = fresh(shape.model_dump(exclude_defaults=True))
    export._write_weights(model, shape, tmp_path)
    theirs(name, **CUT_THERE, **cut_there).save_pretrained(tmp_path)
    exported = load_exported(tmp_path)
    assert_same_logits(exported, model)
    late = torch.arange(4000, 4064).view(1, 64)
    tokens = torch.randint(0, 64, (1, 64))
    with torch.no_grad():
        found = exported(tokens, position_ids=late).logits
        torch.testing.assert_close(found, model(tokens, late), rtol=1e-4, atol=1e-4)
