"""Places under random interleavings: none lost, none given twice, first come first served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gen_service.endpoints.endpoint import Endpoint, Place
from gen_service.endpoints.places import HOME_SLACK, REMEMBERED_PROMPTS, Line, Places
from gen_service.endpoints.shares import Share
from gen_service.errors import ServerFailed


def servers(count: int, cap: int = 8, *models: str) -> list[Endpoint]:
    """Servers of model `m`, or each of its own."""
    made = [Endpoint(f"http://{number}", cap, 1, 1.0) for number in range(count)]
    for number, endpoint in enumerate(made):
        endpoint.models = {models[number] if models else "m": None}
    return made


def line_of(
    places: Places, share: Share | None = None, model: str = "m", on_bound: Callable[[], None] = lambda: None
) -> Line:
    line = places.join(share or Share("job"), on_bound)
    places.name(line, model)
    return line


# What each server of the machine below serves, and the jobs that ask: two tenants, one above the others, one with a
# limit of its own, and one whose model is only on the last server.
SERVED = ("m", "m", "mn")
JOBS = {
    "u": (Share("u", "a"), "m"),
    "v": (Share("v", "b", weight=2.0), "m"),
    "w": (Share("w", "a", max_in_flight=1), "m"),
    "x": (Share("x", "b", priority=1), "m"),
    "y": (Share("y", "a"), "n"),
}


class PlacesMachine(RuleBasedStateMachine):
    """Takers come, leave, and are cancelled at any moment: before, while and after a place is handed to them. Servers
    fail, are removed and added again meanwhile; `all` has each that ever was, `endpoints` those in use."""

    @initialize(count=st.integers(1, 3), cap=st.integers(1, 3), limit=st.integers(1, 6))
    def begin(self, count: int, cap: int, limit: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.takers: list[asyncio.Task[Place]] = []
        self.endpoints = servers(count, cap)
        for number, endpoint in enumerate(self.endpoints):
            endpoint.models = dict.fromkeys(SERVED[number])
        self.all = list(self.endpoints)
        self.kept: dict[Endpoint, int] = {}
        self.places = Places(self.endpoints, limit)
        self.bound: Counter[str] = Counter()
        self.lines = {
            job: line_of(self.places, share, model, lambda job=job: self.bound.update([job]))
            for job, (share, model) in JOBS.items()
        }

    def turn(self) -> None:
        """One turn of the event loop."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    @rule(job=st.sampled_from("uvwxy"), prompt=st.sampled_from("abc"), avoid=st.integers(-1, 2))
    def take(self, job: str, prompt: str, avoid: int) -> None:
        avoided = self.all[avoid] if 0 <= avoid < len(self.all) else None
        self.takers.append(self.loop.create_task(self.places.take(self.lines[job], prompt, avoided)))

    @rule()
    def let_run(self) -> None:
        self.turn()

    @precondition(lambda self: self.takers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.takers)).cancel()

    @precondition(lambda self: self.holders())
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders()))
        self.takers.remove(holder)
        self.in_loop(self.places.give_back, holder.result())

    @precondition(lambda self: self.holders())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders()))
        self.takers.remove(holder)
        place = holder.result()
        place.endpoint.failed(ServerFailed(place.endpoint.url, "x"), place, self.loop.time())
        self.in_loop(self.places.give_back, place)

    @rule(number=st.integers(0, 2))
    def come_back(self, number: int) -> None:
        self.all[number % len(self.all)].probed(None, self.loop.time())
        self.in_loop(self.places.serve)

    @precondition(lambda self: self.endpoints)
    @rule(number=st.integers(0, 2))
    def remove(self, number: int) -> None:
        endpoint = self.endpoints[number % len(self.endpoints)]
        self.places.remove(endpoint)
        self.kept[endpoint] = endpoint.in_flight

    @precondition(lambda self: self.gone())
    @rule(number=st.integers(0, 2))
    def add(self, number: int) -> None:
        """The one that is leaving goes on; after its last request it is a new one."""
        gone = self.gone()
        endpoint = gone[number % len(gone)]
        self.kept.pop(endpoint, None)
        if endpoint.url not in self.places.leaving:
            new = Endpoint(endpoint.url, endpoint.cap, 1, 1.0)
            new.models = endpoint.models
            self.all[self.all.index(endpoint)] = endpoint = new
        self.in_loop(self.places.add, endpoint)

    def gone(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.all if endpoint not in self.endpoints]

    def in_loop(self, function: Callable[..., object], *args: object) -> None:
        """Call it in the loop, for one turn only: who is handed a place by it has not woken yet."""
        self.loop.call_soon(function, *args)
        self.turn()

    def holders(self) -> list[asyncio.Task[Place]]:
        return [taker for taker in self.takers if taker.done() and not taker.cancelled()]

    @invariant()
    def bounds_hold(self) -> None:
        assert 0 <= self.places.taken <= self.places.limit
        assert self.places.taken == sum(endpoint.in_flight for endpoint in self.all)
        assert all(0 <= endpoint.in_flight <= endpoint.cap for endpoint in self.all)
        assert self.places.taken >= len(self.holders())
        assert self.places.taken == sum(line.in_flight for line in self.lines.values())
        assert self.lines["w"].in_flight <= 1
        for endpoint in self.all:
            assert endpoint.in_flight == sum(line.at[endpoint] for line in self.lines.values())
        for line in self.lines.values():
            assert all(line.model in endpoint.models and count > 0 for endpoint, count in line.at.items())

    @invariant()
    def who_left_gets_nothing_and_is_known_until_its_last_request_ends(self) -> None:
        gone = self.gone()
        assert set(self.places.leaving.values()) == {endpoint for endpoint in gone if endpoint.in_flight}
        for endpoint in gone:
            assert endpoint.in_flight <= self.kept[endpoint]
            self.kept[endpoint] = endpoint.in_flight

    def no_place_is_free_that_somebody_waits_for(self) -> None:
        if self.places.taken == self.places.limit:
            return
        open_ = [endpoint for endpoint in self.endpoints if endpoint.has_room(self.loop.time())]
        for line in self.lines.values():
            if line.waiters and line.member is not None and line.member.may_send:
                assert not any(line.model in endpoint.models for endpoint in open_)

    def teardown(self) -> None:
        """When the loop has settled no place is lost; when all come back and leave, nobody is left waiting."""
        if not hasattr(self, "loop"):
            return
        self.settle()
        self.no_place_is_free_that_somebody_waits_for()
        assert sum(self.bound.values()) >= len(self.holders())
        assert self.places.taken == len(self.holders())
        assert self.places.waiting == sum(1 for taker in self.takers if not taker.done())
        for _ in range(len(self.gone())):
            self.add(0)
        assert not self.places.leaving
        for _ in range(len(self.takers) + 1):
            for endpoint in self.endpoints:
                endpoint.probed(None, self.loop.time())
            self.in_loop(self.places.serve)
            for holder in self.holders():
                self.takers.remove(holder)
                place = holder.result()
                place.endpoint.succeeded(place, self.loop.time())
                self.in_loop(self.places.give_back, place)
            self.settle()
            self.no_place_is_free_that_somebody_waits_for()
        for endpoint in self.endpoints:
            endpoint.models = dict.fromkeys("mn")
        for _ in range(len(self.takers) + 1):
            self.in_loop(self.places.serve)
            for holder in self.holders():
                self.takers.remove(holder)
                self.in_loop(self.places.give_back, holder.result())
            self.settle()
        assert all(taker.done() for taker in self.takers)
        assert self.places.taken == self.places.waiting == 0
        for line in self.lines.values():
            self.places.leave(line)
        assert self.places._lines == {}
        self.loop.close()

    def settle(self) -> None:
        for _ in range(6):
            self.turn()


PlacesMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPlacesMachine = PlacesMachine.TestCase


async def test_first_come_first_served() -> None:
    places = Places(servers(1), limit=1)
    line = line_of(places)
    held = await places.take(line, "p", None)
    order: list[int] = []

    async def one(number: int) -> None:
        place = await places.take(line, f"p{number}", None)
        order.append(number)
        places.give_back(place)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(one(number))
        await asyncio.sleep(0)
        places.give_back(held)
    assert order == list(range(10))
    assert places.taken == 0


async def test_a_newcomer_does_not_overtake_who_waits() -> None:
    places = Places(servers(1), limit=1)
    line = line_of(places)
    held = await places.take(line, "p", None)
    first = asyncio.create_task(places.take(line, "q", None))
    await asyncio.sleep(0)
    places.give_back(held)
    second = asyncio.create_task(places.take(line, "r", None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert first.done()
    assert not second.done()
    places.give_back(first.result())
    places.give_back(await second)


async def test_a_cancelled_waiter_leaves_the_queue_at_once() -> None:
    places = Places(servers(1), limit=1)
    line = line_of(places)
    held = await places.take(line, "p", None)
    waiters = [asyncio.create_task(places.take(line, "q", None)) for _ in range(5)]
    await asyncio.sleep(0)
    assert places.waiting == 5
    for waiter in waiters[:4]:
        waiter.cancel()
    await asyncio.gather(*waiters[:4], return_exceptions=True)
    assert places.waiting == 1
    places.give_back(held)
    places.give_back(await waiters[4])
    assert places.taken == 0


async def test_a_place_handed_to_a_waiter_cancelled_in_the_same_moment_goes_on() -> None:
    places = Places(servers(1), limit=1)
    line = line_of(places)
    held = await places.take(line, "p", None)
    first, second = (asyncio.create_task(places.take(line, prompt, None)) for prompt in "qr")
    await asyncio.sleep(0)
    places.give_back(held)
    first.cancel()
    place = await second
    assert first.cancelled()
    assert places.taken == 1
    places.give_back(place)
    assert places.taken == 0


async def test_a_place_that_comes_free_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    places = Places(servers(1), limit=1)
    line = line_of(places)
    held = await places.take(line, "p", None)
    first, second = (asyncio.create_task(places.take(line, prompt, None)) for prompt in "qr")
    await asyncio.sleep(0)
    first.cancel()
    places.give_back(held)
    place = await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (places.taken, places.waiting) == (1, 0)
    places.give_back(place)


async def test_siblings_prefer_the_server_of_the_first_and_others_the_least_loaded() -> None:
    endpoints = servers(3, cap=20)
    places = Places(endpoints, limit=60)
    line = line_of(places)
    siblings = [await places.take(line, "p", None) for _ in range(4)]
    assert len({place.endpoint for place in siblings}) == 1
    others = [await places.take(line, f"q{number}", None) for number in range(8)]
    assert [endpoint.in_flight for endpoint in endpoints] == [4, 4, 4]
    for place in siblings + others:
        places.give_back(place)


async def test_one_prompt_of_many_samples_uses_every_server() -> None:
    endpoints = servers(2, cap=100)
    places = Places(endpoints, limit=200)
    line = line_of(places)
    taken = [await places.take(line, "p", None) for _ in range(60)]
    assert sorted(endpoint.in_flight for endpoint in endpoints) == [24, 36]
    moves = sum(one.endpoint is not other.endpoint for one, other in pairwise(taken))
    assert moves <= 60 // 10
    for place in taken:
        places.give_back(place)


@given(
    count=st.integers(2, 5),
    cap=st.integers(1, 60),
    prompts=st.lists(st.sampled_from("abc"), max_size=200),
)
def test_equal_servers_are_loaded_equally_but_for_the_slack(count: int, cap: int, prompts: list[str]) -> None:
    async def take_all() -> None:
        endpoints = servers(count, cap)
        places = Places(endpoints, count * cap)
        line = line_of(places)
        for prompt in prompts:
            if not all(endpoint.has_room(0.0) for endpoint in endpoints):
                break
            await places.take(line, prompt, None)
            loads = [endpoint.in_flight for endpoint in endpoints]
            assert max(loads) - min(loads) <= HOME_SLACK * cap + 2 + 1e-9

    asyncio.run(take_all())


@given(
    caps=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 1.0)), max_size=120),
)
def test_no_request_goes_to_a_server_far_above_the_least_loaded(
    caps: list[int], steps: list[tuple[str, float]]
) -> None:
    """Whatever the limits are, and whoever ended before."""

    async def take_and_end() -> None:
        endpoints = [servers(1, cap)[0] for cap in caps]
        places = Places(endpoints, sum(caps))
        line = line_of(places)
        held: list[Place] = []
        for prompt, which in steps:
            if held and (which > 0.7 or places.taken == places.limit):
                places.give_back(held.pop(int(which * (len(held) - 1))))
                continue
            before = {endpoint: endpoint.load() for endpoint in endpoints}
            least = min(load for endpoint, load in before.items() if endpoint.has_room(0.0))
            held.append(await places.take(line, prompt, None))
            chosen = held[-1].endpoint
            assert before[chosen] <= least + HOME_SLACK + 1.0 / chosen.limit + 1e-9

    asyncio.run(take_and_end())


