"""Verifiers that jobs share."""

from __future__ import annotations

import asyncio

import pytest

from gen_service.controller import verifiers as module
from gen_service.controller.verifiers import Verifiers, verification_of
from gen_service.errors import SpecError
from gen_service.service_settings import VerifierSettings
from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Verifier
from gen_service.wire.jobs import VerificationChoice

BUDGETS = VerifierSettings(workers=4, cpu_s=3.0)


def settings(**choice: object) -> VerificationSettings:
    return verification_of(VerificationChoice.model_validate(choice), BUDGETS)


def test_a_client_chooses_what_and_the_operator_how_much() -> None:
    made = settings(kind="numeric", options={"tolerance": 0.1}, policy="lenient")
    assert (made.kind, made.options, made.policy, made.enabled) == ("numeric", {"tolerance": 0.1}, "lenient", True)
    assert (made.workers, made.cpu_s, made.memory_bytes) == (4, 3.0, BUDGETS.memory_bytes)


async def test_equal_settings_share_one_verifier_and_others_have_their_own() -> None:
    async with Verifiers() as verifiers:
        async with (
            verifiers.use(settings()) as one,
            verifiers.use(settings()) as same,
            verifiers.use(settings(kind="exact")) as other,
            verifiers.use(settings(kind="exact", policy="lenient")) as third,
        ):
            assert one is same
            assert len({id(one), id(other), id(third)}) == 3
            assert [verifier._settings.workers for verifier in verifiers.open] == [4, 2, 1]
            assert (await one.check("1/2", "0.5")).outcome == "correct"
        assert verifiers.open == [one, other, third]
    assert verifiers.open == []
    assert one.workers_started == one.workers_ended


async def test_a_verifier_is_closed_some_time_after_its_last_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    closed: list[Verifier] = []
    ended = asyncio.Event()

    def on_close(verifier: Verifier) -> None:
        closed.append(verifier)
        ended.set()

    async with Verifiers(on_close) as verifiers:
        async with verifiers.use(settings()) as first:
            async with verifiers.use(settings()):
                pass
            await asyncio.sleep(0)
            assert verifiers.open == [first]
        await ended.wait()
        assert (closed, verifiers.open) == ([first], [])
        async with verifiers.use(settings()) as second:
            assert second is not first


async def test_a_job_that_comes_back_in_time_finds_it_open() -> None:
    async with Verifiers() as verifiers:
        async with verifiers.use(settings()) as first:
            pass
        async with verifiers.use(settings()) as again:
            assert again is first


async def test_one_that_cannot_be_made_or_loaded_leaves_nothing() -> None:
    async with Verifiers() as verifiers:
        with pytest.raises(SpecError, match=r"verification\.kind"):
            async with verifiers.use(settings(kind="maths")):
                pass
        broken = VerificationSettings(kind="no.such.module:grade", workers=1)
        for _ in range(2):
            with pytest.raises(SpecError, match=r"verification\.kind"):
                async with verifiers.use(broken):
                    pass
        assert verifiers.open == []


async def test_a_job_that_is_cancelled_while_it_opens_does_not_end_the_others() -> None:
    async with Verifiers() as verifiers:
        entered = asyncio.Event()

        async def use() -> None:
            async with verifiers.use(settings()):
                entered.set()

        first, second = asyncio.create_task(use()), asyncio.create_task(use())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert entered.is_set()
        with pytest.raises(asyncio.CancelledError):
            await first
