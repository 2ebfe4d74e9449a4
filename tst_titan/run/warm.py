"""Import once, fork for every job: servers beside Snakemake, in whose children its jobs on this machine run.

    python -m tst_titan.run.warm KIND LISTENER     started by `offer`, in Snakemake's main process

Most jobs of a small run take seconds and spend nearly all of them on imports. So `offer` starts a server for each kind
of job. It waits for the first job, becomes a process of that job's environment (exec), imports what the kind needs,
and from then on forks a child for every job; the command that asks, `start`, passes its files and waits for the status.

The child is to the command what a process of its own would be: the same environment, folder, files and signals; killed
at once if the command dies or the server does. Whatever is not alike (interpreter, code, environment, container) is
refused, and so is everything on a machine with an accelerator: the command then does its work itself. When Snakemake
ends, however it does, the server takes no more jobs and ends after its last child. Imports nothing heavy.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any, BinaryIO

import tst_titan
from tst_titan.run.processes import STOP_SIGNALS, die_with_parent, ignore_stop_signals

MODULE = "tst_titan.run.warm"
SERVERS = "TST_TITAN_WARM"
"""Environment variable of jobs: where the servers of their Snakemake listen. ``off`` starts none."""
FIRST = f"{SERVERS}_FIRST"
"""Environment variable of a server: what its first job asks for."""
STOPS = (*STOP_SIGNALS, signal.SIGHUP)
# Of the shell that starts a command; nothing reads them when it is imported.
MAY_DIFFER = {"PWD", "OLDPWD", "SHLVL", "_"}
SECONDS_TO_IMPORT = 120.0
SECONDS_TO_ASK = 5.0


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Attributes:
        main: module whose ``main(arguments)`` runs it and returns the exit status.
        modules: what its jobs import, in this order.
        commands: how the command lines of ``tst-titan`` begin that are of this kind.
        titan: torchtitan is among it.
        offline: its jobs want no network of Hugging Face's libraries, which settle that when they are imported.
    """

    main: str
    modules: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    titan: bool = False
    offline: bool = False


KINDS = {
    "train": Kind("tst_titan.titan.train", ("tst_titan.titan.job", "tst_titan.titan.manifest"), titan=True),
    "evaluate": Kind(
        "tst_titan.cli",
        (
            "tst_titan.titan.export",
            "tst_titan.titan.models",
            "tst_titan.evaluate.tasks",
            "tst_titan.evaluate.scorer",
            "lm_eval.tasks",
        ),
        (("export",), ("evaluate", "heldout"), ("evaluate", "tasks")),
        titan=True,
        offline=True,
    ),
    "report": Kind(
        "tst_titan.cli",
        (
            "tst_titan.compare.command",
            "tst_titan.report.command",
            "tst_titan.report.figures",
            "tst_titan.report.page",
        ),
        (("compare",), ("report",)),
    ),
}
_SERVERS: list[Popen[bytes]] = []


def offer() -> None:
    """Start a server of each kind for the jobs of this process, which is Snakemake's main one."""
    if os.environ.get(SERVERS) == "off":
        return
    name = f"tst-titan-{os.getpid()}-{os.urandom(8).hex()}"
    for kind in KINDS:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(_address(name, kind))
            listener.listen(128)
            number = listener.fileno()
            command = [sys.executable, "-m", MODULE, kind, str(number)]
            # Its standard input ends with this process.
            _SERVERS.append(Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, pass_fds=[number]))
    os.environ[SERVERS] = name


class Job:
    """A child of a server that works for this process; dies with it."""

    def __init__(self, connection: socket.socket, answers: BinaryIO):
        self.connection, self.answers = connection, answers

    def wait(self) -> int:
        """Exit status, or minus the number of the signal that ended it, as that of ``Popen.wait``."""
        self.connection.settimeout(None)
        with self.connection, suppress(OSError):
            if status := self.answers.readline():
                return int(status)
        return -signal.SIGKILL  # the server is gone, and its children with it


def start(
    kind: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    ignored: Sequence[int],
    stdout: int = 1,
    stderr: int = 2,
) -> Job | None:
    """Let the server of Snakemake, if there is one, run a job as a child of this process would run it.

    Args:
        kind: one of KINDS.
        arguments: of the kind's main function.
        environment: the child's.
        ignored: signals that it ignores.
        stdout: its standard output, a file descriptor.
        stderr: its standard error.

    Returns:
        The job; None where no server can run it.
    """
    name = os.environ.get(SERVERS)
    if name is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    answers = connection.makefile("rb")
    said = {"arguments": list(arguments), "folder": str(Path.cwd()), "ignored": list(ignored)}
    try:
        connection.settimeout(SECONDS_TO_IMPORT)
        connection.connect(_address(name, kind))
        if _user(connection) == os.getuid():
            socket.send_fds(connection, [b"\n"], [0, stdout, stderr])
            connection.sendall(
                json.dumps([{**said, "like": like_this()}, dict(environment)]).encode() + b"\n"
            )
            if answers.readline():
                return Job(connection, answers)
    except OSError:
        pass
    connection.close()
    return None


