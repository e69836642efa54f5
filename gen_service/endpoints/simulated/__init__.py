"""A simulated vLLM server for tests, benchmarks and demos: one stand-in for all of them."""

from __future__ import annotations

from gen_service.endpoints.simulated.faults import Faults
from gen_service.endpoints.simulated.running import run_simulated_server
from gen_service.endpoints.simulated.script import Script, render_chat
from gen_service.endpoints.simulated.server import SimulatedServer
from gen_service.endpoints.simulated.settings import SimulationSettings
from gen_service.endpoints.simulated.timing import HEAVY_TAIL, Distribution, Fixed, LogNormal, TokenRate, TotalLatency

__all__ = [
    "HEAVY_TAIL",
    "Distribution",
    "Faults",
    "Fixed",
    "LogNormal",
    "Script",
    "SimulatedServer",
    "SimulationSettings",
    "TokenRate",
    "TotalLatency",
    "render_chat",
    "run_simulated_server",
]
