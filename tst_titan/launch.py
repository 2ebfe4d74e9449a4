"""Start the processes of a stage and turn a request to stop into a checkpoint.

One process is replaced by the training itself; several on a node are torchrun's. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tst_titan.config.stage_folder import StageFolder, complete_checkpoints
from tst_titan.errors import EXIT_INTERRUPTED, UserError

MAX_ATTEMPTS_AT_ONE_STEP = 2
MODULE = "tst_titan.titan.train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan train``."""
    parser.add_argument("folder", type=Path, help="<results>/train/<recipe>/<segment>/...")
    parser.add_argument(
        "--again", action="store_true", help="try once more after repeated failures at one step"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train the stage; 85 means stopped on request with a checkpoint, to be continued by the next call.

    Raises:
        UserError: the stage died twice at the same step.
    """
    folder = StageFolder.at(arguments.folder)
    runtime = folder.runtime
    folder.stop_file.unlink(missing_ok=True)
    attempts = Attempts(folder)
    attempts.begin(forced=arguments.again)
    environment = os.environ | runtime.environment | {"PYTHONUNBUFFERED": "1"}
    environment.setdefault("PYTHONWARNINGS", "ignore")
    _turn_signals_into_stops(folder)
    status = subprocess.Popen(command(folder), env=environment).wait()
    if status != 0 and runtime.world_size > 1 and folder.interrupted_file.exists():
        status = EXIT_INTERRUPTED
    attempts.end(status)
    if status == EXIT_INTERRUPTED:
        print(f"{folder.title}  run the same command again to continue", file=sys.stderr)
    return status


def command(folder: StageFolder) -> list[str]:
    """The command that trains the stage on this node."""
    runtime = folder.runtime
    script = ["-m", MODULE, str(folder.path)]
    if runtime.world_size == 1:
        return [sys.executable, *script]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(runtime.processes_per_node),
    ]
    logs = ["--log-dir", str(folder.path / "logs" / "torchrun"), "--tee", "3", "--local-ranks-filter", "0"]
    if runtime.nodes == 1:
        return [*torchrun, "--standalone", *logs, *script]
    return [*torchrun, *rendezvous(runtime.nodes), *logs, *script]


def rendezvous(nodes: int) -> list[str]:
    """torchrun's meeting point: the job's first node, on a port that two jobs on one node do not share.

    Raises:
        UserError: several nodes are wanted outside a Slurm job step.
    """
    try:
        job, first = os.environ["SLURM_JOB_ID"], os.environ["TST_TITAN_FIRST_NODE"]
    except KeyError as missing:
        raise UserError(
            f"key nodes: found {nodes}; several nodes need Slurm and {missing.args[0]} is not set. "
            "Use snakemake --profile slurm, or nodes: 1"
        ) from None
    port = 20000 + int(job) % 20000
    return [
        "--nnodes",
        str(nodes),
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        job,
        "--rdzv-endpoint",
        f"{first}:{port}",
    ]


def _turn_signals_into_stops(folder: StageFolder) -> None:
    """From now on a signal to this process asks training to stop at the next step with a checkpoint.

    torchrun kills its workers 30 s after a signal, which may be too short for a checkpoint: it gets none, the
    workers see a file instead.
    """

    def ask_to_stop(number: int, frame: Any) -> None:
        folder.stop_file.touch()

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, ask_to_stop)


class Attempts:
    """Counts how often a stage was started, and ends the retries of one that makes no progress."""

    def __init__(self, folder: StageFolder):
        self.folder = folder
        self.path = folder.path / "logs" / "attempts.json"

    def read(self) -> dict[str, Any]:
        """What earlier attempts left."""
        try:
            return json.loads(self.path.read_text(encoding="utf8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {"stage_sha256": None, "count": 0, "failures_at": {}}

    def begin(self, forced: bool) -> None:
        """Count a new attempt.

        Raises:
            UserError: the stage died ``MAX_ATTEMPTS_AT_ONE_STEP`` times after the same checkpoint.
        """
        state = self.read()
        if forced or state["stage_sha256"] != self.folder.stage_sha256:
            state = {"stage_sha256": self.folder.stage_sha256, "count": 0, "failures_at": {}}
        step = str(self._newest_step())
        failures = state["failures_at"].get(step, 0)
        if failures >= MAX_ATTEMPTS_AT_ONE_STEP:
            raise UserError(
                f"{self.folder.path}: training died {failures} times after step {step} without reaching another "
                f"checkpoint; see logs/ there. After mending the cause: tst-titan train --again {self.folder.path}"
            )
        state["count"] += 1
        self._write(state)

    def end(self, status: int) -> None:
        """Note a failure; success and a requested stop are none."""
        if status in (0, EXIT_INTERRUPTED):
            return
        state = self.read()
        step = str(self._newest_step())
        state["failures_at"][step] = state["failures_at"].get(step, 0) + 1
        self._write(state)

    def _newest_step(self) -> int:
        steps = [max(found, default=0) for found in map(complete_checkpoints, self._identities())]
        return max(steps, default=self.folder.stage.start_step)

    def _identities(self) -> list[Path]:
        return sorted((self.folder.path / "checkpoint").glob("*"))

    def _write(self, state: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(state) + "\n", encoding="utf8")
