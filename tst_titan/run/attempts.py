"""How often a stage was started, by which job and how that ended; ends the retries of a stage without progress."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tst_titan.config.schema import RuntimeConfig
from tst_titan.errors import EXIT_INTERRUPTED, UserError
from tst_titan.files import read_json, write_atomically
from tst_titan.run.lock import writer_of
from tst_titan.tree.folder import StageFolder, complete_checkpoints

MAX_FAILURES_AT_ONE_STEP = 2
MAX_STOPS_AT_ONE_STEP = 5


class Attempts:
    """``logs/attempts.json``, what counts, and ``logs/jobs.jsonl``, one line a job, for people.

    An attempt that left no word (its node died, it was killed) counts as a failure when the next one begins.
    """

    def __init__(self, folder: StageFolder):
        self.folder = folder
        self.path = folder.path / "logs" / "attempts.json"
        self.history = folder.path / "logs" / "jobs.jsonl"

    def read(self) -> dict[str, Any]:
        """What earlier attempts left: count, failures_at and stops_at by step, and the one that is running, or None."""
        empty: dict[str, Any] = {
            "stage_sha256": None,
            "count": 0,
            "failures_at": {},
            "stops_at": {},
            "running": None,
        }
        return empty | read_json(self.path, {})

    def ask(self) -> None:
        """Note that the stage is to be trained; what was only rendered, for a dry run, has no such note."""
        if not self.path.exists():
            self._write(self.read())

    def jobs(self) -> list[dict[str, Any]]:
        """The attempts that ended, oldest first."""
        if not self.history.is_file():
            return []
        return [json.loads(line) for line in self.history.read_text(encoding="utf8").splitlines()]

    def exhausted(self) -> str | None:
        """Why the stage may not be tried again; None if it may.

        Only for one who knows that no attempt is running.
        """
        state = self._settled()
        step = str(self._newest_step())
        mended = "Mend the cause, then type the same command again"
        if (failures := state["failures_at"].get(step, 0)) >= MAX_FAILURES_AT_ONE_STEP:
            return (
                f"{self.folder.path}: training died {failures} times after step {step} without reaching another "
                f"checkpoint; see logs/ there. {mended}"
            )
        if (stops := state["stops_at"].get(step, 0)) >= MAX_STOPS_AT_ONE_STEP:
            return (
                f"{self.folder.path}: {stops} jobs were stopped after step {step} before they made another; their "
                f"time (wall_minutes {self.folder.runtime.wall_minutes}, less stop_seconds) is too short for the start "
                f"and a step. {mended}"
            )
        return None

    def next_job(self, automatic: bool) -> RuntimeConfig:
        """What a cluster is asked for: the stage's own, or a core and minutes to say that it may not be tried again."""
        if automatic and writer_of(self.folder) is None and self.exhausted():
            return RuntimeConfig(cpu_threads=1, memory_mb=2000, wall_minutes=5, stop_seconds=0)
        return self.folder.runtime

    def begin(self, automatic: bool) -> dict[str, Any]:
        """Count a new attempt and return what is known of it.

        Args:
            automatic: Snakemake starts the stage again by itself; whoever types a command gets a new try.

        Raises:
            UserError: an automatic attempt after ``MAX_FAILURES_AT_ONE_STEP`` deaths at the same checkpoint, or
                after so many jobs stopped before their first step that none is likely to make one.
        """
        state = self._settled(note=True)
        if not automatic:
            state |= {"failures_at": {}, "stops_at": {}}
        self._write(state)
        if (reason := self.exhausted()) is not None:
            raise UserError(reason)
        state["count"] += 1
        state["running"] = {
            "attempt": state["count"],
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "nodes": self.folder.runtime.nodes,
            "devices": self.folder.runtime.world_size,
            "from_step": self._newest_step(),
            "started": time.time(),
        }
        self._write(state)
        return state["running"]

    def end(self, status: int) -> None:
        """Note how the running attempt ended; success and a requested stop are no failures."""
        state = self.read()
        self._close(state, status)
        self._write(state)

    def _settled(self, note: bool = False) -> dict[str, Any]:
        """The state in which an attempt that vanished is counted; another config starts with a clean slate."""
        state = self.read()
        if state["running"] is not None:
            self._close(state, None, note)
        if state["stage_sha256"] != self.folder.stage_sha256:
            state |= {"stage_sha256": self.folder.stage_sha256, "count": 0, "failures_at": {}, "stops_at": {}}
        return state

    def _close(self, state: dict[str, Any], status: int | None, note: bool = True) -> None:
        step = self._newest_step()
        running = state["running"] or {}
        if status not in (0, EXIT_INTERRUPTED):
            state["failures_at"][str(step)] = state["failures_at"].get(str(step), 0) + 1
        elif status and running.get("slurm_job") and running["from_step"] == step:
            # A person may stop a stage as often as they like.
            state["stops_at"][str(step)] = state["stops_at"].get(str(step), 0) + 1
        line = running | {"to_step": step, "status": status}
        state["running"] = None
        if not note:
            return
        line["seconds"] = (
            round(time.time() - line["started"]) if status is not None and "started" in line else None
        )
        self.history.parent.mkdir(parents=True, exist_ok=True)
        with self.history.open("a", encoding="utf8") as out:
            out.write(json.dumps(line) + "\n")

    def _newest_step(self) -> int:
        steps = [max(found, default=0) for found in map(complete_checkpoints, self._identities())]
        return max(steps, default=self.folder.stage.start_step)

    def _identities(self) -> list[Path]:
        return sorted((self.folder.path / "checkpoint").glob("*"))

    def _write(self, state: dict[str, Any]) -> None:
        write_atomically(self.path, json.dumps(state) + "\n")
