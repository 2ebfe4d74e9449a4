"""A run's stage folders: read, checked against each other and against the config beside them."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

_NUMBERS = (
    "start_step", "end_step", "bag_size", "latents", "data_tokens", "flops", "seconds", "stage_seconds",
    "stage_latents", "stage_data_tokens", "stage_flops", "world_size", "unique_data_tokens", "epochs_read",
)  # fmt: skip
_TEXTS = ("phase", "identity", "stage_sha256", "lineage", "recipe")
_COUNTED = ("latents", "data_tokens", "flops", "seconds", "lr", "grad_norm", "bag_loss")
PHASES = ("bag", "token", "decay")


@dataclass(frozen=True)
class Stage:
    """One finished stage: its folder and what its manifest says.

    Attributes:
        directory: as given in the spec; ``manifest_path`` and ``metrics_path`` are inside it.
        manifest: the whole of manifest.json.
        logged: its lines of metrics.jsonl where that file is not its own alone: of a run made elsewhere.
    """

    directory: str
    manifest: dict[str, Any]
    logged: pd.DataFrame | None = None

    @property
    def manifest_path(self) -> str:
        """Path of manifest.json."""
        return f"{self.directory}/manifest.json"

    @property
    def metrics_path(self) -> str:
        """Path of metrics.jsonl."""
        return f"{self.directory}/metrics.jsonl"

    @property
    def phase(self) -> str:
        """bag, token or decay."""
        return str(self.manifest["phase"])

    @property
    def bag_size(self) -> int:
        """Tokens per bag; 1 in plain next-token training."""
        return int(self.manifest["bag_size"])

    @property
    def start_step(self) -> int:
        """Steps of the run before this stage."""
        return int(self.manifest["start_step"])

    @property
    def end_step(self) -> int:
        """Steps of the run after this stage."""
        return int(self.manifest["end_step"])

    @property
    def is_comparable(self) -> bool:
        """Whether its loss is an ordinary next-token loss; a bag loss may not be compared with one."""
        return self.phase != "bag" and self.bag_size == 1

    def number(self, key: str) -> float:
        """A numeric entry of the manifest."""
        return float(self.manifest[key])


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a run that diverged cannot be compared")
    return value


Loss = Annotated[Float, BeforeValidator(_finite)]


class Line(Strict):
    """A line of metrics.jsonl; other keys are ignored. Log the last step of each phase."""

    model_config = ConfigDict(extra="ignore")

    step: PositiveInt
    phase: Literal["bag", "token", "decay"] = "token"
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
    for key in (*_NUMBERS, *_TEXTS):
        if key not in manifest:
            raise UserError(f"{path}: key '{key}' is missing; found: {', '.join(sorted(manifest))}")
    for key in _NUMBERS:
        if isinstance(manifest[key], bool) or not isinstance(manifest[key], int | float):
            raise UserError(f"{path}: '{key}' is {manifest[key]!r}; a number was expected")
    if manifest["phase"] not in PHASES:
        raise UserError(f"{path}: phase '{manifest['phase']}' is unknown; valid: {', '.join(PHASES)}")
    _check_config(Path(directory) / "stage.yaml", path, manifest["stage_sha256"])
    return Stage(directory, manifest)


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
            f"{stages[0].manifest_path}: the first stage of a run starts at step {stages[0].start_step}; "
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
            f"{child.manifest_path}: start_step is {child.start_step}, but its parent {parent.manifest_path} "
            f"ends at step {parent.end_step}"
        )
    named = child.manifest.get("parent_identity")
    if named != parent.manifest["identity"]:
        raise UserError(
            f"{child.manifest_path}: parent_identity is {named!r}, but {parent.manifest_path} has identity "
            f"'{parent.manifest['identity']}': the stage was trained from another parent"
        )
    for key in ("latents", "data_tokens", "flops", "seconds"):
        before, after, own = parent.number(key), child.number(key), child.number(f"stage_{key}")
        if abs(before + own - after) > 1e-6 * max(after, 1.0):
            raise UserError(
                f"{child.manifest_path}: {key} is {after:g}, but its parent's {before:g} and its own {own:g} "
                f"add up to {before + own:g}"
            )
