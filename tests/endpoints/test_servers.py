"""The tending of servers in virtual time: readings, stragglers, drains, and servers that come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import DRAINING_WORDS, Endpoint, Place
from gen_service.endpoints.limit import Mode
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.servers import READ_S, Servers, now
from gen_service.endpoints.speeds import JUDGED_AFTER_S, REST_S, WINDOW_S
from gen_service.errors import EndpointError, ServerFailed, Stalled, Unreachable

MODEL = "m"
KV_TOKENS = 614_400
# 1.5 sequences of 6,144 tokens for each that fits.
FITS = 150


class FakeRequests:
    """Answers as it is told to, and counts what it was asked.

    Attributes:
        down: the servers that cannot be reached.
        unread: those whose metrics cannot.
        bugs: those that raise what no server should.
        kv_tokens: what each says that its cache holds.
        read_s: how long it takes to say that.
    """

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.unread: set[str] = set()
        self.bugs: set[str] = set()
        self.kv_tokens = KV_TOKENS
        self.read_s = 0.0
        self.asked: Counter[str] = Counter()
        self.read: Counter[str] = Counter()

    async def models(self, url: str) -> list[ServedModel]:
        self.asked[url] += 1
        if url in self.bugs:
            raise LookupError("a bug")
        if url in self.down:
            raise Unreachable(url, "down")
        return [ServedModel(MODEL, 4096)]

    async def readings(self, url: str) -> Readings:
        self.read[url] += 1
        await asyncio.sleep(self.read_s)
        if url in self.bugs:
            raise LookupError("a bug")
        if url in self.unread:
            raise ServerFailed(url, "no metrics", 500)
        return Readings(self.kv_tokens, 0.1, 10, 0, 0.0, 0.0, 0.0)

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        raise AssertionError("servers send no requests")


class Tended:
    """Servers under care, and what they said.

    Attributes:
        counted: whether each request that was given up counts against its sample.
    """

    def __init__(self, urls: str, limit: Mode) -> None:
        self.requests = FakeRequests()
        self.endpoints = [Endpoint(url, 1000, 3, 1.0, limit=limit) for url in urls]
        self.notices: list[str] = []
        self.rooms: list[float] = []
        self.changes: list[list[str]] = []
        self.servers = Servers(
            self.endpoints,
            self.requests,
            self.notices.append,
            lambda: self.rooms.append(now()),
            lambda: self.changes.append([endpoint.state for endpoint in self.endpoints]),
            lambda: {MODEL},
        )
        self.counted: list[bool] = []
        self._writers: set[asyncio.Task[None]] = set()

    def send(self, endpoint: Endpoint, tokens_per_s: float = 30.0, count: int = 1) -> list[Place]:
        """Requests that get so many tokens each until they are given up; each has had its first."""
        places = [endpoint.sent(now()) for _ in range(count)]
        for place in places:
            self.servers.answers(place)
            writer = asyncio.create_task(self._write(place, tokens_per_s))
            self._writers.add(writer)
            place.give_up = partial(_cancel, writer)
        return places

    async def _write(self, place: Place, tokens_per_s: float) -> None:
        try:
            while True:
                await asyncio.sleep(1.0)
                place.tokens += int(tokens_per_s)
        except asyncio.CancelledError:
            self.counted.append(self.servers.failed(place, Stalled(place.endpoint.url, "given up")))
        finally:
            place.endpoint.finished(place)

    def fail(self, endpoint: Endpoint, error: EndpointError) -> bool:
        place = endpoint.sent(now())
        counts = self.servers.failed(place, error)
        endpoint.finished(place)
        return counts

    async def stop(self) -> None:
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        await self.servers.close()


def _cancel(writer: asyncio.Task[None]) -> None:
    writer.cancel()


def state_of(endpoint: Endpoint) -> str:
    """Unlike the attribute, it may be another one after each await."""
    return endpoint.state


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def tended(urls: str, limit: Mode = "fixed") -> AsyncIterator[Tended]:
    it = Tended(urls, limit)
    await it.servers.open()
    try:
        yield it
    finally:
        for endpoint in it.endpoints:
            endpoint.eject("the test is over", now())
        await it.stop()


@pytest.mark.looptime
async def test_what_fits_is_known_before_the_first_place_is_given() -> None:
    async with tended("ab", "auto") as it:
        assert [endpoint.limit for endpoint in it.endpoints] == [FITS, FITS]
        assert it.requests.read == {"a": 1, "b": 1}


@pytest.mark.looptime
async def test_metrics_are_read_every_few_seconds_while_something_is_in_flight() -> None:
    async with tended("ab", "auto") as it:
        await asyncio.sleep(100.0)
        assert it.requests.read == {"a": 1, "b": 1}
        it.send(it.endpoints[0])
        await asyncio.sleep(10 * READ_S + 1.0)
        assert it.requests.read == {"a": 12, "b": 12}


@pytest.mark.looptime
async def test_fixed_limits_stay_though_metrics_are_read_for_what_a_silence_means() -> None:
    async with tended("ab") as it:
        it.send(it.endpoints[0])
        await asyncio.sleep(10 * READ_S + 1.0)
        assert it.requests.read == {"a": 12, "b": 12}
        assert [endpoint.limit for endpoint in it.endpoints] == [1000.0, 1000.0]


@pytest.mark.looptime
async def test_metrics_that_fail_or_hang_leave_the_limit_and_the_state_as_they_are() -> None:
    async with tended("ab", "auto") as it:
        it.requests.unread.add("a")
        it.send(it.endpoints[0])
        it.requests.read_s = 3 * READ_S
        await asyncio.sleep(100.0)
        assert it.requests.read["a"] in range(5, 9)
        assert [endpoint.state for endpoint in it.endpoints] == ["healthy", "healthy"]
        assert (it.endpoints[0].limit, it.notices) == (FITS, [])


@pytest.mark.looptime
async def test_more_room_is_given_out_at_once() -> None:
    async with tended("a", "auto") as it:
        it.send(it.endpoints[0])
        it.requests.kv_tokens *= 2
        it.requests.read_s = 1.25
        await until(lambda: it.endpoints[0].limit > FITS)
        assert it.endpoints[0].limit == 2 * FITS
        # Not at the next look, but when the reading came.
        assert it.rooms[-1] == 1.25


@pytest.mark.looptime
async def test_without_metrics_a_limit_is_the_cap() -> None:
    it = Tended("a", "auto")
    it.requests.unread.add("a")
    await it.servers.open()
    assert (it.endpoints[0].limit, it.endpoints[0].state, it.notices) == (1000.0, "healthy", [])
    await it.stop()


@pytest.mark.looptime
async def test_a_straggler_is_ejected_and_what_it_has_goes_on_elsewhere() -> None:
    async with tended("abc") as it:
        slow, *others = it.endpoints
        streams = [place for endpoint in others for place in it.send(endpoint, 30.0, 8)]
        held_back = it.send(slow, 6.0, 8)
        await asyncio.sleep(WINDOW_S - READ_S)
        assert state_of(slow) == "healthy"
        await asyncio.sleep(4 * READ_S)
        assert [endpoint.state for endpoint in it.endpoints] == ["ejected", "healthy", "healthy"]
        assert it.notices == ["ejected a: slow: 6 tokens/s for each request, where 30 are usual"]
        assert it.changes[-1] == ["ejected", "healthy", "healthy"]
        assert (slow.in_flight, it.counted) == (0, [False] * len(held_back))
        assert [endpoint.in_flight for endpoint in others] == [8, 8]
        assert all(place.tokens > 1000 for place in streams)


@pytest.mark.looptime
@pytest.mark.parametrize(("tokens_per_s", "state"), [(30.0, "healthy"), (6.0, "ejected")])
async def test_a_straggler_comes_back_by_one_request_that_is_fast_enough(tokens_per_s: float, state: str) -> None:
    async with tended("abc") as it:
        slow, *others = it.endpoints
        for endpoint in others:
            it.send(endpoint, 30.0, 8)
        it.send(slow, 6.0, 8)
        await asyncio.sleep(WINDOW_S + 4 * READ_S)
        assert state_of(slow) == "ejected"
        asked = it.requests.asked["a"]
        await until(lambda: slow.state == "trial")
        assert it.requests.asked["a"] == asked + 1
        assert now() >= WINDOW_S + REST_S
        changes = len(it.changes)
        trial = it.send(slow, tokens_per_s)[0]
        assert (state_of(slow), slow.has_room(now())) == ("trial", False)
        await asyncio.sleep(JUDGED_AFTER_S + 2 * READ_S)
        assert slow.state == state
        assert len(it.changes) > changes
        assert slow.in_flight == (trial.tokens > 300)


@pytest.mark.looptime
async def test_a_straggler_does_not_rest_where_no_other_server_is_left() -> None:
    """A slow server is better than none: it would rest for a minute, and later for half an hour."""
    async with tended("abc") as it:
        slow, *others = it.endpoints
        for endpoint in others:
            it.send(endpoint, 30.0, 8)
        it.send(slow, 6.0, 8)
        await until(lambda: slow.state == "ejected")
        ejected_at = now()
        it.fail(others[0], ServerFailed("b", DRAINING_WORDS, 500))
        await asyncio.sleep(1.0)
        assert state_of(slow) == "ejected"
        it.requests.down.update("bc")
        for _ in range(3):
            it.fail(others[1], Unreachable("c", "down"))
        await asyncio.sleep(1.0)
        assert [endpoint.state for endpoint in it.endpoints] == ["trial", "ejected", "ejected"]
        it.send(slow, 6.0)
        assert state_of(slow) == "healthy"
        await asyncio.sleep(2 * JUDGED_AFTER_S)
        assert (state_of(slow), slow.in_flight) == ("healthy", 1)
        assert now() < ejected_at + 2 * REST_S


@pytest.mark.looptime
async def test_of_two_servers_none_is_slow() -> None:
    async with tended("ab") as it:
        it.send(it.endpoints[0], 2.0, 8)
        it.send(it.endpoints[1], 30.0, 8)
        await asyncio.sleep(5 * WINDOW_S)
        assert [endpoint.state for endpoint in it.endpoints] == ["healthy", "healthy"]


@pytest.mark.looptime
async def test_servers_of_another_model_are_another_fleet() -> None:
    async with tended("abc") as it:
        it.endpoints[0].models = {"larger": 4096, MODEL: 4096}
        it.send(it.endpoints[0], 2.0, 8)
        for endpoint in it.endpoints[1:]:
            it.send(endpoint, 30.0, 8)
        await asyncio.sleep(5 * WINDOW_S)
        assert [endpoint.state for endpoint in it.endpoints] == ["healthy"] * 3


@pytest.mark.looptime
async def test_a_draining_server_is_said_once_and_once_that_it_is_back() -> None:
    async with tended("ab") as it:
        draining = it.endpoints[0]
        stream = it.send(draining)[0]
        for _ in range(5):
            assert not it.fail(draining, ServerFailed("a", DRAINING_WORDS, 500))
            assert it.changes[-1] == ["draining", "healthy"]
            await until(lambda: draining.state == "trial")
        assert len(it.notices) == 1
        assert it.notices[0].startswith("a drains, what is in flight there goes on: ")
        it.send(draining)
        assert it.notices[1:] == ["a takes requests again"]
        assert draining.state == "healthy"
        assert (draining.ejections, draining.in_flight) == (0, 2)
        assert stream.tokens > 0


@pytest.mark.looptime
async def test_a_draining_server_that_is_gone_at_its_next_probe_is_ejected() -> None:
    async with tended("ab") as it:
        it.fail(it.endpoints[0], ServerFailed("a", DRAINING_WORDS, 500))
        it.requests.down.add("a")
        await asyncio.sleep(5.0)
        assert state_of(it.endpoints[0]) == "ejected"
        assert it.notices[1:] == ["ejected a: unreachable at a: down"]
        it.requests.down.clear()
        await asyncio.sleep(60.0)
        assert state_of(it.endpoints[0]) == "trial"
        assert it.notices[2:] == ["a answers again: on trial with one request"]


@pytest.mark.looptime
async def test_a_server_that_comes_later_is_asked_and_read_before_it_is_used() -> None:
    async with tended("a", "auto") as it:
        well, unwell = (Endpoint(url, 1000, 3, 1.0, limit="auto") for url in "bc")
        it.requests.down.add("c")
        it.endpoints += [well, unwell]
        it.servers.look_again()
        await asyncio.sleep(0.5)
        assert (well.state, list(well.models), well.limit) == ("healthy", [MODEL], FITS)
        assert (unwell.state, unwell.limit) == ("ejected", 1000.0)
        assert it.notices == ["c is not ready: unreachable at c: down"]
        it.requests.down.clear()
        await asyncio.sleep(5.0)
        assert (unwell.state, unwell.limit) == ("trial", FITS)
        it.endpoints.remove(well)
        it.send(it.endpoints[0])
        await asyncio.sleep(20.0)
        it.endpoints.append(well)
        it.servers.look_again()
        asked = it.requests.asked["b"]
        await asyncio.sleep(0.5)
        assert it.requests.asked["b"] == asked + 1


def told() -> list[str]:
    """What is said of errors in the background of the running loop, from now on."""
    words: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: words.append(f"{context['message']}: {context.get('exception')}")
    )
    return words


@pytest.mark.looptime
async def test_a_bug_while_a_server_is_asked_is_said_and_it_is_asked_again_later() -> None:
    async with tended("ab") as it:
        said, ejected = told(), it.endpoints[0]
        it.requests.bugs.add("a")
        ejected.eject("down", now())
        it.servers.look_again()
        await asyncio.sleep(40.0)
        # As after any probe that fails: 1, 2, 4, 8, 16 s and so on.
        assert it.requests.asked["a"] in range(4, 8)
        assert len(said) == it.requests.asked["a"] - 1
        assert set(said) == {"a is not asked: a bug"}
        assert (ejected.state, ejected.reason) == ("ejected", "LookupError: a bug")
        it.requests.bugs.clear()
        await asyncio.sleep(40.0)
        assert state_of(ejected) == "trial"


@pytest.mark.looptime
async def test_a_bug_while_metrics_are_read_is_said_and_they_are_read_again() -> None:
    async with tended("a", "auto") as it:
        said = told()
        it.requests.bugs.add("a")
        it.send(it.endpoints[0])
        await asyncio.sleep(4 * READ_S + 1.0)
        assert said == ["the metrics of a are not read: a bug"] * 5
        assert (it.endpoints[0].state, it.endpoints[0].limit) == ("healthy", FITS)
        it.requests.bugs.clear()
        it.requests.kv_tokens *= 2
        await asyncio.sleep(2 * READ_S)
        assert it.endpoints[0].limit == 2 * FITS


@pytest.mark.looptime
async def test_a_bug_in_the_tending_is_said_and_does_not_end_it() -> None:
    async with tended("a") as it:
        said, down = told(), it.endpoints[0]
        rooms, wrong = it.rooms, [True, True]

        def on_room() -> None:
            rooms.append(now())
            if wrong:
                wrong.pop()
                raise LookupError("a bug")

        it.servers._on_room = on_room
        it.servers.look_again()
        await asyncio.sleep(1.0)
        assert said == ["the servers are not looked after: a bug"]
        down.eject("down", now())
        await asyncio.sleep(60.0)
        assert said == ["the servers are not looked after: a bug"] * 2
        assert state_of(down) == "trial"
