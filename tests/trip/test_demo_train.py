"""The trainer's demo, all parts real, with sizes too small to teach anything: that the chain holds and is accounted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.console import Console

from gen_service.endpoints.local_server import LocalServer
from gen_service.evaluation import stored
from gen_service.generation.pool import Stop
from gen_service.storage.traces import read_traces
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.demo.commands import Commands
from gen_service.training.demo.demo import show
from gen_service.training.demo.outcome import ROWS
from gen_service.training.demo.servers import LentServers
from gen_service.training.demo.sizes import DemoTrainSettings, held_out_files
from gen_service.training.demo.steps import TrainerDemo
from gen_service.training.record_file import read_record

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

Servers = tuple[LocalServer, LocalServer]


@asynccontextmanager
async def running(servers: Servers) -> AsyncIterator[list[str]]:
    yield [server.url for server in servers]


async def test_teacher_student_and_reinforced_student_are_measured_on_the_same_problems(
    vllm_servers: Servers, tmp_path: Path
) -> None:
    settings = DemoTrainSettings(
        tmp_path,
        prompts=40,
        sft_steps=4,
        grpo_steps=2,
        problems=10,
        weaker_at=0.0,
        taught_at=0.0,
        checkpoint_steps=2,
        probed=20,
    )
    told: list[str] = []
    async with LentServers(lambda: running(vllm_servers)) as servers:
        try:
            stop = Stop()
            demo = TrainerDemo(settings, servers, Commands(tmp_path / "logs", told.append, stop), told.append, stop)
            rows = await demo.run()
            teacher = await demo.evaluated("teacher", CHECKPOINT, held_out_files(demo.places))
        finally:
            async with servers.lent(CHECKPOINT):  # as the next test expects them
                pass
    traces = list(read_traces(str(demo.places.traces)))
    right = sum(row["verdict"] == "correct" for row in traces)
    taught = read_record(demo.places.run("sft"))["notes"]["examples"]
    assert (len(traces), taught["read"], taught["train"]) == (40, 40, right)
    assert right > 20
    for name, row in rows.items():
        (folder,) = demo.places.evaluations.glob(f"{name}-{'?' * 12}")
        results = stored.load(str(folder))["benchmarks"]
        counted = {one["name"]: sum(solved for _, solved in one["by_problem"].values()) / 10 for one in results}
        assert (row.problems, row.by_seed) == (30, counted)
    assert rows["before"].mean < 0.1 < 0.6 < teacher.mean
    starts = {read_record(demo.places.run(name))["spec"]["model"]["path"] for name in ("grpo", "weaker-grpo")}
    assert starts == {str(demo.places.run("sft") / "checkpoints" / "checkpoint-2")}
    console = Console(record=True, width=200)
    kept = show(console, rows, demo.places, [])
    shown = console.export_text()
    assert not kept[1].is_kept
    assert all(title in shown for title in ROWS.values())
    assert any(line.startswith("$ gen-service train grpo ") for line in told)
