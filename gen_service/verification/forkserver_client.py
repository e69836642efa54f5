"""The forkserver as the event loop sees it: started when first needed, asked for workers, ended with all of them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import cast

from gen_service.verification.exchange import WorkerDied
from gen_service.verification.forkserver import END, FORK, REPLY, REQUEST
from gen_service.verification.protocol import Configuration

_FORKSERVER = "gen_service.verification.forkserver"


class Forkserver:
    """The process that forks workers, and the control socket to it.

    One request at a time, and a request once begun must be finished: callers shield `fork` and `end` from cancellation.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def fork(self, channel: socket.socket) -> int:
        """Starts a worker on the other end of `channel`; gives its process id. Starts the forkserver when none runs."""
        async with self._turn:
            for _ in range(2):  # the forkserver may have died since it was last asked
                if self._closed:
                    break
                if self._control is None:
                    self._start()
                reply = await self._exchange(FORK, 0, [channel.fileno()])
                if reply is not None:
                    return reply[0]
        raise WorkerDied("the verifier is closed" if self._closed else "the verifier's forkserver ended twice")

    async def end(self, pid: int) -> int:
        """Kills a worker and its descendants; gives its wait status, or 0 when the forkserver is gone too."""
        async with self._turn:
            reply = await self._exchange(END, pid, [])
        return reply[1] if reply else 0

    async def close(self) -> None:
        """Ends the forkserver and with it every worker; returns when the process is gone. None starts afterwards."""
        self._closed = True
        async with self._turn:
            await self._drop()

    async def _exchange(self, kind: bytes, pid: int, descriptors: list[int]) -> tuple[int, int] | None:
        """One request and its reply; None when the forkserver is gone, which is then tidied away."""
        if self._control is None:
            return None
        try:
            socket.send_fds(self._control, [REQUEST.pack(kind, pid)], descriptors)
            reply = await _received(self._control, REPLY.size)
        except (OSError, EOFError):
            await self._drop()
            return None
        return cast("tuple[int, int]", REPLY.unpack(reply))

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        arguments = [self._configuration.dumped(), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _FORKSERVER, str(theirs.fileno()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(here=self._configuration.target is not None),
                start_new_session=True,
            )
        self._control = ours

    async def _drop(self) -> None:
        if self._control is None or self._process is None:
            return
        try:
            self._control.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(5):
                while await asyncio.get_running_loop().sock_recv(self._control, 4096):
                    pass
        except (OSError, TimeoutError):
            self._process.kill()
        self._control.close()
        self._process.wait()  # its socket is closed or it was killed: this returns at once
        self._control = self._process = None


def _environment(here: bool) -> dict[str, str]:
    """Ours, with our import path, and the working directory for plug-ins; a fixed hash seed, so that sympy orders
    terms alike in every run; and Python's own integers, since gmpy2 computes for hours where no signal handler runs."""
    path = [os.path.abspath(entry) for entry in sys.path] + [os.getcwd()] * here
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "0", "SYMPY_GROUND_TYPES": "python"}


async def _received(channel: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = await asyncio.get_running_loop().sock_recv(channel, size - len(received))
        if not piece:
            raise EOFError
        received += piece
    return received
