"""When held-out loss is measured during training and on which windows."""

import itertools
import json

import pytest
import torch

from tests.shipped import ROOT
from tests.stages import Tree
from tst_titan import cli
from tst_titan.config.schema import HeldoutConfig
from tst_titan.data.shards import TokenStream
from tst_titan.evaluate.heldout import batches
from tst_titan.tree.heldout import measured_at, spread, tokens_to_score
from tst_titan.tree.resolve import Catalog, resolve, stages_of


def test_a_stage_measures_at_its_ends_at_multiples_of_the_runs_steps_and_closely_after_a_switch():
    assert sorted(measured_at(0, 50, 20, switched=False)) == [0, 20, 40, 50]
    assert sorted(measured_at(50, 110, 20, switched=False)) == [50, 60, 80, 100, 110]
    assert sorted(measured_at(50, 110, 20, switched=True)) == [50, 51, 52, 54, 58, 60, 66, 80, 100, 110]
    assert sorted(measured_at(3, 5, None, switched=True)) == [3, 4, 5]


def test_runs_of_one_trunk_measure_it_alike_wherever_it_is_cut():
    whole = measured_at(0, 90, 20, switched=False)
    assert whole <= measured_at(0, 50, 20, switched=False) | measured_at(50, 90, 20, switched=False)


@pytest.mark.parametrize(("available", "tokens"), [(101, 100), (1000, 37), (977, 333), (64, 10)])
def test_windows_are_spread_evenly_and_do_not_overlap(available, tokens):
    starts = spread(available, 10, 1, tokens)
    assert len(starts) == min(tokens, available - 1) // 10
    assert all(start % 10 == 0 for start in starts) and starts[-1] + 11 <= available
    gaps = {after - before for before, after in itertools.pairwise(starts)}
    assert not gaps or (min(gaps) >= 10 and max(gaps) - min(gaps) <= 10)


def test_all_windows_are_those_that_the_final_evaluation_cuts(tmp_path):
    tree = Tree.make(tmp_path)
    stream = TokenStream.from_manifest(tree.results / "data/tiny/manifest.json", split="heldout")
    cut = [window for _, inputs, _ in batches(stream, 16, len(stream), 7) for window in inputs]
    ours = [torch.from_numpy(stream.read(start, 16)) for start in spread(len(stream), 16, 1, len(stream))]
    assert all(map(torch.equal, ours, cut)) and len(ours) == len(cut) - 1 == 374


def test_by_default_it_costs_a_small_part_of_training_and_takes_what_is_there(tmp_path):
    stage = Tree.make(tmp_path).stage("token-400").stage
    assert tokens_to_score(HeldoutConfig(every=100), stage, 10_000) == 100 * 64 // 11 // 16 * 16
    assert tokens_to_score(HeldoutConfig(every=100), stage, 300) == 288
    assert tokens_to_score(HeldoutConfig(every=1), stage, 300) == 16
    assert tokens_to_score(HeldoutConfig(every=1), stage, 16) == 0
    assert tokens_to_score(HeldoutConfig(tokens=100), stage, 300) == 96


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"tokens": 6000},
            "key runtime.heldout.tokens: found 6,000; the hold-out of corpus tiny has 6,000 tok",
        ),
        (
            {"tokens": 15},
            "found 15; the hold-out of corpus tiny has 6,000 tokens and a window 16, so valid are 16 to",
        ),
        ({"every": 0}, "key heldout.every"),
        ({"tokens": 0}, "key heldout.tokens"),
    ],
)
def test_what_cannot_be_measured_is_named_before_training(tmp_path, capfd, asked, said):
    folder = Tree.make(tmp_path, runtime={"heldout": asked}).stage("token-4")
    assert cli.main(["train", str(folder.path)]) == 2
    told = capfd.readouterr().err
    assert said in told and "runtime.yaml" in told and "Traceback" not in told
    assert not folder.metrics_path.exists()


def test_an_interval_of_the_size_reaches_its_stages_and_only_their_runtime(tmp_path):
    stages = stages_of([resolve(Catalog(ROOT / "configs"), "figure_3a", "cpu")])
    assert {stage.runtime.heldout for stage in stages.values()} == {HeldoutConfig(every=200)}
    assert all("heldout" not in json.dumps(stage.config.model_dump(mode="json")) for stage in stages.values())
