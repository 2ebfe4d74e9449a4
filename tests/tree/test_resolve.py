"""Experiments at a scale become a tree of stages that shares what can be shared."""

import shutil
from pathlib import Path

import pytest
import yaml

from tst_titan.errors import UserError
from tst_titan.tree.folder import StageFolder
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Catalog, resolve, stages_of

MODEL = {
    "family": "llama3",
    "dim": 32,
    "n_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 4,
    "ffn_dim": 64,
    "vocab_size": 64,
    "max_sequence_length": 64,
}
SIZE = {
    "model": "m",
    "corpus": "c",
    "sequence_length": 16,
    "batch_sequences": 4,
    "learning_rate": 0.01,
    "warmup_steps": 5,
    "steps": {"short": 100, "long": 400},
    "tst": {"bag_size": 4, "bag_fraction": 0.25},
}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    for folder in ("models", "scales", "experiments"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "models/m.yaml", MODEL)
    write(tmp_path / "scales/s.yaml", {"description": "d", "sizes": {"small": SIZE}})
    return Catalog(tmp_path)


def write(path: Path, content: dict) -> None:
    path.write_text(yaml.safe_dump(content))


def experiment(catalog: Catalog, **content):
    # Runs are compared with those before them: none must be a baseline.
    defaults = {"title": "t", "shows": "s", "kind": "feeding"}
    write(catalog.folder / "experiments/e.yaml", {**defaults, **content})
    return resolve(Catalog(catalog.folder), "e", "s")  # a catalog reads each file once


def lineages(runs) -> dict[str, str]:
    return {run.name: run.lineage for run in runs}


def test_the_paths_of_the_design(catalog):
    found = experiment(
        catalog,
        runs={
            "baseline": {},
            "tst": {"bags": [{"bag_size": 6, "bag_fraction": 0.3}]},
            "equal_loss": {"times": 1.8},
        },
    )
    assert lineages(found.runs) == {
        "baseline": "token-90/decay-100",
        "tst": "bag6-30/token-90/decay-100",
        "equal_loss": "token-90/token-162/decay-180",
    }


def test_a_longer_baseline_shares_the_trunk_of_a_shorter_one(catalog):
    found = experiment(catalog, runs={"short": {}, "long": {"times": 1.8}, "longer": {"times": 2.5}})
    assert lineages(found.runs) == {
        "short": "token-90/decay-100",
        "long": "token-90/token-162/decay-180",
        "longer": "token-90/token-162/token-225/decay-250",
    }
    assert len(stages_of([found])) == 6


def test_a_sweep_over_the_bag_fraction_shares_one_bag_trunk(catalog):
    found = experiment(catalog, kind="grid", grid={"bag_size": [2, 4], "bag_fraction": [0.0, 0.2, 0.4]})
    assert lineages(found.runs) == {
        "baseline": "token-90/decay-100",
        "s2-r0.2": "bag2-20/token-90/decay-100",
        "s2-r0.4": "bag2-20/bag2-40/token-90/decay-100",
        "s4-r0.2": "bag4-20/token-90/decay-100",
        "s4-r0.4": "bag4-20/bag4-40/token-90/decay-100",
    }
    trained = sum(stage.config.end_step - stage.config.start_step for stage in stages_of([found]).values())
    assert trained == 5 * 100 - 2 * 20
    assert [run.role for run in found.runs].count("baseline") == 1


def test_runs_that_differ_only_at_the_switch_share_the_bag_phase(catalog):
    anew = {"handover": {"reinitialize": ["embedding", "lm_head"]}}
    found = experiment(catalog, runs={"tst": {"bags": [{}]}, "anew": {"bags": [{}], **anew}})
    assert lineages(found.runs) == {
        "tst": "bag4-25/token-90/decay-100",
        "anew": "bag4-25/token-90-reinit_embedding_lm_head/decay-100",
    }


FIRST = {"title": "t", "shows": "s", "kind": "feeding", "runs": {"baseline": {}}}
FROM_FIRST = {"run": "first/baseline"}


