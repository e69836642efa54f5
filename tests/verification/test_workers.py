"""The verifier's processes: budgets, crashes, hostile answers, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from gen_service.settings import VerificationSettings
from gen_service.verification.protocol import Configuration, Request
from gen_service.verification.verify import Answered, Verifier
from gen_service.verification.workers import WorkerPool

Forkservers = Callable[[], list[psutil.Process]]

MIB = 1024 * 1024
SPIN, SLEEP, ALLOCATE = "spin", "sleep", "allocate"

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
    "polynomial": "(x+1)^{19999}",
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


def settings(
    workers: int = 2, cpu_s: float = 5, wall_s: float = 60, memory: int = 1024 * MIB, kind: str = "math"
) -> VerificationSettings:
    return VerificationSettings(kind=kind, workers=workers, cpu_s=cpu_s, wall_s=wall_s, memory_bytes=memory)


@pytest.fixture
def hostile(user_kinds: str) -> str:
    """A kind that does what an answer says."""
    return f"{user_kinds}:hostile"


BUDGETS = [
    ({"cpu_s": 0.3}, SPIN, "CPU limit of 0.3 s"),
    ({"wall_s": 0.5}, SPIN, "wall limit of 0.5 s"),
    ({"wall_s": 0.5}, SLEEP, "wall limit of 0.5 s"),
]


@asynccontextmanager
async def running(budgets: VerificationSettings) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(Configuration(budgets, budgets.kind if ":" in budgets.kind else None))
    try:
        yield pool
    finally:
        await pool.close()


async def test_hostile_answers_end_in_a_verdict_and_harm_nobody() -> None:
    async with Verifier(settings(cpu_s=0.4)) as verifier:
        grades = await asyncio.gather(*(verifier.check("y+3", text) for text in HOSTILE.values()))
        outcomes = {name: grade.outcome for name, grade in zip(HOSTILE, grades, strict=True)}
        assert set(outcomes.values()) <= {"incorrect", "unparsable", "timeout"}, outcomes
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
    assert "gen_service_payload" not in os.listdir()


def check(gold: str, answer: str) -> list[Request]:
    return [("check", gold, answer)]


@pytest.mark.parametrize(("budget", "hang", "named"), BUDGETS)
async def test_a_hung_check_is_a_timeout_and_the_next_is_answered(
    hostile: str, budget: dict[str, float], hang: str, named: str
) -> None:
    async with running(settings(workers=1, kind=hostile).model_copy(update=budget)) as pool:
        [hung], [good] = await asyncio.gather(pool.answer(check("g", hang)), pool.answer(check("g", "g")))
        assert (hung.verdict.outcome, hung.verdict.reason) == ("timeout", named)
        assert good.verdict.outcome == "correct"
        assert (pool.started, pool.ended) == (2, 1)


@pytest.mark.parametrize(("budget", "hang", "named"), BUDGETS)
async def test_a_hung_item_of_a_batch_costs_only_itself(
    hostile: str, budget: dict[str, float], hang: str, named: str
) -> None:
    answers = ["g", hang, "h", f"{hang} ", "i", "g"]
    async with Verifier(settings(workers=1, kind=hostile).model_copy(update=budget)) as verifier:
        verdicts = await verifier.judge_many([Answered("g", None, f"\\boxed{{{text}}}", "stop") for text in answers])
        assert [(one.outcome, one.reason, one.extracted) for one in verdicts] == [
            ("correct", f"by {hostile}", "g"),
            ("timeout", named, hang),
            ("incorrect", f"by {hostile}", "h"),
            ("timeout", named, hang),
            ("incorrect", f"by {hostile}", "i"),
            ("correct", f"by {hostile}", "g"),
        ]
        assert (verifier.workers_started, verifier.workers_ended) == (3, 2)


async def test_a_reply_is_given_once_each_and_in_order_when_a_worker_is_killed(workers: Forkservers) -> None:
    async with running(settings(workers=1)) as pool:
        await pool.answer(check("2x", "x+x"))
        [busy] = workers()
        busy.kill()
        replies = await pool.answer([("judge", f"{n}x", None, None, f"\\boxed{{x+{n - 1}x}}", "stop") for n in (3, 4)])
        assert [reply.verdict.extracted for reply in replies] == ["x+2x", "x+3x"]
        assert pool.started == 2


async def test_a_timeout_is_asked_again_and_a_grade_is_kept(hostile: str) -> None:
    async with Verifier(settings(workers=1, cpu_s=0.3, kind=hostile)) as verifier:
        for _ in range(2):
            assert (await verifier.check("g", SPIN)).outcome == "timeout"
        assert verifier.workers_ended == 2
        for _ in range(2):
            assert (await verifier.check("g", "h")).outcome == "incorrect"
        assert (verifier.grades_kept, verifier.worker_requests) == (1, 3)


async def test_running_out_of_memory_is_an_error_that_says_so(hostile: str) -> None:
    async with Verifier(settings(workers=1, cpu_s=60, memory=256 * MIB, kind=hostile)) as verifier:
        verdicts = await verifier.judge_many(
            [Answered("g", None, f"\\boxed{{{text}}}", "stop") for text in ("g", ALLOCATE, "g")]
        )
        assert [verdict.outcome for verdict in verdicts] == ["correct", "error", "correct"]
        assert verdicts[1].reason == "verifier ran out of memory (limit 256 MiB)"
        assert (verdicts[1].extracted, verdicts[1].how) == (ALLOCATE, "boxed")
        assert (verifier.workers_started, verifier.workers_ended) == (2, 1)


async def _asked(verifier: Verifier) -> None:
    while not verifier.worker_requests:  # noqa: ASYNC110 - a few turns of the loop away
        await asyncio.sleep(0)


@pytest.fixture
def workers(forkservers: Forkservers) -> Callable[[], list[psutil.Process]]:
    return lambda: [worker for forkserver in forkservers() for worker in forkserver.children()]


async def test_the_check_of_a_killed_worker_is_answered(workers: Forkservers) -> None:
    async with Verifier(settings(workers=2, cpu_s=30)) as verifier:
        await asyncio.gather(verifier.check("2x", "x+x"), verifier.check("3x", "x+2x"))
        for worker in workers():
            worker.kill()
        answers = (verifier.check(f"{index}x", f"x+{index - 1}x") for index in range(4, 10))
        assert [grade.outcome for grade in await asyncio.gather(*answers)] == ["correct"] * 6


async def test_a_killed_forkserver_is_replaced(forkservers: Forkservers) -> None:
    async with Verifier(settings(workers=1)) as verifier:
        assert (await verifier.check("2x", "x+x")).outcome == "correct"
        [forkserver] = forkservers()
        workers = forkserver.children()
        forkserver.kill()
        assert (await verifier.check("3x", "x+2x")).outcome == "correct"
        assert not psutil.wait_procs(workers, timeout=20)[1]


async def test_checks_wait_when_every_worker_is_busy(hostile: str) -> None:
    async with running(settings(workers=1, cpu_s=600, wall_s=600, kind=hostile)) as pool:
        assert (pool.busy, pool.waiting) == (0, 0)
        checks = [asyncio.create_task(pool.answer(check("g", SLEEP))) for _ in range(3)]
        await asyncio.sleep(0)
        assert (pool.busy, pool.waiting) == (1, 2)
        for one in checks:
            one.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        assert (pool.busy, pool.waiting) == (0, 0)


async def test_workers_are_recycled() -> None:
    async with running(settings(workers=1).model_copy(update={"recycle_after": 3})) as pool:
        for index in range(2, 9):
            [reply] = await pool.answer(check(f"{index}x", f"{index}x+x-x"))
            assert reply.verdict.outcome == "correct"
        assert (pool.started, pool.ended) == (3, 2)


async def test_a_cancelled_check_leaves_no_busy_worker(hostile: str, workers: Forkservers) -> None:
    async with Verifier(settings(workers=1, cpu_s=600, wall_s=600, kind=hostile)) as verifier:
        [busy] = workers()
        check = asyncio.create_task(verifier.check("g", SPIN))
        await _asked(verifier)
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
        assert (await verifier.check("g", "g")).outcome == "correct"
        assert not psutil.wait_procs([busy], timeout=20)[1]


async def test_closing_leaves_no_process_even_in_the_middle_of_checks(hostile: str, forkservers: Forkservers) -> None:
    verifier = Verifier(settings(cpu_s=600, wall_s=600, kind=hostile))
    async with verifier:
        checks = [asyncio.create_task(verifier.check(f"g{index}", SPIN)) for index in range(4)]
        await _asked(verifier)
        left = [one for forkserver in forkservers() for one in (forkserver, *forkserver.children())]
    assert len(left) >= 2
    assert not psutil.wait_procs(left, timeout=20)[1]
    assert {grade.outcome for grade in await asyncio.gather(*checks)} == {"error"}
    assert forkservers() == []


async def test_numbers_start_no_process(forkservers: Forkservers) -> None:
    async with Verifier(settings()) as verifier:
        assert (await verifier.check("204", "205")).outcome == "incorrect"
        assert (await verifier.check(r"\frac12", "x" * 5000)).outcome == "unparsable"
        assert verifier.workers_started == 0
        assert forkservers() == []