def run(arguments: Sequence[str]) -> int | None:
    """Run a command line of ``tst-titan`` on a server; None where that cannot be."""
    for name, kind in KINDS.items():
        if "--online" in arguments:
            continue
        if any(tuple(arguments[: len(words)]) == words for words in kind.commands):
            ignored = [number for number in STOPS if signal.getsignal(number) == signal.SIG_IGN]
            job = start(name, arguments, os.environ, ignored)
            if job is not None:
                status = job.wait()
                return 128 - status if status < 0 else status
    return None


def like_this() -> list[str]:
    """What a command and a server must have in common: interpreter, packages, this package's code, container."""
    package = Path(tst_titan.__file__).resolve().parent
    states = [(path, path.stat()) for path in sorted(package.rglob("*.py"))]
    code = "".join(f"{path} {state.st_mtime_ns} {state.st_size}\n" for path, state in states)
    installed = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns
    spaces = [str(Path("/proc/self/ns", space).readlink()) for space in ("mnt", "pid")]
    digest = hashlib.sha256(f"{installed}\n{code}".encode()).hexdigest()
    return [str(Path(sys.executable).resolve()), sys.prefix, sys.version, digest, *spaces]


@dataclass
class Request:
    """What a command asks for.

    Attributes:
        connection: to the command; open as long as it lives.
        streams: the child's standard input, output and error.
        said: arguments, folder, ignored signals, and what the command is like.
        environment: the command's.
    """

    connection: socket.socket
    streams: list[int]
    said: dict[str, Any]
    environment: dict[str, str]

    @classmethod
    def read(cls, listener: socket.socket) -> Request | None:
        """The next one; None if the command is gone, or another user's."""
        connection, _ = listener.accept()
        streams: list[int] = []
        try:
            connection.settimeout(SECONDS_TO_ASK)
            if _user(connection) == os.getuid():
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                with connection.makefile("rb") as lines:
                    return cls(connection, streams, *json.loads(lines.readline()))
        except (OSError, ValueError):
            pass
        _close(connection, streams)
        return None

    def refuse(self) -> None:
        """Let the command do its work itself."""
        _close(self.connection, self.streams)

    def like(self) -> list[Any]:
        """What a server must be like to run it."""
        return [
            self.said["like"],
            {key: self.environment[key] for key in self.environment.keys() - MAY_DIFFER},
        ]