def test_runs_that_start_from_anothers_model_share_their_trunk_among_themselves_alone(catalog):
    write(catalog.folder / "experiments/first.yaml", FIRST)
    runs = {
        "baseline": {},
        "longer": {"times": 2.0},
        "tst": {"bags": [{}]},
        "theirs": {"start_from": "hf://owner/name@v1"},
    }
    found = experiment(catalog, start_from=FROM_FIRST, runs=runs)
    assert lineages(found.runs) == {
        "baseline": "token-90-from_first.baseline/decay-100",
        "longer": "token-90-from_first.baseline/token-180/decay-200",
        "tst": "bag4-25-from_first.baseline/token-90/decay-100",
        "theirs": "token-90-from_owner.name.v1/decay-100",
    }
    stages = stages_of([found])
    starts = {path.split("/", 1)[1]: stage.config.start_from for path, stage in stages.items()}
    assert starts["token-90-from_first.baseline"] == "first.baseline"
    assert starts["token-90-from_first.baseline/token-180"] is None
    # What they start from is trained, too, under the name that it has for itself.
    assert starts["token-90"] is None and len(stages) == 11
    assert {run.name for run in found.runs} == set(runs)
    assert {run.lineage for run in found.trained} == {"token-90/decay-100", *lineages(found.runs).values()}


def test_all_seeds_start_from_one_model_and_a_chain_is_followed(catalog):
    write(catalog.folder / "experiments/first.yaml", FIRST)
    second = {**FIRST, "start_from": FROM_FIRST}
    write(catalog.folder / "experiments/second.yaml", second)
    found = experiment(catalog, seeds=2, start_from={"run": "second/baseline"}, runs={"baseline": {}})
    assert {(run.seed, run.recipe, run.lineage) for run in found.trained} == {
        (0, "s-small", "token-90/decay-100"),
        (0, "s-small", "token-90-from_first.baseline/decay-100"),
        (0, "s-small", "token-90-from_second.baseline/decay-100"),
        (1, "s-small-seed1", "token-90-from_second.baseline/decay-100"),
    }


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"run": "first/basline"}, "did you mean 'baseline'?); first has: baseline"),
        ({"run": "e/baseline"}, "an experiment cannot start from itself"),
        ({"run": "nothing/baseline"}, "unknown experiment 'nothing'"),
        ({"run": "first/baseline", "path": "/x"}, "give either path or run"),
        ({"run": "first"}, "start_from.run"),
    ],
)
def test_a_start_that_is_none_is_refused(catalog, start, words):
    write(catalog.folder / "experiments/first.yaml", FIRST)
    with pytest.raises(UserError) as refused:
        experiment(catalog, start_from=start, runs={"baseline": {}})
    assert words in str(refused.value)


def test_a_longer_decay_leaves_the_trunk_alone(catalog):
    found = experiment(catalog, runs={"a": {}, "b": {"decay_times": 2.0}})
    assert lineages(found.runs) == {"a": "token-90/decay-100", "b": "token-90/decay-110"}
    assert found.runs[1].stages[1].config.schedule.decay_end == 110


def test_bags_until_the_end_decay_as_bags(catalog):
    found = experiment(catalog, runs={"r": {"bags": [{"bag_fraction": 1.0}]}})
    (run,) = found.runs
    assert run.lineage == "bag4-90/bag4decay-100"
    assert run.stages[-1].config.schedule.decay_start == 90
    assert run.stages[-1].config.phase == "bag"


def test_a_curriculum_is_a_longer_path(catalog):
    bags = [{"bag_size": size, "bag_fraction": 0.1} for size in (8, 4, 2)]
    found = experiment(catalog, runs={"c": {"bags": bags}})
    assert found.runs[0].lineage == "bag8-10/bag4-20/bag2-30/token-90/decay-100"


def test_options_that_change_the_result_change_the_path(catalog):
    bags = [{"weights": "power", "sides": "output_only"}]
    found = experiment(
        catalog,
        runs={"r": {"bags": bags, "handover": {"load": "model_only", "reinitialize": ["embedding"]}}},
    )
    assert found.runs[0].lineage == "bag4-25-output_only-power/token-90-model_only-reinit_embedding/decay-100"


def test_seeds_and_learning_rates_are_recipes_of_their_own(catalog):
    found = experiment(catalog, seeds=2, runs={"a": {}, "b": {"learning_rate_times": 2.0}})
    assert {run.recipe for run in found.runs} == {
        "s-small",
        "s-small-seed1",
        "s-small-lr0.02",
        "s-small-lr0.02-seed1",
    }


