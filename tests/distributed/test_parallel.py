"""Two ranks compute what one computes: dense and MoE, bag phase and across the switch, every kind of parallelism."""

import pytest
import torch

from tests.stages import DENSE, MOE, Tree, final_tensors, losses, train

pytestmark = pytest.mark.slow

EXPERTS = 4
LAYOUTS = {
    "fsdp": (DENSE, {"shard": 2}),
    "hsdp_replicas": (DENSE, {"replicate": 2, "shard": 1}),
    "tensor": (DENSE, {"tensor": 2}),
    "moe_fsdp_and_expert": (MOE, {"shard": 2, "expert": 2}),
    "moe_tensor_and_expert": (MOE, {"tensor": 2, "expert": 2}),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    Tree.make(folder := tmp_path_factory.mktemp("results"))
    return folder


def train_both_phases(tree: Tree):
    bag, token = tree.stage("bag4-4"), tree.stage("bag4-4/token-8")
    train(bag)
    train(token)
    return bag, token


@pytest.fixture(scope="module")
def one_process(results):
    """Bag stage and token stage on a single process, for each model."""
    return {
        name: train_both_phases(Tree(results, model=model, recipe=f"one-{name}"))
        for name, model in (("dense", DENSE), ("moe", MOE))
    }


def assert_same(found, expected, tolerance=2e-4):
    """Losses and parameters agree within float32 rounding grown over a few steps of Adam."""
    for ours, reference in zip(found, expected, strict=True):
        reference_losses = losses(reference)
        assert losses(ours) == pytest.approx(reference_losses, rel=1e-5)
        ours_tensors, reference_tensors = final_tensors(ours), final_tensors(reference)
        assert ours_tensors.keys() == reference_tensors.keys()
        for name, tensor in reference_tensors.items():
            if "optimizer" in name or "tokens_per_expert" in name:
                continue
            torch.testing.assert_close(ours_tensors[name], tensor, rtol=1e-3, atol=tolerance, msg=lambda m: m)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_equal_one(results, one_process, layout):
    model, parallel = LAYOUTS[layout]
    tree = Tree(results, model=model, recipe=f"two-{layout}").with_runtime(
        processes_per_node=2, parallel=parallel
    )
    assert_same(train_both_phases(tree), one_process["moe" if model is MOE else "dense"])


def test_the_number_of_ranks_may_change_between_stages_and_after_a_crash(results, one_process):
    tree = Tree(results, recipe="one-then-two")
    bag = tree.stage("bag4-4")
    train(bag)
    two = tree.with_runtime(processes_per_node=2)
    token = two.stage("bag4-4/token-8")
    train(token)
    assert_same((bag, token), one_process["dense"])
    # Lose the last checkpoint, as after a crash, and go on with one process from what two wrote.
    longer = two.stage("bag4-4/token-8/token-16")
    train(longer)
    newest = longer.path / longer.manifest()["checkpoint"]
    (newest / ".metadata").unlink()
    longer.manifest_path.unlink()
    expected = losses(longer)
    again = tree.stage("bag4-4/token-8/token-16")
    assert "resumes from its checkpoint of step 12" in train(again).stderr
    assert losses(again) == pytest.approx(expected, rel=1e-5)
    assert (
        again.manifest()["world_size"] == 1 and again.manifest()["position"] == longer.manifest()["position"]
    )


def test_chunked_loss_and_micro_batches_change_nothing(results, one_process):
    tree = Tree(results, recipe="chunked").with_runtime(loss_chunks=4, micro_batch_sequences=2)
    assert_same(train_both_phases(tree), one_process["dense"])


def test_expert_load_is_logged_in_both_phases(one_process):
    import json

    for folder in one_process["moe"]:
        load = json.loads(folder.metrics_path.read_text().splitlines()[-1])["expert_load"]
        assert len(load) == MOE["n_layers"] and len(load[0]) == EXPERTS
        assert all(sum(layer) == pytest.approx(1, abs=1e-4) for layer in load)
