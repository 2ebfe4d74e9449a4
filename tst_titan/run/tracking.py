"""Weights & Biases, beside training and never in its way: a process that reads metrics.jsonl and sends it.

    python -m tst_titan.run.tracking STAGE_FOLDER     until its standard input ends

The launcher of a stage starts it where ``wandb`` is not off. metrics.jsonl stays the truth; what W&B gets is a copy.
torchtitan's own logger calls ``wandb.init`` and ``wandb.finish`` in the training process, which wait for a server that
does not answer, or raise. It does not fall back to files, names no axis and knows nothing of the stages before.

Every stage is one W&B run, in the group of the logical run that it belongs to. The axes are cumulative, so the stages
of a group make one curve. A stage that several runs share trains in a group of its own; the first stage that
belongs to one run alone sends the curves of the shared stages before it into the run's group as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any

from tst_titan.data.manifest import load_manifest
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_atomically
from tst_titan.tree.folder import StageFolder

AXES = ("step", "latents", "data_tokens", "flops", "hours", "device_hours")
SPEEDS = ("latents_per_second", "data_tokens_per_second", "mfu")
VALUES = (
    "loss",
    "heldout_loss",
    "heldout_bag_loss",
    "grad_norm",
    "lr",
    "bag_size",
    "peak_memory_gib",
    *SPEEDS,
)
PROJECT = "tst-titan"
SECONDS_BETWEEN_READS = 5.0
SECONDS_TO_START = 30.0
SECONDS_TO_FINISH = 30.0
LONGEST_NAME = 120  # W&B refuses groups of more than 128 characters


@contextmanager
def beside(folder: StageFolder, environment: dict[str, str]) -> Iterator[None]:
    """Send the stage's metrics while the body trains; afterwards wait for the last of them, a minute at most."""
    if folder.runtime.wandb == "off" or os.environ.get("SLURM_NODEID", "0") != "0":
        yield
        return
    # Its own session: Ctrl-C and Slurm's signals are the training's to answer.
    sender = Popen(
        [sys.executable, "-m", "tst_titan.run.tracking", str(folder.path), "--stale", str(_inode(folder))],
        stdin=PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert sender.stdin is not None
        with suppress(OSError):
            sender.stdin.close()
        # A stage that was asked to stop may be killed soon: what is not sent is on disk.
        seconds = 5.0 if folder.interrupted_file.exists() else SECONDS_TO_START + SECONDS_TO_FINISH
        try:
            sender.wait(seconds)
        except TimeoutExpired:
            _warn(
                folder,
                f"W&B did not finish within {seconds:.0f} s and was ended; metrics.jsonl has everything",
            )
            with suppress(ProcessLookupError):
                os.killpg(sender.pid, signal.SIGKILL)  # and W&B's own service with it
            sender.wait()


@dataclass
class Curve:
    """One stage's metrics in one group.

    Attributes:
        folder: whose metrics.jsonl is sent.
        identity: of the stage's result.
        group: the logical run, as the path of its last stage, or the shared stage's own path.
        before: figures of the parent's manifest, from which seconds go on.
        keeper: the stage whose logs/wandb holds W&B's files and what was sent.
        stale: inode of the metrics.jsonl that an earlier attempt left; training replaces it, cut back, when it starts.
    """

    folder: StageFolder
    identity: str
    group: str
    before: dict[str, Any]
    keeper: StageFolder
    stale: int = 0

    @property
    def id(self) -> str:
        """The same for the same result in the same group, whatever process sends it."""
        return hashlib.sha256(f"{self.group}\n{self.identity}".encode()).hexdigest()[:16]

    @property
    def state_path(self) -> Path:
        """Which steps were sent."""
        return self.keeper.path / "logs" / "wandb" / f"{self.id}.json"

    def sent(self) -> int:
        """The last step that was sent."""
        return read_json(self.state_path, {}).get("sent", -1)

    def rows(self, after: int) -> list[dict[str, Any]]:
        """What W&B gets of the lines beyond a step, with cumulative axes."""
        rows: list[dict[str, Any]] = []
        if _inode(self.folder) in (0, self.stale):
            return rows
        for line in self.folder.metrics.read():
            if line["step"] > after:
                hours = line["seconds"] / 3600
                row = {key: line[key] for key in (*AXES, *VALUES) if line.get(key) is not None}
                row["hours"] = self.before.get("seconds", 0.0) / 3600 + hours
                row["device_hours"] = (
                    self.before.get("device_hours", 0.0) + hours * self.folder.runtime.world_size
                )
                rows.append(row)
        return rows

    def settings(self) -> dict[str, Any]:
        """Name, group and config of the W&B run."""
        folder = self.folder
        config = folder.stage.model_dump(mode="json")
        config |= {
            "recipe": folder.recipe,
            "lineage": folder.lineage,
            "run": self.group,
            "identity": self.identity,
        }
        shared = self.group == f"{folder.recipe}/{folder.lineage}" and folder.runtime.wandb_group is None
        tags = [folder.recipe] + (["shared"] if shared else [])
        return {
            "id": self.id,
            "group": _short(self.group),
            "job_type": folder.stage.phase,
            "name": _short(folder.title),
            "config": config,
            "tags": [tag[:64] for tag in tags],
        }


def curves_of(folder: StageFolder, stale: int = 0) -> list[Curve]:
    """The curve of a stage, after those of its ancestors that the run's group does not have yet.

    Raises:
        UserError: the parent or the corpus is not as training wants it; training says so itself.
    """
    parent = folder.parent_manifest()
    identity = folder.identity(
        load_manifest(folder.data_manifest).identity, parent["identity"] if parent else None
    )
    group = folder.runtime.wandb_group or f"{folder.recipe}/{folder.lineage}"
    own = Curve(folder, identity, group, parent or {}, folder, stale)
    if folder.runtime.wandb_group is None:
        return [own]
    line: list[StageFolder] = [folder]
    while line[0].parent is not None:
        line.insert(0, line[0].parent)
    curves = []
    for ancestor in line[:-1]:
        before = ancestor.parent.manifest() if ancestor.parent else {}
        curve = Curve(ancestor, ancestor.manifest()["identity"], group, before, folder)
        if not any((keeper.path / "logs" / "wandb" / curve.state_path.name).exists() for keeper in line[:-1]):
            curves.append(curve)
    return [*curves, own]


class Sender:
    """Sends curves one after another; falls back to files on disk where W&B cannot be reached."""

    def __init__(self, mode: str):
        self.mode = mode

    def start(self, curve: Curve) -> Any:
        """A W&B run for a curve, in ``mode`` or, with a warning, offline."""
        import wandb

        folder = curve.keeper.path / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "dir": str(folder),
            "resume": "allow",
            "settings": wandb.Settings(
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", SECONDS_TO_START)),
                finish_timeout=SECONDS_TO_FINISH,
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
            ),
            **curve.settings(),
        }
        try:
            run = wandb.init(mode=self.mode, **arguments)  # type: ignore[arg-type]
        except Exception as error:
            if self.mode == "offline":
                raise
            _warn(
                curve.keeper,
                f"W&B cannot be reached ({str(error).splitlines()[0]}); training goes on, and the metrics go to "
                f"{folder / 'wandb'}: `wandb sync` sends them later",
            )
            self.mode = "offline"
            wandb.teardown()  # the id counts as in use otherwise
            run = wandb.init(mode="offline", **arguments)
        for axis in AXES:
            run.define_metric(axis)
        run.define_metric("*", step_metric="step")
        return run

    def send(self, curve: Curve, run: Any) -> None:
        """Send what is new, and note how far."""
        sent = curve.sent()
        rows = curve.rows(after=sent)
        for row in rows:
            run.log(row, step=row["step"])
        if rows or sent < 0:
            last = rows[-1]["step"] if rows else 0
            content = {"sent": last, "group": curve.group, "stage": curve.folder.title, "mode": self.mode}
            write_atomically(curve.state_path, json.dumps(content, indent=2) + "\n")

    def follow(self, curve: Curve) -> None:
        """Send a curve while it grows, until standard input ends."""
        run = self.start(curve)
        while not _input_ended(SECONDS_BETWEEN_READS):
            self.send(curve, run)
        self.send(curve, run)
        run.finish(exit_code=0 if curve.folder.is_finished() else 1)


