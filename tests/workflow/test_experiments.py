"""A new experiment and a new scale are one YAML file each; targets are told apart from typing mistakes."""

import re
from pathlib import Path

import pytest

from tests.workflow.project import ProjectCopy

DOCUMENT = Path(__file__).parents[2] / "docs/experiments.md"
TWO_BAG_SIZES, GRID, SCALE = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the document's own examples added."""
    project = ProjectCopy.make(tmp_path_factory.mktemp("experiments"))
    (project.folder / "configs/experiments/two_bag_sizes.yaml").write_text(TWO_BAG_SIZES)
    (project.folder / "configs/experiments/two_models.yaml").write_text(GRID)
    (project.folder / "configs/scales/afternoon.yaml").write_text(SCALE)
    return project


def test_a_new_experiment_at_a_new_scale_is_planned(project):
    jobs = project.would_run("two_bag_sizes", config=("scale=afternoon",))
    # Token trunk and decay; a bag phase, token phase and decay for each bag size.
    assert (jobs["train"], jobs["export"], jobs["compare"]) == (2 + 3 + 3, 3, 1)
    folder = project.folder / "results/train/afternoon-small/bag4-500/token-1800/decay-2000"
    assert (folder / "stage.yaml").is_file()


def test_a_new_grid_is_thinned_by_a_scale_that_knows_nothing_of_it(project):
    jobs = project.would_run("two_models", config=("scale=smoke",))
    # Two cells of the scale an axis, and one baseline; both sizes are the same model there.
    assert jobs["export"] == 2 * 2 + 1


def test_a_recipe_of_torchtitans_is_planned_from_its_name(project):
    configs, recipe = project.folder / "configs", "recipe: {module: llama3, config: llama3_debugmodel}\n"
    (configs / "models/theirs.yaml").write_text(recipe)
    scale = (configs / "scales/smoke.yaml").read_text().replace("model: cpu-tiny\n", "model: theirs\n")
    (configs / "scales/theirs.yaml").write_text(scale.replace("tasks: [heldout_continuation]", "tasks: []"))
    jobs = project.would_run("figure_3a", config=("scale=theirs",))
    assert (jobs["export"], jobs["heldout"], jobs.get("evaluate_tasks")) == (2, 2, None)
    (configs / "scales/theirs.yaml").write_text(scale)
    done = project.snakemake("-n", "figure_3a", config=("scale=theirs",))
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "configs/models/theirs.yaml the key hugging_face_config" in text, text


def test_a_size_that_the_new_scale_lacks_is_named(project):
    done = project.snakemake("-n", "figure_1", config=("scale=afternoon",))
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "size 'moe' is not defined" in text and "small" in text, text


def test_what_torchtitan_does_not_know_is_refused_before_a_job_is_planned(project):
    (project.folder / "configs/experiments/keys.yaml").write_text(
        "{title: t, shows: s, titan: {training.gc_frq: 3}, runs: {a: {}, b: {bags: [{}]}}}\n"
    )
    done = project.snakemake("-n", "keys")
    text = done.stdout + done.stderr
    says = (
        "configs/experiments/keys.yaml: run a at scale smoke: unknown key titan.training.gc_frq (did you mean"
    )
    assert done.returncode != 0 and says in text and "Traceback" not in text, text


def test_tables_and_collections_are_targets(project):
    assert project.would_run("table_12")["tables"] == 21
    jobs = project.would_run("figure_3")
    assert (jobs["compare"], jobs["figures"]) == (3, 3)
    assert project.would_run("figure_10").keys() >= {"mutual_information", "figures", "report"}


def test_the_whole_paper_is_planned(project):
    jobs = project.would_run("paper")
    assert (jobs["train"], jobs["tables"], jobs["compare"]) == (90, 25, 18)


def test_any_experiment_can_have_seeds(project):
    jobs = project.would_run("figure_3a", config=("scale=smoke", "seeds=3"))
    assert (jobs["train"], jobs["export"]) == (15, 6)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("figure_44", ["unknown target 'figure_44'", "did you mean 'figure_4'", "two_bag_sizes", "transfer"]),
        ("tabel_12", ["unknown target 'tabel_12'", "did you mean 'table_12'"]),
    ],
)
def test_an_unknown_target_lists_the_known_ones(project, target, words):
    done = project.snakemake("-n", target)
    text = done.stdout + done.stderr
    assert done.returncode != 0 and all(word in text for word in words), text


def test_on_one_machine_a_stage_has_the_gpu_to_itself(project):
    """Two stages side by side would share its memory and spoil each other's times."""
    text = project.run("-n", "figure_3a", config=("scale=gpu",)).stdout
    trained = [job for job in text.split("\nrule ") if job.startswith("train:")]
    assert trained and all("threads: 2" in job for job in trained), text
