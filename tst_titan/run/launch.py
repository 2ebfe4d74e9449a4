"""Start the processes of a stage, on one node or several, and turn a request to stop into a checkpoint.

One process is a child of this one; several on a node are torchrun's; on several nodes Slurm starts a torchrun on each.
Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from tst_titan.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from tst_titan.run import tracking, warm
from tst_titan.run.attempts import Attempts
from tst_titan.run.lock import writer_of
from tst_titan.run.processes import STOP_SIGNALS, die_with_parent, ignore_stop_signals
from tst_titan.tree.folder import StageFolder

MODULE = "tst_titan.titan.train"
# How long to wait, at least, for an earlier attempt that still writes: its Snakemake was killed, or its time is up.
SECONDS_FOR_ANOTHER_WRITER = 180
FIRST_PORT, PORTS = 20000, 20000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan train``."""
    parser.add_argument("folder", type=Path, help="<results>/train/<recipe>/<segment>/...")
    parser.add_argument(
        "--attempt", type=int, help="of Snakemake: 1, or more where it starts a job again by itself"
    )
    parser.add_argument("--log", type=Path, help="write what training prints to this file as well")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train the stage; 85 means stopped on request with a checkpoint, to be continued by the next call.

    Raises:
        UserError: Snakemake started it again though it died twice at the same step, another process trains it, or its
            scratch is not writable.
    """
    folder = StageFolder.at(arguments.folder)
    logs = Logs.of(folder, arguments.log)
    try:
        _wait_for_another_writer(folder, logs)
        folder.stop_file.unlink(missing_ok=True)
        _turn_signals_into_stops(folder)
        if arguments.attempt is not None:
            die_with_parent(number=signal.SIGTERM)  # Snakemake was killed: a stop as any other
        return _attempt(folder, (arguments.attempt or 1) > 1, logs)
    except UserError as error:
        logs.write(f"{error}\n".encode())
        raise


@dataclass(frozen=True)
class Logs:
    """Where the output of a stage goes besides the terminal: the stage's own log, and the caller's."""

    files: tuple[FileIO, ...]

    @classmethod
    def of(cls, folder: StageFolder, other: Path | None) -> Logs:
        """The stage's ``logs/train.log`` keeps all attempts; Snakemake deletes the log that it knows before a retry."""
        own = folder.path / "logs" / "train.log"
        own.parent.mkdir(parents=True, exist_ok=True)
        return cls((own.open("ab", buffering=0), *([other.open("wb", buffering=0)] if other else [])))

    def write(self, content: bytes) -> None:
        """Write at once, so that whoever reads along sees it; a full disk is for the training to tell."""
        for file in self.files:
            with suppress(OSError):
                file.write(content)


def _attempt(folder: StageFolder, automatic: bool, logs: Logs) -> int:
    _check_scratch()
    attempts = Attempts(folder)
    attempt = attempts.begin(automatic)
    folder.interrupted_file.unlink(missing_ok=True)
    folder.refused_file.unlink(missing_ok=True)
    _say(_introduction(folder, attempt), logs)
    environment = os.environ | folder.runtime.environment | {"PYTHONUNBUFFERED": "1"}
    environment.setdefault("PYTHONWARNINGS", "ignore")
    with tracking.beside(folder, environment):
        status = _train(folder, environment, logs)
    # torchrun knows only success and failure.
    if status in (0, 1) and folder.interrupted_file.exists() and folder.runtime.world_size > 1:
        status = EXIT_INTERRUPTED
    elif status == 1 and folder.refused_file.exists():
        _say(folder.refused_file.read_text(encoding="utf-8"), logs)
        status = EXIT_USER_ERROR
    # Training has said it if the disk is full; an attempt that leaves no word counts as a failure.
    with suppress(OSError):
        attempts.end(status)
    if status == EXIT_INTERRUPTED:
        _say(f"{folder.title}  run the same command again to continue", logs)
    return status


def command(folder: StageFolder) -> list[str]:
    """The command that trains the stage, on all its nodes.

    Raises:
        UserError: several nodes are wanted outside a Slurm job.
    """
    runtime = folder.runtime
    script = ["-m", MODULE, str(folder.path)]
    if runtime.world_size == 1:
        return [sys.executable, *script]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    # Stops reach the trainers by themselves; torchrun would kill them 30 s after a signal of its own.
    torchrun += ["--signals-to-handle", "SIGQUIT", "--nproc-per-node", str(runtime.processes_per_node)]
    logs = ["--log-dir", str(folder.path / "logs" / "torchrun"), "--tee", "3", "--local-ranks-filter", "0"]
    if runtime.nodes == 1:
        return [*torchrun, "--standalone", *logs, *script]
    meeting = rendezvous(runtime.nodes, runtime.init_timeout_s)
    return [*_on_every_node(folder), *torchrun, *meeting, *logs, *script]


