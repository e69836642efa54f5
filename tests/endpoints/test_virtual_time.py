"""Virtual time: what waits takes no real time, everything else is asyncio as ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gen_service.endpoints.simulated.virtual_time import Deadlock, run_in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


def test_hours_pass_at_once_and_to_the_digit() -> None:
    async def main() -> list[float]:
        times = [now()]
        await asyncio.sleep(3600.0)
        times.append(now())
        await asyncio.sleep(1e8 + 1e-7)
        return [*times, now()]

    assert run_in_virtual_time(main()) == [0.0, 3600.0, 3600.0 + (1e8 + 1e-7)]


def test_timers_fire_by_time_and_then_as_they_were_set() -> None:
    async def main() -> list[tuple[str, float]]:
        loop, fired = asyncio.get_running_loop(), list[tuple[str, float]]()
        for name, at in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)):
            loop.call_at(at, lambda name=name: fired.append((name, now())))
        loop.call_at(1.5, lambda: fired.append(("cancelled", now()))).cancel()
        await asyncio.sleep(5)
        return fired

    assert run_in_virtual_time(main()) == [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.0)]


def test_a_timer_in_the_past_fires_now() -> None:
    async def main() -> float:
        fired = asyncio.Event()
        await asyncio.sleep(10)
        asyncio.get_running_loop().call_at(3.0, fired.set)
        await fired.wait()
        return now()

    assert run_in_virtual_time(main()) == 10.0


def test_timeouts_task_groups_events_and_queues_work() -> None:
    async def main() -> list[str]:
        heard, event, queue = list[str](), asyncio.Event(), asyncio.Queue[str](maxsize=1)

        async def speaker() -> None:
            for word in ("one", "two", "three"):
                await asyncio.sleep(1)
                await queue.put(word)
            event.set()

        async def listener() -> None:
            while not event.is_set() or not queue.empty():
                heard.append(f"{await queue.get()} at {now():g}")

        async with asyncio.TaskGroup() as group:
            group.create_task(speaker())
            group.create_task(listener())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(9), 0.5)
        return [*heard, f"end at {now():g}"]

    assert run_in_virtual_time(main()) == ["one at 1", "two at 2", "three at 3", "end at 10.5"]


def test_threads_are_run_inline_and_take_no_time() -> None:
    async def main() -> tuple[int, int, float]:
        with ThreadPoolExecutor(1) as pool:
            inside = await asyncio.get_running_loop().run_in_executor(pool, threading.get_ident)
        return inside, await asyncio.to_thread(threading.get_ident), now()

    here = threading.get_ident()
    assert run_in_virtual_time(main()) == (here, here, 0.0)


def test_an_error_in_a_thread_is_the_awaiters() -> None:
    async def main() -> None:
        await asyncio.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        run_in_virtual_time(main())


def test_another_thread_may_call_back() -> None:
    async def main() -> str:
        loop, heard = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(heard.set_result, "from outside"))
        thread.start()
        answer: str = await heard
        thread.join()
        return answer

    assert run_in_virtual_time(main()) == "from outside"


def test_a_deadlock_names_the_tasks_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_service.endpoints.simulated.virtual_time.THREADS_S", 0.0)

    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(1)
        await asyncio.create_task(forgotten(), name="the forgotten one")

    with pytest.raises(Deadlock, match=r"the forgotten one \(.*forgotten, line \d+\)"):
        run_in_virtual_time(main())


def test_an_error_in_a_callback_is_not_hidden() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1, int, "no number")
        await asyncio.sleep(2)

    with pytest.raises(ValueError, match="no number"):
        run_in_virtual_time(main())


def test_what_main_leaves_behind_is_cancelled_and_closed() -> None:
    ended = list[str]()

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append("generator")

    async def task() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("task")

    async def main() -> object:
        left = asyncio.create_task(task())
        numbers = endless()
        await anext(numbers)
        return left, numbers

    kept = run_in_virtual_time(main())
    assert kept is not None
    assert sorted(ended) == ["generator", "task"]


def test_it_does_not_run_inside_a_running_loop() -> None:
    async def inner() -> None:
        return

    async def main() -> str:
        coroutine = inner()
        with pytest.raises(RuntimeError, match="running") as raised:
            run_in_virtual_time(coroutine)
        coroutine.close()
        return str(raised.value)

    assert "event loop is running" in run_in_virtual_time(main())


def test_two_runs_are_alike_turn_by_turn() -> None:
    async def main() -> list[tuple[int, float]]:
        seen = list[tuple[int, float]]()

        async def worker(number: int) -> None:
            for step in range(5):
                await asyncio.sleep((number * 7919 + step * 104729) % 13 / 3)
                seen.append((number, now()))

        await asyncio.gather(*(worker(number) for number in range(50)))
        return seen

    assert run_in_virtual_time(main()) == run_in_virtual_time(main())
