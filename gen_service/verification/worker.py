"""One worker process: reads a check from its socket, grades it, writes the verdict. Linear code, no asyncio.

Frames both ways are a 4-byte big-endian length and UTF-8 JSON, so nothing a worker sends can be more than text.
The kernel keeps the CPU budget: ITIMER_PROF counts this process's CPU time, and its SIGPROF kills, inside C code too.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys

from gen_service.verification.grade import Grade, grade

HEADER = struct.Struct("!I")
_PR_SET_PDEATHSIG = 1
_NEAR_LIMIT = 8 * 2**20  # an allocation that failed was rarely larger; the allocator asks for 1 MiB at a time


def serve(channel: socket.socket, cpu_s: float, memory_bytes: int) -> None:
    """Answers checks until the other end closes, or until memory ran out once. Does not return an error: it dies.

    Args:
        channel: a connected stream socket, blocking.
        cpu_s: CPU seconds that one check may use.
        memory_bytes: address space of this process (RLIMIT_AS).
    """
    _limit_memory(memory_bytes)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while (request := _read(channel)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        result = _checked(request["gold"], request["answer"], memory_bytes)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        body = json.dumps({"outcome": result.outcome, "reason": result.reason}).encode()
        channel.sendall(HEADER.pack(len(body)) + body)
        if result.outcome == "error":
            return


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent process ends, however it ends (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore_stop_signals() -> None:
    """Ctrl-C, and a supervisor's SIGTERM to all processes, are for the controller, which lets running checks finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _limit_memory(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS refuses this limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _checked(gold: str, answer: str, memory_bytes: int) -> Grade:
    """The grade, unless memory ran out: sympy and math-verify swallow a MemoryError and then call answers different."""
    starved = Grade("error", f"verifier ran out of memory (limit {memory_bytes // 2**20} MiB)")
    try:
        result = grade(gold, answer)
    except MemoryError:
        return starved
    if result.outcome != "correct" and _peak_bytes() > memory_bytes - _NEAR_LIMIT:
        return starved
    return result


def _peak_bytes() -> int:
    """The largest address space that this process has had; 0 where the system does not say."""
    try:
        with open("/proc/self/status", "rb") as status:
            sizes = [int(line.split()[1]) for line in status if line.startswith(b"VmPeak:")]
    except OSError:
        return 0
    return sizes[0] * 1024 if sizes else 0


def _read(channel: socket.socket) -> dict[str, str] | None:
    header = _exactly(channel, HEADER.size)
    body = _exactly(channel, HEADER.unpack(header)[0]) if header else b""
    return {str(key): str(value) for key, value in json.loads(body).items()} if body else None


def _exactly(channel: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = channel.recv(size - len(received))
        if not piece:
            return b""
        received += piece
    return bytes(received)


def run(channel: socket.socket, cpu_s: float, memory_bytes: int, parent: int) -> None:
    """What a forked child does: leaves the group, ties its life to its parent's, serves, and exits."""
    os.setsid()
    die_with_parent()
    if os.getppid() == parent:
        serve(channel, cpu_s, memory_bytes)