async def test_a_retry_avoids_the_server_that_failed_while_another_has_room() -> None:
    endpoints = servers(2, cap=1)
    places = Places(endpoints, limit=2)
    line = line_of(places)
    first = await places.take(line, "p", None)
    second = await places.take(line, "p", first.endpoint)
    assert second.endpoint is not first.endpoint
    places.give_back(first)
    third = await places.take(line, "p", first.endpoint)
    assert third.endpoint is first.endpoint
    places.give_back(second)
    places.give_back(third)


async def test_a_retry_avoids_its_prompts_own_server_and_the_least_loaded() -> None:
    endpoints = servers(2, cap=8)
    places = Places(endpoints, limit=16)
    line = line_of(places)
    others = [await places.take(line, f"q{number}", None) for number in range(3)]
    assert [endpoint.in_flight for endpoint in endpoints] == [2, 1]
    failed = await places.take(line, "p", None)
    places.give_back(failed)
    assert failed.endpoint is endpoints[1]
    retry = await places.take(line, "p", endpoints[1])
    assert retry.endpoint is endpoints[0]
    for place in [*others, retry]:
        places.give_back(place)


@pytest.mark.parametrize("cap", [1, 8])
async def test_a_server_on_trial_goes_before_the_prompts_own(cap: int) -> None:
    endpoints = servers(2, cap)
    places = Places(endpoints, limit=16)
    line = line_of(places)
    places.give_back(await places.take(line, "p", None))
    now = asyncio.get_running_loop().time()
    endpoints[1].eject("down", now)
    endpoints[1].probed(None, now)
    place = await places.take(line, "p", None)
    assert place.endpoint is endpoints[1]
    places.give_back(place)


