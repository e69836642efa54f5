"""The verifier's verdicts, with its worker processes."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from gen_service.records import NO_TOKENS, Completion, Prompt, Sample, Trace
from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Verifier

SETTINGS = VerificationSettings(workers=2, wall_s=60)


def trace(content: str, answer: str | None = "4", reasoning: str | None = None, finish: str = "stop") -> Trace:
    prompt = Prompt("p", ({"role": "user", "content": "?"},), answer, "s", 1)
    completion = Completion(reasoning, content, finish, 1, 1, NO_TOKENS, "m", "e", 0, (), 0.0, None, 1.0)
    return Trace(Sample("s", "j", prompt, 0), completion)


VERDICTS = [
    (trace(r"\boxed{4}"), "correct", "4"),
    (trace(r"\boxed{5}"), "incorrect", "5"),
    (trace(r"\boxed{2x}", "x+x"), "correct", "2x"),
    (trace(r"\boxed{3x}", "x+x"), "incorrect", "3x"),
    (trace(r"\boxed{(}"), "unparsable", "("),
    (trace(r"\boxed{4}", r"\frac{1}{"), "ungradable", "4"),
    (trace(r"\boxed{4}", " "), "ungradable", "4"),
    (trace("No idea."), "no_answer", None),
    (trace("", reasoning="so 4", finish="length"), "truncated", None),
    (trace(r"\boxed{4} and", reasoning="so", finish="length"), "correct", "4"),
    (trace(r"\boxed{4}", None), "unverified", None),
    (dataclasses.replace(trace(""), completion=None, error="refused"), "error", None),
]


async def test_verdicts() -> None:
    async with Verifier(SETTINGS) as verifier:
        verdicts = await asyncio.gather(*(verifier.verify(row) for row, _, _ in VERDICTS))
    expected = [(outcome, extracted) for _, outcome, extracted in VERDICTS]
    assert [(verdict.outcome, verdict.extracted) for verdict in verdicts] == expected
    assert all(verdict.reason for verdict in verdicts)


async def test_verification_off_is_unverified() -> None:
    async with Verifier(VerificationSettings(enabled=False)) as off:
        assert (await off.verify(trace(r"\boxed{4}"))).outcome == "unverified"


@pytest.mark.parametrize(("answer", "enabled"), [(None, True), ("4", False)])
async def test_a_failed_sample_is_an_error_also_where_nothing_is_verified(answer: str | None, enabled: bool) -> None:
    failed = dataclasses.replace(trace("", answer), completion=None, error="refused")
    async with Verifier(VerificationSettings(enabled=enabled)) as verifier:
        verdict = await verifier.verify(failed)
    assert (verdict.outcome, verdict.reason) == ("error", "refused")


async def test_mixed_checks_at_once() -> None:
    def expected(index: int) -> tuple[str, str, str]:
        kind = index % 4
        if kind == 0:
            return f"{index}", f"{index}.0", "correct"
        if kind == 1:
            return f"{index}x", f"x+{index - 1}x", "correct"
        return (f"{index}x", f"{index}x+1", "incorrect") if kind == 2 else (f"{index}y", "(", "unparsable")

    checks = [expected(index) for index in range(200)]
    async with Verifier(SETTINGS) as verifier:
        grades = await asyncio.gather(*(verifier.check(gold, answer) for gold, answer, _ in checks))
    assert [grade.outcome for grade in grades] == [outcome for _, _, outcome in checks]
