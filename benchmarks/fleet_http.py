"""The fleet benchmark through real HTTP: simulated engines in processes of their own, all times scaled.

The controller's event loop counts engine seconds: its clock and its timers run `time_scale` times faster, so that every
rule of fleet, limit and client sees the times that it would see at a real fleet.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final

from benchmarks.fleet_world import SERVERS, Run, World, replica
from benchmarks.servers import simulated_servers
from gen_service.endpoints.client import Client
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.settings import EndpointSettings

# Each a process of its own would only fight for the cores.
PROCESSES: Final = 1
# Tokens in a chunk: what a chunk costs is not what is measured here.
STREAM_INTERVAL: Final = 128


class _ScaledSelector(selectors.DefaultSelector):
    """Waits a part of the time that it is asked to wait."""

    time_scale = 1.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout if timeout is None or timeout <= 0.0 else timeout / self.time_scale)


class ScaledLoop(asyncio.SelectorEventLoop):
    """An event loop of whose seconds `time_scale` pass in a second."""

    def __init__(self, time_scale: float) -> None:
        selector = _ScaledSelector()
        selector.time_scale = time_scale
        self._time_scale = time_scale
        self._origin = time.monotonic()
        super().__init__(selector)

    def time(self) -> float:
        """Scaled seconds since the loop was made."""
        return (time.monotonic() - self._origin) * self._time_scale


def http_run(
    name: str,
    way: Callable[[World], Awaitable[None]],
    seed: int,
    samples_per_prompt: int,
    watermark: float,
    time_scale: float,
) -> Run:
    """One run against servers that are started for it."""
    profile: dict[str, Any] = asdict(replica(watermark)) | {"stream_interval": STREAM_INTERVAL}
    lengths = Lengths(seed=seed)
    arguments = [
        *("--engine", json.dumps(profile), "--time-scale", str(time_scale), "--seed", str(seed)),
        *("--lengths", f"{lengths.mean}:{lengths.sigma}:{lengths.cap}:{lengths.sibling_correlation}"),
        *("--max-model-len", "40960", "--tick", "0.02"),
    ]

    async def main(urls: tuple[str, ...]) -> Run:
        # Connections are made in real seconds.
        settings = EndpointSettings(urls=urls, connect_s=10.0 * time_scale)
        if name != "ours":
            # The post's loops wait for ever.
            settings = settings.model_copy(update={"stall_s": 1e6, "first_token_s": 1e6})
        async with Client(settings) as client:
            world = World(client, urls, samples_per_prompt, seed, watermark)
            watching = asyncio.create_task(world.watch())
            await way(world)
            watching.cancel()
            return await world.run(name)

    with (
        simulated_servers(arguments, processes=PROCESSES, servers=SERVERS // PROCESSES) as urls,
        asyncio.Runner(loop_factory=lambda: ScaledLoop(time_scale)) as runner,
    ):
        return runner.run(main(urls))
