"""Folders and done-files of the pipeline's steps.

Every step works in a folder named by a hash of its settings and of the step before it, and writes a small
done-file last. New settings work in a new folder, so tasks done under other settings are never taken for
done, and a corpus in use is not overwritten; old folders stay until they are pruned. A step that is started
again although its folder is finished (`snakemake --forcerun`) starts afresh.
"""

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tst_titan.data.config import read_settings, write_atomically
from tst_titan.data.corpus import PIPELINE_VERSION, digest
from tst_titan.errors import UserError

HASH_CHARS = 12
FINISHED = "finished.json"
# step -> (folder it lives in, step before it)
LAYOUT = {
    "filter": ("documents", None),
    "deduplicate": ("documents", "filter"),
    "split": ("documents", "deduplicate"),
    "tokenizer": ("tokenizer", "split"),
    "tokens": ("tokens", "tokenizer"),
}


class Done(BaseModel):
    """A finished step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str = Field(description="The step.")
    hash: str = Field(description="Hash of the settings that led here; names the folder.")
    folder: str = Field(description="The step's folder, relative to the corpus folder.")
    settings: dict[str, Any] = Field(description="The step's settings.")
    counts: dict[str, Any] = Field(description="What the step counted.")
    warnings: tuple[str, ...] = Field(description="What a reader should know.")
    seconds: float = Field(description="Wall seconds of the step's last run.")


class Workplace:
    """Where one step of one corpus works.

    Args:
        corpus_folder: results/data/<corpus>.
        step: one of `LAYOUT`.

    Raises:
        UserError: the settings have not been rendered, or the step before this one is not finished.
    """

    def __init__(self, corpus_folder: Path | str, step: str):
        self.root = Path(corpus_folder)
        self.step = step
        config = self.root / "config" / f"{step}.yaml"
        if not config.is_file():
            raise UserError(
                f"{config}: the settings of step {step} are missing; render the corpus config first"
            )
        self.settings = read_settings(config)
        previous = LAYOUT[step][1]
        self.previous = load_done(self.root, previous) if previous else None
        self.hash = digest(
            {
                "version": PIPELINE_VERSION,
                "datatrove": metadata.version("datatrove"),
                "step": step,
                "settings": self.settings,
                "previous": self.previous.hash if self.previous else None,
            }
        )[:HASH_CHARS]
        self.folder = self.root / LAYOUT[step][0] / f"{step}-{self.hash}"

    @property
    def logs(self) -> Path:
        """Logging folder of the step's stages."""
        return self.folder / "logs"

    def begin(self) -> None:
        """Clear the folder if an earlier run finished it; an unfinished one is gone on with."""
        if (self.folder / FINISHED).is_file():
            shutil.rmtree(self.folder)

    def previous_folder(self) -> Path:
        """Folder of the step before this one."""
        assert self.previous is not None
        return self.root / self.previous.folder

    def finish(self, counts: dict[str, Any], warnings: list[str], seconds: float) -> Done:
        """Write the done-file and return it."""
        done = Done(
            step=self.step,
            hash=self.hash,
            folder=self.folder.relative_to(self.root).as_posix(),
            settings=self.settings,
            counts=counts,
            warnings=tuple(warnings),
            seconds=round(seconds, 2),
        )
        text = json.dumps(done.model_dump(), indent=1) + "\n"
        write_atomically(done_path(self.root, self.step), text)
        write_atomically(self.folder / FINISHED, text)
        return done


def done_path(root: Path, step: str) -> Path:
    """The done-file of a step."""
    return Path(root) / LAYOUT[step][0] / f"{step}.json"


def load_done(root: Path, step: str) -> Done:
    """Read a step's done-file.

    Raises:
        UserError: the step is not finished or the file is damaged.
    """
    path = done_path(root, step)
    try:
        return Done.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: step {step} is not finished; run it first") from None
    except ValidationError:
        raise UserError(
            f"{path}: not a done-file of this version; delete it and run step {step} again"
        ) from None


def prune(root: Path | str) -> list[Path]:
    """Delete the step folders of a corpus that no done-file names; returns what was deleted.

    Earlier settings then have to be computed again. Never run while a step of the corpus is running.
    """
    root = Path(root)
    kept = {load_done(root, step).folder for step in LAYOUT if done_path(root, step).is_file()}
    deleted = []
    for step, (parent, _) in LAYOUT.items():
        for folder in sorted((root / parent).glob(f"{step}-" + "?" * HASH_CHARS)):
            if folder.relative_to(root).as_posix() not in kept:
                shutil.rmtree(folder)
                deleted.append(folder)
    return deleted
