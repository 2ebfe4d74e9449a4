"""The plan against numbers counted by hand."""

import json
from pathlib import Path

import pytest
import yaml

from tests.shipped import shipped_root
from tests.tree.test_resolve import MODEL, SIZE
from tst_titan import cli
from tst_titan.config.experiment import PlanConfig
from tst_titan.errors import UserError
from tst_titan.run.speed import processor_name
from tst_titan.tree.folder import sha256_of, stage_yaml
from tst_titan.tree.plan import Cost, Plan, checkpoints_kept
from tst_titan.tree.project import Project

REPOSITORY = Path(__file__).parents[2]
# The model of test_resolve: dim 32, 1 layer, 4 heads of 8, ffn 64, vocabulary 64.
PARAMETERS = 2 * 64 * 32 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32
FLOPS_PER_LATENT = 6 * (64 * 32 + 4 * 32 * 32 + 3 * 32 * 64) + 12 * 1 * 4 * 8 * 16
LATENTS_PER_STEP = 4 * 16
SWEEP = {
    "title": "t",
    "shows": "s",
    "kind": "grid",
    "grid": {"bag_size": [4], "bag_fraction": [0.2, 0.3, 0.4]},
}
LENGTHS = {"title": "t", "shows": "s", "runs": {"short": {}, "long": {"times": 1.8}}}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with two experiments: a sweep over r, and baselines of two lengths."""
    scale = {
        "description": "for tests.",
        "sizes": {"small": SIZE},
        "runtime": {"checkpoint_every": 25, "gpus_per_node": 1},
        "evaluation": {},
    }
    contents = {
        "demo": {"scale": "s", "experiments": ["sweep", "lengths"], "results": "out"},
        "models/m": MODEL,
        "scales/s": scale,
        "experiments/sweep": SWEEP,
        "experiments/lengths": LENGTHS,
    }
    for name, content in contents.items():
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(root, *experiments, **config) -> Plan:
    project = Project.open(root, {"scale": "s", "experiments": list(experiments), "results": "out", **config})
    return Plan(project, PlanConfig(mfu=0.5, peak_tflops=1e-6))


def test_a_sweep_over_r_trains_one_bag_trunk(root):
    share = plan_of(root, "sweep").total
    # Bags to 20, on to 30, on to 40; from each a token stage to 90 and a decay to 100; and the baseline.
    steps = 40 + (70 + 60 + 50) + 90 + 4 * 10
    bag_steps = 40
    assert (share.runs, share.shared.stages, share.shared.steps) == (4, 3 + 3 + 1 + 4, steps)
    assert share.shared.latents == steps * LATENTS_PER_STEP
    assert share.shared.data_tokens == (steps + 3 * bag_steps) * LATENTS_PER_STEP
    assert share.shared.flops == steps * LATENTS_PER_STEP * FLOPS_PER_LATENT
    # By itself every run has 100 steps, the trunk in one stage.
    assert (share.alone.stages, share.alone.steps) == (3 * 3 + 2, 400)
    assert share.alone.data_tokens == (400 + 3 * (20 + 30 + 40)) * LATENTS_PER_STEP
    hours = share.shared.flops / (0.5 * 1e6) / 3600
    assert share.shared.device_hours(plan_of(root, "sweep").assumed) == pytest.approx(hours)


def test_experiments_share_the_baseline_and_the_total_counts_it_once(root):
    plan = plan_of(root, "sweep", "lengths")
    sweep, lengths = plan.experiments
    # token-90, decay-100, token-162, decay-180: the first two are the sweep's baseline as well.
    assert (lengths.shared.steps, lengths.alone.steps) == (90 + 10 + 72 + 18, 100 + 180)
    assert plan.total.shared.steps == sweep.shared.steps + 72 + 18
    # Five runs, the baseline of 100 steps once.
    assert plan.total.alone.steps == sweep.alone.steps + 180
    assert plan.total.runs == 5


def test_bytes_of_checkpoints_before_and_after_pruning(root):
    plan = plan_of(root, "lengths")
    one = 12 * PARAMETERS
    # Every 25 steps and at the end, the newest two: token-90 and token-162 keep 2, decay-100 its only one (step 100),
    # decay-180 two (175 and 180).
    kept = {path.split("/", 1)[1]: checkpoints_kept(stage) for path, stage in plan.project.stages.items()}
    assert kept == {
        "token-90": 2,
        "token-90/decay-100": 1,
        "token-90/token-162": 2,
        "token-90/token-162/decay-180": 2,
    }
    assert plan.bytes_after_pruning == {"all": 7 * one, "branch_points": 3 * one, "final": 2 * one}


def test_tokens_that_a_corpus_must_have(root):
    # The longest read of the sweep: 40 steps of bags of 4 and 60 of tokens, 16 latents each, in 4 lanes, and the
    # last target's lookahead of at most a bag.
    assert plan_of(root, "sweep").corpus_tokens == {"c": 4 * ((40 * 4 + 60) * 16 + 4)}


def test_output_only_reads_no_extra_data_and_more_sequences_attend_less(root):
    path = root / "configs/experiments/lengths.yaml"
    bag = {"bag_size": 4, "bag_fraction": 0.5}
    runs = {
        "out": {"bags": [{**bag, "sides": "output_only"}]},
        "more": {"bags": [{**bag, "feeding": "more_sequences"}]},
    }
    path.write_text(yaml.safe_dump({"title": "t", "shows": "s", "kind": "feeding", "runs": runs}))
    costs = {stage.lineage: Cost.of(stage) for stage in plan_of(root, "lengths").project.stages.values()}
    assert costs["bag4-50-output_only"].data_tokens == 50 * LATENTS_PER_STEP
    saved = 12 * 1 * 4 * 8 * (16 - 4) * 50 * LATENTS_PER_STEP
    plain = 50 * LATENTS_PER_STEP * FLOPS_PER_LATENT
    assert costs["bag4-50-more_sequences"].flops == plain - saved


def write_manifest(root, stage, parent_identity=None):
    folder = root / "out/train" / stage.path
    folder.mkdir(parents=True)
    sha = sha256_of(stage_yaml(stage.config))
    content = {"stage_sha256": sha, "identity": stage.path, "parent_identity": parent_identity}
    (folder / "manifest.json").write_text(json.dumps(content))


def test_done_stages_are_not_to_do_unless_their_config_or_parent_changed(root):
    stages = plan_of(root, "lengths").project.stages
    for lineage, parent in (("token-90", None), ("token-90/decay-100", "s-small/token-90")):
        write_manifest(root, stages[f"s-small/{lineage}"], parent)
    share = plan_of(root, "lengths").total
    assert (share.to_do.stages, share.to_do.steps) == (2, 90)
    scale = root / "configs/scales/s.yaml"
    scale.write_text(scale.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    assert plan_of(root, "lengths").total.to_do.steps == 190


def test_a_done_child_of_a_changed_parent_is_to_do(root):
    stages = plan_of(root, "lengths").project.stages
    write_manifest(root, stages["s-small/token-90"])
    write_manifest(root, stages["s-small/token-90/decay-100"], "an earlier token-90")
    assert plan_of(root, "lengths").total.to_do.steps == 100


def test_the_command_prints_a_table_and_json(root, capsys):
    assert cli.main(["plan", "--mfu", "0.25", "--peak-tflops", "312"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("sweep", "lengths", "total", "without sharing", "25% (MFU) of 312"))
    assert max(map(len, text.splitlines())) <= 120
    assert cli.main(["plan", "lengths", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experiments"]["lengths"]["shared"]["steps"] == 190
    assert [stage["steps"] for stage in found["stages"]] == [90, 10, 72, 18]
    assert not (root / "out").exists()


def test_without_gpus_hours_are_this_machines_or_there_are_none(root, capsys):
    path = root / "configs/scales/s.yaml"
    path.write_text(path.read_text().replace("gpus_per_node: 1", "gpus_per_node: 0"))
    assert cli.main(["plan", "lengths"]) == 0
    text = capsys.readouterr().out
    assert "GPU" not in text and "hours here" not in text and "no stage has trained" in text
    assert f"Parameters: m {PARAMETERS:,}." in text

    def finished(name, device, accelerators, parameters, flops, hours):
        machine = {"device": device, "accelerators": accelerators}
        content = {"machine": machine, "parameters": {"total": parameters}}
        content |= {"stage_flops": flops, "stage_device_hours": hours}
        (root / "out/train" / name).mkdir(parents=True)
        (root / "out/train" / name / "manifest.json").write_text(json.dumps(content))

    finished("gpu", "NVIDIA H100", 8, PARAMETERS, 1e18, 1.0)
    finished("elsewhere", "another processor", 0, PARAMETERS, 1e18, 1.0)
    assert cli.main(["plan", "lengths"]) == 0
    assert "no stage has trained" in capsys.readouterr().out
    flops = 190 * LATENTS_PER_STEP * FLOPS_PER_LATENT
    finished("wider", processor_name(), 0, 10 * PARAMETERS, flops, 1.0)
    finished("same", processor_name(), 0, PARAMETERS, flops, 2.0)
    finished("again", processor_name(), 0, PARAMETERS, flops, 6.0)
    assert cli.main(["plan", "lengths"]) == 0
    text = capsys.readouterr().out
    # Two stages of the same model: 2 x flops in 8 hours.
    (row,) = (line.split() for line in text.splitlines() if line.startswith("lengths"))
    assert row[-3] == "4" and "hours here" in text and "2 finished stages" in text
    assert cli.main(["plan", "lengths", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"]["m"]["total"] == PARAMETERS and found["measured"]["stages"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lengths", "figure_44"], ["unknown experiment 'figure_44'", "lengths, sweep"]),
        (["--scale", "huge"], ["unknown scale 'huge'"]),
        (["--mfu", "40"], ["mfu", "40"]),
    ],
)
def test_mistakes_are_told(root, capsys, arguments, words):
    assert cli.main(["plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_an_unknown_experiment_in_the_config_is_refused(root):
    with pytest.raises(UserError, match="unknown experiment"):
        plan_of(root, "swoop")


def test_the_docs_show_what_the_command_prints(monkeypatch, capsys):
    repository = Path(__file__).parents[2]
    monkeypatch.chdir(shipped_root())
    assert cli.main(["plan", "figure_4", "figure_5", "--scale", "paper", "--results", "none"]) == 0
    shown = (repository / "docs/plan.md").read_text()
    missing = [line for line in capsys.readouterr().out.splitlines() if line.strip() not in shown]
    assert not missing, (
        'paste what `make plan TARGET="figure_4 figure_5" SCALE=paper` prints into docs/plan.md'
    )
