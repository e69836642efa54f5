"""A sample in flight is cut, cancelled, given up at its server, kept and gone on from: no place and no token is lost.

The server here is a fake in virtual time: token n of every answer is the id n with the text of n, one each second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated.virtual_time import run_in_virtual_time
from gen_service.errors import EndpointError, StreamBroken, Unreachable
from gen_service.records import Completion, Message, Partial, Prompt, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

LENGTH = 20


def sample(number: int = 0) -> Sample:
    prompt = Prompt(f"p{number}", (Message(role="user", content="?"),), None, "test", number)
    return Sample(f"s{number}", "job", prompt, 0)


def text_of(tokens: int) -> str:
    return "".join(f"{number} " for number in range(tokens))


class FakeServers:
    """Answers of LENGTH tokens; the attempts whose numbers are in `breaks` break after so many new tokens."""

    def __init__(self, breaks: dict[int, int] | None = None) -> None:
        self.breaks = breaks or {}
        self.given: list[int] = []
        self.made = 0
        self.on_token: Callable[[int], object] = lambda tokens: None

    async def models(self, url: str) -> list[ServedModel]:
        return [ServedModel("m", None)]

    async def readings(self, url: str) -> Readings:
        raise Unreachable(url, "no metrics here")

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        first = len(draft.token_ids)
        left = self.breaks.get(len(self.given))
        self.given.append(first)
        draft.take_prompt_ids([1, 2, 3])
        for number in range(first, LENGTH):
            await asyncio.sleep(1.0)
            if left == number - first:
                raise StreamBroken(url, "gone")
            self.made += 1
            choice = {"token_ids": [number], "finish_reason": "stop" if number == LENGTH - 1 else None}
            if first:
                draft.take_text_choice({"text": f"{number} ", **choice})
            else:
                draft.take_chat_choice({"delta": {"content": f"{number} "}, **choice})
            draft.came(asyncio.get_running_loop().time())
            self.on_token(number + 1)
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def job_on(servers: FakeServers, in_flight: int = 4, urls: int = 2, **settings: Any) -> AsyncIterator[JobFleet]:
    endpoints = EndpointSettings(
        urls=tuple(f"http://{number}" for number in range(urls)), partial_tokens=settings.pop("partial_tokens", 5)
    ).model_copy(update=settings)
    async with Fleet(endpoints, PoolSettings(in_flight=in_flight), servers, lambda words: None) as fleet:
        job = fleet.join(Share("job"), SamplingSettings(max_tokens=100), "m", lambda words: None)
        yield job
        assert (fleet.places.taken, fleet.places.waiting, job._open) == (0, 0, {})
        job.leave()


def whole(done: Completion) -> bool:
    return (done.content, done.finish_reason, done.token_ids.tolist()) == (
        text_of(LENGTH),
        "stop",
        list(range(LENGTH)),
    )


# Cut


@pytest.mark.looptime
async def test_cut_while_it_streams_it_keeps_what_came() -> None:
    async with job_on(FakeServers()) as job:
        task = asyncio.create_task(job.complete(sample()))
        await asyncio.sleep(7.5)
        assert job.cut("s0")
        done = await task
        assert (done.finish_reason, done.content, done.completion_tokens) == ("cancelled", text_of(7), 7)
        assert done.endpoint.startswith("http://")
        assert done.total_s == pytest.approx(7.5)
        assert (job.in_flight, job.discarded_tokens) == (0, 0)


@pytest.mark.looptime
async def test_cut_while_it_waits_for_a_place_it_has_nothing() -> None:
    servers = FakeServers()
    async with job_on(servers, in_flight=1) as job:
        first, second = (asyncio.create_task(job.complete(sample(number))) for number in range(2))
        await asyncio.sleep(3.0)
        assert (job.in_flight, job.waiting) == (1, 1)
        assert job.cut("s1")
        done = await second
        assert (done.finish_reason, done.completion_tokens, done.endpoint, done.total_s) == ("cancelled", 0, "", 0.0)
        assert job.waiting == 0
        assert whole(await first)
        assert servers.given == [0]


@pytest.mark.looptime
async def test_cut_in_the_moment_a_place_is_handed_over_it_gives_the_place_back() -> None:
    async with job_on(FakeServers(), in_flight=1) as job:
        tasks = [asyncio.create_task(job.complete(sample(number))) for number in range(3)]
        await asyncio.sleep(3.0)
        assert job.cut("s0")
        # The first one's task ends in this turn of the loop, and hands its place to the second.
        await asyncio.sleep(0)
        assert job.in_flight == 1
        assert job.cut("s1")
        done = [await task for task in tasks]
        assert [one.finish_reason for one in done] == ["cancelled", "cancelled", "stop"]
        assert done[1].completion_tokens == 0


@pytest.mark.looptime
async def test_cut_in_its_back_off_it_keeps_what_came_before() -> None:
    async with job_on(FakeServers({0: 6}), backoff_s=60.0) as job:
        job._backoff_s = lambda failures: 60.0  # type: ignore[method-assign]
        task = asyncio.create_task(job.complete(sample()))
        await asyncio.sleep(20.0)
        assert (job.in_flight, job.waiting) == (0, 0)
        assert job.cut("s0")
        done = await task
        assert (done.content, done.retries, done.finish_reason) == (text_of(6), ("stream_broken",), "cancelled")
        assert done.total_s == pytest.approx(20.0)


@pytest.mark.looptime
async def test_cut_twice_and_cut_what_is_not_open() -> None:
    async with job_on(FakeServers()) as job:
        assert not job.cut("s0")
        task = asyncio.create_task(job.complete(sample()))
        await asyncio.sleep(2.5)
        assert job.cut("s0")
        assert job.cut("s0")
        assert (await task).completion_tokens == 2
        assert not job.cut("s0")
        assert task.cancelling() == 0


@pytest.mark.looptime
@pytest.mark.parametrize("cut_first", [True, False])
async def test_cut_and_cancelled_at_once_it_is_cancelled(cut_first: bool) -> None:
    async with job_on(FakeServers()) as job:
        task = asyncio.create_task(job.complete(sample()))
        await asyncio.sleep(2.5)
        if cut_first:
            job.cut("s0")
        task.cancel()
        if not cut_first:
            job.cut("s0")
        await asyncio.wait({task})
        assert task.cancelled()
        assert job.discarded_tokens == 2


@pytest.mark.looptime
async def test_cut_when_its_last_token_has_come_it_is_whole() -> None:
    async with job_on(FakeServers()) as job:
        task = asyncio.create_task(job.complete(sample()))
        await asyncio.sleep(LENGTH + 0.25)
        assert job.cut("s0")
        assert whole(await task)


@pytest.mark.looptime
async def test_cut_from_where_its_tokens_are_read() -> None:
    servers = FakeServers()
    async with job_on(servers) as job:
        servers.on_token = lambda tokens: tokens == 4 and job.cut("s0")
        done = await job.complete(sample())
        assert (done.finish_reason, done.completion_tokens) == ("cancelled", 4)
        servers.on_token = lambda tokens: tokens == LENGTH and job.cut("s1")
        assert whole(await job.complete(sample(1)))
        await asyncio.sleep(1.0)


# Partials


@pytest.mark.looptime
async def test_partials_come_each_so_many_tokens_over_all_attempts() -> None:
    kept: list[Partial] = []
    async with job_on(FakeServers({0: 7, 1: 9})) as job:
        done = await job.complete(sample(), on_partial=kept.append)
    assert whole(done)
    assert [len(one.token_ids) for one in kept] == [5, 10, 15, 20][: len(kept)]
    assert len(kept) >= 3
    for one in kept:
        assert one.content + one.raw == text_of(len(one.token_ids))
        assert (one.sample_id, one.prompt_ids.tolist(), one.started_at) == ("s0", [1, 2, 3], done.started_at)


@pytest.mark.looptime
async def test_cancelled_it_keeps_what_came_and_goes_on_from_there_later() -> None:
    kept: list[Partial] = []
    servers = FakeServers()
    async with job_on(servers) as job:
        task = asyncio.create_task(job.complete(sample(), on_partial=kept.append))
        await asyncio.sleep(8.5)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert [len(one.token_ids) for one in kept] == [5, 8]
        assert job.discarded_tokens == 0
    async with job_on(servers) as job:
        done = await job.complete(sample(), partial=kept[-1])
    assert whole(done)
    assert (servers.given, servers.made, done.continued, done.started_at) == ([0, 8], LENGTH, 1, kept[0].started_at)


@pytest.mark.looptime
@pytest.mark.parametrize("settings", [{"continuation": "restart"}, {"partial_tokens": None}])
async def test_nothing_is_kept_where_the_settings_say_so(settings: dict[str, Any]) -> None:
    kept: list[Partial] = []
    async with job_on(FakeServers(), **settings) as job:
        task = asyncio.create_task(job.complete(sample(), on_partial=kept.append))
        await asyncio.sleep(8.5)
        task.cancel()
        await asyncio.wait({task})
        assert (kept, job.discarded_tokens) == ([], 8)


@pytest.mark.looptime
async def test_with_restart_a_broken_answer_begins_anew_and_its_tokens_count_as_discarded() -> None:
    servers = FakeServers({0: 7, 1: 3})
    async with job_on(servers, continuation="restart") as job:
        done = await job.complete(sample())
        assert whole(done)
        assert (servers.given, done.continued, job.discarded_tokens) == ([0, 0, 0], 0, 10)
        assert servers.made == LENGTH + 10


@pytest.mark.looptime
async def test_the_tokens_of_a_sample_that_ends_in_an_error_are_discarded() -> None:
    async with job_on(FakeServers({0: 7, 1: 3}), attempts=2) as job:
        with pytest.raises(StreamBroken):
            await job.complete(sample())
        assert job.discarded_tokens == 10


# Given up at a server


@pytest.mark.looptime
async def test_given_up_at_its_server_it_goes_on_at_another_and_nothing_counts_against_it() -> None:
    servers = FakeServers()
    async with job_on(servers, attempts=1) as job:
        task = asyncio.create_task(job.complete(sample()))
        await asyncio.sleep(4.5)
        slow = next(one for one in job.endpoints if one.in_flight)
        (place,) = slow._places
        assert place.tokens == 4
        slow.eject("slow", asyncio.get_running_loop().time())
        assert place.give_up is not None
        place.give_up()
        done = await task
        assert whole(done)
        assert done.endpoint != slow.url
        assert (servers.given, done.retries, done.continued) == ([0, 4], ("stream_broken",), 1)
        assert job.discarded_tokens == 0


# Anything at any time

moments = st.floats(0.0, 60.0).map(lambda seconds: round(seconds * 4) / 4)
acts = st.tuples(moments, st.integers(0, 5), st.sampled_from(["cut", "cancel", "give_up"]))


@given(
    st.lists(acts, max_size=12),
    st.dictionaries(st.integers(0, 9), st.integers(0, 12), max_size=6),
    st.integers(1, 4),
    st.sampled_from(["continue", "restart"]),
)
def test_whatever_happens_each_sample_ends_once_and_every_token_is_accounted_for(
    deeds: list[tuple[float, int, str]], breaks: dict[int, int], in_flight: int, continuation: str
) -> None:
    servers = FakeServers(breaks)

    async def run() -> None:
        kept: dict[str, Partial] = {}
        async with job_on(servers, in_flight=in_flight, continuation=continuation, eject_after=100) as job:
            tasks = [asyncio.create_task(one(job, number, kept)) for number in range(6)]
            for at, number, deed in sorted(deeds):
                await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
                act(job, tasks, number, deed)
            await asyncio.wait(tasks)
            check(job, tasks, kept)

    async def one(job: JobFleet, number: int, kept: dict[str, Partial]) -> Completion:
        return await job.complete(sample(number), on_partial=lambda it: kept.__setitem__(it.sample_id, it))

    def act(job: JobFleet, tasks: list[asyncio.Task[Completion]], number: int, deed: str) -> None:
        if deed == "cut":
            assert job.cut(f"s{number}") == (not tasks[number].done())
        elif deed == "cancel":
            tasks[number].cancel()
        else:
            for place in [place for endpoint in job.endpoints for place in endpoint._places][:1]:
                if place.give_up is not None:
                    place.give_up()

    def check(job: JobFleet, tasks: list[asyncio.Task[Completion]], kept: dict[str, Partial]) -> None:
        kept_tokens = 0
        for number, task in enumerate(tasks):
            if task.cancelled():
                kept_tokens += len(kept[f"s{number}"].token_ids) if f"s{number}" in kept else 0
            elif isinstance(task.exception(), EndpointError):
                continue
            else:
                done = task.result()
                kept_tokens += done.completion_tokens
                assert done.content == text_of(done.completion_tokens)
                assert whole(done) == (done.finish_reason == "stop")
                assert done.finish_reason in ("stop", "cancelled")
        assert servers.made == kept_tokens + job.discarded_tokens

    run_in_virtual_time(run())
