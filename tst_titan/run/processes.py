"""Processes that start others: a stop reaches all of them, and none outlives the one that waits for it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def die_with_parent(parent: int | None = None, number: int = signal.SIGKILL) -> None:
    """Ask Linux to signal this process the moment its parent dies, however that happens.

    A launcher that is killed cannot tell its children; trainers left behind would write into a stage that its next
    attempt already continues. Outlives an exec, not a fork.

    Args:
        parent: id of the parent as known before the fork; if it is gone already, this process ends at once.
        number: the signal.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def ignore_stop_signals() -> None:
    """Ignore what asks a stage to stop, from here on and through an exec."""
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def stop_jobs_with_me() -> None:
    """From now on SIGTERM, SIGINT or SIGHUP to this process alone does what Ctrl-C does: its jobs are asked to stop.

    For Snakemake's main process, which by itself lets jobs that run here end as they like (SIGTERM, SIGINT) or leaves
    them behind (SIGHUP). A signal that is ignored stays so: ``nohup snakemake``.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        for child in _descendants(os.getpid()):
            with suppress(ProcessLookupError):
                # W&B's sender has a group of its own: Ctrl-C does not reach it either.
                if os.getpgid(child) == os.getpgrp():
                    os.kill(child, signal.SIGTERM)
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def _descendants(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            for child in map(int, path.read_text().split()):
                yield child
                yield from _descendants(child)
