"""The process that forks workers: `python -m gen_service.verification.forkserver FD CPU_S MEMORY_BYTES PARENT`.

It imports sympy once, then each worker is a fork that starts in milliseconds. Being the workers' parent it alone may
kill and reap them, so a process id is never reused under a kill. It ends, with all workers, when the control socket
closes.

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

from gen_service.verification import worker

REQUEST = struct.Struct("!cq")
REPLY = struct.Struct("!qi")
FORK, END = b"F", b"E"


def main(arguments: list[str]) -> None:
    """Serves until the control socket closes; `arguments` are as in the module's first line."""
    control = socket.socket(fileno=int(arguments[0]))
    cpu_s, memory_bytes, parent = float(arguments[1]), int(arguments[2]), int(arguments[3])
    worker.ignore_stop_signals()
    worker.die_with_parent()
    if os.getppid() != parent:
        return
    _preload()
    alive: set[int] = set()
    try:
        _serve(control, alive, cpu_s, memory_bytes)
    finally:
        for pid in alive:
            _end(pid)


def _preload() -> None:
    from gen_service.verification.mathematics import symbolic

    symbolic.warm()
    gc.collect()
    gc.freeze()


def _serve(control: socket.socket, alive: set[int], cpu_s: float, memory_bytes: int) -> None:
    while True:
        frame, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if len(frame) < REQUEST.size:
            return
        kind, pid = REQUEST.unpack(frame)
        if kind == FORK:
            pid = _fork(control, descriptors[0], cpu_s, memory_bytes)
            alive.add(pid)
            control.sendall(REPLY.pack(pid, 0))
        elif pid in alive:
            alive.remove(pid)
            control.sendall(REPLY.pack(pid, _end(pid)))
        else:
            control.sendall(REPLY.pack(pid, 0))


def _fork(control: socket.socket, descriptor: int, cpu_s: float, memory_bytes: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    try:
        control.close()
        worker.run(socket.socket(fileno=descriptor), cpu_s, memory_bytes, parent)
    finally:
        os._exit(0)


def _end(pid: int) -> int:
    """Kills a worker with its descendants, waits for it, and gives its wait status (how it died, if it already had)."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    main(sys.argv[1:])
