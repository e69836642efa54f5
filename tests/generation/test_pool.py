"""The pool: bounded, drains on a stop, loses nothing that was made, and leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.generation.pool import Pool, Stop


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before == {asyncio.current_task()}


async def numbers(count: int) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number


async def same(item: int) -> int:
    return item


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def pool(
    make: Callable[[int], Awaitable[int]],
    deliver: Callable[[int], Awaitable[None]],
    buffer: int = 4,
    grace_s: float = 0.0,
    stop: Stop | None = None,
    in_flight: Callable[[], int] = int,
) -> Pool[int, int]:
    return Pool(make, deliver, buffer, grace_s, stop or Stop(), in_flight)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_each_item_is_delivered_once_and_no_more_than_the_buffer_are_open_when_none_is_in_flight(
    buffer: int, waits: list[tuple[int, int]]
) -> None:
    opened, delivered, most, read = 0, [], 0, 0

    async def source() -> AsyncGenerator[int, None]:
        nonlocal opened, most, read
        for number in range(len(waits)):
            # An item is read only when there is room for it.
            opened += 1
            most = max(most, opened)
            read += 1
            yield number

    async def make(item: int) -> int:
        await turns(waits[item][0])
        return item

    async def deliver(item: int) -> None:
        nonlocal opened
        await turns(waits[item][1])
        delivered.append(item)
        opened -= 1

    async def one() -> None:
        await pool(make, deliver, buffer).run(source())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner() as runner:
        runner.run(one())
    assert sorted(delivered) == list(range(len(waits)))
    assert most <= buffer


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=40),
)
def test_what_is_open_and_not_in_flight_fits_the_buffer_and_places_are_kept_busy(
    buffer: int, places: int, waits: list[tuple[int, int, int]]
) -> None:
    """Each item waits for one of few places, holds it, and is delivered; the pool is told when it gets one."""
    open_, in_flight, delivered = 0, 0, []

    async def source() -> AsyncGenerator[int, None]:
        nonlocal open_
        for number in range(len(waits)):
            assert open_ - in_flight < buffer
            open_ += 1
            yield number

    async def one() -> None:
        server = asyncio.Semaphore(places)

        async def make(item: int) -> int:
            nonlocal in_flight
            await turns(waits[item][0])
            async with server:
                in_flight += 1
                running.look()
                await turns(waits[item][1])
                in_flight -= 1
            return item

        async def deliver(item: int) -> None:
            nonlocal open_
            await turns(waits[item][2])
            open_ -= 1
            delivered.append(item)

        running = pool(make, deliver, buffer, in_flight=lambda: in_flight)
        await running.run(source())

    with asyncio.Runner() as runner:
        runner.run(one())
    assert sorted(delivered) == list(range(len(waits)))


async def test_a_slow_delivery_stops_the_reading_and_what_is_in_flight_does_not() -> None:
    disk, in_flight, read = asyncio.Event(), 0, []

    async def source() -> AsyncGenerator[int, None]:
        for number in range(1000):
            read.append(number)
            yield number

    async def make(item: int) -> int:
        nonlocal in_flight
        in_flight += 1
        running.look()
        await turns(3)
        in_flight -= 1
        return item

    async def deliver(item: int) -> None:
        await disk.wait()

    running = pool(make, deliver, 10, in_flight=lambda: in_flight)
    task = asyncio.create_task(running.run(source()))
    await turns(200)
    # Those that were in flight when the buffer was full of delivered ones are on top of it.
    assert 10 <= len(read) <= 40
    held = len(read)
    await turns(200)
    assert len(read) == held
    disk.set()
    await task
    assert len(read) == 1000


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20),
    st.integers(0, 25),
)
def test_a_stop_at_any_moment_loses_nothing_that_was_made(
    buffer: int, waits: list[tuple[int, int]], stop_after: int
) -> None:
    made: list[int] = []
    delivered: list[int] = []
    started: list[int] = []

    async def make(item: int) -> int:
        started.append(item)
        await turns(waits[item][0])
        made.append(item)
        return item

    async def deliver(item: int) -> None:
        await turns(waits[item][1])
        delivered.append(item)

    async def one() -> Pool[int, int]:
        stop = Stop()
        running = pool(make, deliver, buffer, 0.0, stop)
        task = asyncio.create_task(running.run(numbers(len(waits))))
        await turns(stop_after)
        stop.ask()
        await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return running

    with asyncio.Runner() as runner:
        running = runner.run(one())
    assert sorted(made) == sorted(delivered)
    assert len(started) <= len(delivered) + running.interrupted <= len(waits)


async def test_within_the_grace_running_items_end_and_no_new_one_begins() -> None:
    stop, go_on = Stop(), asyncio.Event()
    delivered: list[int] = []

    async def make(item: int) -> int:
        await go_on.wait()
        return item

    async def deliver(item: int) -> None:
        delivered.append(item)

    running = pool(make, deliver, buffer=3, grace_s=60.0, stop=stop)
    task = asyncio.create_task(running.run(numbers(100)))
    await turns(10)
    stop.ask()
    await turns(10)
    assert not task.done()
    go_on.set()
    await task
    assert sorted(delivered) == [0, 1, 2]
    assert running.interrupted == 0


async def test_asked_twice_it_ends_at_once_but_delivers_what_was_made() -> None:
    stop, disk = Stop(), asyncio.Event()
    delivered: list[int] = []

    async def make(item: int) -> int:
        if item:
            await asyncio.Event().wait()
        return item

    async def deliver(item: int) -> None:
        await disk.wait()
        delivered.append(item)

    running = pool(make, deliver, buffer=3, grace_s=3600.0, stop=stop)
    task = asyncio.create_task(running.run(numbers(100)))
    await turns(10)
    stop.ask()
    await turns(10)
    assert not task.done()
    stop.ask()
    await turns(10)
    assert not task.done()
    assert running.interrupted == 2
    disk.set()
    await task
    assert delivered == [0]


async def test_asked_before_it_runs_nothing_is_read() -> None:
    stop = Stop()
    stop.ask()
    read: list[int] = []

    async def source() -> AsyncGenerator[int, None]:
        read.append(1)
        yield 1

    async def deliver(item: int) -> None:
        raise AssertionError(item)

    await pool(same, deliver, stop=stop).run(source())
    assert read == []


class Bug(Exception):
    """Any error."""


@pytest.mark.parametrize("where", ["source", "make", "deliver"])
async def test_an_error_surfaces_as_itself_and_ends_everything(where: str) -> None:
    closed: list[bool] = []

    async def source() -> AsyncGenerator[int, None]:
        try:
            for number in range(100):
                if where == "source" and number == 5:
                    raise Bug(where)
                yield number
        finally:
            closed.append(True)

    async def make(item: int) -> int:
        if where == "make" and item == 5:
            raise Bug(where)
        if item % 2:
            await asyncio.Event().wait()
        return item

    async def deliver(item: int) -> None:
        if where == "deliver" and item == 4:
            raise Bug(where)

    with pytest.raises(Bug, match=where):
        await pool(make, deliver, buffer=50).run(source())
    assert closed == [True]


async def test_cancelled_from_outside_it_cancels_all() -> None:
    ended: list[int] = []

    async def make(item: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)
        return item

    async def deliver(item: int) -> None:
        raise AssertionError(item)

    task = asyncio.create_task(pool(make, deliver, buffer=3).run(numbers(9)))
    await turns(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [0, 1, 2]
