"""The verifier's verdicts, with its worker processes."""

from __future__ import annotations

import asyncio
import dataclasses
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.records import NO_TOKENS, Completion, Prompt, Sample, Trace, Verdict
from gen_service.settings import VerificationSettings
from gen_service.verification import kinds
from gen_service.verification.judging import Judge
from gen_service.verification.protocol import Request
from gen_service.verification.verify import Answered, Verifier

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


@pytest.mark.parametrize("kind", ["math", "exact"])
async def test_a_sample_cut_in_flight_is_truncated_and_the_reason_says_so(kind: str) -> None:
    async with Verifier(SETTINGS.model_copy(update={"kind": kind})) as verifier:
        cut = await verifier.verify(trace("The answer is 4", finish="cancelled"))
        limited = await verifier.verify(trace("The answer is 4", finish="length"))
    assert (cut.outcome, limited.outcome) == ("truncated", "truncated")
    assert cut.reason == "cut off before a final answer: the sample was not needed any more"
    assert limited.reason == "the token limit came before a final answer"


@pytest.mark.parametrize("kind", ["math", "exact"])
async def test_thinking_that_is_never_closed_is_not_put_down_to_the_token_limit(kind: str) -> None:
    async with Verifier(SETTINGS.model_copy(update={"kind": kind})) as verifier:
        verdict = await verifier.verify(trace(r"<think> so \boxed{4}", finish="stop"))
    assert (verdict.outcome, verdict.reason) == ("truncated", "the thinking was opened and never closed")


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


def boxed(gold: str | None, answer: str) -> Answered:
    return Answered(gold, None, f"\\boxed{{{answer}}}", "stop")


