"""`snakemake --profile slurm` on a real Slurm of two nodes: `make test-slurm`, not part of `make test`."""

import json
import re
import shutil

import pytest
import torch

from tests.slurm.runs import SlurmProject, curve, jobs_of, last_step, until
from tests.stages import final_tensors
from tests.workflow.project import ProjectCopy
from tst_titan.tree.folder import StageFolder

pytestmark = pytest.mark.slurm

LONG_BAG, LONG_TOKEN = "bag2-1000", "token-3600"


@pytest.fixture(scope="module")
def demo(cluster, tmp_path_factory):
    """The smoke-scale demo, its stages with both GPUs of a node."""
    project = SlurmProject.make(tmp_path_factory.mktemp("demo") / "project", cluster)
    project.runtime(processes_per_node=2, gpus_per_node=2, cpus_per_node=1)
    return project, project.run()


def test_the_demo_ends_with_its_report_and_nothing_is_left_to_do(demo):
    project, _ = demo
    assert (project.folder / "results/report/index.html").is_file()
    assert "Nothing to be done" in project.run()
    comments = [job["comment"] for job in project.cluster.jobs()]
    assert sum(comment.startswith("rule_train") for comment in comments) == 5
    # Light rules are no jobs.
    assert not any(
        comment.startswith(("rule_compare", "rule_report", "rule_figures")) for comment in comments
    )


def test_the_terminal_names_every_job_and_shows_progress(demo):
    project, text = demo
    trained = json.loads((project.stage("token-18") / "logs/jobs.jsonl").read_text())
    assert f"submitted with SLURM jobid {trained['slurm_job']} " in text
    assert re.search(r"smoke-small token-18  (running|finished)  step \d+/18  loss \d", text)