async def test_a_server_on_trial_gets_one_request_before_all_others() -> None:
    endpoints = servers(2)
    places = Places(endpoints, limit=8)
    line = line_of(places)
    now = asyncio.get_running_loop().time()
    endpoints[1].eject("down", now)
    endpoints[1].probed(None, now)
    taken = [await places.take(line, f"p{number}", None) for number in range(4)]
    assert [place.endpoint for place in taken] == [endpoints[1], endpoints[0], endpoints[0], endpoints[0]]
    for place in taken:
        places.give_back(place)


async def test_remembered_prompts_are_bounded() -> None:
    places = Places(servers(1), limit=1)
    line = line_of(places)
    for number in range(REMEMBERED_PROMPTS + 10):
        places.give_back(await places.take(line, f"p{number}", None))
    assert len(places._homes) == REMEMBERED_PROMPTS


async def test_a_job_whose_model_no_server_has_keeps_nobody_waiting() -> None:
    places = Places(servers(2, 1, "m", "n"), limit=2)
    for_m, for_n, for_o = (line_of(places, Share(model), model) for model in "mno")
    absent = [asyncio.create_task(places.take(for_o, "p", None)) for _ in range(3)]
    await asyncio.sleep(0)
    at_m, at_n = await places.take(for_m, "p", None), await places.take(for_n, "p", None)
    more = asyncio.create_task(places.take(for_n, "q", None))
    await asyncio.sleep(0)
    places.give_back(at_m)
    await asyncio.sleep(0)
    assert not more.done()
    places.give_back(at_n)
    assert (await more).endpoint is at_n.endpoint
    assert (places.waiting, places.taken) == (3, 1)
    at_m.endpoint.models = {"m": None, "o": None}
    places.serve()
    places.give_back(await absent[0])
    places.give_back(await absent[1])
    places.give_back(await absent[2])
    places.give_back(more.result())
    assert (places.waiting, places.taken) == (0, 0)


