"""Stages that begin with somebody's weights: step 0 is the source's model; what is none is refused before training."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages import DENSE, MOE, SHAPES, Tree, final_tensors, losses, train
from tests.titan.test_export import assert_same_logits, finished, fresh, moved
from tst_titan import cli
from tst_titan.config.experiment import StartFrom
from tst_titan.config.schema import ModelConfig
from tst_titan.errors import UserError
from tst_titan.evaluate import heldout
from tst_titan.models.exported import load_exported
from tst_titan.titan import export
from tst_titan.tree.folder import StageFolder, finished_among
from tst_titan.tree.start import name_in, render_start, start_folder, start_name

pytestmark = pytest.mark.slow
# Too small to move a float32: what training leaves is what it began with.
STILL: dict[str, Any] = {"optimizer": {"learning_rate": 1e-30}}


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree.make(tmp_path / "results")


def still(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape, its expert biases as unmoved as its weights."""
    moe = shape.get("moe")
    return {**shape, "moe": {**moe, "load_balance_coefficient": 1e-30}} if moe else shape


def exported(tree: Tree, shape: dict[str, Any], dtype: str = "float32") -> Path:
    """An export of a model whose every parameter and expert bias has moved."""
    out = tree.results / "exported"
    export.export_stage(finished(tree, shape, moved(shape)), out, dtype)
    return out


def start_from(tree: Tree, path: Path, model: dict[str, Any], trust: bool = False) -> tuple[str, int]:
    """Name of a start, and the status of the command that the rule calls."""
    start = StartFrom(path=str(path), trust=trust)
    render_start(start, None, ModelConfig.model_validate(model), tree.results)
    name = start_name(start)
    return name, cli.main(["start", str(start_folder(tree.results, name) / "config.yaml")])


def begin(
    tree: Tree, path: Path, model: dict[str, Any], lineage: str = "token-2", **changes: Any
) -> StageFolder:
    """A stage that begins with a folder's weights, not trained yet."""
    name, status = start_from(tree, path, model, changes.pop("trust", False))
    assert status == 0
    made = Tree(tree.results, model=model, runtime=tree.runtime, recipe="continued")
    return made.stage(f"{lineage}-from_{name}", start_from=name, **changes)


def heldout_loss(model: Path, tree: Tree) -> float:
    return heldout.evaluate(model, tree.results / "data/tiny/manifest.json", 16)[0]["nats_per_token"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_step_0_has_the_sources_heldout_loss(tree, shape):
    source = exported(tree, shape)
    expected = heldout.evaluate(source, tree.results / "data/tiny/manifest.json", 16, limit=5985)[0]
    stage = begin(tree.with_runtime(heldout={"tokens": 5984}), source, still(shape), "bag4-2", **STILL)
    train(stage)
    measured = [json.loads(line) for line in stage.heldout.path.read_text().splitlines()]
    assert [line["step"] for line in measured] == [0, 2]
    for line in measured:
        assert line["token_loss"] == pytest.approx(expected["nats_per_token"], rel=1e-5)
    assert stage.start and stage.manifest()["parent_identity"] == stage.start["identity"]
    tensors = final_tensors(stage)
    assert tensors["optimizer.state.norm.weight.step"].item() == 2


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=["dense", "moe"])
def test_two_ranks_begin_with_the_same_weights_from_shards_in_bfloat16(tree, monkeypatch, shape):
    monkeypatch.setattr(export._write_weights, "__defaults__", (20_000, torch.float32))
    source = exported(tree, shape, "bfloat16")
    assert (source / "model.safetensors.index.json").exists()
    stage = begin(tree.with_runtime(processes_per_node=2), source, still(shape), **STILL)
    train(stage)
    out = tree.results / "again"
    export.export_stage(stage, out)
    expected = load_exported(source)
    assert_same_logits(load_exported(out), lambda tokens: expected(tokens).logits)


