"""Runs that another trainer made: a folder with manifest.json and metrics.jsonl, read as the stages of a run.

``metrics.jsonl`` has one line a logged step (`stages.Line`), everything counted from the start of the run; the run's
phases follow from its lines. ``manifest.json`` says what the lines cannot (`Elsewhere`), by the names of a stage's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tst_titan.compare.stages import Line, Stage, as_frame, read_lines
from tst_titan.config.load import parse
from tst_titan.config.strict import PositiveInt, Strict
from tst_titan.files import read_object

FILES = ("manifest.json", "metrics.jsonl")


class Parameters(Strict):
    """Of the model."""

    total: PositiveInt = Field(description="all parameters, each counted once, embedding and head included")


class Machine(Strict):
    """What the run was trained on."""

    device: str = Field(description="e.g. NVIDIA H100; times of other devices are not compared")
    host: str | None = None


class Elsewhere(Strict):
    """manifest.json of a run made elsewhere."""

    format: Literal[1]
    made_by: str = Field(description="trainer and version, for people")
    parameters: Parameters
    width: PositiveInt = Field(
        description="width of the residual stream; runs are compared if size and width agree"
    )
    machine: Machine
    world_size: PositiveInt = Field(1, description="number of devices that trained")
    corpus_tokens: PositiveInt = Field(
        description="training tokens of the corpus; a run that reads more repeats them"
    )
    data_identity: str = Field(
        "unknown", description="`identity` of results/data/<corpus>/manifest.json if it read these shards"
    )
    versions: dict[str, str] = Field({}, description="of packages")
    git_commit: str | None = None


_COUNTED = ("latents", "data_tokens", "flops", "seconds")


def read_elsewhere(folder: str) -> list[Stage]:
    """The phases of a run as stages, which bring their logged lines with them.

    Raises:
        UserError: a file is missing or malformed; names file, line, key and value.
    """
    folder = folder.rstrip("/")
    path = Path(folder) / "manifest.json"
    manifest = parse(Elsewhere, read_object(path, f"a run made elsewhere has {' and '.join(FILES)}"), path)
    lines = read_lines(Path(folder) / "metrics.jsonl", Line)
    stages: list[Stage] = []
    before = {"step": 0, **dict.fromkeys(_COUNTED, 0)}
    for (phase, bag_size), phase_lines in itertools.groupby(lines, lambda line: (line.phase, line.bag_size)):
        logged = as_frame(phase_lines)
        last = logged.iloc[-1]
        counts: dict[str, Any] = {}
        for key in _COUNTED:
            counts |= {key: last[key].item(), f"stage_{key}": last[key].item() - before[key]}
        logged["seconds"] -= before["seconds"]
        stages.append(
            Stage(
                directory=folder, phase=phase, bag_size=bag_size, start_step=before["step"],
                end_step=int(last["step"]), logged=logged, identity=folder,
                unique_data_tokens=min(counts["data_tokens"], manifest.corpus_tokens),
                epochs_read=counts["data_tokens"] / manifest.corpus_tokens, **manifest.model_dump(), **counts,
            )
        )  # fmt: skip
        before = {"step": int(last["step"]), **{key: counts[key] for key in _COUNTED}}
    return stages


def axes_of(stages: Sequence[Stage]) -> dict[str, int | float | str]:
    """Where the run lies among others."""
    bags = [stage for stage in stages if stage.phase == "bag"]
    steps = sum(stage.end_step - stage.start_step for stage in bags)
    return {
        "bag_size": max((stage.bag_size for stage in bags), default=1),
        "bag_fraction": steps / stages[-1].end_step,
        "width": stages[-1].width,
    }
