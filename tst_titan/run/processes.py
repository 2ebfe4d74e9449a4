"""Processes that start others: none may outlive the one that waits for it."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process the moment its parent dies, however that happens.

    A launcher that is killed cannot tell its children; trainers left behind would write into a stage that its next
    attempt already continues. Outlives an exec, not a fork.

    Args:
        parent: id of the parent as known before the fork; if it is gone already, this process ends at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def ignore_stop_signals() -> None:
    """Ignore what asks a stage to stop, from here on and through an exec."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
