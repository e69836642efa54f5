"""Hostile golds and answers against the real verifier, and a parent that dies under one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil

from benchmarks.hostile import attack, broken_promises
from benchmarks.hostile_inputs import Hostile, hostile_checks, tagged
from gen_service.settings import VerificationSettings

# CPU seconds bound the cost of each check; the wall limit is far off, so that a busy machine changes no verdict.
SETTINGS = VerificationSettings(workers=2, cpu_s=0.5, wall_s=120, memory_bytes=2**30)
HANG_S = 400


async def test_hostile_inputs_end_in_verdicts_within_their_budgets_and_harm_nobody(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    checks = hostile_checks(marker)
    assert len({(check.gold, check.content) for check in checks}) == len(checks) >= 2 * 60
    async with asyncio.timeout(HANG_S):
        run = await attack(SETTINGS, checks)
    assert broken_promises(run, SETTINGS, marker) == []
    assert run.honest == (True, True, True)
    assert run.watch.longest_pause_s > 0
    if sys.platform == "linux":
        assert 0 < run.watch.worker_resident_bytes <= run.watch.worker_virtual_bytes <= SETTINGS.memory_bytes


async def test_the_test_sees_a_right_answer_and_an_executed_payload(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    checks = [Hostile("right", "y+3", tagged("3+y")), Hostile("harmless", "y+3", tagged("y+4"))]
    run = await attack(SETTINGS, checks)
    assert [line.partition(":")[0] for line in broken_promises(run, SETTINGS, marker)] == ["right (answer)"]
    marker.touch()
    assert broken_promises(run, SETTINGS, marker)[1:] == ["a payload was executed"]


def test_a_parent_killed_under_a_hostile_check_leaves_no_process() -> None:
    script = Path(__file__).with_name("orphan_parent.py")
    environment = {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    assert not psutil.wait_procs(children, timeout=20)[1]