def _input_ended(seconds: float) -> bool:
    """Wait for the launcher to close standard input, for a while."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _inode(folder: StageFolder) -> int:
    """Of metrics.jsonl; 0 if there is none."""
    try:
        return folder.metrics_path.stat().st_ino
    except FileNotFoundError:
        return 0


def _short(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _warn(folder: StageFolder, text: str) -> None:
    print(f"{folder.title}  warning: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line; always 0: nothing here is a reason for a stage to fail."""
    parser = argparse.ArgumentParser(description="Send a stage's metrics to Weights & Biases.")
    parser.add_argument("folder", type=Path, help="<results>/train/<recipe>/<segment>/...")
    parser.add_argument(
        "--stale", type=int, default=0, help="inode of a metrics.jsonl that is not to be sent"
    )
    parsed = parser.parse_args(arguments)
    folder = StageFolder.at(parsed.folder)
    os.environ["WANDB_SILENT"] = "true"
    sender = Sender(folder.runtime.wandb)
    try:
        *earlier, own = curves_of(folder, parsed.stale)
        for curve in earlier:
            run = sender.start(curve)
            sender.send(curve, run)
            run.finish()
        sender.follow(own)
    except UserError:
        pass  # training refuses for the same reason, and says it
    except Exception as error:
        _warn(folder, f"W&B failed ({type(error).__name__}: {error}); training goes on without it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
