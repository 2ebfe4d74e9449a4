"""Runs that another trainer made: a folder with manifest.json and metrics.jsonl, read as the stages of a run.

``metrics.jsonl`` has one line a logged step (`Line`), everything counted from the start of the run; the run's phases
follow from its lines. ``manifest.json`` says what the lines cannot (`Elsewhere`), by the names that a stage's has.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ConfigDict, Field

from tst_titan.compare.results import read_json
from tst_titan.compare.stages import Stage
from tst_titan.config.load import parse
from tst_titan.config.strict import Float, NonNegativeFloat, PositiveFloat, PositiveInt, Strict
from tst_titan.errors import UserError

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


class Line(Strict):
    """A line of metrics.jsonl; other keys are ignored. Log the last step of each phase."""

    model_config = ConfigDict(extra="ignore")

    step: PositiveInt
    phase: Literal["bag", "token", "decay"] = "token"
    bag_size: PositiveInt = 1
    loss: Float = Field(description="nats per token; in a bag phase per target of a bag")
    latents: PositiveInt = Field(description="positions of the transformer so far")
    data_tokens: PositiveInt = Field(description="tokens read so far: bag_size a latent in a bag phase")
    flops: PositiveFloat = Field(description="forward and backward so far")
    seconds: NonNegativeFloat = Field(description="training time so far")
    lr: Float | None = None
    grad_norm: Float | None = None


_COUNTED = ("latents", "data_tokens", "flops", "seconds")


def read_elsewhere(folder: str) -> list[Stage]:
    """The phases of a run as stages, which bring their logged lines with them.

    Raises:
        UserError: a file is missing or malformed; names file, line, key and value.
    """
    folder = folder.rstrip("/")
    path = Path(folder) / "manifest.json"
    manifest = parse(Elsewhere, read_json(path, f"a run made elsewhere has {' and '.join(FILES)}"), path)
    lines = _read_lines(Path(folder) / "metrics.jsonl")
    stages: list[Stage] = []
    before = {"step": 0, **dict.fromkeys(_COUNTED, 0)}
    for (phase, bag_size), phase_lines in itertools.groupby(lines, lambda line: (line.phase, line.bag_size)):
        logged = pd.DataFrame([line.model_dump() for line in phase_lines]).astype(
            {"lr": float, "grad_norm": float}
        )
        last = logged.iloc[-1]
        counts: dict[str, Any] = {}
        for key in _COUNTED:
            counts |= {key: last[key].item(), f"stage_{key}": last[key].item() - before[key]}
        logged["seconds"] -= before["seconds"]
        stages.append(
            Stage(
                folder,
                {
                    **manifest.model_dump(mode="json"),
                    **counts,
                    "phase": phase,
                    "bag_size": bag_size,
                    "start_step": before["step"],
                    "end_step": int(last["step"]),
                    "unique_data_tokens": min(counts["data_tokens"], manifest.corpus_tokens),
                    "epochs_read": counts["data_tokens"] / manifest.corpus_tokens,
                },
                logged,
            )
        )
        before = {"step": int(last["step"]), **{key: counts[key] for key in _COUNTED}}
    return stages


def axes_of(stages: Sequence[Stage]) -> dict[str, int | float | str]:
    """Where the run lies among others."""
    bags = [stage for stage in stages if stage.phase == "bag"]
    steps = sum(stage.end_step - stage.start_step for stage in bags)
    return {
        "bag_size": max((stage.bag_size for stage in bags), default=1),
        "bag_fraction": steps / stages[-1].end_step,
        "width": stages[-1].manifest["width"],
    }


def _read_lines(path: Path) -> list[Line]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    lines = []
    for number, text in enumerate(texts, 1):
        where = f"{path}, line {number}"
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where}: is not valid JSON: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f"{where}: holds a {type(found).__name__}; an object was expected")
        lines.append(parse(Line, found, where))
    if not lines:
        raise UserError(f"{path}: holds no logged step")
    return lines
