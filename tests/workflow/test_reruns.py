"""What an edit reruns (docs/architecture.md), on a finished run of the smoke scale."""

import json
import os

import pytest

from tst_titan.compare import read_results

pytestmark = pytest.mark.slow

SCALE = "configs/scales/smoke.yaml"
EXPERIMENT = "configs/experiments/figure_3a.yaml"
AFTER_COMPARE = {"figures": 1, "page": 1, "report": 1}
EVERYTHING_OF_ONE_RUN = {"export": 1, "heldout": 1, "evaluate_tasks": 1, "compare": 1, **AFTER_COMPARE}


@pytest.fixture(scope="module")
def project(finished):
    return finished.project


@pytest.fixture
def edit(project):
    """Edit files for one test."""
    edited = []

    def change(path, old, new):
        edited.append(path)
        project.edit(path, old, new)
        # A file system may keep times by the second; an edit comes later than the results.
        future = (project.folder / path).stat().st_mtime + 5
        os.utime(project.folder / path, (future, future))

    yield change
    for path in edited:
        project.restore(path)


def test_nothing_is_done_twice(project):
    assert project.would_run() == {}


def test_the_report_is_there_with_both_runs(project):
    page = (project.folder / "results/report/smoke/figure_3a.html").read_text()
    results = read_results(project.folder / "results/compare/smoke/figure_3a")
    assert "plumbing" in page and [run.role for run in results.runs] == ["baseline", "tst"]
    for run in results.runs:
        for name in ("final_loss", "heldout_nats_per_token", "heldout_bits_per_byte"):
            assert results.value(run.name, name) is not None
        assert "accuracy/heldout_continuation" in results.metrics(run.name)
    gap = results.get("pair", "tst", "heldout.equal_flops.difference", "baseline")
    assert gap is not None and "paired over 32 held-out windows" in gap.method
    assert "Losses are those on held-out windows, measured during training" in page


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("tst_titan/report/base.html", "<title>", "<title>Edited ", {"page": 1, "report": 1}),
        ("tst_titan/compare/drawing/style.py", '"""', '"""Edited. ', AFTER_COMPARE),
        ("tst_titan/compare/arithmetic.py", '"""', '"""Edited. ', {"compare": 1, **AFTER_COMPARE}),
        (SCALE, "limit: 20", "limit: 10", {"evaluate_tasks": 2, "compare": 1, **AFTER_COMPARE}),
        (
            SCALE,
            "tasks: [heldout_continuation]",
            "tasks: [heldout_continuation, arc_easy]",
            {"fetch_tasks": 1, "evaluate_tasks": 2, "compare": 1, **AFTER_COMPARE},
        ),
        ("configs/demo.yaml", 'wandb: "off"', "comparison: {last_k: 5}", {"compare": 1, **AFTER_COMPARE}),
        (
            "configs/demo.yaml",
            'wandb: "off"',
            "export_dtype: bfloat16",
            {"export": 2, "heldout": 2, "evaluate_tasks": 2, "compare": 1, **AFTER_COMPARE},
        ),
        (EXPERIMENT, "bags: [{}]", "bags: [{bag_size: 4}]", {"train": 3, **EVERYTHING_OF_ONE_RUN}),
        (EXPERIMENT, "bags: [{}]", "bags: [{}]\n    decay_times: 2.0", {"train": 1, **EVERYTHING_OF_ONE_RUN}),
    ],
    ids=[
        "report text",
        "figure style",
        "comparison code",
        "evaluation tasks",
        "a task more",
        "comparison setting",
        "type of exported weights",
        "bag size",
        "decay length",
    ],
)
def test_an_edit_reruns_what_it_must_and_no_more(project, edit, path, old, new, expected):
    edit(path, old, new)
    assert project.would_run() == expected


