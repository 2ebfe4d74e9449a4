"""Ask torchtitan about the keys and parameter names that a recipe names, before any job is planned.

It takes seconds to import, and only the room of training may: a process of its own does, where there is need.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from tst_titan.errors import UserError
from tst_titan.tree.resolve import Experiment


def questions(experiment: Experiment, scale: str) -> list[dict[str, Any]]:
    """What torchtitan must be asked about the runs of an experiment; nothing for most.

    Args:
        experiment: resolved.
        scale: its name, for errors.
    """
    asked: dict[str, dict[str, Any]] = {}
    for run in experiment.runs:
        config, runtime = (
            run.stages[-1].config,
            run.stages[-1].runtime,
        )  # all stages of a run have the same options
        optimizer = config.optimizer
        if not (config.titan or runtime.titan or optimizer.no_decay or optimizer.groups):
            continue
        stage = config.model_dump(mode="json")
        key = json.dumps([stage["model"], stage["optimizer"], config.titan, runtime.titan])
        where = f"configs/experiments/{experiment.name}.yaml: run {run.name} at scale {scale}"
        question = {"where": where, "stage": stage, "runtime": runtime.model_dump(mode="json")}
        asked.setdefault(key, question)
    return list(asked.values())


def mistakes(asked: Iterable[dict[str, Any]]) -> list[str]:
    """A sentence for every mistake; none is looked for where torchtitan is not installed: the job will."""
    asked = list(asked)
    if not asked or find_spec("torchtitan") is None:
        return []
    command = [sys.executable, "-m", "tst_titan.titan.check"]
    done = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def refuse_wrong_recipes(experiments: Iterable[Experiment], scale: str) -> None:
    """Check the runs of experiments.

    Raises:
        UserError: with every mistake.
    """
    found = mistakes(question for experiment in experiments for question in questions(experiment, scale))
    if found:
        raise UserError("\n".join(found))