async def test_a_verdict_says_how_it_came_about() -> None:
    async with Verifier(SETTINGS) as verifier:
        plain = await verifier.judge(boxed("4", r"\,4."))
        assert plain == Verdict("correct", plain.reason, r"\,4.", "4", "boxed", plain.path, 0.0, verifier.identity)
        deep = await verifier.judge(Answered("x+x", None, "The answer is 2x.", "stop"))
        assert (deep.extracted, deep.normalised, deep.how, deep.verifier) == ("2x", "2x", "phrase", verifier.identity)
        assert deep.cpu_s > 0
        matrix = await verifier.judge(boxed("1", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"))
        assert matrix.normalised == r"\begin{pmatrix}1\\2\end{pmatrix}"
        missing = await verifier.judge(Answered("4", None, "No idea.", "stop"))
        assert missing == Verdict("no_answer", missing.reason, verifier=verifier.identity)
        assert (await verifier.judge(boxed(None, "4"))).verifier == ""


@pytest.mark.parametrize("workers", [1, 3])
async def test_siblings_that_ask_together_cost_one_gold_and_one_check(workers: int) -> None:
    async with Verifier(SETTINGS.model_copy(update={"workers": workers})) as verifier:
        verdicts = await asyncio.gather(*(verifier.judge(boxed("x+x", "2x")) for _ in range(50)))
        assert {(one.outcome, one.reason, one.path) for one in verdicts} == {
            ("correct", verdicts[0].reason, verdicts[0].path)
        }
        assert sorted(one.cpu_s > 0 for one in verdicts) == [False] * 49 + [True]
        assert (verifier.worker_requests, verifier.grades_kept, verifier.under_way) == (2, 1, 0)
        others = [verifier.judge(boxed("x+x", f"{number}x")) for number in range(3, 9)]
        assert {one.outcome for one in await asyncio.gather(*others)} == {"incorrect"}
        assert (verifier.worker_requests, verifier.grades_kept, verifier.under_way) == (8, 7, 0)


async def test_a_sibling_that_is_cancelled_takes_nothing_from_the_others() -> None:
    async with Verifier(SETTINGS) as verifier:
        siblings = [asyncio.create_task(verifier.check("x+x", "2x")) for _ in range(3)]
        while not verifier.worker_requests:  # noqa: ASYNC110 - a few turns of the loop away
            await asyncio.sleep(0)
        siblings[0].cancel()
        assert [grade.outcome for grade in await asyncio.gather(*siblings[1:])] == ["correct", "correct"]
        assert siblings[0].cancelled()
        assert (verifier.worker_requests, verifier.workers_ended, verifier.under_way) == (2, 0, 0)


async def test_a_long_text_is_searched_in_a_worker() -> None:
    long = Answered("4", None, "x " * 20_000 + r"\boxed{4}", "stop")
    async with Verifier(SETTINGS) as verifier:
        verdict = await verifier.judge(long)
        assert (verdict.outcome, verdict.extracted, verdict.how) == ("correct", "4", "boxed")
        assert verifier.worker_requests == 1
        assert (
            await verifier.judge(dataclasses.replace(long, content=long.content[:-1]))
            == (await verifier.judge_many([dataclasses.replace(long, content=long.content[:-1])]))[0]
        )


async def test_a_golds_own_problem() -> None:
    async with Verifier(SETTINGS) as verifier:
        assert await verifier.gold_problem("x+1") is None
        assert await verifier.gold_problem(" ") == "the gold is empty"
        problem = await verifier.gold_problem(r"\frac{1}{")
        assert problem
        verdict = await verifier.judge(boxed(r"\frac{1}{", "y"))
        assert (verdict.outcome, verdict.reason) == ("ungradable", problem)


GOLDS = ["4", "x+x", "2x", r"\frac{1}{2}", r"\frac{1}{", "", " ", "(1,2)", "C", "no", "1" * 3000, None]
ANSWERS = [
    "4",
    "4.0",
    "2x",
    "x+x",
    "0.5",
    r"\frac12",
    "(",
    "(1, 2)",
    "(C)",
    "on",
    "x" * 3000,
    r"\text{no}",
    "5 cm",
    "9x",
]
CONTENTS = [
    r"\boxed{@}",
    "The answer is @.",
    "@",
    "#### @",
    "<answer>@</answer>",
    "<think>@",
    r"so @</think> \boxed{@}",
]
ITEMS = st.builds(
    lambda gold, reasoning, content, answer, finish: Answered(gold, reasoning, content.replace("@", answer), finish),
    st.sampled_from(GOLDS),
    st.sampled_from([None, "", "so 4"]),
    st.sampled_from(CONTENTS) | st.just("") | st.just("No."),
    st.sampled_from(ANSWERS),
    st.sampled_from(["stop", "length"]),
)
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("math", {"policy": "strict"}),
    ("math", {"policy": "lenient"}),
    ("exact", {"options": {"case_sensitive": False}}),
    ("multiple_choice", {}),
    ("numeric", {"options": {"ignore_units": True}}),
    ("user_kinds:careful", {}),
    ("user_kinds:essay", {}),
]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_many_are_judged_as_one_by_one_whatever_was_judged_before(
    user_kinds: str, kind: str, more: dict[str, Any]
) -> None:
    """The reference is `Judge` in this process, without workers and with nothing kept."""
    settings = VerificationSettings(kind=kind, workers=2, wall_s=60, **more)
    target = kind if ":" in kind else None
    loaded = kinds.loaded(kind, target, settings.options)

    def alone(item: Answered, identity: str) -> Verdict:
        if item.gold is None:
            return Verdict("unverified", "no gold answer")
        judge = Judge(loaded, settings.policy, lambda phase, known: None)
        request: Request = ("judge", item.gold, None, item.reasoning, item.content, item.finish_reason)
        return dataclasses.replace(judge.answer(request).verdict, verifier=identity)

    with asyncio.Runner() as runner:
        verifier = runner.run(Verifier(settings).__aenter__())

        @hypothesis.settings(max_examples=25, deadline=None)
        @given(st.lists(ITEMS, max_size=12), st.randoms(use_true_random=False))
        def same(items: list[Answered], random: Random) -> None:
            async def both() -> tuple[list[Verdict], list[Verdict]]:
                shuffled = random.sample(items, len(items))
                many = await verifier.judge_many(items)
                one_by_one = dict(zip(shuffled, await asyncio.gather(*map(verifier.judge, shuffled)), strict=True))
                return many, [one_by_one[item] for item in items]

            expected = [_timeless(alone(item, verifier.identity)) for item in items]
            for verdicts in runner.run(both()):
                assert [_timeless(verdict) for verdict in verdicts] == expected
            assert verifier.under_way == 0

        try:
            same()
        finally:
            runner.run(verifier.__aexit__())


def _timeless(verdict: Verdict) -> Verdict:
    return dataclasses.replace(verdict, cpu_s=0.0)