def test_how_stages_run_and_the_code_of_training_rerun_nothing(project, edit):
    edit("tst_titan/titan/trainer.py", '"""', '"""Edited. ')
    edit(SCALE, "log_every: 1", "log_every: 2")
    how = "\n  ".join(["cpu_threads: 1", "processes_per_node: 2", "stop_seconds: 60", "memory_mb: 5000"])
    edit(SCALE, "cpu_threads: 1", how)
    edit("configs/demo.yaml", 'wandb: "off"', "wandb: offline")
    assert project.would_run() == {}
    runtime = (project.folder / "results/train/smoke-small/token-18/runtime.yaml").read_text()
    assert all(line in runtime for line in ("log_every: 2", "processes_per_node: 2", "wandb: offline"))


def test_a_filter_threshold_reruns_everything(project, edit):
    edit("configs/corpora/smoke.yaml", "min_chars: 200", "min_chars: 220")
    jobs = project.would_run()
    assert jobs["filter_documents"] == 1 and jobs["train"] == 5 and jobs["compare"] == 1


def test_an_edit_taken_back_reruns_nothing(project):
    project.edit(EXPERIMENT, "bags: [{}]", "bags: [{bag_size: 4}]")
    assert project.would_run()["train"] == 3
    project.restore(EXPERIMENT)
    assert project.would_run() == {}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (("scale=smok",), ["unknown scale 'smok'", "did you mean 'smoke'", "gpu"]),
        (("scal=smoke",), ["unknown key scal", "did you mean 'scale'"]),
        (("scale=smoke", "experiments=[figure_33]"), ["unknown experiment 'figure_33'", "figure_3a"]),
        (("scale=smoke", "wandb=sometimes"), ["wandb", "'sometimes'", "'offline'"]),
        (("scale=smoke", "results=my results"), ["key results: found 'my results'", "no space"]),
    ],
)
def test_a_mistake_in_the_config_is_told_before_any_job(project, config, words):
    done = project.snakemake("-n", config=config)
    text = done.stdout + done.stderr
    assert done.returncode != 0 and all(word in text for word in words), text
    assert "Traceback" not in text


def test_a_task_that_nobody_knows_is_refused_before_any_job(project, edit):
    edit(SCALE, "tasks: [heldout_continuation]", "tasks: [heldout_continuation, arc_esay]")
    done = project.snakemake("-n")
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "evaluation.tasks: found 'arc_esay' (did you mean 'arc_easy'?)" in text
    assert "Traceback" not in text


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused_before_any_job(project, edit):
    edit("configs/models/cpu-tiny.yaml", "vocab_size: 1024", "vocab_size: 1000")
    done = project.snakemake("-n")
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "vocab_size: found 1000" in text and "1024 entries" in text


def test_a_task_of_ones_own_is_fetched_and_scored_beside_the_local_one(project, edit):
    items = "".join(
        json.dumps({"context": f"def f{n}(x):", "endings": [" return x", " zzz"], "label": 0}) + "\n"
        for n in range(6)
    )
    (project.folder / "items.jsonl").write_text(items)
    local = (project.folder / "configs/tasks/heldout_continuation.yaml").read_text()
    own = local.replace("task: heldout_continuation", "task: returns") + (
        f"dataset_kwargs: {{data_files: {{test: {project.folder}/items.jsonl}}}}\n"
    )
    (project.folder / "configs/tasks/returns.yaml").write_text(own)
    edit(SCALE, "tasks: [heldout_continuation]", "tasks: [heldout_continuation, returns]")
    assert project.would_run()["fetch_tasks"] == 1
    project.run()
    fetched = json.loads((project.folder / "results/tasks/returns.json").read_text())
    assert fetched["parts"]["returns"]["items"] == 6
    scored = sorted((project.folder / "results/evaluate").rglob("tasks.json"))
    assert len(scored) == 2
    for path in scored:
        tasks = json.loads(path.read_text())["tasks"]
        assert tasks["returns"]["n"] == 6 and tasks["heldout_continuation"]["n"] == 20
    assert project.would_run() == {}