@pytest.mark.parametrize("shape", [SHAPES[name] for name in ("llama3_2", "qwen3_moe", "deepseek_v3")])
def test_a_model_that_transformers_saved_is_begun_with(tree, shape):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    source = tree.results / "theirs"
    theirs = AutoModelForCausalLM.from_config(ModelConfig.model_validate(shape).hugging_face()).eval()
    theirs.save_pretrained(source)
    stage = begin(tree, source, still(shape), **STILL)
    assert "nothing shows whether corpus tiny has its tokenizer" in train(stage).stderr
    out = tree.results / "again"
    export.export_stage(stage, out)
    assert_same_logits(load_exported(out), lambda tokens: theirs(tokens).logits)
    assert heldout_loss(out, tree) == pytest.approx(heldout_loss(source, tree), rel=1e-6)


def test_a_stage_goes_on_from_its_own_checkpoint_when_the_source_is_gone_or_another(tree):
    source = exported(tree, DENSE)
    stage = begin(tree, source, DENSE, "bag4-6")
    assert f"starts from {source}" in train(stage).stderr
    child = Tree(tree.results, recipe="continued").stage(f"{stage.lineage}/token-8")
    train(child)
    assert finished_among([stage, child]) == {stage.path, child.path}
    before = losses(stage)
    stage.manifest_path.unlink()
    shutil.rmtree(source)
    assert "resumes from its checkpoint of step 6" in train(stage).stderr
    assert losses(stage) == before
    # Other weights of that name are another identity, for the stages after it, too.
    other = finished(tree, DENSE, fresh(DENSE))
    export.export_stage(other, source)
    again = begin(tree, source, DENSE, "bag4-6")
    assert finished_among([again, child]) == set()
    done = train(again)
    assert "has checkpoints of another config" in done.stderr and losses(again) != before


def test_own_checkpoints_are_taken_and_others_on_the_users_word_alone(tree, tmp_path, capsys):
    own = finished(tree, DENSE, moved(DENSE))
    checkpoint = own.path / own.manifest()["checkpoint"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, elsewhere)
    expected = final_tensors(own)
    for place, trust in ((checkpoint, False), (elsewhere, True)):
        stage = begin(tree, place, DENSE, trust=trust, **STILL)
        train(stage)
        found = final_tensors(stage)
        assert all(torch.equal(found[name], value) for name, value in expected.items())

    class Payload:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    (elsewhere / ".metadata").write_bytes(pickle.dumps(Payload()))
    capsys.readouterr()
    assert start_from(tree, elsewhere, DENSE)[1] == 2
    said = capsys.readouterr().err
    assert f"key start_from.path: found {elsewhere}" in said and "trust: true" in said
    assert not (tmp_path / "ran").exists()
    assert start_from(tree, elsewhere, DENSE, trust=True)[1] == 2  # and here it ran
    assert (tmp_path / "ran").exists() and "cannot be read as a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({**DENSE, "dim": 64}, "config.json: key hidden_size: found 32; the run's model has 64"),
        ({**DENSE, "vocab_size": 128}, "config.json: key vocab_size: found 64; the run's model has 128"),
        ({**DENSE, "n_layers": 3}, "config.json: key num_hidden_layers: found 2; the run's model has 3"),
        ({**DENSE, "rope_theta": 10000.0}, "config.json: key rope_parameters: found {'rope_theta': 500000.0"),
        ({"recipe": {"module": "llama3", "config": "llama3_debugmodel"}}, "the key hugging_face_config"),
        (
            MOE,
            "config.json: key model_type: found 'llama'; the run's model is of family qwen3, 'qwen3_moe' there",
        ),
    ],
)
def test_another_shape_vocabulary_or_family_is_refused_with_both_values(tree, capsys, model, words):
    source = exported(tree, DENSE)
    assert start_from(tree, source, model)[1] == 2
    said = capsys.readouterr().err
    assert words in said and "configs/models" in said
    # Nor is it trained where the rule was told another model.
    begin(tree, source, DENSE)
    name = start_name(StartFrom(path=str(source)))
    stage = Tree(tree.results, model=model, recipe="continued").stage(f"token-3-from_{name}", start_from=name)
    done = train(stage, check=False)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not list((stage.path / "checkpoint").glob("*"))


