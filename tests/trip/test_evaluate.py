"""An evaluation from the command line on real vLLM servers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from gen_service import read_traces
from gen_service.endpoints.local_server import LocalServer
from gen_service.evaluation.benchmarks import BENCHMARKS
from gen_service.evaluation.run_evaluations import evaluations_of
from gen_service.storage.checkpoints import mark_whole
from gen_service.tiny_model import CHECKPOINT

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

Servers = tuple[LocalServer, LocalServer]
REAL_DATA = os.environ.get("GEN_SERVICE_BENCHMARK_DATA")


async def evaluated(servers: Servers, output: Path, name: str, *arguments: str) -> dict[str, Any]:
    """The stored evaluation of a command that ended well."""
    command = [sys.executable, "-c", "from gen_service.cli import main; main()", "evaluate", "--name", name]
    command += [flag for server in servers for flag in ("--server", server.url)]
    command += ["--model", "tiny", "--max-tokens", "256", "--output", str(output), *arguments]
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | {"COLUMNS": "200"})
    assert await process.wait() == 0
    tree: dict[str, Any] = json.loads((output / name / "evaluation.json").read_text(encoding="utf-8"))
    return tree


async def test_the_tiny_model_on_problems_that_it_was_not_taught(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    sampling = ("--samples", "4", "--temperature", "1.0", "--top-p", "1.0", "--template", "{prompt}")
    own = ("--benchmark", f"held_out={problem_file}")
    tree = await evaluated(vllm_servers, tmp_path, "tiny", *own, *sampling)
    (result,) = tree["benchmarks"]
    rows = list(read_traces(result["traces"]))
    assert (tree["model"], tree["complete"], len(rows)) == ("tiny", True, 480)
    assert result["score"]["pass_at_1"] == pytest.approx(sum(row["verdict"] == "correct" for row in rows) / 480)
    low, high = result["score"]["interval"]
    assert 0.5 < low < result["score"]["pass_at_1"] < high < 1.0
    assert result["score"]["pass_at"]["4"] > result["score"]["pass_at_1"]


async def test_a_runs_checkpoints_are_measured_one_after_another(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    run = tmp_path / "run"
    untaught, taught = (run / "checkpoints" / f"checkpoint-{step}" for step in (10, 200))
    student = ("-m", "gen_service.training.demo.student", "--like", str(CHECKPOINT), "--output", str(untaught))
    made = await asyncio.create_subprocess_exec(sys.executable, *student)
    assert await made.wait() == 0
    shutil.copytree(CHECKPOINT, taught)
    for checkpoint in (untaught, taught):
        mark_whole(checkpoint)
    (run / "run.json").write_text('{"finished": null}')
    command = [sys.executable, "-c", "from gen_service.cli import main; main()", "evaluate-run", str(run)]
    command += [flag for server in vllm_servers for flag in ("--server", server.url)]
    command += ["--benchmark", f"held_out={problem_file}", "--samples", "2", "--max-tokens", "256"]
    command += ["--temperature", "1.0", "--top-p", "1.0", "--template", "{prompt}"]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0
    shares = [tree["benchmarks"][0]["score"]["pass_at_1"] for tree in evaluations_of(run).values()]
    assert shares[0] < 0.1 < 0.5 < shares[1]  # the servers have the package's own weights again


@pytest.mark.skipif(REAL_DATA is None, reason="GEN_SERVICE_BENCHMARK_DATA names no folder of the benchmarks' files")
async def test_the_five_benchmarks_run_through(vllm_servers: Servers, tmp_path: Path) -> None:
    tree = await evaluated(vllm_servers, tmp_path, "five", "--data", str(REAL_DATA), "--limit", "20", "--samples", "1")
    assert [result["name"] for result in tree["benchmarks"]] == list(BENCHMARKS)
    assert all(sum(result["verdicts"].values()) == 20 for result in tree["benchmarks"])
    assert tree["average"]["pass_at_1"] < 0.2
