"""Folders and done-files of the pipeline's steps.

Every step works in a folder named by a hash of its settings and of the step before it, and writes a small
done-file last. New settings work in a new folder, so tasks done under other settings are never taken for
done, and a corpus in use is not overwritten; old folders stay until they are pruned. A step whose folder is
finished already is not run again, unless it was finished by other code of this package: then it works in a folder
of its own (`snakemake --forcerun filter_documents` after an edit of a filter).
"""

import json
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tst_titan.data.config import read_settings
from tst_titan.data.corpus import PIPELINE_VERSION, digest
from tst_titan.errors import UserError
from tst_titan.files import write_atomically

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
    code: str = Field(description="Hash of this package's code when the step was finished.")
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
        inputs: what the step reads besides its settings and the step before it, as plain data.

    Raises:
        UserError: the settings have not been rendered, or the step before this one is not finished.
    """

    def __init__(self, corpus_folder: Path | str, step: str, inputs: Any = None):
        self.root = Path(corpus_folder)
        self.step = step
        self.settings = read_settings(self.root / "config" / f"{step}.yaml")
        previous = LAYOUT[step][1]
        self.previous = load_done(self.root, previous) if previous else None
        self.hash = digest(
            {
                "version": PIPELINE_VERSION,
                "datatrove": metadata.version("datatrove"),
                "step": step,
                "settings": self.settings,
                "previous": self.previous.folder if self.previous else None,
                "inputs": inputs,
            }
        )[:HASH_CHARS]
        self.folder = self._folder(self.hash)
        finished = self.finished()
        if finished and finished.code != code_digest():
            self.folder = self._folder(digest([self.hash, code_digest()])[:HASH_CHARS])

    def _folder(self, name: str) -> Path:
        return self.root / LAYOUT[self.step][0] / f"{self.step}-{name}"

    @property
    def logs(self) -> Path:
        """Logging folder of the step's stages."""
        return self.folder / "logs"

    def finished(self) -> Done | None:
        """What an earlier run of the same settings and code left, if it finished."""
        path = self.folder / FINISHED
        return Done.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def previous_folder(self) -> Path:
        """Folder of the step before this one."""
        assert self.previous is not None
        return self.root / self.previous.folder

    def finish(self, counts: dict[str, Any], warnings: list[str], seconds: float) -> Done:
        """Write the done-file and return it."""
        done = Done(
            step=self.step,
            code=code_digest(),
            folder=self.folder.relative_to(self.root).as_posix(),
            settings=self.settings,
            counts=counts,
            warnings=tuple(warnings),
            seconds=round(seconds, 2),
        )
        write_atomically(self.folder / FINISHED, json.dumps(done.model_dump(), indent=1) + "\n")
        return self.publish(done)

    def publish(self, done: Done) -> Done:
        """Write the done-file that later steps read: the same bytes whenever the same work is published."""
        write_atomically(done_path(self.root, self.step), json.dumps(done.model_dump(), indent=1) + "\n")
        return done


@cache
def code_digest() -> str:
    """Hash of the modules that make corpora."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return digest([path.read_text(encoding="utf-8") for path in sources])[:HASH_CHARS]


def done_path(root: Path, step: str) -> Path:
    """The done-file of a step."""
    return Path(root) / LAYOUT[step][0] / f"{step}.done.json"


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
