"""The process that forks workers: `python -m gen_service.verification.forkserver FD CONFIGURATION PARENT`.

It imports what a built-in kind needs once, sympy for one, then each worker is a fork that starts in milliseconds. A
plug-in is imported in the workers alone. Being the workers' parent it alone may kill and reap them, so a process id is
never reused under a kill. It ends, with all workers, when the control socket closes.

Control frames are 9 bytes in (`F` with one file descriptor to fork; `E` and a process id to end) and 12 bytes out
(process id, then the status that `waitpid` gave, or 0).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

from gen_service.verification import kinds, worker
from gen_service.verification.protocol import Configuration

REQUEST = struct.Struct("!cq")
REPLY = struct.Struct("!qi")
FORK, END = b"F", b"E"


def main(arguments: list[str]) -> None:
    """Serves until the control socket closes; `arguments` are as in the module's first line."""
    control = socket.socket(fileno=int(arguments[0]))
    configuration, parent = Configuration.read(arguments[1]), int(arguments[2])
    worker.ignore_stop_signals()
    worker.die_with_parent()
    worker.adopt_orphans()
    if os.getppid() != parent:
        return
    _preload(configuration)
    alive: set[int] = set()
    try:
        _serve(control, alive, configuration)
    finally:
        for pid in alive:
            _end(pid)
        _end_strays(set())


def _preload(configuration: Configuration) -> None:
    if configuration.target is None:
        kinds.loaded(configuration.settings.kind, None, configuration.settings.options).warm()
    gc.collect()
    gc.freeze()


def _serve(control: socket.socket, alive: set[int], configuration: Configuration) -> None:
    while True:
        frame, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if len(frame) < REQUEST.size:
            return
        kind, pid = REQUEST.unpack(frame)
        if kind == FORK:
            pid = _fork(control, descriptors[0], configuration)
            alive.add(pid)
            control.sendall(REPLY.pack(pid, 0))
        elif pid in alive:
            alive.remove(pid)
            status = _end(pid)
            _end_strays(alive)
            control.sendall(REPLY.pack(pid, status))
        else:
            control.sendall(REPLY.pack(pid, 0))


def _fork(control: socket.socket, descriptor: int, configuration: Configuration) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    try:
        control.close()
        worker.run(socket.socket(fileno=descriptor), configuration, parent)
    finally:
        os._exit(0)


def _end(pid: int) -> int:
    """Kills a worker with its descendants, waits for it, and gives its wait status (how it died, if it already had)."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _end_strays(alive: set[int]) -> None:
    """Kills what ended workers left behind in groups of its own: their orphans are adopted here (Linux)."""
    while strays := _children() - alive:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as children:
            return {int(pid) for pid in children.read().split()}
    except OSError:
        return set()


if __name__ == "__main__":
    main(sys.argv[1:])