def test_every_phase_can_decay_on_its_own(catalog):
    found = experiment(
        catalog,
        runs={
            "patch": {
                "bags": [{}],
                "phase_decay": True,
                "handover": {"load": "model_only", "rewarm_steps": 5},
            }
        },
    )
    (run,) = found.runs
    assert run.lineage == "bag4-23/bag4decay-25/token-92-model_only-rewarm5/decay-100"
    schedules = [stage.config.schedule for stage in run.stages]
    assert (schedules[1].decay_start, schedules[1].decay_end) == (23, 25)
    assert schedules[2].warmup_start == 25 and schedules[3].decay_start == 92


def test_fixed_data_takes_fewer_steps_and_reads_no_more(catalog):
    bags = [{"bag_size": 4, "bag_fraction": 0.4}]
    found = experiment(catalog, runs={"baseline": {}, "patch": {"bags": bags, "fixed_data": True}})
    assert found.runs[1].lineage == "bag4-10/token-63/decay-70"

    def read(run):
        return sum((s.config.end_step - s.config.start_step) * s.config.lane_advance for s in run.stages)

    assert read(found.runs[0]) == read(found.runs[1])


@pytest.mark.parametrize(
    ("runtime", "vocabulary", "threads", "whole_machine"),
    [
        ({}, 64, 1, False),
        ({"processes_per_node": 2, "parallel": {"replicate": 2}}, 64, 1, False),
        ({"cpu_threads": 3}, 64, 3, False),
        ({}, 200_000, 0, True),
        ({"cpus_per_node": 8}, 200_000, 0, False),
        ({"gpus_per_node": 1}, 64, 0, False),
    ],
)
def test_a_small_model_trains_on_one_thread_unless_told_otherwise(
    catalog, runtime, vocabulary, threads, whole_machine
):
    """Two stages side by side, each with a thread for every core, took seven times as long as with one."""
    write(catalog.folder / "models/m.yaml", MODEL | {"vocab_size": vocabulary})
    scale = {"description": "d", "sizes": {"small": SIZE}, "runtime": runtime}
    write(catalog.folder / "scales/s.yaml", scale)
    (run,) = experiment(catalog, runs={"a": {}}).runs
    found = {(stage.runtime.cpu_threads, stage.runtime.wants_the_machine) for stage in run.stages}
    assert found == {(threads, whole_machine)}


