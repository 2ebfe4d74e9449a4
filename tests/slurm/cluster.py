"""A private Slurm cluster on one machine: own munge key, own ports, own folder; nothing of the system's is touched.

Every daemon runs in the foreground as a child of the test, is ended by its process id and dies with the test. Two
nodes share the machine's host name and differ by port, so what a job starts on "the other node" is a process here.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tst_titan.run.processes import die_with_parent

CLIENTS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
SECONDS_TO_START = 60
NODES = ("n1", "n2")
GPUS_PER_NODE = 2
MEMORY_MB = 6000


@dataclass
class Cluster:
    """Two nodes of one core and two pretended GPUs each, in partitions ``main`` (default) and ``short`` (2 minutes).

    Attributes:
        folder: configuration, state, spool and logs.
        default_partition: whether ``main`` is the cluster's default.
    """

    folder: Path
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What clients need; put first on PATH, because Snakemake's job step drops every SLURM_ variable."""
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    def start(self, default_partition: bool = True) -> None:
        """Write the configuration and start munged, the controller and both nodes."""
        for name in ("state", "log", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._start_munge()
        self.write_configuration(default_partition)
        self._write_clients()
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def start_node(self, node: str) -> None:
        """Start one node's daemon."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """A node's sudden death: its daemon and every process of its jobs, all at once by SIGKILL."""
        self.daemons.pop(node).kill()
        for process in self.processes_on(node):
            _kill(process)

    def processes_on(self, node: str) -> list[int]:
        """Ids of the processes that Slurm started on a node, found by their environment and their ancestors."""
        ours = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode(), f"SLURMD_NODENAME={node}".encode()
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes().split(b"\0")
                on_node = f"{self.folder}/bin".encode() in (path / "environ").read_bytes()
                if ours[1] in environment and (on_node or ours[0] in environment):
                    found |= {int(path.name), *_step_daemons_above(path)}
            except OSError:
                continue
        return sorted(found)

    def wait_for_nodes(self, nodes: tuple[str, ...] = NODES) -> None:
        """Wait until the nodes take jobs."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            states = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).stdout.split("\n")
            if all(any(line == f"{node} idle" for line in states) for node in nodes):
                return
            time.sleep(0.5)
        logs = "\n".join(path.read_text()[-1500:] for path in (self.folder / "log").glob("*.log"))
        raise AssertionError(f"the nodes did not come up: {states}\n{logs}")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a client command against this cluster."""
        return subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=check
        )

    def jobs(self) -> list[dict[str, str]]:
        """All jobs the controller remembers: id, state, comment (rule and wildcards), nodes."""
        text = self.run("squeue", "-h", "--states=all", "-o", "%i|%T|%k|%N|%D|%C").stdout
        names = ("id", "state", "comment", "nodes", "node_count", "cpus")
        return [dict(zip(names, line.split("|"), strict=True)) for line in text.splitlines()]

    def configure(self, default_partition: bool) -> None:
        """Change the running cluster."""
        self.write_configuration(default_partition)
        self.run("scontrol", "reconfigure")

    def stop(self) -> None:
        """Cancel what runs and end the daemons."""
        self.run("scancel", "--user", getpass.getuser(), check=False)
        time.sleep(1)
        for node in NODES:
            for process in self.processes_on(node):
                _kill(process)
        for name in reversed(list(self.daemons)):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def write_configuration(self, default_partition: bool) -> None:
        """slurm.conf and gres.conf."""
        if not (self.folder / "ports").exists():
            (self.folder / "ports").write_text(" ".join(str(_free_port()) for _ in range(3)))
        controller, *ports = (self.folder / "ports").read_text().split()
        host, user = socket.gethostname(), getpass.getuser()
        default = "YES" if default_partition else "NO"
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}",
            f"SlurmctldPort={controller}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            f"AuthInfo=socket={self.folder}/munge/socket",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/state/%n",
            f"SlurmctldPidFile={self.folder}/state/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/state/%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "AccountingStorageType=accounting_storage/none",
            "JobAcctGatherType=jobacct_gather/none",
            "MpiDefault=none",
            "GresTypes=gpu",
            "ReturnToService=2",
            "SlurmdTimeout=15",
            "SlurmctldTimeout=15",
            "KillWait=15",
            "MinJobAge=3600",
            "SchedulerParameters=sched_interval=5,batch_sched_delay=1",
            *(
                f"NodeName={node} NodeHostname={host} Port={port} CPUs=1 RealMemory={MEMORY_MB} "
                f"Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
                for node, port in zip(NODES, ports, strict=True)
            ),
            f"PartitionName=main Nodes=ALL Default={default} MaxTime=60 State=UP",
            "PartitionName=short Nodes=ALL Default=NO MaxTime=2 State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        for node in NODES:
            for gpu in range(GPUS_PER_NODE):
                path = self.folder / f"{node}-gpu{gpu}"
                if not path.exists():
                    path.symlink_to("/dev/null")  # Slurm wants a device file
        gres = [
            f"NodeName={node} Name=gpu File={self.folder}/{node}-gpu[0-{GPUS_PER_NODE - 1}]" for node in NODES
        ]
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir()
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(stat.S_IRUSR)
        command = ["munged", "--foreground", f"--key-file={key}", f"--socket={folder / 'socket'}"]
        command += [f"--pid-file={folder / 'pid'}", f"--log-file={folder / 'log'}"]
        command += [f"--seed-file={folder / 'seed'}"]
        if os.getuid() == 0:
            # munged does not like to run as root.
            owner = pwd.getpwnam("munge")
            for path in (folder, key):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            drop = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "--pdeathsig=KILL"]
            command = [*drop, *command]
        folder.chmod(0o755)
        self._start("munged", *command)
        deadline = time.monotonic() + SECONDS_TO_START
        while not (folder / "socket").exists():
            if time.monotonic() > deadline or self.daemons["munged"].poll() is not None:
                raise AssertionError(f"munged did not start:\n{(self.folder / 'log/munged.out').read_text()}")
            time.sleep(0.1)

    def _write_clients(self) -> None:
        """Clients that find this cluster without any environment variable."""
        for name in CLIENTS:
            script = self.folder / "bin" / name
            real = shutil.which(name)
            script.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n')
            script.chmod(0o755)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(command[0]) or f"/usr/sbin/{command[0]}", *command[1:]],
                env={"PATH": os.environ["PATH"], "SLURM_CONF": str(self.folder / "slurm.conf")},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )


def _step_daemons_above(process: Path) -> set[int]:
    """The slurmstepd processes among a process's ancestors."""
    found = set()
    while (parent := int((process / "stat").read_text().rpartition(")")[2].split()[1])) > 1:
        process = Path("/proc") / str(parent)
        if (process / "cmdline").read_bytes().startswith(b"slurmstepd"):
            found.add(parent)
    return found


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
