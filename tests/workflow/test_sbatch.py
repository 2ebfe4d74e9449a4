"""What the shipped scales ask a Slurm cluster for: rules and profile together, as the executor writes it for sbatch."""

import re
import shlex
from types import SimpleNamespace

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from tests.workflow.project import ProjectCopy
from tst_titan.run.slurm import KNOWN

# Rules that run where Snakemake runs.
LOCAL = {"compare", "figures", "tables", "page", "report", "fetch_tasks", "task_items"}
DATA = "-t 720 --mem {} --nodes=1 --ntasks=1 --cpus-per-task=8"
ONE_CORE = "-t 240 --mem {} --nodes=1 --ntasks=1 --cpus-per-task=1"
EIGHT_GPUS = "-t 1440 --mem 500000 --nodes={} --cpus-per-task=64 --signal=USR1@300 --gres=gpu:8"
# By scale: of figures 1 (the mixture of experts), 4 (the smallest model) and 10 (no training at all).
EXPECTED: dict[str, dict[str, set[str]]] = {
    "paper": {
        "data_part": {DATA.format(16000)},
        "export": {ONE_CORE.format(mb) for mb in (5269, 6804, 52753)},
        "heldout": {ONE_CORE.format(mb) for mb in (17269, 18804, 64753)},
        "evaluate_tasks": {ONE_CORE.format(64753)},
        "train": {EIGHT_GPUS.format(1), EIGHT_GPUS.format("8 --ntasks=8")},
    },
    "gpu": {
        "export": {ONE_CORE.format(mb) for mb in (4285, 4545, 4629)},
        "heldout": {ONE_CORE.format(mb) for mb in (16285, 16545, 16629)},
        "evaluate_tasks": {ONE_CORE.format(16545)},
        "local_task": {ONE_CORE.format(8000)},
        "train": {"-t 120 --mem 64000 --nodes=1 --cpus-per-task=64 --signal=USR1@300 --gres=gpu:1"},
    },
    "cpu": {
        "export": {ONE_CORE.format(mb) for mb in (4001, 4003, 4004)},
        "heldout": {ONE_CORE.format(mb) for mb in (16001, 16003, 16004)},
        "evaluate_tasks": {ONE_CORE.format(16004)},
        "local_task": {ONE_CORE.format(8000)},
        "train": {"-t 120 --mem 4000 --nodes=1 --ntasks=1 --cpus-per-task=1 --signal=USR1@300"},
    },
}
EVERYWHERE = {
    **{
        rule: {DATA.format(16000)}
        for rule in ("filter_documents", "split_documents", "make_tokenizer", "tokenize", "data_manifest")
    },
    "deduplicate_documents": {DATA.format(32000)},
    "mutual_information": {ONE_CORE.format(8000)},
}


def jobs(text):
    """(rule, threads, resources) of every job that a dry run prints."""
    for job in text.split("\nrule ")[1:]:
        found = re.search(r"^    resources: (.*)$", job, re.MULTILINE)
        threads = re.search(r"^    threads: (\d+)$", job, re.MULTILINE)
        values = dict(word.split("=", 1) for word in found.group(1).split(", ")) if found else {}
        yield job.split(":")[0], int(threads.group(1)) if threads else 1, values


def sbatch(threads, values):
    """The options of sbatch that the executor makes of a job's resources."""
    typed = {name: int(value) if value.isdigit() else value for name, value in values.items()}
    resources = SimpleNamespace(**typed, get=typed.get, keys=typed.keys)
    job = SimpleNamespace(resources=resources, threads=threads)
    settings = SimpleNamespace(requeue=False, no_requeue=False, qos=None, reservation=None)
    account = f"-A {typed['slurm_account']}" if "slurm_account" in typed else ""
    partition = f"-p {typed['slurm_partition']}" if "slurm_partition" in typed else ""
    given = {"account": account, "partition": partition, "workdir": ""}
    params = given | {"run_uuid": "run", "slurm_logfile": "log", "comment_str": "rule"}
    words = shlex.split(get_submit_command(job, params, settings=settings) + set_gres_string(job))
    return " ".join(words[words.index("rule") + 1 :])


def requests(project, *targets, config):
    """What the jobs of targets ask for, by rule; on a cluster with nodes of 64 cores."""
    found: dict[str, set[str]] = {}
    done = project.run("-n", "--profile", "slurm", "--cores", "64", *targets, config=config)
    for rule, threads, values in jobs(done.stdout):
        assert values.keys() <= KNOWN, rule  # the check before submission refuses any other
        if rule not in LOCAL | set(targets):
            found.setdefault(rule, set()).add(sbatch(threads, values))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return ProjectCopy.make(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("scale", EXPECTED)
def test_the_shipped_scales_ask_for_what_they_always_did(project, scale):
    targets = ("figure_1", "figure_10", "figure_4")
    found = requests(project, *targets, config=(f"scale={scale}",))
    assert found == EVERYWHERE | EXPECTED[scale]


def test_the_profile_holds_the_site_and_the_scale_the_stages_size(tmp_path):
    """Words of docs/slurm.md: what they change on sbatch's command line."""
    project = ProjectCopy.make(tmp_path)
    profile = project.folder / "workflow/profiles/slurm/config.yaml"
    site = yaml.safe_load(profile.read_text())
    site["default-resources"] |= {"slurm_account": "mine", "slurm_partition": "cpu"}
    site["set-resources"] = {
        "train": {"slurm_partition": "'large' if wildcards.recipe == 'paper-moe' else 'gpu'", "qos": "long"},
        "heldout": {"slurm_partition": "gpu", "gres": "gpu:1", "slurm_extra": "'--exclusive'"},
    }
    site["set-threads"] = {"heldout": 4}
    profile.write_text(yaml.safe_dump(site))
    small = "      gpus_per_node: 8\n"
    project.edit("configs/scales/paper.yaml", small, small + "      gpu_type: h100\n      stop_seconds: 60\n")
    found = requests(project, "figure_1", "figure_3a", config=("scale=paper",))
    assert found["make_tokenizer"] == {f"-A mine -p cpu {DATA.format(16000)}"}
    assert found["heldout"] == {
        "-A mine -p gpu -t 240 --mem 64753 --nodes=1 --cpus-per-task=4 --exclusive --gres=gpu:1",
        "-A mine -p gpu -t 240 --mem 32688 --nodes=1 --cpus-per-task=4 --exclusive --gres=gpu:1",
    }
    stage = "-t 1440 --qos=long --mem 500000 --nodes=8 --ntasks=8 --cpus-per-task=64 --signal=USR1@60 --gres=gpu:h100:8"
    assert found["train"] == {f"-A mine -p {partition} {stage}" for partition in ("gpu", "large")}


def test_an_old_site_file_is_refused_with_its_new_place(tmp_path):
    project = ProjectCopy.make(tmp_path)
    (project.folder / "configs/site.yaml").write_text("all: {partition: gpu}\n")
    done = project.snakemake("-n")
    assert done.returncode != 0 and "workflow/profiles/slurm/config.yaml" in done.stdout
