"""What sinfo says, and what is refused because of it."""

import pytest

from tst_titan.errors import UserError
from tst_titan.run.cluster.slurm import Demand, check, cluster_nodes, parse_nodes

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
        check(demands, nodes, "configs/site.yaml")
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
    check([_demand(**resources)], NODES, "configs/site.yaml")


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"slurm_partition": "gpus"}, ["partition: found 'gpus'", "cpu, gpu, old"]),
        ({"gres": "gpu:1"}, ["gpus: found 1", "partition cpu", "at most: none"]),
        ({"slurm_partition": "gpu", "gres": "gpu:16"}, ["gpus: found 16", "8 h100", "4 a100"]),
        ({"slurm_partition": "gpu", "gres": "gpu:a100:8"}, ["gpus: found 8", "4 a100"]),
        ({"slurm_partition": "gpu", "gres": "gpu:b200:8"}, ["gpu_type: found 'b200'", "8 h100"]),
        ({"runtime": 1441}, ["wall_minutes: found 1441", "partition cpu allows 1440", "several jobs"]),
        ({"threads": 65}, ["cpus: found 65", "64 cores"]),
        ({"mem_mb": 300000}, ["memory_mb: found 300000", "256000 MB"]),
        ({"slurm_partition": "old", "nodes": 8}, ["nodes: found 8", "partition old has 2"]),
    ],
)
def test_what_it_lacks_is_refused_with_its_own_values(resources, words):
    message = _refusal(_demand(**resources))
    assert all(word in message for word in ["configs/site.yaml", "train x", *words]), message


def test_no_default_partition():
    message = _refusal(_demand(), nodes=NODES[1:])
    assert "key partition: missing" in message and "gpu, old" in message


def test_a_mistake_of_many_jobs_is_told_once():
    assert len(_refusal(*[_demand(gres="gpu:1")] * 50).splitlines()) == 1


def test_a_machine_without_slurm(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="login node"):
        cluster_nodes()