class Server:
    """Forks a child for every request.

    Args:
        kind: of the jobs.
        listener: where commands ask.
        like: what this process was like when it imported, as that of a request.
    """

    def __init__(self, kind: Kind, listener: socket.socket, like: list[Any]):
        self.kind, self.listener, self.like = kind, listener, like
        self.jobs: dict[int, socket.socket] = {}
        self.selector = selectors.PollSelector()
        self.woken, self.waker = socket.socketpair()
        self.me = os.getpid()

    def serve(self, first: Request) -> Callable[[], int] | None:
        """Take requests until Snakemake and the last child have ended; in a child, return what it is to run."""
        for end in (self.woken, self.waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.waker.fileno())
        self.selector.register(self.woken, selectors.EVENT_READ, self._reap)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(sys.stdin, selectors.EVENT_READ, self._leave)
        job = self._fork(first)
        while job is None and (self.jobs or self.listener.fileno() >= 0):
            for key, _ in self.selector.select():
                current = self.selector.get_map().get(key.fd) is key
                if current and (job := key.data(key.fileobj)) is not None:
                    break
        return job

    def _leave(self, stdin: Any) -> None:
        """Snakemake has ended."""
        self.selector.unregister(stdin)
        self.selector.unregister(self.listener)
        self.listener.close()

    def _accept(self, listener: socket.socket) -> Callable[[], int] | None:
        request = Request.read(listener)
        if request is not None and request.like() == self.like:
            return self._fork(request)
        if request is not None:
            request.refuse()
        return None

    def _fork(self, request: Request) -> Callable[[], int] | None:
        try:
            pid = os.fork()
        except OSError:
            request.refuse()
            return None
        if pid == 0:
            return self._become(request)
        for stream in request.streams:
            os.close(stream)
        self.jobs[pid] = request.connection
        self.selector.register(request.connection, selectors.EVENT_READ, partial(self._kill, pid))
        with suppress(OSError):
            request.connection.sendall(b"started\n")
        return None

    def _kill(self, pid: int, connection: socket.socket) -> None:
        """The command has died; it says nothing while it lives."""
        self.selector.unregister(connection)
        os.kill(pid, signal.SIGKILL)

    def _reap(self, woken: socket.socket) -> None:
        with suppress(BlockingIOError):
            woken.recv(4096)
        while self.jobs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self.jobs.pop(pid)
            if connection in self.selector.get_map():
                self.selector.unregister(connection)
            with connection, suppress(OSError):
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def _become(self, request: Request) -> Callable[[], int]:
        """Make this process, which has just been forked, the one that the command would have started."""
        die_with_parent(self.me)
        signal.set_wakeup_fd(-1)
        for number in (*STOPS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in request.said["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        # As long as a child had a copy, other commands would not see the server's end.
        for each in (self.listener, self.woken, self.waker, request.connection, *self.jobs.values()):
            each.close()
        for target, stream in enumerate(request.streams):
            os.dup2(stream, target)
            os.close(stream)
        os.chdir(request.said["folder"])
        for name in MAY_DIFFER:
            os.environ.pop(name, None)
        os.environ.update(
            {name: request.environment[name] for name in MAY_DIFFER & request.environment.keys()}
        )
        del os.environ[SERVERS]  # it is served already
        sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed()  # Python sees to its own
        module: Any = import_module(self.kind.main)
        sys.argv = [module.__file__, *request.said["arguments"]]
        return partial(module.main, request.said["arguments"])


def main(kind: str, listener: socket.socket, first: Request | None) -> int:
    """A server, or a child of it."""
    ignore_stop_signals()
    like = like_this()  # before anything is imported
    while first is None:
        ready = selectors.PollSelector()
        ready.register(sys.stdin, selectors.EVENT_READ)
        ready.register(listener, selectors.EVENT_READ)
        if any(key.fileobj is sys.stdin for key, _ in ready.select()):
            return 0
        request = Request.read(listener)
        if request is not None and request.said["like"] == like:
            _become_like(request, kind, listener)
        elif request is not None:
            request.refuse()
    wanted = [like, first.like()[1]]
    _import(KINDS[kind])
    server = Server(KINDS[kind], listener, wanted)
    job = server.serve(first)
    return 0 if job is None else job()


def _become_like(request: Request, kind: str, listener: socket.socket) -> None:
    """Begin again in the environment of a command: much of it is read when Python starts and libraries are loaded."""
    passed = [listener.fileno(), request.connection.fileno(), *request.streams]
    for number in passed:
        os.set_inheritable(number, True)
    command = [sys.executable, "-m", MODULE, kind, *map(str, passed)]
    os.execve(sys.executable, command, request.environment | {FIRST: json.dumps(request.said)})


def _import(kind: Kind) -> None:
    """Import what jobs of a kind need.

    Raises:
        SystemExit: a child could not use it: there is an accelerator, or a thread, which a fork leaves behind.
    """
    if kind.offline:
        from tst_titan.evaluate.harness import go_offline

        go_offline()
    if kind.titan:
        from tst_titan.titan import cpu

        if cpu.prepare() != "cpu":
            sys.exit(1)
    for name in (kind.main, *kind.modules):
        import_module(name)
    threads = {path.parent: path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    # pyarrow's allocator; it starts the thread anew in a child (pthread_atfork).
    if len(threads) - list(threads.values()).count("jemalloc_bg_thd") > 1:
        sys.exit(1)
    gc.collect()
    gc.freeze()  # so that the children's collector leaves the pages shared


def _address(name: str, kind: str) -> str:
    """Of no file system: nothing remains of it. Other users may connect, and are refused."""
    return f"\0{name}-{kind}"


def _user(connection: socket.socket) -> int:
    """Who is on the other side."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", found)[1]


def _close(connection: socket.socket, streams: Sequence[int]) -> None:
    connection.close()
    for stream in streams:
        os.close(stream)


if __name__ == "__main__":
    _kind, _listener, *_open = sys.argv[1:]
    _request = None
    if _open:
        _connection, *_streams = map(int, _open)
        _said = json.loads(os.environ.pop(FIRST))
        _request = Request(socket.socket(fileno=_connection), _streams, _said, dict(os.environ))
    sys.exit(main(_kind, socket.socket(fileno=int(_listener)), _request))
