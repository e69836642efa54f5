"""A broken-off wait is told apart from a cancelled task, in every order."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from gen_service.endpoints.interruption import Interruption


async def waiting(*interruptions: Interruption) -> str:
    """Wait for ever inside these, the first one outermost; what ended it."""
    if not interruptions:
        await asyncio.Event().wait()
    with interruptions[0]:
        return await waiting(*interruptions[1:])
    return f"broken off at {len(interruptions)}"


async def begun(*interruptions: Interruption) -> asyncio.Task[str]:
    task = asyncio.create_task(waiting(*interruptions))
    await asyncio.sleep(0)
    return task


async def test_what_waits_is_broken_off_and_the_task_goes_on() -> None:
    one = Interruption()
    task = await begun(one)
    assert one.ask()
    assert one.ask()
    assert await task == "broken off at 1"
    assert (one.happened, task.cancelling(), one.ask()) == (True, 0, False)


async def test_what_ended_before_is_not_broken_off() -> None:
    one = Interruption()
    with one:
        await asyncio.sleep(0)
    assert not one.ask()
    assert not one.happened
    await asyncio.sleep(0)


async def test_asked_from_inside_it_ends_where_it_next_waits_or_not_at_all() -> None:
    one, other = Interruption(), Interruption()
    with one:
        one.ask()
        await asyncio.Event().wait()
    with other:
        other.ask()
    await asyncio.sleep(0.001)
    assert (one.happened, other.happened) == (True, False)


@pytest.mark.parametrize("order", list(permutations(("outer", "inner", "task"), 2)))
async def test_of_two_at_once_the_outermost_happened(order: tuple[str, str]) -> None:
    outer, inner = Interruption(), Interruption()
    task = await begun(outer, inner)
    for name in order:
        {"outer": outer.ask, "inner": inner.ask, "task": task.cancel}[name]()
    await asyncio.wait({task})
    if "task" in order:
        assert task.cancelled()
        assert (outer.happened, inner.happened) == (False, False)
    else:
        assert task.result() == "broken off at 2"
        assert (outer.happened, inner.happened) == (True, False)
        assert task.cancelling() == 0


async def test_an_error_that_comes_first_is_what_happened() -> None:
    one, gate = Interruption(), asyncio.Event()

    async def failing() -> None:
        with one:
            try:
                await gate.wait()
            finally:
                raise ValueError("first")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    one.ask()
    with pytest.raises(ValueError, match="first"):
        await task
    assert (one.happened, task.cancelling()) == (False, 0)


@pytest.mark.looptime
async def test_a_timeout_inside_or_outside_is_still_a_timeout() -> None:
    one = Interruption()

    async def waiting_inside() -> None:
        with one:
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting_inside(), 1.0)
    with one, pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 1.0)
    with one:
        asyncio.get_running_loop().call_later(0.5, one.ask)
        async with asyncio.timeout(1.0):
            await asyncio.Event().wait()
    assert one.happened
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