async def test_a_job_without_a_model_waits_until_it_has_one() -> None:
    places = Places(servers(1), limit=2)
    line = places.join(Share("job"), lambda: None)
    waiting = asyncio.create_task(places.take(line, "p", None))
    await asyncio.sleep(0)
    assert (places.waiting, line.in_flight) == (1, 0)
    places.name(line, "m")
    places.give_back(await waiting)


async def test_whoever_feeds_a_job_is_told_of_each_place() -> None:
    told: list[int] = []
    places = Places(servers(1), limit=1)
    line = places.join(Share("job"), lambda: told.append(line.in_flight))
    places.name(line, "m")
    first = await places.take(line, "p", None)
    second = asyncio.create_task(places.take(line, "p", None))
    await asyncio.sleep(0)
    assert told == [1]
    places.give_back(first)
    assert told == [1, 1]
    places.give_back(await second)


@pytest.mark.looptime
async def test_two_jobs_take_turns_whoever_came_first() -> None:
    places = Places(servers(1), limit=1)
    lines = [line_of(places, Share(job)) for job in "ab"]
    held = await places.take(lines[0], "p", None)
    order: list[str] = []

    async def one(line: Line) -> None:
        place = await places.take(line, "p", None)
        order.append(line.share.job_id)
        await asyncio.sleep(1.0)
        places.give_back(place)

    async with asyncio.TaskGroup() as group:
        for line in lines:
            for _ in range(10):
                group.create_task(one(line))
        await asyncio.sleep(1.0)
        places.give_back(held)
    assert abs(order[:10].count("a") - 5) <= 1
    assert Counter(order) == {"a": 10, "b": 10}


async def test_a_removed_server_ends_what_it_has_and_one_that_comes_back_goes_on() -> None:
    endpoints = servers(2, cap=2)
    first, second = endpoints
    places = Places(endpoints, limit=4)
    line = line_of(places)
    taken = [await places.take(line, f"p{number}", None) for number in range(4)]
    places.remove(first)
    waiting = [asyncio.create_task(places.take(line, "q", None)) for _ in range(3)]
    await asyncio.sleep(0)
    places.give_back(next(place for place in taken if place.endpoint is first))
    await asyncio.sleep(0)
    assert (first.in_flight, places.waiting, dict(places.leaving)) == (1, 3, {first.url: first})
    places.add(first)
    await asyncio.sleep(0)
    assert (first.in_flight, places.waiting, places.leaving) == (2, 2, {})
    places.remove(first)
    places.remove(second)
    for place in [place for place in taken if place.endpoint is second] + [waiting[0].result()]:
        places.give_back(place)
    assert (endpoints, set(places.leaving), places.waiting) == ([], {first.url}, 2)
    places.give_back(next(place for place in taken[::-1] if place.endpoint is first))
    assert (places.leaving, places.taken, dict(line.at)) == ({}, 0, {})
    places.add(servers(1)[0])
    for task in waiting[1:]:
        places.give_back(await task)
