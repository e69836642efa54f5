"""A whole job whose servers change while it runs: by the file that its spec names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gen_service import generate, make_spec, read_traces
from gen_service.endpoints.simulated import Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.errors import SpecError
from gen_service.jobs.audit import audit
from gen_service.jobs.job import JobSpec

SLOW = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=600.0)), tick_s=0.005)


def job(folder: Path, prompts: int = 30) -> JobSpec:
    path = folder / "prompts.jsonl"
    rows = [
        {"id": f"p{number}", "prompt": f"What is {number} + 5?", "answer": str(number + 5)} for number in range(prompts)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return make_spec(
        {
            "name": "job",
            "prompts": str(path),
            "endpoints": {"file": str(folder / "servers.txt"), "discover_s": 0.01},
            "sampling": {"max_tokens": 500},
            "pool": {"in_flight": 4},
            "output": str(folder / "out"),
        }
    )


async def test_a_job_moves_to_the_servers_that_its_file_names(tmp_path: Path) -> None:
    listed, notices, moved = tmp_path / "servers.txt", list[str](), asyncio.Event()

    def notice(words: str) -> None:
        notices.append(words)
        if "is removed" in words:
            moved.set()

    async with SimulatedServer(SLOW) as first, SimulatedServer(SLOW) as second:
        listed.write_text(f"{first.url}\n")
        running = asyncio.create_task(generate(job(tmp_path), on_notice=notice))
        while not first.numbers.running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        listed.write_text(f"{second.url}  # the first one is needed elsewhere\n")
        await moved.wait()
        ended = sum(line["event"] == "sent" for line in first.log)
        report = await running
        assert (report.complete, report.published.rows, report.published.by_verdict) == (True, 30, {"correct": 30})
        had = sum(line["event"] == "received" for line in first.log)
        assert had == sum(line["event"] == "sent" for line in first.log)
        assert 1 <= had <= ended + 4 < 30
    found = audit(job(tmp_path))
    assert (found.expected, found.published, found.missing, found.doubled) == (30, 30, 0, 0)
    assert {row["endpoint"] for row in read_traces(report.folder)} == {first.url, second.url}
    assert f"{second.url} is added" in notices


async def test_a_job_whose_file_of_servers_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"endpoints\.file: got .*servers\.txt.*No such file"):
        await generate(job(tmp_path))
