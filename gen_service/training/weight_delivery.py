"""Which weights each server has, and bringing it the current ones."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gen_service.endpoints.interruption import Interruption
from gen_service.endpoints.weight_control import LOADING, WeightControl
from gen_service.errors import EndpointError, RequestRefused, ServerFailed, Stalled
from gen_service.training.weight_transport import WeightTransport

# A server that was asked which weights it has is not asked again for this long: none can die, start, load a model and
# answer within it.
CHECK_S: Final = 1.0
# A server that did not take weights fails the requests bound for it at once for this long: long enough to be ejected.
FAILED_S: Final = 5.0
# When one server has the weights, the others get this much longer, or as often as long as it took that one.
LAG_S: Final = 10.0
LAG: Final = 3.0
# Rounds of all servers in which one that answers says no, until it is not a server's trouble but the weights'.
REFUSALS: Final = 3
AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """A version of the policy. `folder` is where the transport placed it."""

    version: int
    folder: Path


@dataclass(slots=True, eq=False)
class WeightedServer:
    """One server, as far as its weights go.

    Attributes:
        weights: that it has for all we know; None while they change, or where nothing is known.
        tag: the name that these weights have there.
        checked_at: loop time when it last answered to that name.
        failure, failed_at: why it last did not take weights, and when.
        streams: what is in flight there; `idle` is set while there is none.
    """

    url: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    weights: Weights | None = None
    tag: str = ""
    checked_at: float = float("-inf")
    failure: EndpointError | None = None
    failed_at: float = float("-inf")
    streams: set[Interruption] = field(default_factory=set)
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class WeightDelivery:
    """Brings servers the current weights and knows which have them.

    Invariant: nothing is in flight at a server while its weights change. A server whose name for its weights is not the
    one that was given to it last was started again, or has another master, and has none that are known.

    Args:
        control: tells servers to change their weights.
        transport: brings the weights.
        on_notice: told in words what becomes of servers.
        check_s: how long an answer to which weights a server has counts, in seconds.

    Attributes:
        current: the newest weights; None before there are any.
        deliveries: how often weights were brought to a server.
    """

    def __init__(
        self,
        control: WeightControl,
        transport: WeightTransport,
        on_notice: Callable[[str], None],
        check_s: float = CHECK_S,
    ) -> None:
        self.current: Weights | None = None
        self.deliveries = 0
        self._control = control
        self._transport = transport
        self._on_notice = on_notice
        self._check_s = check_s
        self._servers: dict[str, WeightedServer] = {}
        # Two trainers that share a server by mistake must not take each other's weights for their own.
        self._name = os.urandom(6).hex()
        self._numbers = itertools.count()

    def server(self, url: str) -> WeightedServer:
        """The server with a URL."""
        if url not in self._servers:
            server = self._servers[url] = WeightedServer(url)
            server.idle.set()
        return self._servers[url]

    async def publish(self, weights: Weights, urls: Sequence[str]) -> None:
        """Bring weights to these servers; return when all have them or failed, or lag far behind the first.

        While no server is reachable it waits, and says so.

        Raises:
            EndpointError: no server takes them, and one said why three times.
        """
        self.current = weights
        refusals = 0
        while True:
            found = await self._bring_to_all([self.server(url) for url in urls])
            if any(error is None for error in found.values()):
                break
            said_no = [error for error in found.values() if isinstance(error, ServerFailed | RequestRefused)]
            refusals += bool(said_no)
            if refusals >= REFUSALS:
                raise said_no[0]
            if not refusals:
                self._on_notice(f"waiting: no server takes version {weights.version} of the weights ({found})")
            await asyncio.sleep(AGAIN_S)
        for url, error in found.items():
            if error is not None:
                self._on_notice(f"{url} gets no request until it has version {weights.version}: {error}")

    async def look_again(self, server: WeightedServer) -> None:
        """As `ready`, whatever is known of the server: it is asked, and tried though it failed a moment ago."""
        server.checked_at = server.failed_at = float("-inf")
        await self.ready(server)

    async def ready(self, server: WeightedServer) -> Weights:
        """Return when the server has the current weights, brought to it where it has not.

        Raises:
            EndpointError: it has them not.
        """
        while True:
            current, now = self.current, _now()
            assert current is not None, "weights are published before anything is asked of them"
            if server.weights is current and now - server.checked_at < self._check_s:
                return current
            async with server.lock:
                if current is self.current:
                    await self._check(server, current)
                    if current is self.current:
                        return current

    async def _check(self, server: WeightedServer, current: Weights) -> None:
        now = _now()
        if server.failure is not None and now - server.failed_at < FAILED_S:
            raise server.failure
        if server.weights is current:
            if now - server.checked_at < self._check_s or await self._control.tag(server.url) == server.tag:
                server.checked_at = now
                return
            self._on_notice(f"{server.url} was started again: it gets version {current.version} of the weights")
        await self._bring(server, current)

    async def _bring(self, server: WeightedServer, current: Weights) -> None:
        server.weights, server.failure = None, Stalled(server.url, "it took too long to load weights")
        for stream in list(server.streams):
            stream.ask()
        tag = f"{self._name}:{current.version}:{next(self._numbers)}"
        try:
            await server.idle.wait()
            await self._control.set_tag(server.url, LOADING)
            await self._transport.bring(server.url, current.folder)
            await self._control.reset_prefix_cache(server.url)
            await self._control.set_tag(server.url, tag)
        except EndpointError as error:
            server.failure = error
            raise
        finally:
            server.failed_at = _now()
        self.deliveries += 1
        server.weights, server.tag, server.failure, server.checked_at = current, tag, None, _now()

    async def _bring_to_all(self, servers: Sequence[WeightedServer]) -> dict[str, EndpointError | None]:
        """What became of each: None where it has the current weights."""
        for server in servers:
            server.failure = None
        started = _now()
        tasks = {asyncio.create_task(self._attempt(server)): server.url for server in servers}
        found: dict[str, EndpointError | None] = {}
        waiting, until = set(tasks), None
        try:
            while waiting:
                patience = None if until is None else max(0.0, until - _now())
                done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                found |= {tasks[task]: task.result() for task in done}
                if until is None and None in found.values():
                    until = _now() + max(LAG_S, LAG * (_now() - started))
        finally:
            for task in waiting:
                task.cancel()
        return found | {tasks[task]: Stalled(tasks[task], "it took too long to load weights") for task in waiting}

    async def _attempt(self, server: WeightedServer) -> EndpointError | None:
        try:
            await self.ready(server)
        except EndpointError as error:
            return error
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
