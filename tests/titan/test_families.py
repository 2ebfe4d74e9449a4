"""Every family through torchtitan's trainer: a bag stage, the switch, a token stage."""

import json
from math import isfinite, log

import pytest

from tests.stages import SHAPES, Tree, final_tensors
from tests.titan.test_golden import one_process
from tst_titan.titan.job import Job


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    with one_process():
        yield tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", SHAPES)
def test_a_family_learns_in_both_phases_and_keeps_its_keys_at_the_switch(results, name):
    tree = Tree.make(results, model=SHAPES[name], recipe=name).with_runtime(checkpoint_every=100)
    bag = tree.stage("bag4-20", data={"corpus": "tiny", "sequence_length": 16, "batch_sequences": 16})
    tied = bag.stage.model.tied_embeddings
    steps = 120 if tied else 40  # what a tied head has learned of bags holds up the first tokens
    token = tree.stage(f"bag4-20/token-{steps}", data=bag.stage.data.model_dump())
    parent = {"checkpoint": "checkpoint/bag/step-20", "data_tokens": 0, "flops": 0.0}
    keys = []
    for job in (Job(bag, "bag", None, "test"), Job(token, "token", parent, "test")):
        trainer = job.trainer_config().build()
        trainer.train()
        trainer.close()
        losses = [json.loads(line)["loss"] for line in job.folder.metrics_path.open()]
        assert all(map(isfinite, losses)) and losses[-1] < losses[0], losses
        if job.parent is None and not tied:
            assert 0.9 * log(64) < losses[0] < 1.2 * log(64)
        job.folder.write_manifest({"checkpoint": f"checkpoint/{job.identity}/step-{job.stage.end_step}"})
        keys.append(final_tensors(job.folder).keys())
    assert keys[0] == keys[1]
