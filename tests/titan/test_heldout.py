"""Held-out loss while real stages train: it is right, and training is what it is without it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.stages import DENSE, MOE, Tree, final_tensors, losses, train
from tests.superposition.superposition_reference import bag_mean, loss
from tests.titan.test_training import _kill_after_step
from tst_titan import cli
from tst_titan.data.shards import TokenStream
from tst_titan.evaluate.heldout import evaluate
from tst_titan.models.exported import load_exported
from tst_titan.tree.heldout import spread

pytestmark = pytest.mark.slow

LINEAGES = ("bag4-6", "bag4-6/token-14")
ALL = {"tokens": 5984, "every": 3}  # every whole window of the 6,000 tokens

# Training that says in which state it leaves the random numbers.
WITH_RANDOM_STATE = """
import sys
from tst_titan.titan import train
from tst_titan.titan import cpu
cpu.prepare()
import hashlib
import torch
status = train.main([sys.argv[1]])
print(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())
sys.exit(status)
"""


def random_state_after(folder) -> str:
    command = [sys.executable, "-c", WITH_RANDOM_STATE, str(folder.path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def lines(folder) -> list[dict]:
    return folder.heldout.read()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """An undisturbed bag stage and token stage of a mixture of experts, measured on the whole hold-out."""
    tree = Tree.make(tmp_path_factory.mktemp("results"), model=MOE, runtime={"heldout": ALL})
    folders = [tree.stage(lineage) for lineage in LINEAGES]
    for folder in folders:
        train(folder)
    return folders


@pytest.mark.parametrize(
    ("model", "runtime"),
    [
        (DENSE, {"loss_chunks": 2, "micro_batch_sequences": 2}),
        (MOE, {}),
        (DENSE, {"compile": True}),
    ],
    ids=["dense", "moe", "compiled"],
)
def test_training_is_bit_identical_with_and_without_it(tmp_path, model, runtime):
    with_it, without = (
        Tree.make(tmp_path, model=model, recipe=recipe).with_runtime(heldout=heldout, **runtime)
        for recipe, heldout in (("with", ALL), ("without", None))
    )
    for lineage in LINEAGES:
        measured, plain = with_it.stage(lineage), without.stage(lineage)
        assert random_state_after(measured) == random_state_after(plain)
        ours, theirs = measured.metrics.read(), plain.metrics.read()
        for key in ("step", "loss", "grad_norm", "lr", "latents", "data_tokens", "flops", "expert_load"):
            assert [line[key] for line in ours] == [line[key] for line in theirs], key
        left, right = final_tensors(measured), final_tensors(plain)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in right)
        for key in ("stage_flops", "position", "data_tokens", "identity"):
            assert measured.manifest()[key] == plain.manifest()[key]
        assert lines(measured) and not plain.heldout.path.exists()


def test_every_point_of_a_run_is_there_once_with_its_axes(chain):
    bag, token = chain
    assert [line["step"] for line in lines(bag)] == [0, 3, 6]
    assert [line["step"] for line in lines(token)] == [7, 8, 9, 12, 14], "its first step is the parent's last"
    for folder in chain:
        logged = {line["step"]: line for line in folder.metrics.read()}
        for line in lines(folder):
            assert len(line["windows"]) * 16 == line["tokens"] == 5984
            assert line["token_loss"] == pytest.approx(np.mean(line["windows"]), abs=1e-5)
            assert (line["bag_loss"] is None) == (folder is token)
            if line["step"]:
                same = logged[line["step"]]
                for key in ("phase", "bag_size", "latents", "data_tokens", "flops"):
                    assert line[key] == same[key]
                assert same["heldout_loss"] == line["token_loss"]
                assert same.get("heldout_bag_loss") == line["bag_loss"]
            else:
                assert line["data_tokens"] == line["latents"] == line["flops"] == 0


def test_the_last_measurements_are_what_the_exported_models_have(chain, tmp_path):
    """Tokens by the final evaluation, bags by the paper's formulas in float64."""
    for folder in chain:
        exported = tmp_path / folder.path.name
        assert cli.main(["export", str(folder.path), str(exported)]) == 0
        found, _ = evaluate(exported, folder.data_manifest, 16, limit=5985)
        last = lines(folder)[-1]
        assert last["token_loss"] == pytest.approx(found["nats_per_token"], rel=1e-5)
    bag = chain[0]
    model = load_exported(tmp_path / bag.path.name, "cpu")
    stream = TokenStream.from_manifest(bag.data_manifest, split="heldout")
    starts = spread(len(stream), 4 * 16, 4, 5984)
    assert len(starts) == 93
    total = 0.0
    for start in starts:
        bags = torch.from_numpy(stream.read(start, 4 * 17)).view(17, 4)
        embedded = bag_mean(model.get_input_embeddings().weight, bags[:-1])
        with torch.no_grad():
            logits = model(inputs_embeds=embedded[None].float()).logits[0]
        total += loss("mce", logits, bags[1:], [0.25] * 4).item()
    assert lines(bag)[-1]["bag_loss"] == pytest.approx(total / len(starts) / 16, rel=1e-4)


def test_a_stage_that_is_killed_has_every_step_once_with_the_same_numbers(chain, tmp_path):
    tree = Tree.make(tmp_path, model=MOE, runtime={"heldout": ALL})
    for lineage, last in zip(LINEAGES, (5, 11), strict=True):
        folder = tree.stage(lineage)
        _kill_after_step(folder, last)
        assert "resumes from its checkpoint" in train(folder).stderr
    for ours, theirs in zip([tree.stage(lineage) for lineage in LINEAGES], chain, strict=True):
        assert losses(ours) == losses(theirs)
        without_seconds = [
            [{key: value for key, value in line.items() if key != "seconds"} for line in lines(folder)]
            for folder in (ours, theirs)
        ]
        assert without_seconds[0] == without_seconds[1]


def test_new_weights_or_other_bags_at_the_switch_are_measured_before_the_first_step(chain):
    tree = Tree(chain[0].results, model=MOE, runtime={"heldout": ALL})
    anew = tree.stage("bag4-6/token-8-reinit", handover={"reinitialize": ["lm_head"]})
    other = tree.stage("bag4-6/bag2-8")
    for folder in (anew, other):
        train(folder)
        assert [line["step"] for line in lines(folder)] == [6, 7, 8]
    before = lines(chain[0])[-1]
    assert lines(anew)[0]["token_loss"] > before["token_loss"] + 0.01
    assert lines(other)[0]["windows"] == before["windows"]
    assert lines(other)[0]["bag_loss"] != before["bag_loss"]


def test_half_a_bag_read_from_more_sequences_or_one_side_is_measured_too(tmp_path):
    tree = Tree.make(tmp_path, runtime={"heldout": ALL})
    whole = {}
    for name, options in {
        "bag2-2": {},
        "bag2-2-more": {"feeding": "more_sequences"},
        "bag2-2-input": {"sides": "input_only"},
        "bag2-2-output": {"sides": "output_only"},
    }.items():
        folder = tree.stage(name, superposition={"bag_size": 2, **options})
        train(folder)
        whole[name] = json.dumps(lines(folder)[0]["windows"])
        assert all(3 < line["bag_loss"] < 6 for line in lines(folder))
    assert len(set(whole.values())) == 1, "before the first step they are one model on the same windows"