def test_the_longest_read_is_noted_for_the_check_before_training(catalog):
    found = experiment(catalog, runs={"tst": {"bags": [{}]}})
    # 25 bag steps of 4 * 16 tokens a lane, 75 token steps of 16, and the last window's lookahead.
    assert {stage.runtime.run_tokens_per_lane for stage in found.runs[0].stages} == {25 * 64 + 75 * 16 + 4}


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"bags": [{"bag_size": 0}]}, ["bag_size", "found 0", "greater than 0"]),
        ({"bags": [{"bag_fraction": 0.0}]}, ["bag_fraction", "found 0.0"]),
        ({"bags": [{"bag_fraction": 1.5}]}, ["bag_fraction", "found 1.5", "less than or equal to 1"]),
        ({"bags": [{"bag_fraction": 0.001}]}, ["bag_fraction", "is empty"]),
        ({"bags": [{"bag_fraction": 0.6}, {"bag_fraction": 0.6}]}, ["bag_fraction", "1.2", "at most 1"]),
        ({"bags": [{"bag_sise": 4}]}, ["unknown key runs.r.bags.0.bag_sise", "did you mean 'bag_size'"]),
        ({"bags": [{"bag_size": "four"}]}, ["bag_size", "'four'", "valid integer"]),
        ({"length": "medium"}, ["length", "'medium'", "short (100)"]),
        ({"size": "moe"}, ["size 'moe'", "small"]),
        ({"bags": [{"bag_size": 2, "weights": [1.0]}]}, ["weights has 1 numbers", "needs 2"]),
        ({"bags": [{"bag_size": 2, "weights": [1.0, -1.0]}]}, ["(1.0, -1.0)", "none negative"]),
        (
            {"bags": [{"bag_size": 2, "weights": [1.0, float("nan")]}]},
            ["nan", "a finite number", "weights.1"],
        ),
        ({"bags": [{"loss": "hinge", "weights": "power"}]}, ["'power'", "'hinge'", "only mce takes them"]),
        ({"bags": [{"loss": "hinge", "sides": "input_only"}]}, ["'hinge'", "one target", "leave both out"]),
        ({"bags": [{"mutual_information": {"k": -1.0}}]}, ["'uniform'", "it needs mutual_information"]),
        (
            {"bags": [{"weights": "mutual_information", "mutual_information": {"c0": -9.0}}]},
            ["-7.65", "none negative"],
        ),
        ({"bags": [{"bag_size": 3, "feeding": "more_sequences"}]}, ["bag_size (3) must divide"]),
        ({"handover": {"reinitialize": ["head"]}}, ["reinitialize.0", "'head'", "'lm_head'"]),
        ({"bags": [{"bag_size": True}]}, ["bag_size", "found True", "valid integer"]),
        ({"bags": [{"bag_size": "4"}]}, ["bag_size", "found '4'", "valid integer"]),
        ({"learning_rate": float("inf")}, ["runs.r.learning_rate", "found inf", "finite"]),
        ({"learning_rate": True}, ["runs.r.learning_rate", "found True", "valid number"]),
        (
            {"learning_rate": 1e-3, "learning_rate_times": 2.0},
            ["runs.r", "learning_rate_times (2.0)", "one of them"],
        ),
        ({"bags": [{}], "role": "baseline"}, ["runs.r", "role 'baseline' of a run with bags"]),
        ({"role": "tst"}, ["runs.r", "role 'tst' of a run with no bags"]),
        ({"handover": {"load": "model_only"}}, ["runs.r", "a run without bags has none"]),
        (
            {"bags": [{"bag_fraction": 0.95}]},
            ["bag_fraction", "found 0.95", "begins at step 90", "at most 0.9"],
        ),
        ({"times": 0.04}, ["warmup_steps", "found 5", "4 steps"]),
    ],
)
def test_mistakes_in_a_run_name_file_key_and_value(catalog, run, words):
    with pytest.raises(UserError) as error:
        experiment(catalog, runs={"r": run})
    assert all(word in str(error.value) for word in ["experiments/e.yaml", *words]), error.value


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("models/m.yaml", {"n_heads": 5}, ["n_heads (5) must divide dim (32)"]),
        ("models/m.yaml", {"family": "llama4"}, ["family", "'llama4'", "'deepseek_v3'"]),
        ("models/m.yaml", {"family": "deepseek_v3", "kv_lora_rnk": 8}, ["did you mean 'kv_lora_rank'"]),
        ("models/m.yaml", {"n_kv_heads": 3}, ["n_kv_heads (3) must divide n_heads (4)"]),
        (
            "models/m.yaml",
            {"max_sequence_length": 8},
            ["sequence_length (16) exceeds", "max_sequence_length (8)"],
        ),
        (
            "models/m.yaml",
            {"moe": {"n_experts": 2, "top_k": 1, "expert_ffn_dim": 8}},
            ["exactly one of ffn_dim"],
        ),
        ("models/m.yaml", {"depth": 2}, ["unknown key depth", "valid keys here", "n_layers"]),
    ],
)
def test_mistakes_in_a_model(catalog, file, change, words):
    write(catalog.folder / file, {**MODEL, **change})
    with pytest.raises(UserError) as error:
        experiment(catalog, runs={"r": {}})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ({"parallel": {"pipeline": 2}}, ["parallel.pipeline", "found 2", "leave pipeline at 1"]),
        ({"parallel": {"expert": 2}}, ["parallel.expert", "dense"]),
        ({"processes_per_node": 2, "parallel": {"tensor": 4}}, ["parallel.tensor", "divide the 2 processes"]),
        ({"processes_per_node": 3}, ["batch_sequences", "found 4", "3 data-parallel ranks"]),
        ({"processes_per_node": 2, "parallel": {"shard": 4}}, ["parallel.shard", "found 4"]),
        (
            {"processes_per_node": 4, "parallel": {"replicate": 3}},
            ["parallel.replicate", "found 3", "divide the 4"],
        ),
        ({"parallel": {"context": 2}}, ["parallel.context", "found 2", "leave it at 1"]),
        ({"loss_chunks": 3}, ["sequence_length", "found 16", "loss_chunks (3)"]),
        ({"micro_batch_sequences": 3}, ["micro_batch_sequences", "found 3", "batch_sequences (4)"]),
        ({"log_every": 0}, ["log_every", "found 0"]),
    ],
)
def test_layouts_that_cannot_work_are_refused(catalog, runtime, words):
    write(
        catalog.folder / "scales/s.yaml", {"description": "d", "sizes": {"small": SIZE}, "runtime": runtime}
    )
    with pytest.raises(UserError) as error:
        experiment(catalog, runs={"r": {}})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            {"processes_per_node": 3, "parallel": {"expert": 3}},
            ["parallel.expert", "found 3", "n_experts (4)"],
        ),
        (
            {"processes_per_node": 2, "parallel": {"expert": 4}},
            ["parallel.expert", "found 4", "divide shard x tensor (2)"],
        ),
    ],
)
def test_experts_that_cannot_be_spread_so_are_refused(catalog, runtime, words):
    moe = {"family": "qwen3", "moe": {"n_experts": 4, "top_k": 2, "expert_ffn_dim": 8}}
    write(catalog.folder / "models/m.yaml", {k: v for k, v in MODEL.items() if k != "ffn_dim"} | moe)
    size = SIZE | {"batch_sequences": 12}
    write(
        catalog.folder / "scales/s.yaml", {"description": "d", "sizes": {"small": size}, "runtime": runtime}
    )
    with pytest.raises(UserError) as error:
        experiment(catalog, runs={"r": {}})
    assert all(word in str(error.value) for word in words), error.value