def test_gpus_are_requested_as_configured_and_one_task_sees_them_all(demo):
    project, _ = demo
    stage = project.stage("token-18/decay-20")
    (job,) = jobs_of(stage)
    shown = project.cluster.run("scontrol", "show", "job", job["slurm_job"]).stdout
    assert "TresPerNode=gres:gpu:2" in shown or "TresPerNode=gres/gpu:2" in shown, shown
    assert "NumTasks=1" in shown
    for rank in (0, 1):
        assert "GPUs 0,1" in (stage / f"logs/rank{rank}.log").read_text().splitlines()[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A project with the smoke corpus, made without Slurm."""
    project = ProjectCopy.make(tmp_path_factory.mktemp("corpus") / "project")
    project.run("results/data/smoke/manifest.json")
    return project


@pytest.fixture
def project(cluster, corpus, tmp_path):
    """A new project with that corpus."""
    return _with_corpus(cluster, corpus, tmp_path / "project")


def test_two_nodes_give_the_losses_of_one(project):
    lineages = ("bag2-5", "bag2-5/token-18")
    shutil.copytree(project.folder / "results", project.folder / "two", copy_function=shutil.copy2)
    project.copy.run(f"results/train/smoke-small/{lineages[1]}/manifest.json")
    project.runtime(nodes=2, gpus_per_node=1)
    project.run(f"two/train/smoke-small/{lineages[1]}/manifest.json", config=("scale=smoke", "results=two"))
    for lineage in lineages:
        one, two = (project.stage(lineage, results) for results in ("results", "two"))
        assert json.loads((two / "manifest.json").read_text())["world_size"] == 2
        for (step, loss, _), (same, expected, _) in zip(curve(two), curve(one), strict=True):
            assert step == same and loss == pytest.approx(expected, abs=2e-5)
        logs = [(two / f"logs/rank{rank}.log").read_text() for rank in (0, 1)]
        assert {log.split("on node ")[1].split(",")[0] for log in logs} == {"n1", "n2"}


@pytest.fixture(scope="module")
def long_stages(cluster, corpus, tmp_path_factory):
    """A project with stages of up to a minute, and the same ones trained without any disturbance."""
    project = _with_corpus(cluster, corpus, tmp_path_factory.mktemp("long") / "project")
    often = {"checkpoint_every": 100, "log_every": 10}
    project.scale("long", {"steps": {"short": 4000}}, allow_repeat=True, runtime=often)
    shutil.copytree(project.folder / "results", project.folder / "calm", copy_function=shutil.copy2)
    targets = [f"calm/train/long-small/{lineage}/manifest.json" for lineage in (LONG_BAG, LONG_TOKEN)]
    project.copy.run(*targets, config=("scale=long", "results=calm"))
    return project


def test_a_stopped_job_a_dead_node_and_a_time_limit_change_no_bit(long_stages):
    project, cluster = long_stages, long_stages.cluster
    # One stage may run for three fifths of its time at once: it needs several jobs. The other is disturbed.
    project.site({"train": _time_for(project.folder / "calm", 0.6)})
    targets = [f"results/train/long-small/{lineage}/manifest.json" for lineage in (LONG_BAG, LONG_TOKEN)]
    running = project.start(*targets, config=("scale=long",))
    bag = project.folder / "results/train/long-small" / LONG_BAG

    first = until(lambda: last_step(bag) >= 200 and _job_of(cluster, LONG_BAG), "step 200", running)
    cluster.run("scancel", "--signal=USR1", first["id"])
    second = until(lambda: _job_of(cluster, LONG_BAG, but=first["id"]), "a second job", running)
    until(lambda: last_step(bag) >= 600, "step 600", running)
    cluster.kill_node(second["nodes"])
    until(lambda: _state_of(cluster, second["id"]) == "NODE_FAIL", "the end of the node's job", running)
    cluster.start_node(second["nodes"])
    assert running.wait() == 0, running.text

    stopped, died, done = jobs_of(bag)
    assert (stopped["status"], died["status"], done["status"]) == (85, None, 0)
    assert stopped["to_step"] >= 200 and died["from_step"] == stopped["to_step"]
    token = project.folder / "results/train/long-small" / LONG_TOKEN
    ends = [job["status"] for job in jobs_of(token)]
    assert len(ends) >= 2 and set(ends[:-1]) == {85} and ends[-1] == 0, jobs_of(token)
    for disturbed in (bag, token):
        calm = project.folder / "calm/train" / disturbed.relative_to(project.folder / "results/train")
        assert curve(disturbed) == curve(calm)
        found, expected = (final_tensors(StageFolder.at(path)) for path in (disturbed, calm))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_ctrl_c_cancels_the_jobs(long_stages):
    project, cluster = long_stages, long_stages.cluster
    project.site()
    target = f"interrupted/train/long-small/{LONG_TOKEN}/manifest.json"
    shutil.copytree(
        project.folder / "results/data", project.folder / "interrupted/data", copy_function=shutil.copy2
    )
    running = project.start(target, config=("scale=long", "results=interrupted"))
    stage = project.folder / "interrupted/train/long-small" / LONG_TOKEN
    before = {job["id"] for job in cluster.jobs()}
    until(lambda: last_step(stage) >= 20, "training", running)
    running.interrupt()
    assert running.wait(90) != 0
    (job,) = (job for job in cluster.jobs() if job["id"] not in before)
    until(lambda: _state_of(cluster, job["id"]) == "CANCELLED", "the end of the job")
    # Cancelling asks for a checkpoint as well.
    until(lambda: jobs_of(stage), "the stage's own word")
    assert jobs_of(stage)[-1]["status"] == 85


def test_a_failing_job_says_why_on_the_terminal_and_is_not_trained_a_third_time(project):
    project.scale("diverging", {"learning_rate": 1e30, "warmup_steps": 0}, max_gradient_norm=1e9)
    running = project.start(
        "results/train/diverging-small/bag2-5/manifest.json", "--retries", "2", config=("scale=diverging",)
    )
    assert running.wait() != 0
    assert "not finite" in running.text and "Try a lower learning rate" in running.text
    assert (
        "training died 2 times after step 0" in running.text and "type the same command again" in running.text
    )
    stage = project.folder / "results/train/diverging-small/bag2-5"
    assert len(jobs_of(stage)) == 2
    log = (stage / "logs/train.log").read_text()
    assert log.count("not finite") == 2 and "training died 2 times" in log


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"slurm_partition": "gpus"}, ["slurm_partition: found 'gpus'", "main, short"]),
        ({"rules": {"train": {"gres": "gpu:4"}}}, ["gres: found 4 GPUs", "partition main", "at most: 2"]),
        (
            {"rules": {"train": {"slurm_partition": "short", "runtime": 30}}},
            ["runtime: found 30 minutes", "partition short allows 2"],
        ),
        ({"tmpdir": "/proc"}, ["tmpdir: found /proc", "cannot write"]),
        ({"slurm_partiton": "main"}, ["'slurm_partiton' is unknown", "did you mean 'slurm_partition'"]),
    ],
    ids=["partition", "gpus", "wall time", "scratch", "spelling"],
)
def test_what_the_site_cannot_give_is_refused_before_any_job(project, site, words):
    cluster = project.cluster
    project.site(**site)
    before = len(cluster.jobs())
    running = project.start()
    assert running.wait(60) != 0
    assert all(word in running.text for word in ["profiles/slurm/config.yaml", *words]), running.text
    assert "Traceback" not in running.text
    assert len(cluster.jobs()) == before


def test_no_partition_and_no_default_is_refused(project):
    cluster = project.cluster
    project.site()
    cluster.configure(default_partition=False)
    try:
        running = project.start()
        assert running.wait(60) != 0
        assert "slurm_partition: missing" in running.text and "main, short" in running.text
    finally:
        cluster.configure(default_partition=True)


def _with_corpus(cluster, corpus, folder):
    project = SlurmProject.make(folder, cluster)
    shutil.copytree(corpus.folder / "results/data", folder / "results/data", copy_function=shutil.copy2)
    return project


def _time_for(calm, share):
    """A wall time in whole minutes for the one stage, and such last seconds that it is asked to stop after a share."""
    (job,) = jobs_of(calm / "train/long-small" / LONG_TOKEN)
    seconds = max(round(share * job["seconds"]), 20)
    minutes = seconds // 60 + 1
    mine = f"wildcards.lineage == '{LONG_TOKEN}'"
    return {
        "runtime": f"{minutes} if {mine} else 10",
        "slurm_extra": f"'--signal=USR1@' + ('{60 * minutes - seconds}' if {mine} else '20')",
    }


def _job_of(cluster, lineage, but=None):
    """The running job of a stage, other than one."""
    for job in cluster.jobs():
        ours = "rule_train" in job["comment"] and job["comment"].endswith(lineage.replace("/", "_"))
        if ours and job["state"] == "RUNNING" and job["id"] != but:
            return job
    return None


def _state_of(cluster, job):
    return next(found["state"] for found in cluster.jobs() if found["id"] == job)
