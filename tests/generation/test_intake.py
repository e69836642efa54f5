"""A blocking source read from a thread, a chunk at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.generation.intake import in_chunks


@given(st.lists(st.integers()), st.integers(1, 7))
def test_all_items_come_in_order(items: list[int], chunk: int) -> None:
    async def collect() -> list[int]:
        return [item async for item in in_chunks(iter(items), chunk)]

    with asyncio.Runner() as runner:
        assert runner.run(collect()) == items


async def test_it_reads_at_most_a_chunk_ahead_from_one_thread_that_ends_with_it() -> None:
    read: list[int] = []
    threads: set[threading.Thread] = set()

    def source() -> Iterator[int]:
        for number in range(100):
            threads.add(threading.current_thread())
            read.append(number)
            yield number

    async with aclosing(in_chunks(source(), 8)) as items:
        async for item in items:
            assert len(read) <= item + 8
            if item == 20:
                break
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert not threads.pop().is_alive()


async def test_an_error_of_the_source_surfaces_as_itself() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        [item async for item in in_chunks(source(), 4)]


async def test_cancelled_while_it_reads_it_waits_for_the_read_to_end() -> None:
    """What it reads from is closed next: a read that is still under way would meet a closed file."""
    reading, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        reading.set()
        go_on.wait(10)
        ended.set()
        yield 1

    async def consume() -> None:
        async with aclosing(in_chunks(source(), 4)) as items:
            async for _ in items:
                pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(reading.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
