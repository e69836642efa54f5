"""A job run for real, on simulated servers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.endpoints.simulated import Faults, Script, SimulatedServer, SimulationSettings
from gen_service.generation.pool import Stop
from gen_service.jobs.job import make_spec
from gen_service.jobs.runner import JobReport, generate

RunJob = Callable[..., Awaitable[JobReport]]


@pytest.fixture
def run_job(tmp_path: Path) -> RunJob:
    """Runs a job of additions on a simulated server; each call continues it."""

    async def run(
        problems: int = 12,
        *,
        p_right: float = 0.5,
        stop: Stop | None = None,
        notices: list[str] | None = None,
        **spec: Any,
    ) -> JobReport:
        source = tmp_path / "problems.jsonl"
        rows = [
            {
                "id": f"p{number}",
                "prompt": f"What is {number} + 1?",
                "answer": str(number + 1),
                "source": f"set{number % 2}",
            }
            for number in range(problems)
        ]
        source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad"}]))
        script, faults = Script(p_right=p_right), Faults(refused_marker="is 11 +")
        async with SimulatedServer(SimulationSettings(script=script, faults=faults)) as server:
            document = {
                "name": "sums",
                "prompts": str(source),
                "samples": 3,
                "endpoints": server.url,
                "sampling": {"max_tokens": 200},
                "output": {"path": str(tmp_path / "traces"), "shard_rows": 8},
            }
            said = [] if notices is None else notices
            return await generate(make_spec(document | spec), stop=stop, on_notice=said.append)

    return run
