"""What follows a refusal: another server at once where nobody is to blame, and a wait where that does not help.

The servers here are fakes in virtual time that answer in no time, so that all time is waited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import DRAINING_WORDS
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.shares import Share
from gen_service.errors import EndpointError, Overloaded, ServerFailed, StreamBroken, Unreachable
from gen_service.records import Message, Prompt, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

A, B, C = (f"http://{name}" for name in "abc")
BACK_OFF_S = 10.0

Refuses = Callable[[str], EndpointError | None]


class FakeServers:
    """Answers of one token in no time, or errors.

    Attributes:
        refuses: what a server refuses a request with; None where it answers.
        asked: the servers that were sent a request, in that order.
    """

    def __init__(self, refuses: Refuses) -> None:
        self.refuses = refuses
        self.asked: list[str] = []

    async def models(self, url: str) -> list[ServedModel]:
        return [ServedModel("m", None)]

    async def readings(self, url: str) -> Readings:
        raise Unreachable(url, "no metrics here")

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        self.asked.append(url)
        await asyncio.sleep(0)
        if (error := self.refuses(url)) is not None:
            raise error
        draft.take_chat_choice({"delta": {"content": "4"}, "token_ids": [4], "finish_reason": "stop"})
        draft.came(asyncio.get_running_loop().time())


def sample(number: int = 0) -> Sample:
    prompt = Prompt(f"p{number}", (Message(role="user", content="?"),), None, "test", number)
    return Sample(f"s{number}", "job", prompt, 0)


@contextlib.asynccontextmanager
async def job_on(servers: FakeServers, *urls: str, per_server: int = 4, attempts: int = 6) -> AsyncIterator[JobFleet]:
    settings = EndpointSettings(urls=urls, attempts=attempts)
    pool = PoolSettings(in_flight=16, per_server=per_server)
    async with Fleet(settings, pool, servers, lambda words: None) as fleet:
        job = fleet.join(Share("job"), SamplingSettings(), "m", lambda words: None)
        job._backoff_s = lambda failures: BACK_OFF_S  # type: ignore[method-assign]
        yield job
        assert (fleet.places.taken, fleet.places.waiting) == (0, 0)
        job.leave()


@pytest.mark.looptime
@pytest.mark.parametrize(
    "error",
    [Overloaded(A, "busy", 429), Unreachable(A, "connection refused"), ServerFailed(A, DRAINING_WORDS, 500)],
    ids=lambda error: error.cause,
)
async def test_refused_without_blame_it_goes_on_at_another_server_at_once(error: EndpointError) -> None:
    servers = FakeServers(lambda url: error if url == A else None)
    async with job_on(servers, A, B) as job:
        done = await job.complete(sample())
        assert (servers.asked, done.retries, done.endpoint) == ([A, B], (error.cause,), B)
        assert done.total_s == 0.0


@pytest.mark.looptime
async def test_where_no_other_server_has_room_it_waits() -> None:
    servers = FakeServers(lambda url: Overloaded(A, "busy", 429) if servers.asked == [A] else None)
    async with job_on(servers, A) as job:
        done = await job.complete(sample())
        assert (servers.asked, done.retries) == ([A, A], ("overloaded",))
        assert done.total_s == BACK_OFF_S


@pytest.mark.looptime
async def test_what_counts_against_it_is_waited_for_though_another_has_room() -> None:
    servers = FakeServers(lambda url: StreamBroken(A, "reset") if url == A else None)
    async with job_on(servers, A, B) as job:
        done = await job.complete(sample())
        assert (servers.asked, done.retries) == ([A, B], ("stream_broken",))
        assert done.total_s == BACK_OFF_S


@pytest.mark.looptime
async def test_where_every_server_refuses_its_attempts_are_not_used_up_in_a_moment() -> None:
    """Each second refusal is waited for, and in the end it is an error as ever."""
    servers = FakeServers(lambda url: Overloaded(url, "busy", 429))
    async with job_on(servers, A, B, C, per_server=1000, attempts=2) as job:
        # Another request is at each, so that no server is ejected for its refusals.
        held = [endpoint.sent(0.0) for endpoint in job.endpoints]
        began = asyncio.get_running_loop().time()
        with pytest.raises(Overloaded) as raised:
            await job.complete(sample())
        assert raised.value.retries == ("overloaded",) * 20
        assert len(servers.asked) == 20
        assert asyncio.get_running_loop().time() - began == 9 * BACK_OFF_S
        for place in held:
            place.endpoint.finished(place)
