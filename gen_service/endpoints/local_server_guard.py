"""Keeps a server from outliving the process that started it. Run as a script, by itself; standard library only.

    python local_server_guard.py PARENT_PID CORES COMMAND [ARGUMENT ...]

PARENT_PID is who started this, CORES a comma-separated list of core numbers or `-`. Standard input is a pipe whose
other end only the parent holds: `term` asks the server to end (SIGTERM to it alone, which drains), `kill` or the end of
the pipe kills it. The pipe ends by itself when the parent dies, even by SIGKILL; the parent's id is checked every
second as well, because a process forked by the parent may hold the pipe open.

This process is a subreaper (prctl(2), Linux): whatever the server starts stays its descendant, in whatever session, so
nothing is left when it exits. Its exit code is the server's (128 + signal where that ended by one), or 137 when it
killed the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHECK_PARENT_S = 1.0
_KILLED = 137


def main() -> int:
    parent, cores, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    if cores != "-":
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    woken = _wake_on_signals()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509  # one thread here
    )
    code = _watch(parent, child.pid, woken)
    _kill_descendants()
    return code


def _wake_on_signals() -> int:
    """A descriptor that becomes readable on SIGCHLD and SIGTERM, each as its number."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return reader


def _watch(parent: int, child: int, woken: int) -> int:
    """Wait until the child has ended (returns its code) or has to be killed."""
    while True:
        readable, _, _ = select.select([0, woken], [], [], _CHECK_PARENT_S)
        signals = os.read(woken, 512) if woken in readable else b""
        code = _reap(child)
        if code is not None:
            return code
        words = os.read(0, 512) if 0 in readable else None
        if words == b"" or (words and b"kill" in words) or signal.SIGTERM in signals or os.getppid() != parent:
            return _KILLED
        if words and b"term" in words:
            os.kill(child, signal.SIGTERM)


def _reap(child: int) -> int | None:
    """Collect every ended descendant; returns the child's exit code if it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
    return 128 - code if code is not None and code < 0 else code


def _kill_descendants() -> None:
    """Kill and collect until there is nobody left; repeated, since a process may fork while it is being looked for."""
    while True:
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.01)


def _descendants() -> list[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                parent = int(stat.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


if __name__ == "__main__":
    sys.exit(main())
