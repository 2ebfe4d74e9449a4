"""A run's stage folders: manifests and logged lines, checked against each other and against the config beside them."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
from pydantic import BeforeValidator, ConfigDict, Field

from tst_titan.config.load import parse
from tst_titan.config.strict import (
    Float,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
)
from tst_titan.errors import UserError
from tst_titan.files import read_object, read_objects

_COUNTED = ("latents", "data_tokens", "flops", "seconds", "lr", "grad_norm", "bag_loss")
Phase = Literal["bag", "token", "decay"]


class StageFacts(Strict):
    """One stage of a run.

    Attributes:
        directory: as given in the spec.
        bag_size: tokens per bag; 1 in plain next-token training.
        start_step, end_step: steps of the run before and after it.
    """

    directory: str
    phase: Phase
    bag_size: PositiveInt
    start_step: NonNegativeInt
    end_step: PositiveInt

    @property
    def manifest(self) -> str:
        """Path of manifest.json."""
        return f"{self.directory}/manifest.json"

    @property
    def metrics(self) -> str:
        """Path of metrics.jsonl."""
        return f"{self.directory}/metrics.jsonl"

    @property
    def is_comparable(self) -> bool:
        """Whether its loss is an ordinary next-token loss; a bag loss may not be compared with one."""
        return self.phase != "bag" and self.bag_size == 1


class Stage(StageFacts):
    """One finished stage and what its manifest says: sums over the run, and, with ``stage_`` before them, its own part.

    Attributes:
        logged: its lines of metrics.jsonl where that file is not its own alone: of a run made elsewhere.
    """

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    latents: Float
    data_tokens: Float
    flops: Float
    seconds: Float
    stage_latents: Float
    stage_data_tokens: Float
    stage_flops: Float
    stage_seconds: Float
    world_size: PositiveInt
    unique_data_tokens: Float
    epochs_read: Float
    identity: str
    parent_identity: str | None = None
    data_identity: str | None = None
    final_loss: Float | None = None
    parameters: dict[str, Any] | None = None
    width: int = 0
    machine: dict[str, Any] | None = None
    logged: pd.DataFrame | None = None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a run that diverged cannot be compared")
    return value


Loss = Annotated[Float, BeforeValidator(_finite)]


class Line(Strict):
    """A line of metrics.jsonl; other keys are ignored. Log the last step of each phase."""

    model_config = ConfigDict(extra="ignore")

    step: PositiveInt
    phase: Phase = "token"
    bag_size: PositiveInt = 1
    loss: Loss = Field(description="nats per token; in a bag phase per target of a bag")
    latents: PositiveInt = Field(description="positions of the transformer so far")
    data_tokens: PositiveInt = Field(description="tokens read so far: bag_size a latent in a bag phase")
    flops: PositiveFloat = Field(description="forward and backward so far")
    seconds: NonNegativeFloat = Field(description="training time so far")
    lr: Float | None = None
    grad_norm: Annotated[Float, Field(allow_inf_nan=True)] | None = None


class Measurement(Strict):
    """A line of heldout.jsonl; other keys are ignored.

    Attributes:
        windows: loss of every held-out window; ``token_loss`` is their mean.
        bag_loss: None in a token phase.
    """

    model_config = ConfigDict(extra="ignore")

    step: NonNegativeInt
    token_loss: Loss
    bag_loss: Float | None
    latents: NonNegativeFloat
    data_tokens: NonNegativeFloat
    flops: NonNegativeFloat
    windows: list[Float] = Field(min_length=1)


Read = TypeVar("Read", bound=Strict)


def read_lines(path: Path, model: type[Read]) -> list[Read]:
    """The lines of a metrics.jsonl or heldout.jsonl.

    Raises:
        UserError: the file cannot be read or is empty, or a line is not one of these.
    """
    lines = [parse(model, found, where) for where, found in read_objects(path)]
    if not lines:
        raise UserError(f"{path}: holds no logged step")
    return lines


def as_frame(lines: Iterable[Strict]) -> pd.DataFrame:
    """A row a line, numbers as floats but for the step; NaN where a line has none."""
    frame = pd.DataFrame(map(dict, lines))
    return frame.astype({name: float for name in _COUNTED if name in frame})


def read_stage(directory: str) -> Stage:
    """Read one stage folder.

    Raises:
        UserError: manifest.json is missing or incomplete, or it was written for another stage.yaml than
            the one that lies beside it now.
    """
    directory = directory.rstrip("/")
    path = Path(directory) / "manifest.json"
    manifest = read_object(path, "the stage has not finished, or the path is wrong")
    stage = parse(Stage, manifest | {"directory": directory}, path)
    _check_config(Path(directory) / "stage.yaml", path, str(manifest.get("stage_sha256")))
    return stage


def read_path(directories: Sequence[str], cache: dict[str, Stage] | None = None) -> list[Stage]:
    """Read a run's stages, root first, and check that each continues the one before.

    ``cache`` keeps the stages by folder: the runs of a sweep share their trunks.

    Raises:
        UserError: as ``read_stage``; or a stage does not start where its parent ended, names another
            parent, or its cumulative counts are not its parent's plus its own.
    """
    cache = {} if cache is None else cache
    for directory in directories:
        if directory not in cache:
            cache[directory] = read_stage(directory)
    stages = [cache[directory] for directory in directories]
    if stages[0].start_step != 0:
        raise UserError(
            f"{stages[0].manifest}: the first stage of a run starts at step {stages[0].start_step}; "
            "0 was expected (is its parent missing from the list of stages?)"
        )
    for parent, child in itertools.pairwise(stages):
        _check_continues(parent, child)
    return stages


def _check_config(config: Path, manifest: Path, expected: str) -> None:
    """Refuse a stage whose config changed after it was trained."""
    try:
        found = hashlib.sha256(config.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{config}: cannot be read ({error.strerror}); it must lie beside {manifest}"
        ) from error
    if found != expected:
        raise UserError(
            f"{config}: its SHA-256 is {found[:12]}, but {manifest} was written for {expected[:12]}: "
            "this run was made with a different config than the comparison expects. Train the stage again, "
            "or restore the config that it was trained with"
        )


def _check_continues(parent: Stage, child: Stage) -> None:
    """Refuse two stages that are not parent and child."""
    if child.start_step != parent.end_step:
        raise UserError(
            f"{child.manifest}: start_step is {child.start_step}, but its parent {parent.manifest} "
            f"ends at step {parent.end_step}"
        )
    if child.parent_identity != parent.identity:
        raise UserError(
            f"{child.manifest}: parent_identity is {child.parent_identity!r}, but {parent.manifest} has identity "
            f"'{parent.identity}': the stage was trained from another parent"
        )
    for key in ("latents", "data_tokens", "flops", "seconds"):
        before, after, own = (
            getattr(*each) for each in ((parent, key), (child, key), (child, f"stage_{key}"))
        )
        if abs(before + own - after) > 1e-6 * max(after, 1.0):
            raise UserError(
                f"{child.manifest}: {key} is {after:g}, but its parent's {before:g} and its own {own:g} "
                f"add up to {before + own:g}"
            )