def test_short_latent_sequences_must_still_be_cut_evenly(catalog):
    """With more_sequences the loss's chunks and tensor parallel cut L / s latents, not L."""
    scale = {"description": "d", "sizes": {"small": SIZE}, "runtime": {"loss_chunks": 8}}
    write(catalog.folder / "scales/s.yaml", scale)
    experiment(catalog, runs={"r": {"bags": [{}]}})
    with pytest.raises(UserError, match=r"found 16, which makes sequences of 4 latents.*loss_chunks \(8\)"):
        experiment(catalog, runs={"r": {"bags": [{"feeding": "more_sequences"}]}})


def test_the_constants_of_the_fitted_law_reach_the_stage_and_its_path(catalog):
    law = {"c0": 1.0, "a": 2.0, "k": -0.5}
    fitted = {"weights": "mutual_information"}
    runs = {"paper": {"bags": [fitted]}, "ours": {"bags": [fitted | {"mutual_information": law}]}}
    found = experiment(catalog, runs=runs)
    assert lineages(found.runs) == {
        "paper": "bag4-25-mutual_information/token-90/decay-100",
        "ours": "bag4-25-mutual_information-1_2_-0.5/token-90/decay-100",
    }
    laws = {run.name: run.stages[0].config.superposition.mutual_information for run in found.runs}
    assert laws["paper"].c0 == 3.63 and laws["ours"].model_dump() == law


def test_a_pair_needs_a_baseline(catalog):
    with pytest.raises(UserError, match=r"e\.yaml: .*kind pair .*none of r is one: add a run without bags"):
        experiment(catalog, kind="pair", runs={"r": {"bags": [{}]}})


def test_steps_that_nobody_means_are_refused(catalog):
    write(
        catalog.folder / "scales/s.yaml",
        {"description": "d", "sizes": {"small": SIZE | {"steps": {"short": 10**20}}}},
    )
    with pytest.raises(
        UserError, match=r"s\.yaml: key sizes\.small\.steps\.short: found 10{20}: .*1000000000"
    ):
        experiment(catalog, runs={"r": {}})


def test_a_name_that_cannot_be_a_target_is_refused(catalog):
    write(catalog.folder / "experiments/my figure.yaml", {"title": "t", "shows": "s", "runs": {"r": {}}})
    with pytest.raises(UserError, match=r"my figure\.yaml: its name is that of a folder of results: letters"):
        catalog.targets()
    write(catalog.folder / "scales/my scale.yaml", {})
    with pytest.raises(UserError, match=r"my scale\.yaml: its name is that of a folder of results: letters"):
        catalog.scale("my scale")


def test_unknown_names_list_the_known_ones(catalog):
    experiment(catalog, runs={"r": {}})
    with pytest.raises(UserError, match=r"unknown experiment 'f'.*e$"):
        resolve(catalog, "f", "s")
    with pytest.raises(UserError, match=r"unknown scale 'ss' \(did you mean 's'\?\)"):
        resolve(catalog, "e", "ss")


