"""The model of a torchtitan recipe as a model of ours: counts, training, export, held-out loss, refusals."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.stages import Tree, losses, train
from tests.titan.test_export import assert_same_logits, export, finished, moved
from tests.titan.test_models import FLAVOURS
from tst_titan.config.experiment import EvaluationConfig
from tst_titan.config.load import parse
from tst_titan.data.shards import TokenStream
from tst_titan.errors import UserError
from tst_titan.evaluate import heldout, tasks
from tst_titan.models.exported import EXPERT_BIAS_FILE, SHAPE_FILE, load_exported
from tst_titan.models.family import ModelConfig, class_of
from tst_titan.tree.folder import stage_yaml

SMALL = {
    "llama3": ("llama3", "llama3_debugmodel"),
    "qwen3": ("qwen3", "qwen3_moe_debug"),
    "deepseek_v3": ("deepseek_v3", "deepseek_v3_debugmodel"),
}
LLAMA_THERE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 768,
    "vocab_size": 2048,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def recipe(module: str, config: str, **more) -> dict:
    """A model file's content."""
    return {"recipe": {"module": module, "config": config}, **more}


def read(content: dict) -> ModelConfig:
    return parse(class_of(content), content, "configs/models/mine.yaml")


@pytest.mark.parametrize("family", SMALL)
def test_counts_are_those_of_the_same_shape_written_out(family):
    shape = {
        "family": family,
        "dim": 256,
        "vocab_size": 2048,
        "max_sequence_length": 64,
        **FLAVOURS[family][1],
    }
    written, found = ModelConfig.model_validate(shape), read(recipe(*SMALL[family]))
    assert found.count_parameters() == written.count_parameters()
    assert found.flops_per_latent(100) == written.flops_per_latent(100)
    keys = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "norm_eps")
    assert [getattr(found, key) for key in keys] == [
        getattr(written, key) for key in keys
    ] or family != "qwen3"
    assert (found.moe and found.moe.n_experts) == (written.moe and written.moe.n_experts)


@pytest.mark.parametrize(
    ("names", "total"), [(("qwen3", "qwen3_0_6b"), 596_049_920), (("deepseek_v3", "deepseek_v3_671b"), None)]
)
def test_large_recipes_are_counted_without_their_weights(names, total):
    found = read(recipe(*names))
    counts = found.count_parameters()
    assert total in (None, counts.total)
    if total is None:  # DeepSeek-V3: "671B total, 37B activated" (arXiv 2412.19437)
        assert (round(counts.total / 1e9), int(counts.active / 1e9)) == (671, 37)
    embedding = found.vocab_size * found.dim
    assert counts.non_embedding == counts.total - embedding * (1 if found.tied_embeddings else 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3", "deepseek_v3"])
def test_it_trains_in_both_phases_and_is_measured_on_heldout_text_without_transformers(tmp_path, name):
    tree = Tree.make(tmp_path / "results", model=read(recipe(*SMALL[name])).model_dump(exclude_defaults=True))
    tree = tree.with_runtime(loss_chunks=2)
    bag, token = tree.stage("bag4-3"), tree.stage("bag4-3/token-8")
    train(bag), train(token)
    series = [losses(folder) for folder in (bag, token)]
    assert 0.9 * math.log(2048) < series[0][1] < 1.2 * math.log(2048)
    assert series[0][3] < series[0][1] and series[1][8] < series[0][3]
    latents = 8 * 4 * 16
    assert token.manifest()["flops"] == latents * token.stage.model.flops_per_latent(16)
    out = tmp_path / "out"
    report = export.export_stage(token, out)
    assert report["max_abs_logit_difference"] == 0
    assert (out / SHAPE_FILE).is_file() and not (out / "config.json").exists()
    found, _ = heldout.evaluate(out, token.data_manifest, length=16, batch_size=4, limit=161)
    ids = torch.from_numpy(TokenStream.from_manifest(token.data_manifest, split="heldout").read(0, 161))
    with torch.no_grad():
        logits = export.load_trained(token, token.manifest())(ids[:-1].view(10, 16))
    expected = cross_entropy(logits.flatten(0, 1), ids[1:]).item()
    assert found["nats_per_token"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="hugging_face_config"):
        tasks.evaluate(out, EvaluationConfig(tasks=("piqa",)), [], 64)


@pytest.mark.parametrize("factor", [8.0, 4.0])
def test_with_a_config_of_transformers_it_is_exported_and_proven(tmp_path, factor):
    rope = {**LLAMA_THERE["rope_parameters"], "factor": factor, "original_max_position_embeddings": 8192}
    there = {**LLAMA_THERE, "rope_parameters": rope, "rms_norm_eps": 1e-5 if factor == 8.0 else 1e-2}
    shape = read(recipe(*SMALL["llama3"], hugging_face_config=there)).model_dump(exclude_defaults=True)
    model = moved(shape)
    folder = finished(Tree.make(tmp_path / "results"), shape, model)
    if factor != 8.0:
        with pytest.raises(RuntimeError, match="differ from torchtitan's"):
            export.export_stage(folder, tmp_path / "out")
        return
    export.export_stage(folder, tmp_path / "out")
    assert_same_logits(load_exported(tmp_path / "out"), model)
    assert not (tmp_path / "out" / SHAPE_FILE).exists() and not (tmp_path / "out" / EXPERT_BIAS_FILE).exists()


def test_stage_yaml_has_what_was_read_off_and_is_read_without_the_recipe(tmp_path, monkeypatch):
    from tst_titan.titan import recipe as reader

    tree = Tree.make(
        tmp_path / "results", model=read(recipe(*SMALL["qwen3"])).model_dump(exclude_defaults=True)
    )
    text = stage_yaml(tree.stage("token-3").stage)
    assert "qwen3_moe_debug" in text and "total: 315758848" in text and "family" not in text
    monkeypatch.setattr(reader, "facts_of", None)
    assert tree.stage("token-3").stage.model.count_parameters().total == 315_758_848


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            recipe("deepsek_v3", "x"),
            "key recipe.module: found 'deepsek_v3': unknown (did you mean 'deepseek_v3'?)",
        ),
        (
            recipe("llama3", "llama3_9b"),
            "key recipe.config: found 'llama3_9b': unknown (did you mean 'llama3_8b'?)",
        ),
        (recipe("flux", "flux_debugmodel"), "a bag needs a decoder with one token embedding"),
        (recipe("deepseek_v3", "deepseek_v3_debugmodel_mtp"), "its loss is MTPLoss, with targets of its own"),
        (recipe("gpt_oss", "gpt_oss_20b"), "needs masks of its own"),
        (recipe("kimi_k2_7", "x"), "needs torchvision, which is not installed"),
        (recipe("llama3", "llama3_8b_mxfp8"), "cannot be made here: torchao is not installed"),
        (recipe("", "x"), "key recipe.module: found ''"),
        ({"recipe": {"module": "llama3"}}, "missing key recipe.config"),
        (recipe(*SMALL["llama3"], dim=3), "key dim: found 3: a recipe has its own; leave it out"),
        (recipe(*SMALL["llama3"], dam=3), "unknown key dam"),
        (
            recipe(*SMALL["llama3"], hugging_face_config={"dim": 3}),
            "key hugging_face_config: it needs model_type",
        ),
    ],
)
def test_recipes_that_cannot_be_used_are_refused_by_key_and_value(content, words):
    with pytest.raises(UserError) as error:
        read(content)
    (line,) = str(error.value).splitlines()
    assert line.startswith("configs/models/mine.yaml: ") and words in line
