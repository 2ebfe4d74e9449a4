"""Short real trainings give the pinned losses and gradient norms: to the last bit, where the processor is the same.

``python -m tests.titan.test_golden`` pins them anew; only a change that is meant to change training may do that.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages import DENSE, MOE, Tree
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.titan.job import Job  # noqa: E402
from tst_titan.titan.train import one_process_defaults  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "training.json"
BAG = {"bag_size": 4}
# Model, and the superposition of the bag stage; the token stage after it is plain.
CHAINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dense": (DENSE, BAG),
    "experts": (MOE, BAG),
    "dense-input_only": (DENSE, {**BAG, "sides": "input_only"}),
    "dense-output_only-power": (DENSE, {**BAG, "sides": "output_only", "weights": "power"}),
    "dense-mutual_information": (DENSE, {"bag_size": 5, "weights": "mutual_information"}),
    "dense-list": (DENSE, {**BAG, "weights": (3.0, 1.0, 0.0, 1.0)}),
    "dense-mce_alt": (DENSE, {**BAG, "loss": "mce_alt"}),
    "dense-hinge": (DENSE, {**BAG, "loss": "hinge"}),
    "dense-bce": (DENSE, {**BAG, "loss": "bce"}),
    "dense-more_sequences": (DENSE, {**BAG, "feeding": "more_sequences"}),
}


@contextmanager
def one_process() -> Iterator[None]:
    """What torchtitan's trainer needs to train here, on one thread and with deterministic kernels."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    had = set(os.environ)
    one_process_defaults()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        for name in set(os.environ) - had:
            del os.environ[name]


def trained(results: Path, name: str) -> list[list[float]]:
    """Loss and gradient norm of every step of a chain."""
    model, superposition = CHAINS[name]
    tree = Tree.make(results, model=model, recipe=name)
    bag = tree.stage(f"bag{superposition['bag_size']}-3", superposition=superposition)
    token = tree.stage(f"{bag.lineage}/token-6")
    parent = {"checkpoint": "checkpoint/bag/step-3", "data_tokens": 0, "flops": 0.0}
    for job in (Job(bag, "bag", None, "test"), Job(token, "token", parent, "test")):
        trainer = job.trainer_config().build()
        trainer.train()
        trainer.close()
    lines = [json.loads(line) for folder in (bag, token) for line in folder.metrics_path.open()]
    assert [line["step"] for line in lines] == [*range(1, 7)]
    return [[line["loss"], line["grad_norm"]] for line in lines]


def processor() -> str:
    """What the last bit depends on besides the code."""
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    with one_process():
        yield tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", CHAINS)
def test_training_gives_the_same_numbers(results, name):
    golden = json.loads(GOLDEN.read_text())
    found, expected = trained(results, name), golden["chains"][name]
    if processor() == golden["processor"]:
        assert found == expected
    else:
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


if __name__ == "__main__":
    with one_process(), tempfile.TemporaryDirectory() as folder:
        chains = {name: trained(Path(folder), name) for name in CHAINS}
    rows = ",\n".join(f'  "{name}": {json.dumps(steps)}' for name, steps in chains.items())
    GOLDEN.write_text(f'{{"processor": "{processor()}", "chains": {{\n{rows}\n}}}}\n')
    sys.exit()