def test_numbers_such_as_2e_3_are_numbers(catalog):
    (catalog.folder / "scales/s.yaml").write_text(
        yaml.safe_dump({"description": "d", "sizes": {"small": SIZE}}).replace("0.01", "2e-3")
    )
    assert experiment(catalog, runs={"r": {}}).runs[0].stages[0].config.optimizer.learning_rate == 0.002


def test_the_folder_knows_recipe_lineage_and_parent(tmp_path):
    folder = StageFolder.at(tmp_path / "train/cpu-small/bag4-6/token-14")
    assert (folder.recipe, folder.lineage) == ("cpu-small", "bag4-6/token-14")
    assert folder.parent is not None and folder.parent.lineage == "bag4-6" and folder.parent.parent is None
    with pytest.raises(UserError, match="below <results>/train"):
        StageFolder.at(tmp_path / "elsewhere")


class TestAScaleWithOneSize:
    """The config's own experiment needs a size that the scale lacks; a command needs what it needs."""

    @pytest.fixture
    def root(self, catalog, tmp_path):
        root = tmp_path / "root"
        root.mkdir()
        shutil.copytree(tmp_path / "models", root / "configs/models")
        shutil.copytree(tmp_path / "scales", root / "configs/scales")
        (root / "configs/experiments").mkdir()
        base = {"title": "t", "shows": "s"}
        write(root / "configs/experiments/big.yaml", base | {"size": "large", "runs": {"b": {}}})
        write(root / "configs/experiments/mine.yaml", base | {"runs": {"b": {}}})
        return root

    def open(self, root, *targets, experiments="big"):
        return Project.open(root, {"scale": "s", "experiments": experiments}, targets)

    def test_the_default_target_says_what_would_do(self, root):
        for targets in ([], ["plan"]):
            with pytest.raises(UserError, match=r"size 'large' is not defined(.|\n)*it can express: mine$"):
                self.open(root, *targets)

    def test_what_is_asked_for_is_all_that_must_fit(self, root):
        assert self.open(root, "mine").experiment_names == ("mine",)
        assert self.open(root, "prune").experiment_names == ()
        opened = self.open(root, "results/data/c/manifest.json", experiments=["big", "mine"])
        assert opened.experiment_names == ("mine",) and opened.corpus_names == ("c",)
        with pytest.raises(UserError, match="size 'large' is not defined"):
            self.open(root, "big")

    def test_other_mistakes_are_said_whatever_is_asked_for(self, root):
        write(
            root / "configs/experiments/mine.yaml", {"title": "t", "shows": "s", "runs": {"b": {"tims": 2}}}
        )
        with pytest.raises(UserError, match="did you mean 'times'"):
            self.open(root, "prune", experiments="mine")

    def test_a_mistake_in_a_file_that_nobody_asks_for_stops_nobody(self, root):
        broken = root / "configs/experiments/broken.yaml"
        write(broken, {"title": "t", "shows": "s", "runs": {"b": {"tims": 2}}})
        write(
            root / "configs/experiments/all.yaml",
            {"title": "t", "experiments": ["broken", "mine"]},
        )
        opened = self.open(root, "mine")
        assert opened.experiment_names == ("mine",)
        assert set(opened.catalog.broken) == {"broken", "all"} and "broken" not in opened.catalog.targets()
        for asked in ("broken", "all"):
            with pytest.raises(UserError, match=r"broken.yaml: (.|\n)*did you mean 'times'"):
                self.open(root, asked)


