"""Export of trained stages of both families, loaded by transformers."""

import json

import pytest
import torch

from tests.stages import DENSE, MOE, Tree, train
from tst_titan.config.stage_folder import StageFolder
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.titan import export  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    Tree.make(folder := tmp_path_factory.mktemp("results"))
    return folder


def trained(results, model, name, **runtime) -> StageFolder:
    tree = Tree(results, model=model, recipe=name).with_runtime(**runtime)
    train(tree.stage("bag4-3"))
    folder = tree.stage("bag4-3/token-6")
    train(folder)
    return folder


def test_a_dense_model_written_by_two_ranks_computes_the_same_in_transformers(results, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = trained(results, DENSE, "dense", processes_per_node=2)
    report = export.export_stage(folder, tmp_path)
    assert report == json.loads((tmp_path / "export.json").read_text())
    assert report["max_abs_logit_difference"] < 1e-5
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = export.load_trained(folder, folder.manifest())
    tokens = torch.randint(0, 64, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens), rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == 0


def test_a_mixture_of_experts_computes_the_same_apart_from_its_biases(results, tmp_path):
    folder = trained(results, MOE, "moe")
    report = export.export_stage(folder, tmp_path)
    assert report["max_abs_logit_difference"] < 1e-5
    # Six steps of balancing move every bias; leaving them out is measured, not hidden.
    assert report["expert_bias"]["max_abs"] > 0


def test_a_wrong_weight_is_refused(results, tmp_path, monkeypatch):
    folder = trained(results, DENSE, "wrong")
    write = export._write_weights

    def write_wrong(model, out):
        with torch.no_grad():
            weight = model.layers["1"].feed_forward.w1.weight
            weight.mul_(1.01)
            write(model, out)
            weight.div_(1.01)

    monkeypatch.setattr(export, "_write_weights", write_wrong)
    with pytest.raises(RuntimeError, match="logits differ"):
        export.export_stage(folder, tmp_path)
    assert not (tmp_path / "export.json").exists()
