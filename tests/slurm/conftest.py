"""A private Slurm and copies of the project that submit to it. Installs Slurm if it may; otherwise it must be there."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.slurm.cluster import Cluster

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    _install()
    # Unix sockets have short paths.
    folder = tmp_path_factory.mktemp("slurm")
    for parent in folder.parents[:3]:
        # munged runs as its own user and looks at every folder above its socket.
        if parent.stat().st_uid == os.getuid() and parent != folder.parents[-1]:
            parent.chmod(parent.stat().st_mode | 0o055)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _install() -> None:
    path = f"{os.environ['PATH']}:/usr/sbin"
    if all(shutil.which(name, path=path) for name in ("slurmctld", "slurmd", "munged", "sbatch")):
        return
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"Slurm is not installed and cannot be: needs {', '.join(PACKAGES)}")
    # No service of the system is started: the daemons are ours.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *command], env=environment, check=True, stdout=subprocess.DEVNULL)
