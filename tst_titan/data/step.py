"""A step of the data pipeline: where it works, when it is done, and what it leaves for the next one.

Every step works in a folder named by a hash of its settings and of the step before it, and writes a small
done-file last. New settings work in a new folder, so tasks done under other settings are never taken for
done, and a corpus in use is not overwritten; old folders stay until they are pruned. A step whose folder is
finished already is not run again, unless it was finished by other code of this package: then it works in a folder
of its own (`snakemake --forcerun filter_documents` after an edit of a filter).
"""

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from datatrove.pipeline.base import PipelineStep
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tst_titan.data.pipelines import WHOLE, Part, Pipeline, counts_of, run_pipeline
from tst_titan.data.settings import SETTINGS, FilterSettings, StepSettings, digest
from tst_titan.errors import UserError
from tst_titan.files import write_atomically

# Raised when a change of this package changes what a step writes for the same settings.
PIPELINE_VERSION = 1
HASH_CHARS = 12
FINISHED = "finished.json"

Settings = TypeVar("Settings", bound=StepSettings)


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


class Step(ABC, Generic[Settings]):
    """One step of one corpus.

    Args:
        corpus_folder: results/data/<corpus>.

    Raises:
        UserError: the settings have not been rendered, or the step before this one is not finished.
    """

    kind: ClassVar[type[StepSettings]]

    def __init__(self, corpus_folder: Path | str):
        self.root = Path(corpus_folder)
        self.settings: Settings = self.kind.read(self.root)  # type: ignore[assignment]
        self.warnings: list[str] = []
        self.hash = digest(
            {
                "version": PIPELINE_VERSION,
                "datatrove": metadata.version("datatrove"),
                "step": self.kind.step,
                "settings": self.settings.determining(),
                "previous": load_done(self.root, self.kind.after).folder if self.kind.after else None,
                "inputs": self.inputs(),
            }
        )[:HASH_CHARS]
        self.folder = self._folder(self.hash)
        finished = self.finished()
        if finished and finished.code != code_digest():
            self.folder = self._folder(digest([self.hash, code_digest()])[:HASH_CHARS])

    def inputs(self) -> Any:
        """What the step reads besides its settings and the step before it, as plain data."""
        return None

    @abstractmethod
    def share(self, workers: int, part: Part) -> None:
        """Run the tasks that several jobs may share.

        Args:
            workers: tasks run at the same time.
            part: the tasks of this job.

        Raises:
            UserError: the step cannot be done, and why.
        """

    @abstractmethod
    def finish(self, workers: int) -> dict[str, Any]:
        """Do what one job does once all tasks are finished; returns what the step counted.

        Raises:
            UserError: what came out is of no use.
        """

    @staticmethod
    @abstractmethod
    def summary(counts: dict[str, Any]) -> str:
        """One line on what the step did."""

    def run(self, workers: int, part: Part = WHOLE) -> Done | None:
        """Run the step, unless an earlier run of the same settings and code finished it.

        Args:
            workers: tasks run at the same time.
            part: one job's part of the tasks leaves the step unfinished; the whole finishes it.

        Returns:
            The done-file's content, or None after a part.

        Raises:
            UserError: the step cannot be done, and why.
        """
        if done := self.finished():
            return self.publish(done)
        started = time.monotonic()
        self.share(workers, part)
        if part.index is not None:
            return None
        counts = self.finish(workers)
        done = Done(
            step=self.kind.step,
            code=code_digest(),
            folder=self.folder.relative_to(self.root).as_posix(),
            settings=self.settings.plain(),
            counts=counts,
            warnings=tuple(self.warnings),
            seconds=round(time.monotonic() - started, 2),
        )
        write_atomically(self.folder / FINISHED, _text(done))
        return self.publish(done)

    def pipeline(
        self,
        name: str,
        tasks: int,
        build: Callable[[], list[PipelineStep]],
        workers: int = 1,
        part: Part = WHOLE,
    ) -> None:
        """Run one of the step's datatrove pipelines; `build` must be picklable."""
        run_pipeline(Pipeline(name, tasks, build), self.logs, workers, part)

    def counted(self, name: str, tasks: int) -> list[Counter[str]]:
        """What a finished pipeline counted: one Counter for each of its datatrove steps."""
        return counts_of(self.logs / name, tasks)

    def folder_of(self, step: str) -> Path:
        """Folder of an earlier step."""
        return self.root / load_done(self.root, step).folder

    def takes_tokens(self) -> bool:
        """Whether the sources are token shards, which no step before `tokens` reads."""
        return FilterSettings.read(self.root).takes_tokens

    @property
    def logs(self) -> Path:
        """Logging folder of the step's pipelines."""
        return self.folder / "logs"

    def finished(self) -> Done | None:
        """What an earlier run of the same settings and code left, if it finished."""
        path = self.folder / FINISHED
        return Done.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def publish(self, done: Done) -> Done:
        """Write the done-file that later steps read: the same bytes whenever the same work is published."""
        write_atomically(done_path(self.root, self.kind.step), _text(done))
        return done

    def _folder(self, name: str) -> Path:
        return self.root / self.kind.place / f"{self.kind.step}-{name}"


def _text(done: Done) -> str:
    return json.dumps(done.model_dump(), indent=1) + "\n"


@cache
def code_digest() -> str:
    """Hash of the modules that make corpora."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return digest([path.read_text(encoding="utf-8") for path in sources])[:HASH_CHARS]


def done_path(root: Path, step: str) -> Path:
    """The done-file of a step."""
    return Path(root) / SETTINGS[step].place / f"{step}.done.json"


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
    kept = {load_done(root, step).folder for step in SETTINGS if done_path(root, step).is_file()}
    deleted = []
    for step, kind in SETTINGS.items():
        for folder in sorted((root / kind.place).glob(f"{step}-" + "?" * HASH_CHARS)):
            if folder.relative_to(root).as_posix() not in kept:
                shutil.rmtree(folder)
                deleted.append(folder)
    return deleted
