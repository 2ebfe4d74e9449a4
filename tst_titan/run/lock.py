"""Locks that end with the process that holds them: one writer a stage, and whose Snakemake's own locks are."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


def release_snakemake(folder: Path, stay: bool) -> None:
    """Remove the locks of Snakemakes that were killed, which otherwise asks for ``--unlock``.

    Snakemake's locks name files and no process. So every main process of this workflow holds a file of its own, named
    by host and process, as long as it lives. Snakemake's locks are removed if such a process has died on this host and
    none lives; what other hosts, other workflows and earlier versions left stays.

    Args:
        folder: Snakemake's own, ``.snakemake`` in its working directory.
        stay: hold such a file from now on.
    """
    owners, locks = folder / "tst-titan", folder / "locks"
    host = socket.gethostname()
    ended = [path for path in owners.glob("*") if not _is_held(path)]
    if ended and all(path in ended and path.stem == host for path in owners.glob("*")):
        shutil.rmtree(locks, ignore_errors=True)
    if not any(locks.glob("*.lock")):
        for path in ended:
            path.unlink(missing_ok=True)
    if stay:
        with suppress(OSError):  # a file system without flock: Snakemake's locks stay as they are
            owners.mkdir(parents=True, exist_ok=True)
            mine = owners / f"{host}.{os.getpid()}"
            file = mine.open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            atexit.register(mine.unlink, missing_ok=True)
            atexit.register(file.close)  # first: the last one registered


def _is_held(owner: Path) -> bool:
    """Whether another process holds the file, or that cannot be known."""
    try:
        with owner.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