def test_a_cosine_depends_on_the_runs_length_and_shares_with_its_own_length_only(catalog):
    found = experiment(
        catalog,
        schedule={"kind": "cosine", "min_factor": 0.1},
        runs={
            "short": {},
            "long": {"length": "long"},
            "tst": {"bags": [{}]},
            "more": {"bags": [{"bag_fraction": 0.5}]},
        },
    )
    paths = {run.name: [stage.path for stage in run.stages] for run in found.runs}
    recipe = next(run.recipe for run in found.runs if run.name == "short")
    assert recipe.startswith("s-small-schedule") and recipe.endswith("-cosine100")
    assert paths["short"] == [f"{recipe}/token-100"]
    assert paths["long"] == [f"{recipe[: -len('100')]}400/token-400"]
    assert paths["tst"] == [f"{recipe}/bag4-25", f"{recipe}/bag4-25/token-100"]
    assert paths["more"][:2] == [f"{recipe}/bag4-25", f"{recipe}/bag4-25/bag4-50"]
    for run in found.runs:
        steps = run.stages[-1].config.end_step
        for stage in run.stages:
            schedule = stage.config.schedule
            assert (schedule.shape, schedule.decay_start, schedule.decay_end) == ("cosine", 5, steps)
        assert stage.config.schedule.factor(steps) == pytest.approx(0.1)
    stages_of([found])


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            {"times": 0.05},
            "key warmup_steps: found 5; with schedule.kind cosine it must be less than the 5 steps",
        ),
        ({"decay_times": 2.0}, "key decay_times: found 2.0; with schedule.kind cosine the whole run decays"),
        (
            {"phase_decay": True},
            "key phase_decay: found true; with schedule.kind cosine one curve spans the run",
        ),
    ],
)
def test_what_a_cosine_cannot_have_is_refused(catalog, run, says):
    with pytest.raises(UserError, match=says):
        experiment(catalog, schedule={"kind": "cosine"}, runs={"a": run})


def test_options_of_scale_size_experiment_and_run_are_laid_over_each_other(catalog):
    size = {**SIZE, "optimizer": {"beta2": 0.9}}
    scale = {"description": "d", "sizes": {"small": size}, "optimizer": {"beta1": 0.7, "beta2": 0.8}}
    write(catalog.folder / "scales/s.yaml", scale)
    muon = {"optimizer": {"muon": {}, "beta1": 0.5}}
    found = experiment(
        catalog,
        optimizer={"eps": 1e-6},
        runs={"plain": {}, "muon": muon, "same": {"optimizer": {"beta1": 0.7}}},
    )
    by_name = {run.name: run for run in found.runs}
    plain, with_muon, same = (by_name[name].stages[0].config.optimizer for name in ("plain", "muon", "same"))
    assert (plain.beta1, plain.beta2, plain.eps, plain.muon) == (0.7, 0.9, 1e-6, None)
    assert (with_muon.beta1, with_muon.beta2, with_muon.eps) == (0.5, 0.9, 1e-6) and with_muon.muon
    assert same == plain
    assert by_name["plain"].recipe == by_name["same"].recipe != by_name["muon"].recipe
    assert by_name["muon"].recipe.startswith("s-small-optimizer")
    assert (
        by_name["muon"].group.startswith("optimizer")
        and by_name["plain"].group == by_name["same"].group == ""
    )


def test_a_key_of_torchtitans_is_part_of_the_identity_only_if_it_changes_the_result(catalog):
    keys = {"parallelism": {"fsdp_reshard_after_forward": "never"}, "training.dtype": "bfloat16"}
    scale = {
        "description": "d",
        "sizes": {"small": SIZE},
        "titan": {"training.gc_freq": 5, "comm.mode": "default"},
    }
    write(catalog.folder / "scales/s.yaml", scale)
    how = {"titan": {"training.gc_freq": 9}}
    found = experiment(catalog, runs={"plain": {}, "how": how, "both": {"titan": keys}})
    by_name = {run.name: run.stages[0] for run in found.runs}
    plain, of_how, both = (by_name[name] for name in ("plain", "how", "both"))
    assert plain.config == of_how.config and plain.path == of_how.path and not plain.config.titan
    assert plain.runtime.titan == {"comm.mode": "default", "training.gc_freq": 5}
    assert of_how.runtime.titan["training.gc_freq"] == 9
    assert both.config.titan == {"training.dtype": "bfloat16"} and both.recipe.startswith("s-small-titan")
    assert both.runtime.titan == {**plain.runtime.titan, "parallelism.fsdp_reshard_after_forward": "never"}


def test_a_key_of_torchtitans_that_the_pipeline_owns_is_refused_with_file_and_place(catalog):
    says = r"e.yaml: key runs.a.titan: key training.steps \(found 7\) is the pipeline's; it is set by steps of a size"
    with pytest.raises(UserError, match=says):
        experiment(catalog, runs={"a": {"titan": {"training": {"steps": 7}}}})
