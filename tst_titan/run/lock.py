"""One writer a stage: a lock on the stage's folder, which ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tst_titan.errors import UserError
from tst_titan.tree.folder import StageFolder

# One who only looks holds the lock for an instant.
SECONDS_FOR_A_LOOK = 3.0


@contextmanager
def sole_writer(folder: StageFolder) -> Iterator[None]:
    """Hold the stage's lock: two writers would ruin each other's checkpoints.

    Raises:
        UserError: another process holds it.
    """
    with folder.lock_file.open("a+", encoding="utf8") as lock:
        deadline = time.monotonic() + SECONDS_FOR_A_LOOK
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    lock.seek(0)
                    raise UserError(
                        f"{folder.lock_file}: another process is training this stage "
                        f"({lock.read().strip() or 'unknown'}); wait for it or end it"
                    ) from None
                time.sleep(0.1)
        lock.truncate(0)
        job = os.environ.get("SLURM_JOB_ID")
        lock.write(
            f"host {socket.gethostname()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "")
        )
        lock.flush()
        yield


def writer_of(folder: StageFolder) -> str | None:
    """Who trains the stage at this moment; None if nobody does."""
    try:
        with folder.lock_file.open(encoding="utf8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return lock.read().strip() or "unknown"
    except FileNotFoundError:
        pass
    return None