def test_a_checkpoint_of_another_shape_is_refused(tree, capsys):
    own = finished(tree, DENSE, moved(DENSE))
    checkpoint = own.path / own.manifest()["checkpoint"]
    assert start_from(tree, checkpoint, {**DENSE, "ffn_dim": 96})[1] == 2
    assert (
        "feed_forward.w1.weight is of shape [64, 32]; the run's model has [96, 32]" in capsys.readouterr().err
    )


def test_a_folder_without_weights_is_refused_with_what_it_has(tree, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "bare" / name).write_text("{}")
    assert start_from(tree, tmp_path / "bare", DENSE)[1] == 2
    said = capsys.readouterr().err
    assert "model.safetensors is missing" in said and "config.json, pytorch_model.bin" in said
    with pytest.raises(UserError, match=r"key start_from.path: found '.*nowhere'; there is no such folder"):
        start_from(tree, tmp_path / "nowhere", DENSE)


def test_a_name_of_the_hub_is_taken_from_its_cache_with_the_commit_and_one_that_is_not_there_is_told(
    tree, tmp_path
):
    commit, hub = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub"
    source = exported(tree, DENSE)
    snapshot = hub / "models--owner--name/snapshots" / commit
    shutil.copytree(source, snapshot)
    (hub / "models--owner--name/refs").mkdir()
    (hub / "models--owner--name/refs/main").write_text(commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    done, manifests = {}, {}
    for name in ("owner/name@main", "owner/other"):
        start = StartFrom(path=f"hf://{name}")
        render_start(start, None, ModelConfig.model_validate(DENSE), tree.results)
        folder = start_folder(tree.results, start_name(start))
        command = [sys.executable, "-m", "tst_titan.cli", "start", str(folder / "config.yaml")]
        done[name] = subprocess.run(command, env=environment, capture_output=True, text=True)
        manifests[name] = folder / "manifest.json"
    found = json.loads(manifests["owner/name@main"].read_text())
    assert (found["path"], found["revision"], found["kind"]) == (str(snapshot), commit, "hugging_face")
    refused = done["owner/other"]
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "key start_from.path: hf://owner/other could not be fetched" in refused.stderr


def test_another_tokenizer_and_other_bytes_are_refused_before_training(tree):
    source = exported(tree, DENSE)
    stage = begin(tree, source, DENSE)
    tokenizer = source / "tokenizer.json"
    kept = tokenizer.read_text()
    changed = json.loads(kept)
    vocabulary = changed["model"]["vocab"]
    first, second = list(vocabulary)[5:7]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    tokenizer.write_text(json.dumps(changed))
    done = train(stage, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "has id" in done.stderr
        and "configs/corpora/tiny.yaml needs the tokenizer of the weights" in done.stderr
    )
    replace = {"type": "Replace", "pattern": {"String": "x"}, "content": "\u4e05"}
    tokenizer.write_text(json.dumps(json.loads(kept) | {"normalizer": replace}))
    assert "makes" in train(stage, check=False).stderr
    tokenizer.write_text(kept)
    weights = source / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = train(stage, check=False)
    assert done.returncode == 2 and f"{weights}: is not the file that was hashed" in done.stderr


def test_names_are_parts_of_paths_and_differ_where_sources_do():
    names = [
        start_name(StartFrom.model_validate(start))
        for start in ({"run": "figure_3a/baseline"}, "hf://a/b-c@main", "../x--y/", "/" + "long/" * 40 + "a")
    ]
    assert names[:3] == ["figure_3a.baseline", "a.b-c.main", "x-y"]
    assert len(names[3]) < 80 and names[3] != start_name(StartFrom(path="/" + "long/" * 40 + "b"))
    for name in names:
        assert name_in(f"bag4-6-power-from_{name}/token-8") == name
    assert name_in("bag4-6/token-8") is None
