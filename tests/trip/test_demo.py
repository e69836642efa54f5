"""The demo, as `make demo` runs it, with fewer problems."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gen_service.storage.traces import read_traces

COMMAND = [sys.executable, "-c", "from gen_service.cli import main; main()", "demo"]


def run(*arguments: str) -> str:
    ended = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.vllm
def test_the_demo_publishes_accounts_and_leaves_no_process(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM's CPU build is not installed (extra: cpu)")
    before = {process.pid for process in psutil.process_iter()}
    arguments = ("--output", str(tmp_path), "--problems", "12", "--samples", "2")
    told = run(*arguments)
    assert "accounted for: 24 rows for 24 samples, 0 missing, 0 doubled" in told
    rows = list(read_traces(str(tmp_path / "demo")))
    assert len({row["endpoint"] for row in rows}) == 2
    assert (tmp_path / "demo" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    ports = [re.search(r":(\d+)$", row["endpoint"]) for row in rows]
    left = [process for process in psutil.process_iter(["cmdline"]) if process.pid not in before]
    commands = [" ".join(process.info["cmdline"] or ()) for process in left]
    assert not [line for line in commands for port in ports if port and f"--port {port[1]}" in line]
    assert "nothing to do" in run(*arguments)
