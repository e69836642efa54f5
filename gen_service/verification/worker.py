"""One worker process: reads requests from its socket, judges, writes replies. Linear code, no asyncio.

The kernel keeps the CPU budget: ITIMER_PROF counts this process's CPU time, and its SIGPROF kills, inside C code too.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import replace

from gen_service.records import Verdict
from gen_service.verification import kinds, protocol
from gen_service.verification.judging import Judge
from gen_service.verification.kind import Kind
from gen_service.verification.protocol import Begun, Configuration, Leaving, Message, Phase, Ready, Reply, Request

LOAD_CPU_S = 120.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_NEAR_LIMIT = 8 * 2**20  # an allocation that failed was rarely larger; the allocator asks for 1 MiB at a time
_HELD_S = 0.02
_HELD_CHARACTERS = 100_000


def serve(channel: socket.socket, configuration: Configuration) -> None:
    """Says `Ready`, then answers requests until the other end closes, or until memory ran out once.

    Args:
        channel: a connected stream socket, blocking.
        configuration: the kind, the CPU seconds of one step, and the address space of this process (RLIMIT_AS).
    """
    settings = configuration.settings
    os.register_at_fork(after_in_child=channel.close)  # else a plug-in's child would hide this process's end
    _limit_memory(settings.memory_bytes)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _arm(LOAD_CPU_S)
    try:
        kind = kinds.loaded(settings.kind, configuration.target, settings.options)
    except BaseException as problem:  # an import may raise anything, SystemExit too
        channel.sendall(protocol.said([protocol.Unusable(_told(problem))]))
        return
    _Session(channel, kind, configuration).run()


class _Session:
    """Replies are held back while requests take microseconds, and sent before a step that may take long, so that
    whoever waits knows at which request a worker died."""

    def __init__(self, channel: socket.socket, kind: Kind, configuration: Configuration) -> None:
        self._channel = channel
        self._settings = configuration.settings
        self._judge = Judge(kind, self._settings.policy, self._begin)
        self._pid = os.getpid()
        self._held: list[Message] = []
        self._held_characters = 0
        self._sent_at = time.monotonic()
        self._known: Verdict | None = None  # of the request that takes long
        _arm(0.0)
        self._say(Ready(kind.version, kind.choices, kind.wants, kind.checks_gold))

    def run(self) -> None:
        """Answers frame by frame."""
        self._send()
        while header := _exactly(self._channel, protocol.HEADER.size):
            self._sent_at = time.monotonic()
            for request in protocol.requests(_exactly(self._channel, protocol.HEADER.unpack(header)[0])):
                if not self._answer(request):
                    return
            self._send()

    def _answer(self, request: Request) -> bool:
        """Whether more may be asked."""
        self._known = None
        _arm(self._settings.cpu_s)
        reply, healthy = self._reply(request)
        _arm(0.0)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that a plug-in forked came back from its code
        self._say(reply)
        if not healthy:
            self._say(Leaving())
        if not healthy or self._held_characters > _HELD_CHARACTERS or time.monotonic() - self._sent_at > _HELD_S:
            self._send()
        return healthy

    def _reply(self, request: Request) -> tuple[Reply, bool]:
        """The reply, and whether memory is left: sympy and math-verify swallow a MemoryError, and then call answers
        different."""
        starved = f"verifier ran out of memory (limit {self._settings.memory_bytes >> 20} MiB)"
        try:
            reply = self._judge.answer(request)
        except MemoryError:
            return self._failed(starved), False
        except BaseException as problem:  # a kind's code may raise anything, SystemExit too
            return self._failed(_told(problem)), True
        if self._known is not None and _peak_bytes() > self._settings.memory_bytes - _NEAR_LIMIT:
            return (reply if reply.verdict.outcome == "correct" else self._failed(starved)), False
        return reply, True

    def _failed(self, reason: str) -> Reply:
        return Reply(replace(self._known or Verdict("error", ""), outcome="error", reason=reason))

    def _begin(self, phase: Phase, so_far: Verdict) -> None:
        self._known = so_far
        self._say(Begun(phase, so_far))
        self._send()
        _arm(self._settings.cpu_s)

    def _say(self, message: Message) -> None:
        self._held.append(message)
        if isinstance(message, Reply):
            self._held_characters += len(message.verdict.extracted or "") + len(message.verdict.reason)

    def _send(self) -> None:
        if self._held:
            self._channel.sendall(protocol.said(self._held))
        self._held.clear()
        self._held_characters = 0
        self._sent_at = time.monotonic()


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent process ends, however it ends (Linux; elsewhere a no-op)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Descendants whose parent ends become this process's children (Linux), so that none can be lost sight of."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def ignore_stop_signals() -> None:
    """Ctrl-C, and a supervisor's SIGTERM to all processes, are for the controller, which lets running checks finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def run(channel: socket.socket, configuration: Configuration, parent: int) -> None:
    """What a forked child does: leaves the group, ties its life to its parent's, serves, and exits."""
    os.setsid()
    die_with_parent()
    adopt_orphans()
    if os.getppid() == parent:
        serve(channel, configuration)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _arm(cpu_s: float) -> None:
    """SIGPROF ends this process after so much more CPU time; 0 for never."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _limit_memory(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS refuses this limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak_bytes() -> int:
    """The largest address space that this process has had; 0 where the system does not say."""
    try:
        with open("/proc/self/status", "rb") as status:
            sizes = [int(line.split()[1]) for line in status if line.startswith(b"VmPeak:")]
    except OSError:
        return 0
    return sizes[0] * 1024 if sizes else 0


def _told(problem: BaseException) -> str:
    try:
        words = str(problem)
    except Exception:  # a `__str__` of the user's own
        words = ""
    return f"{type(problem).__name__}: {words}"[:300]


def _exactly(channel: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = channel.recv(size - len(received))
        if not piece:
            return b""
        received += piece
    return bytes(received)
