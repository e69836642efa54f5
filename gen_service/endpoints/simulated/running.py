"""Simulated servers as a process of their own."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace

import uvloop

from gen_service.endpoints.simulated.server import SimulatedServer
from gen_service.endpoints.simulated.settings import SimulationSettings


def run_simulated_server(
    settings: SimulationSettings, host: str = "127.0.0.1", port: int = 8000, servers: int = 1
) -> None:
    """Serve until SIGINT or SIGTERM. Prints one line, `ready URL URL ...`, when all servers listen.

    Args:
        port: of the first server, the others have the next ones; 0 picks free ones.
        servers: how many, all in this process; each has its own `server_index`, counted on from the settings'.

    Raises:
        OSError: a port is taken.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, host, port, servers))


async def _serve(settings: SimulationSettings, host: str, port: int, servers: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    fleet = [
        SimulatedServer(
            replace(settings, server_index=settings.server_index + index), host=host, port=port + index if port else 0
        )
        for index in range(servers)
    ]
    try:
        for server in fleet:
            await server.start()
        sys.stdout.write(f"ready {' '.join(server.url for server in fleet)}\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        for server in fleet:
            await server.stop()
