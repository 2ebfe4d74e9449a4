"""configs/site.yaml: what wins, what is refused, and the sbatch command that comes of it."""

import shlex
from types import SimpleNamespace

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from tests.workflow.project import REPOSITORY
from tst_titan.config.schema import RuntimeConfig
from tst_titan.errors import UserError
from tst_titan.run.cluster.resources import resources
from tst_titan.run.cluster.scratch import check_scratch
from tst_titan.run.cluster.site import JobRequest, SiteConfig
from tst_titan.tree.project import Project

NEEDED = {"cpus": 1, "memory_mb": 1000, "wall_minutes": 60}
EIGHT = RuntimeConfig(
    processes_per_node=8, gpus_per_node=8, cpus_per_node=64, memory_mb=500000, wall_minutes=1440
)


def _site(tmp_path, text):
    """A site of what the text says and, for all kinds, what no job may leave out."""
    content = yaml.safe_load(text)
    kinds = content.setdefault("kinds", {})
    for kind in ("data", "deduplicate", "evaluate", "small"):
        kinds[kind] = NEEDED | kinds.get(kind, {})
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    return SiteConfig.read(tmp_path / "site.yaml")


def _sbatch(request, **options):
    """The words of the sbatch command that the executor makes of a request."""
    values = {name: value for name, value in resources(request, **options).items() if value is not None}
    resource_list = SimpleNamespace(**values, get=values.get, keys=values.keys)
    job = SimpleNamespace(resources=resource_list, threads=request.cpus)
    settings = SimpleNamespace(requeue=False, no_requeue=True, qos=None, reservation=None)
    partition = f"-p {request.partition}" if request.partition else ""
    params = {"run_uuid": "run", "slurm_logfile": "log", "comment_str": "rule", "account": "", "workdir": "."}
    command = get_submit_command(job, params | {"partition": partition}, settings=settings)
    return shlex.split(command + set_gres_string(job))


def test_the_most_special_value_wins(tmp_path):
    site = _site(
        tmp_path,
        "all: {partition: any, account: a}\n"
        "kinds: {train: {partition: gpu, qos: normal}}\n"
        "scales: {paper: {train: {qos: long}}}\n"
        "stages: {'paper-*': {constraint: fast}, '*/bag6-6000': {partition: special}}\n",
    )
    assert site.request("data", "paper") == JobRequest(partition="any", account="a", **NEEDED)
    request = site.stage_request("paper-small/bag6-6000", "paper")
    expected = {"partition": "special", "account": "a", "qos": "long", "constraint": "fast"}
    assert request.model_dump(exclude_none=True) == expected
    assert site.stage_request("cpu-small/token-5", "cpu").partition == "gpu"


def test_the_site_changes_how_a_stage_runs(tmp_path):
    site = _site(tmp_path, "stages: {'paper-moe/*': {nodes: 16, gpus: 4, wall_minutes: 60}}")
    runtime = site.runtime(EIGHT, "paper-moe/bag16-12483", "paper")
    assert (runtime.nodes, runtime.gpus_per_node, runtime.processes_per_node) == (16, 4, 4)
    assert runtime.world_size == 64 and runtime.wall_minutes == 60 and runtime.memory_mb == EIGHT.memory_mb
    assert site.runtime(EIGHT, "paper-small/token-5", "paper") == EIGHT


def test_gpus_zero_trains_on_cpus(tmp_path):
    runtime = _site(tmp_path, "kinds: {train: {gpus: 0}}").runtime(EIGHT, "a/token-1", "paper")
    assert runtime.gpus_per_node == 0 and runtime.processes_per_node == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kinds: {train: {partitions: gpu}}", ["kinds.train.partitions", "did you mean 'partition'"]),
        ("kinds: {training: {partition: gpu}}", ["training", "'train'"]),
        ("all: {memory_mb: 5}", ["all.memory_mb: found 5", "by kind"]),
        ("kinds: {data: {nodes: 2}}", ["kinds.data.nodes: found 2", "only train"]),
        ("kinds: {data: {wall_minutes: 2h}}", ["wall_minutes"]),
        ("kinds: {data: {partition: 'gpu other'}}", ["partition", "gpu other"]),
    ],
)
def test_mistakes_are_told(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        _site(tmp_path, text)
    assert all(word in str(error.value) for word in ["site.yaml", *words]), str(error.value)


def test_a_kind_without_wall_time_is_refused(tmp_path):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"kinds": {"data": {"cpus": 1, "memory_mb": 1}}}))
    with pytest.raises(UserError, match=r"missing key kinds\.data\.wall_minutes"):
        SiteConfig.read(tmp_path / "site.yaml")


def test_scratch_that_cannot_be_written_is_refused_unless_only_nodes_have_it(tmp_path):
    check_scratch(JobRequest(scratch=str(tmp_path / "new")), "site.yaml")
    with pytest.raises(UserError, match="key scratch: found /proc/x"):
        check_scratch(JobRequest(scratch="/proc/x"), "site.yaml")
    check_scratch(JobRequest(scratch="/proc/x", scratch_on_nodes_only=True), "site.yaml")
    check_scratch(JobRequest(scratch="/proc/$A_VARIABLE_OF_THE_NODES"), "site.yaml")


def test_one_node_of_eight_gpus_is_one_task_that_sees_all():
    words = _sbatch(
        JobRequest(partition="gpu", gpus=8, gpu_type="h100", cpus=64, memory_mb=9, wall_minutes=60)
    )
    assert "--gres=gpu:h100:8" in words and "--nodes=1" in words and "--cpus-per-task=64" in words
    assert not any(word.startswith(("--ntasks", "--gpus", "--requeue")) for word in words)
    assert "--no-requeue" in words and words[words.index("-p") + 1] == "gpu"


def test_eight_nodes_are_eight_tasks_not_sixty_four():
    request = JobRequest(nodes=8, gpus=8, cpus=64, wall_minutes=60, stop_seconds=300, options="--exclusive")
    words = _sbatch(request, stops_on_signal=True)
    assert "--nodes=8" in words and "--ntasks=8" in words and "--gres=gpu:8" in words
    assert "--signal=USR1@300" in words and "--exclusive" in words
    assert not any("per-gpu" in word or "per-node" in word for word in words)


def test_a_job_without_gpus_is_one_task():
    words = _sbatch(JobRequest(cpus=8, memory_mb=16000, wall_minutes=720))
    assert "--ntasks=1" in words and words[words.index("-t") + 1] == "720" and "--mem" in words
    assert not any("gres" in word or "signal" in word for word in words)


@pytest.mark.parametrize(("size", "nodes"), [("small", 1), ("moe", 8)], ids=["270M", "10B-A1B"])
def test_the_papers_models_ask_for_sane_nodes(size, nodes):
    scale = yaml.safe_load((REPOSITORY / "configs/scales/paper.yaml").read_text())
    runtime = RuntimeConfig.model_validate(scale["sizes"][size]["runtime"])
    request = SiteConfig.read(REPOSITORY / "configs/site.yaml").train_request(
        runtime, f"paper-{size}/token-1", "paper"
    )
    assert (request.nodes, request.gpus) == (nodes, 8) and request.stop_seconds == 300


def test_every_kind_of_the_shipped_site_is_whole():
    project = Project.open(REPOSITORY, {"experiments": ["figure_3a"], "scale": "cpu"})
    for kind in ("data", "deduplicate", "evaluate", "small"):
        assert project.request(kind).wall_minutes
