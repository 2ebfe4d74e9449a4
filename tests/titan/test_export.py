"""Export of both families: the model that transformers loads computes what torchtitan's does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.evaluate.test_local_task import short_definition
from tests.stages import DENSE, MOE, SHAPES, Tree, train
from tst_titan import cli
from tst_titan.config.experiment import EvaluationConfig
from tst_titan.config.schema import ModelConfig
from tst_titan.data.shards import TokenStream
from tst_titan.errors import UserError
from tst_titan.evaluate import heldout, local_task, tasks
from tst_titan.models.exported import EXPERT_BIAS_FILE, load_exported
from tst_titan.titan import cpu
from tst_titan.tree.folder import StageFolder

cpu.prepare()

from tst_titan.titan import export, same_logits  # noqa: E402
from tst_titan.titan.models import build_model_spec  # noqa: E402

FAMILIES = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
CHECKPOINT = "checkpoint/0123456789ab/step-3"


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree.make(tmp_path / "results")


def fresh(shape: dict) -> Any:
    """torchtitan's model with its own initialisation."""
    torch.manual_seed(0)
    model = build_model_spec(ModelConfig.model_validate(shape), expert_precision="float32").model.build()
    with torch.no_grad():
        model.init_states()
    return model.eval()


def moved(shape: dict, bias: float = 0.05) -> Any:
    """The same, every parameter moved away from its start as training does, norms and expert biases too."""
    model = fresh(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for buffer in same_logits.expert_biases(model).values():
            buffer.normal_(std=bias)
    return model


def finished(tree: Tree, shape: dict, model: torch.nn.Module) -> StageFolder:
    """A stage whose last checkpoint holds ``model``, without training it."""
    from torch.distributed.checkpoint import save

    folder = Tree(tree.results, model=shape, recipe="written").stage("token-3")
    save(model.state_dict(), checkpoint_id=str(folder.path / CHECKPOINT), no_dist=True)
    folder.write_manifest({"checkpoint": CHECKPOINT, "identity": "0123456789ab", "stage_device_hours": 0.0})
    return folder


def assert_same_logits(found, expected) -> None:
    """On random tokens as long as the models take."""
    tokens = torch.randint(0, 64, (3, 64))
    with torch.no_grad():
        torch.testing.assert_close(found(tokens).logits, expected(tokens), rtol=2e-5, atol=2e-5)


@FAMILIES
@pytest.mark.parametrize("make", [fresh, moved])
def test_transformers_computes_the_same(tree, tmp_path, shape, make):
    model = make(shape)
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.log").write_text("being written")
    report = export.export_stage(finished(tree, shape, model), out)
    assert report == json.loads((out / "export.json").read_text())
    assert report["max_abs_logit_difference"] < 1e-5
    assert report["probe_tokens_compared"] == report["probe_tokens"] == 4 * 16
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert_same_logits(load_exported(out), model)
    written = {path.name for path in out.iterdir()} - {"export.json", "export.log"}
    assert written == set(report["files"]) >= {"config.json", "generation_config.json", "model.safetensors"}
    assert (EXPERT_BIAS_FILE in written) == (shape is MOE)


def test_the_tokenizer_ends_texts_and_begins_none(tree, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    export.export_stage(finished(tree, DENSE, fresh(DENSE)), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id == 0 and tokenizer.bos_token is None
    assert tokenizer("\u4e01\u4e02")["input_ids"] == [1, 2]
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 0


def test_expert_biases_are_exported_beside_the_weights_and_what_they_do_is_measured(tree, tmp_path):
    from transformers import AutoModelForCausalLM

    model, out = moved(MOE, bias=0.3), tmp_path / "out"
    bias = export.export_stage(finished(tree, MOE, model), out)["expert_bias"]
    expected = max(buffer.abs().max().item() for buffer in same_logits.expert_biases(model).values())
    assert bias["max_abs"] == pytest.approx(expected)
    assert bias["max_abs_logit_difference_with"] < 1e-5
    assert bias["max_abs_logit_difference_without"] > 1e-2
    assert bias["probe_nats_per_token_with"] != bias["probe_nats_per_token_without"]
    assert_same_logits(load_exported(out), model)
    with pytest.raises(AssertionError, match="not close"):
        assert_same_logits(AutoModelForCausalLM.from_pretrained(out), model)


def test_biases_that_the_architecture_has_a_place_for_are_among_its_weights(tree, tmp_path):
    from transformers import AutoModelForCausalLM

    shape = SHAPES["deepseek_v3"]
    model = moved(shape, bias=0.3)
    biases = same_logits.expert_biases(model)
    assert sorted(biases) == ["layers.1.moe.expert_bias_E", "layers.2.moe.expert_bias_E"]
    assert export.export_stage(finished(tree, shape, model), tmp_path / "out")["expert_bias"] is None
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for name, bias in biases.items():
        router = exported.model.layers[int(name.split(".")[1])].mlp.gate
        torch.testing.assert_close(router.e_score_correction_bias, bias, rtol=0, atol=0)
    assert_same_logits(exported, model)
    exported.model.layers[1].mlp.gate.e_score_correction_bias.zero_()
    with pytest.raises(AssertionError, match="not close"):
        assert_same_logits(exported, model)


def test_evaluations_choose_experts_as_in_training(tree, tmp_path, monkeypatch):
    import lm_eval

    model, out, seen = moved(MOE, bias=0.3), tmp_path / "out", []
    export.export_stage(folder := finished(tree, MOE, model), out)
    found, _ = heldout.evaluate(out, folder.data_manifest, length=16, batch_size=4, limit=161)
    ids = torch.from_numpy(TokenStream.from_manifest(folder.data_manifest, split="heldout").read(0, 161))
    with torch.no_grad():
        expected = cross_entropy(model(ids[:-1].view(10, 16)).flatten(0, 1), ids[1:]).item()
    assert found["nats_per_token"] == pytest.approx(expected, rel=1e-5)

    harness = lm_eval.simple_evaluate

    def watched(**given):
        seen.append(given["model"])
        return harness(**given)

    monkeypatch.setattr(lm_eval, "simple_evaluate", watched)
    pieces = short_definition(tmp_path, context_tokens=40)
    local_task.write_task(folder.data_manifest, pieces, tmp_path / "task")
    settings = EvaluationConfig(tasks=(local_task.TASK,), batch_size=4, limit=4)
    tasks.evaluate(out, settings, [tmp_path / "task"], 64)
    assert_same_logits(seen[0].model, model)


def test_undecided_routers_are_left_out_of_the_comparison(tree, tmp_path):
    model = moved(MOE, bias=0.0)
    with torch.no_grad():
        gate = model.layers["0"].moe.router.gate.weight
        gate[1] = gate[0]
    report = export.export_stage(finished(tree, MOE, model), tmp_path / "out")
    assert 0 < report["probe_tokens_compared"] < report["probe_tokens"]
    with torch.no_grad():
        gate.zero_()
    with pytest.raises(RuntimeError, match="undecided"):
        export.export_stage(finished(tree, MOE, model), tmp_path / "out")


@pytest.mark.parametrize(("factor", "message"), [(1.01, "differ from"), (float("nan"), "by nan")])
@FAMILIES
def test_wrong_weights_are_refused(tree, tmp_path, monkeypatch, shape, factor, message):
    write = export._write_weights

    def write_wrong(model: Any, shape: ModelConfig, out: Path, **options: Any) -> None:
        weight = model.layers["1"].attention.wo.weight
        right = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(factor)
            write(model, shape, out, **options)
            weight.copy_(right)

    monkeypatch.setattr(export, "_write_weights", write_wrong)
    with pytest.raises(RuntimeError, match=message):
        export.export_stage(finished(tree, shape, moved(shape)), tmp_path / "out")
    assert not (tmp_path / "out" / "export.json").exists()


@FAMILIES
def test_large_models_are_cut_into_shards(tmp_path, shape):
    model, config = moved(shape, bias=0.0), ModelConfig.model_validate(shape)
    export._write_weights(model, config, tmp_path)  # must not be left behind
    export._write_weights(model, config, tmp_path, max_shard_size=20_000)
    shards = sorted(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2 and shards[-1] < 25_000
    config.hugging_face().save_pretrained(tmp_path)
    assert_same_logits(load_exported(tmp_path), model)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tree, tmp_path):
    model = fresh(DENSE)
    del model.layers["1"].feed_forward
    with pytest.raises(UserError, match=r"does not hold the model.*feed_forward"):
        export.export_stage(finished(tree, DENSE, model), tmp_path / "out")


def test_a_missing_checkpoint_is_the_users_error(tree, tmp_path, capsys):
    folder = finished(tree, DENSE, fresh(DENSE))
    (folder.path / CHECKPOINT / ".metadata").unlink()
    with pytest.raises(UserError, match="key checkpoint"):
        export.export_stage(folder, tmp_path / "out")
    assert cli.main(["export", str(folder.path), str(tmp_path / "out")]) == 2
    assert "missing or incomplete" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stage_trained_by_two_ranks_is_exported_by_one_process(tree, tmp_path):
    folder = (
        Tree(tree.results, model=MOE, recipe="trained").with_runtime(processes_per_node=2).stage("bag4-3")
    )
    train(folder)
    report = export.export_stage(folder, tmp_path / "out")
    # Three steps of balancing move every bias by at most its step, three times.
    assert 0 < report["expert_bias"]["max_abs"] < 4e-3
    assert_same_logits(load_exported(tmp_path / "out"), export.load_trained(folder, folder.manifest()))
