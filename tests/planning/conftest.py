"""A small job on a small fleet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_service.jobs.job import JobSpec, make_spec
from gen_service.planning.fleet_profile import FleetProfile

MakeSpec = Callable[..., JobSpec]
MakeFleet = Callable[..., FleetProfile]


def _fleet(servers: int = 2, kv_blocks: int = 2000, **fields: Any) -> FleetProfile:
    """32,000 tokens of KV cache a server: 30 answers of 1,000 tokens at their end."""
    constants = {"kv_blocks": kv_blocks, "step_s": [[1, 0.01], [64, 0.02]], "kv_token_s": 1e-7, "prefill_token_s": 1e-5}
    engine = {name: {"value": value, "source": "made up for a test"} for name, value in constants.items()}
    return FleetProfile.model_validate(
        {
            "version": 1,
            "name": "small",
            "basis": "made up, not measured",
            "servers": servers,
            "gpus_per_server": 4,
            "engine": engine,
            **fields,
        }
    )


@pytest.fixture
def make_fleet() -> MakeFleet:
    """A profile of a small fleet; its fields by name."""
    return _fleet


@pytest.fixture
def small_spec(tmp_path: Path) -> MakeSpec:
    """A spec of so many prompts; further fields by name."""

    def make(prompts: int, **fields: Any) -> JobSpec:
        path = tmp_path / f"prompts-{prompts}.jsonl"
        rows = [{"prompt": f"What is {number} + 1?" + " please" * (number % 5)} for number in range(prompts)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        # Named, since lengths follow the sample ids: else they would follow the path.
        base = {
            "name": "planned",
            "prompts": str(path),
            "endpoints": "http://127.0.0.1:1",
            "sampling": {"max_tokens": 4000},
        }
        return make_spec({**base, **fields})

    return make
