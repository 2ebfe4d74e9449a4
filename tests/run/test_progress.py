"""What a person sees on the terminal while the workflow runs, through real calls of Snakemake."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.project import REPOSITORY

SNAKEFILE = """
import logging
from snakemake.logging import logger
from tst_titan.errors import UserError
from tst_titan.run.progress import Terminal

default = next(h for h in logger.handlers if isinstance(h, logging.StreamHandler))
if workflow.is_main_process:
    logger.removeHandler(default)
    TERMINAL = Terminal(default, brief=True)
    TERMINAL.flops = {"a/token-1": 3e9, "a/token-1/decay-2": 1e9}
    logger.addHandler(TERMINAL)

rule both:
    input: "a/token-1/decay-2.done", "broken.txt"

rule train:
    input: lambda w: [f"{w.recipe}/token-1.done"] if "/" in w.lineage else []
    output: "{recipe}/{lineage}.done"
    wildcard_constraints: lineage="token.*"
    shell: "sleep 0.1; touch {output}"

rule make_noise:
    output: "broken.txt"
    log: "noise.log"
    shell: "echo 'key s: found 0; must be at least 1' > {log}; exit 2"

def refuse(wildcards):
    raise UserError("key t: found x")

rule refused:
    input: refuse
    output: "refused.txt"
    shell: "touch {output}"

if config.get("mistake"):
    raise WorkflowError("config: key mistake: found 1")
"""


@pytest.fixture
def snakemake(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)

    def run(*arguments):
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "1",
            "--workflow-profile",
            "none",
            *arguments,
        ]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr

    return run


def test_steps_are_told_in_words_with_the_training_time_left(snakemake, tmp_path):
    status, text = snakemake("a/token-1/decay-2.done")
    assert status == 0
    assert "2 steps to do, 2 stages to train" in text
    assert re.search(r"\[0:0\d\] 1 of 2 done: train a token-1; about 0:0\d of training left", text), text
    assert re.search(r"\[0:0\d\] 2 of 2 done: train a token-1/decay-2\n", text), text
    assert "output:" not in text and "jobid" not in text
    log = re.search(r"Snakemake's log of this run: (.*)", text)
    assert log and "output: a/token-1.done" in Path(log.group(1)).read_text()


def test_a_failed_step_shows_the_end_of_its_log_and_no_python(snakemake):
    status, text = snakemake("broken.txt")
    assert status == 1
    assert "failed: make noise; see noise.log\n    key s: found 0; must be at least 1" in text
    assert "Error" not in text and "Exception" not in text and "shell:" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["both", "--config", "mistake=1"], "config: key mistake: found 1"),
        (["refused.txt"], "key t: found x"),
    ],
)
def test_a_mistake_is_a_sentence_and_no_place_in_the_workflow(snakemake, arguments, words):
    status, text = snakemake(*arguments)
    assert status == 1 and words in text.splitlines()
    assert "Error" not in text and "line " not in text
