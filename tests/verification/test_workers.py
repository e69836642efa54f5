"""The verifier's processes: budgets, crashes, hostile answers, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Verifier
from gen_service.verification.workers import WorkerPool

MIB = 1024 * 1024
BUSY = "(x+1)^{19999}"
HUNGRY = "(a+b+c+d+e+f+g+h)^{30}"

HOSTILE = {
    "tower": "2^{2^{2^{2^{2^{2}}}}}",
    "huge power": "2^{10^9}",
    "power of power": "((2^{19999})^{19999})^{19999}",
    "factorial": "(10^9)!",
    "factorials": "((3!)!)!",
    "factorial allowed": "2999!",
    "binomial": r"\binom{10^9}{5\cdot10^8}",
    "parentheses": "(" * 5000 + "x" + ")" * 5000,
    "nested allowed": "(" * 22 + "x" + ")" * 22,
    "fractions": r"\frac{1}{" * 400 + "x" + "}" * 400,
    "fractions allowed": r"\frac{1}{1+" * 20 + "x" + "}" * 20,
    "sum": r"\sum_{k=1}^{10^9} \frac{1}{k^2}",
    "sum allowed": r"\sum_{k=1}^{19999} \frac{1}{k^3+1}",
    "product": r"\prod_{k=1}^{19999} (k^2+1)",
    "integral": r"\int_0^1 \frac{\sin(x^7+1)}{\ln(x+2)} dx",
    "determinant": r"\det\begin{pmatrix}a&b&c&d\\e&f&g&h\\i&j&k&l\\m&n&o&p\end{pmatrix}",
    "polynomial": BUSY,
    "gamma": r"\Gamma(10^{9})",
    "many numbers": ",".join(map(str, range(390))),
    "long": "x+" * 100_000 + "1",
    "braces": "{" * 200_000,
    "NUL": "1\0 2",
    "control": "\x01\x02\x1b[31m",
    "surrogate": "\ud800",
    "right to left": "\u202e1",
    "emoji": "\U0001f389",
    "backslashes": "\\" * 1500,
    "subscripts": "x_" * 700,
    "carets": "^" * 1000,
    "roots": r"\sqrt" * 300 + "2",
    "bars": "|" * 20 + "x" + "|" * 20,
    "code": "__import__('os').system('touch gen_service_payload')",
    "lambda": "(lambda: open('gen_service_payload','w'))()",
    "signs": r"\pm" * 60 + "1",
}


def settings(workers: int = 2, cpu_s: float = 5, wall_s: float = 60, memory: int = 1024 * MIB) -> VerificationSettings:
    return VerificationSettings(workers=workers, cpu_s=cpu_s, wall_s=wall_s, memory_bytes=memory)


@asynccontextmanager
async def running(pool: WorkerPool) -> AsyncIterator[WorkerPool]:
    try:
        yield pool
    finally:
        await pool.close()


async def test_hostile_answers_end_in_a_verdict_and_harm_nobody() -> None:
    async with Verifier(settings(cpu_s=0.4)) as verifier:
        grades = await asyncio.gather(*(verifier.check("y+3", text) for text in HOSTILE.values()))
        outcomes = {name: grade.outcome for name, grade in zip(HOSTILE, grades, strict=True)}
        assert set(outcomes.values()) <= {"incorrect", "unparsable", "timeout"}, outcomes
        assert outcomes["polynomial"] == "timeout"
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
    assert "gen_service_payload" not in os.listdir()


@pytest.mark.parametrize(
    ("budgets", "named"),
    [(settings(workers=1, cpu_s=0.3), "CPU limit of 0.3 s"), (settings(workers=1, wall_s=0.3), "wall limit of 0.3 s")],
)
async def test_a_hung_check_is_a_timeout_and_the_next_is_answered(budgets: VerificationSettings, named: str) -> None:
    async with running(WorkerPool(budgets)) as pool:
        hung, good = await asyncio.gather(pool.check("y+3", BUSY), pool.check("x", "0.5x+0.5x"))
        assert (hung.outcome, hung.reason) == ("timeout", named)
        assert good.outcome == "correct"
        assert (pool.started, pool.ended) == (2, 1)


async def test_a_timeout_is_asked_again_and_a_grade_is_kept() -> None:
    async with Verifier(settings(workers=1, cpu_s=0.3)) as verifier:
        for _ in range(2):
            assert (await verifier.check("y+3", BUSY)).outcome == "timeout"
        assert verifier.workers_ended == 2
        for _ in range(2):
            assert (await verifier.check("2x", "x+x")).outcome == "correct"
        assert verifier.grades_kept == 1


async def test_running_out_of_memory_is_an_error_that_says_so() -> None:
    async with running(WorkerPool(settings(workers=1, cpu_s=60, memory=256 * MIB))) as pool:
        assert (await pool.check("2x", "x+x")).outcome == "correct"
        starved = await pool.check("y+3", HUNGRY)
        assert (starved.outcome, starved.reason) == ("error", "verifier ran out of memory (limit 256 MiB)")
        assert (await pool.check("3x", "x+2x")).outcome == "correct"


def _workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.parent() != psutil.Process()]


async def test_the_check_of_a_killed_worker_is_answered() -> None:
    async with Verifier(settings(workers=2, cpu_s=30)) as verifier:
        await asyncio.gather(verifier.check("2x", "x+x"), verifier.check("3x", "x+2x"))
        for worker in _workers():
            worker.kill()
        answers = (verifier.check(f"{index}x", f"x+{index - 1}x") for index in range(4, 10))
        assert [grade.outcome for grade in await asyncio.gather(*answers)] == ["correct"] * 6


async def test_a_killed_forkserver_is_replaced() -> None:
    async with Verifier(settings(workers=1)) as verifier:
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
        [forkserver] = psutil.Process().children()
        workers = _workers()
        forkserver.kill()
        assert (await verifier.check("3x", "x+2x")).outcome == "correct"
        assert not psutil.wait_procs(workers, timeout=20)[1]


async def test_workers_are_recycled() -> None:
    async with running(WorkerPool(settings(workers=1), recycle_after=3)) as pool:
        for index in range(2, 9):
            assert (await pool.check(f"{index}x", f"{index}x+x-x")).outcome == "correct"
        assert (pool.started, pool.ended) == (3, 2)


async def test_a_cancelled_check_leaves_no_busy_worker() -> None:
    async with Verifier(settings(workers=1, cpu_s=600, wall_s=600)) as verifier:
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
        [busy] = _workers()
        check = asyncio.create_task(verifier.check("y+3", BUSY))
        await asyncio.sleep(0)
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
        assert (await verifier.check("3x", "x+2x")).outcome == "correct"
        assert not psutil.wait_procs([busy], timeout=20)[1]


async def test_closing_leaves_no_process_even_in_the_middle_of_checks() -> None:
    verifier = Verifier(settings(cpu_s=600, wall_s=600))
    async with verifier:
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
        checks = [asyncio.create_task(verifier.check("y+3", f"{BUSY}+{index}")) for index in range(4)]
        await asyncio.sleep(0)
        left = psutil.Process().children(recursive=True)
    assert len(left) >= 2
    assert not psutil.wait_procs(left, timeout=20)[1]
    assert {grade.outcome for grade in await asyncio.gather(*checks)} == {"error"}
    assert psutil.Process().children() == []


async def test_numbers_start_no_process() -> None:
    async with Verifier(settings()) as verifier:
        assert (await verifier.check("204", "205")).outcome == "incorrect"
        assert (await verifier.check(r"\frac12", "x" * 5000)).outcome == "unparsable"
        assert verifier.workers_started == 0
        assert psutil.Process().children() == []


def test_a_killed_parent_leaves_no_process() -> None:
    script = Path(__file__).with_name("orphan_parent.py")
    environment = {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    assert not psutil.wait_procs(children, timeout=20)[1]
