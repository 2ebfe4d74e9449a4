"""``tst-titan status``: where every stage is, from the files beside it; works from any machine that sees the results.

Reads only: no scheduler is asked, so it is the same for every executor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan.errors import EXIT_INTERRUPTED, UserError
from tst_titan.run.attempts import Attempts
from tst_titan.run.lock import writer_of
from tst_titan.run.processes import die_with_parent
from tst_titan.text import clock, text_table
from tst_titan.tree.folder import StageFolder

SECONDS_TO_START = 180
COLUMNS = (
    "stage",
    "state",
    "step",
    "loss",
    "held-out",
    "tokens/s",
    "MFU",
    "left",
    "attempt",
    "job",
    "device-h",
)


@dataclass(frozen=True)
class StageStatus:
    """What is known of a stage.

    Attributes:
        state: finished, running, starting, stopped (goes on at the next start), died, failed, given up, or waiting.
        line: last line of metrics.jsonl, if any.
        heldout: loss of next-token prediction on held-out windows when it was last measured, in nats per token.
        device_hours: training time the number of devices, of the steps that count.
    """

    title: str
    state: str
    step: int
    end_step: int
    line: dict[str, Any] | None
    heldout: float | None
    seconds_left: float | None
    attempt: int
    job: str
    device_hours: float

    @classmethod
    def of(cls, folder: StageFolder) -> StageStatus:
        """Read a stage's folder."""
        stage = folder.stage
        line = folder.metrics.last()
        attempts = Attempts(folder)
        noted = attempts.read()
        state = _state(folder, attempts, noted)
        step = line["step"] if line and line["step"] > stage.start_step else stage.start_step
        left = None
        if state == "running" and line and line["latents_per_second"]:
            left = (stage.end_step - step) * stage.latents_per_step / line["latents_per_second"]
        last = noted["running"] or (attempts.jobs() or [{}])[-1]
        seconds = line["seconds"] if line else 0.0
        return cls(
            title=folder.title,
            state=state,
            step=step,
            end_step=stage.end_step,
            line=line,
            heldout=(folder.heldout.last() or {}).get("token_loss"),
            seconds_left=left,
            attempt=noted["count"],
            job=str(last.get("slurm_job") or last.get("host") or ""),
            device_hours=seconds / 3600 * _devices(folder),
        )

    def cells(self) -> list[str]:
        """The row of the table."""
        line = self.line or {}
        mfu = line.get("mfu")
        speed = line.get("data_tokens_per_second")
        return [
            self.title,
            self.state,
            f"{self.step:,}/{self.end_step:,}",
            f"{line['loss']:.4f}" if line else "",
            "" if self.heldout is None else f"{self.heldout:.4f}",
            f"{speed:,.0f}" if speed is not None else "",
            f"{mfu:.1%}" if mfu is not None else "",
            "" if self.seconds_left is None else clock(self.seconds_left),
            str(self.attempt or ""),
            self.job,
            f"{self.device_hours:.2f}" if line else "",
        ]

    def sentence(self) -> str:
        """One line for someone who follows."""
        cells = dict(zip(COLUMNS, self.cells(), strict=True))
        text = f"{self.title}  {self.state}  step {cells['step']}"
        for key, words in (
            ("loss", "loss {}"),
            ("held-out", "held-out {}"),
            ("tokens/s", "{} data tokens/s"),
            ("MFU", "MFU {}"),
        ):
            text += f"  {words.format(cells[key])}" if cells[key] else ""
        return text + (f"  left {cells['left']}" if cells["left"] else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan status``."""
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="default: results")
    parser.add_argument("--follow", action="store_true", help="print a line whenever a stage has moved on")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between looks; default 60")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or follow.

    Raises:
        UserError: there are no stages.
    """
    if arguments.follow:
        follow(arguments.results, arguments.every)
        return 0
    statuses = [StageStatus.of(folder) for folder in stage_folders(arguments.results)]
    if not statuses:
        raise UserError(f"{arguments.results / 'train'}: no stages; run snakemake first")
    print(table(statuses))
    return 0


def follow(results: Path, every: float) -> None:
    """Print a line to stderr whenever a stage moved on or changed its state; ends with the process that started it."""
    die_with_parent()
    seen = {folder.title: _moved(StageStatus.of(folder)) for folder in stage_folders(results)}
    while True:
        time.sleep(every)
        for folder in stage_folders(results):
            try:
                status = StageStatus.of(folder)
            except (OSError, UserError):
                continue  # another process renders it at this moment
            if seen.get(status.title) != _moved(status):
                seen[status.title] = _moved(status)
                if status.state != "waiting":
                    print(status.sentence(), file=sys.stderr, flush=True)


def stage_folders(results: Path) -> Iterator[StageFolder]:
    """All stages below ``results/train`` that were to be trained, parents first; a dry run only renders others."""
    for path in sorted(path.parent for path in (results / "train").rglob("stage.yaml")):
        folder = StageFolder.at(path)
        if Attempts(folder).path.exists() or folder.manifest_path.exists():
            yield folder


def table(statuses: list[StageStatus]) -> str:
    """Aligned columns and a sum below."""
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status.state] = counts.get(status.state, 0) + 1
    hours = sum(status.device_hours for status in statuses)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    rows = text_table(COLUMNS, (status.cells() for status in statuses), words=2)
    return "\n".join([rows, f"{len(statuses)} stages: {summary}; {hours:.2f} device-hours"])


def _state(folder: StageFolder, attempts: Attempts, noted: dict[str, Any]) -> str:
    if folder.is_finished():
        return "finished"
    if writer_of(folder) is not None:
        return "running"
    running = noted["running"]
    if running is not None and time.time() - running["started"] < SECONDS_TO_START:
        return "starting"
    if noted["count"] == 0 or noted["stage_sha256"] != folder.stage_sha256:
        return "waiting"
    if attempts.exhausted():
        return "given up"
    if running is not None:
        return "died"
    status = (attempts.jobs() or [{"status": None}])[-1]["status"]
    return "stopped" if status == EXIT_INTERRUPTED else "failed"


def _devices(folder: StageFolder) -> int:
    if folder.manifest_path.is_file():
        return int(folder.manifest()["world_size"])
    return folder.runtime.world_size


def _moved(status: StageStatus) -> tuple[str, int]:
    return status.state, status.step
