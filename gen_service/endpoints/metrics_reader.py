"""Reads servers' metrics: what their limits follow, and what a silence of theirs means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gen_service.endpoints.endpoint import Endpoint
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.unexpected import tell
from gen_service.errors import EndpointError


class MetricsReader:
    """Gives each server the readings of its metrics, one reading of a server at a time.

    A reading that fails says nothing of the server's health.

    Args:
        readings: what the metrics of the server with a URL say; it raises EndpointError.
        on_room: called when a server has more room after it.
    """

    def __init__(self, readings: Callable[[str], Awaitable[Readings]], on_room: Callable[[], None]) -> None:
        self._readings = readings
        self._on_room = on_room
        self._reading: dict[Endpoint, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """What runs now."""
        return list(self._reading.values())

    async def read(self, endpoint: Endpoint) -> None:
        """Read a server's metrics. Without an answer the limit holds."""
        try:
            readings = await self._readings(endpoint.url)
        except EndpointError:
            return
        if endpoint.read(readings, asyncio.get_running_loop().time()):
            self._on_room()

    def read_later(self, endpoint: Endpoint) -> None:
        """Read a server's metrics in the background, unless that is under way."""
        if endpoint not in self._reading:
            self._reading[endpoint] = asyncio.create_task(self._read_later(endpoint))

    async def _read_later(self, endpoint: Endpoint) -> None:
        try:
            await self.read(endpoint)
        except Exception as error:
            tell(f"the metrics of {endpoint.url} are not read", error)
        finally:
            del self._reading[endpoint]