def rendezvous(nodes: int, timeout_s: int) -> list[str]:
    """torchrun's meeting point: this node, which is the job's first, on a port that two jobs on it do not share.

    Raises:
        UserError: several nodes are wanted outside a Slurm job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or shutil.which("srun") is None:
        missing = "SLURM_JOB_ID is not set" if job is None else "srun is not found"
        raise UserError(
            f"key nodes: found {nodes}; several nodes need a Slurm job and {missing}. "
            "Use snakemake --profile slurm, or nodes: 1"
        )
    first = os.environ.get("TST_TITAN_FIRST_NODE", socket.gethostname())
    conf = f"timeout={timeout_s},join_timeout={timeout_s}"
    options = ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-id", job, "--rdzv-conf", conf]
    return [*options, "--rdzv-endpoint", f"{first}:{free_port(FIRST_PORT + int(job) % PORTS)}"]


def free_port(wanted: int) -> int:
    """The first port from ``wanted`` on that nothing listens on here."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port between {wanted} and {wanted + 99} on {socket.gethostname()}")


def _on_every_node(folder: StageFolder) -> list[str]:
    """Start what follows once on every node of the job, with all of the node's cores and GPUs."""
    runtime = folder.runtime
    srun = ["srun", f"--nodes={runtime.nodes}", f"--ntasks={runtime.nodes}", "--ntasks-per-node=1"]
    srun += [f"--cpus-per-task={runtime.cores_per_node}", "--cpu-bind=none", "--kill-on-bad-exit=1"]
    if runtime.gpus_per_node:
        srun.append(f"--gres=gpu:{runtime.gpus_per_node}")
    # A signal to the job's steps reaches every process of them.
    return [*srun, "sh", "-c", 'trap "" TERM USR1 INT HUP; exec "$0" "$@"']


def _train(folder: StageFolder, environment: dict[str, str], logs: Logs) -> int:
    me = os.getpid()

    def in_the_child() -> None:
        die_with_parent(me)
        ignore_stop_signals()

    output, its_output = os.pipe()
    process: warm.Job | subprocess.Popen[bytes] | None = None
    if folder.runtime.world_size == 1 and not folder.runtime.gpus_per_node:
        ignored = (*STOP_SIGNALS, signal.SIGHUP)
        process = warm.start("train", [str(folder.path)], environment, ignored, its_output, its_output)
    if process is None:
        process = subprocess.Popen(
            command(folder), env=environment, stdout=its_output, stderr=its_output, preexec_fn=in_the_child
        )
    os.close(its_output)
    with os.fdopen(output, "rb") as lines:
        for line in lines:
            _say(line, logs)
    return process.wait()


def _say(line: str | bytes, logs: Logs) -> None:
    """One line to the terminal, which may be gone, and to the logs."""
    content = line if isinstance(line, bytes) else f"{line}\n".encode()
    logs.write(content)
    try:
        sys.stderr.buffer.write(content)
        sys.stderr.flush()
    except OSError:
        pass


def _introduction(folder: StageFolder, attempt: dict[str, Any]) -> str:
    where = f"on {attempt['host']}"
    if attempt["slurm_job"]:
        where = f"Slurm job {attempt['slurm_job']} {where}"
    if attempt["nodes"] > 1:
        where += f" and {attempt['nodes'] - 1} more"
    return f"{folder.title}  attempt {attempt['attempt']} after step {attempt['from_step']}, {where}"


def _check_scratch() -> None:
    """Snakemake puts a job's temporary files where the site wants them; a full or foreign disk shows here.

    Raises:
        UserError: nothing can be written there.
    """
    scratch = Path(os.environ.get("TMPDIR", "/tmp"))
    try:
        probe = scratch / f".tst-titan-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"TMPDIR {scratch} on {socket.gethostname()}: {error.strerror}; it must be a writable folder: "
            "the resource tmpdir, docs/slurm.md"
        ) from None


def _wait_for_another_writer(folder: StageFolder, logs: Logs) -> None:
    """Let an earlier attempt of the stage end.

    Raises:
        UserError: it does not end.
    """
    seconds = max(SECONDS_FOR_ANOTHER_WRITER, folder.runtime.stop_seconds)
    deadline = time.monotonic() + seconds
    said = False
    while (writer := writer_of(folder)) is not None:
        if not said:
            _say(f"{folder.title}  is being trained ({writer}); waiting up to {seconds} s for its end", logs)
            said = True
        if time.monotonic() > deadline:
            raise UserError(
                f"{folder.lock_file}: another process is training this stage ({writer}); wait for it or end it"
            )
        time.sleep(0.5)


def _turn_signals_into_stops(folder: StageFolder) -> None:
    """From now on a signal to this process asks training to stop at the next step with a checkpoint."""

    def ask_to_stop(number: int, frame: Any) -> None:
        folder.stop_file.touch()

    for number in (*STOP_SIGNALS, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, ask_to_stop)
