"""What sinfo says, and what is refused because of it."""

import pytest

from tst_titan.errors import UserError
from tst_titan.run.slurm import Demand, check, check_scratch, cluster_nodes, parse_nodes

# A site with a default CPU partition, two kinds of GPU nodes and a long queue.
SINFO = [
    "cpu|cpu*|1-00:00:00|40|64|256000|(null)",
    "gpu|gpu|2-00:00:00|10|96|1000000|gpu:h100:8(S:0-1)",
    "gpu|gpu|2-00:00:00|4|64|500000|gpu:a100:4(S:0-1),nvme:1",
    "old|old|infinite|2|16|64000|gpu:2",
]
NODES = [parse_nodes(line) for line in SINFO]


def _demand(**resources):
    return Demand.of("train x", resources.pop("threads", 1), {"runtime": 60, "mem_mb": 1000} | resources)


def _refusal(*demands, nodes=NODES):
    with pytest.raises(UserError) as error:
        check(demands, nodes)
    return str(error.value)


def test_sinfo_is_understood():
    assert [nodes.gpus for nodes in NODES] == [{}, {"h100": 8}, {"a100": 4}, {"": 2}]
    assert [nodes.minutes for nodes in NODES] == [1440, 2880, 2880, None]
    assert [nodes.is_default for nodes in NODES] == [True, False, False, False]


@pytest.mark.parametrize(
    ("limit", "minutes"), [("30:00", 30), ("1:30:00", 90), ("2-12:00:00", 3600), ("45", 0)]
)
def test_time_limits(limit, minutes):
    assert parse_nodes(f"a|a|{limit}|1|1|1|(null)").minutes == minutes


@pytest.mark.parametrize(
    "resources",
    [
        {},
        {
            "slurm_partition": "gpu",
            "gres": "gpu:8",
            "nodes": 10,
            "threads": 96,
            "mem_mb": 1000000,
            "runtime": 2880,
        },
        {"slurm_partition": "gpu", "gres": "gpu:a100:4"},
        {"slurm_partition": "old", "gres": "gpu:2", "runtime": 10**6},
        {"slurm_partition": "cpu,gpu", "gres": "gpu:8"},
    ],
)
def test_what_the_site_has_is_accepted(resources):
    check([_demand(**resources)], NODES)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"slurm_partition": "gpus"}, ["slurm_partition: found 'gpus'", "cpu, gpu, old"]),
        ({"gres": "gpu:1"}, ["gres: found 1 GPUs", "partition cpu", "at most: none"]),
        ({"slurm_partition": "gpu", "gres": "gpu:16"}, ["gres: found 16 GPUs", "8 h100", "4 a100"]),
        ({"slurm_partition": "gpu", "gres": "gpu:a100:8"}, ["gres: found 8 GPUs", "4 a100"]),
        ({"slurm_partition": "gpu", "gres": "gpu:b200:8"}, ["gres: found GPUs of type 'b200'", "8 h100"]),
        ({"runtime": 1441}, ["runtime: found 1441", "partition cpu allows 1440", "several jobs"]),
        ({"threads": 65}, ["threads: found 65", "64 cores"]),
        ({"mem_mb": 300000}, ["mem_mb: found 300000", "256000 MB"]),
        ({"slurm_partition": "old", "nodes": 8}, ["nodes: found 8", "partition old has 2"]),
        ({"slurm_partiton": "gpu"}, ["'slurm_partiton' is unknown", "did you mean 'slurm_partition'"]),
    ],
)
def test_what_it_lacks_is_refused_with_its_own_values(resources, words):
    message = _refusal(_demand(**resources))
    assert all(word in message for word in ["profiles/slurm", "train x", *words]), message


def test_no_default_partition():
    message = _refusal(_demand(), nodes=NODES[1:])
    assert "slurm_partition: missing" in message and "gpu, old" in message


def test_a_mistake_of_many_jobs_is_told_once():
    assert len(_refusal(*[_demand(gres="gpu:1")] * 50).splitlines()) == 1 + 1  # and where to change it


def test_a_machine_without_slurm(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="login node"):
        cluster_nodes()


def test_scratch_that_is_here_and_cannot_be_written_is_refused(tmp_path):
    check_scratch(str(tmp_path))
    check_scratch("/only/the/nodes/have/it")
    check_scratch("system_tmpdir")
    with pytest.raises(UserError, match="tmpdir: found /proc; cannot write"):
        check_scratch("/proc")
