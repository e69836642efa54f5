"""What may be watched: changes of jobs, the loop's lag, deadlines, notices."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from gen_service.controller.background import Background
from gen_service.controller.deadlines import Deadlines
from gen_service.controller.watch import LAGS_KEPT, Changes, LoopLag

OpenService = Callable[..., Any]
KEPT = 10


async def test_a_change_wakes_all_who_watch_the_job_and_no_others() -> None:
    changes = Changes()
    one, same, other = changes.changed("a"), changes.changed("a"), changes.changed("b")
    changes.tell("a")
    assert (one.is_set(), same.is_set(), other.is_set()) == (True, True, False)
    # The next change has an event of its own: none is missed, none is told twice.
    assert not changes.changed("a").is_set()
    changes.tell_all()
    assert other.is_set()
    changes.tell("nobody watches this")


async def test_what_nobody_watches_any_more_takes_no_memory() -> None:
    changes = Changes()
    events = [changes.changed(f"job-{number}") for number in range(100)]
    assert len(changes._events) == 100
    del events
    gc.collect()
    assert len(changes._events) == 0


async def test_a_loop_that_is_held_up_shows_it() -> None:
    told: list[float] = []
    came = asyncio.Event()

    def on_lag(lag: float) -> None:
        told.append(lag)
        came.set()

    lag = LoopLag(on_lag)
    assert lag.largest == 0.0
    measuring = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251
    await came.wait()
    measuring.cancel()
    assert lag.largest == max(told) >= 0.2
    assert all(one >= 0.0 for one in told)
    assert lag.recent.maxlen == LAGS_KEPT


async def test_deadlines_call_once_each_and_not_when_dropped() -> None:
    now, due = [100.0], []
    called = asyncio.Event()

    def on_due(job_id: str) -> None:
        due.append(job_id)
        called.set()

    deadlines = Deadlines(on_due, lambda: now[0])
    deadlines.set("past", 50.0)
    deadlines.set("dropped", 50.0)
    deadlines.set("far", 100.0 + 10 * 365 * 86_400)
    deadlines.set("never", None)
    deadlines.drop("dropped")
    deadlines.drop("unknown")
    await called.wait()
    assert due == ["past"]
    assert set(deadlines._timers) == {"far"}
    deadlines.close()
    assert not deadlines._timers


async def test_a_timer_that_comes_early_is_set_again() -> None:
    """The rows' clock stood while the loop's went on."""
    now, due = [100.0], []
    deadlines = Deadlines(due.append, lambda: now[0])
    deadlines.set("job", 200.0)
    deadlines._look("job", 200.0)
    assert (due, set(deadlines._timers)) == ([], {"job"})
    now[0] = 200.0
    deadlines._timers["job"].cancel()
    deadlines._look("job", 200.0)
    assert due == ["job"]


async def test_notices_are_kept_in_order_up_to_a_bound(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen_service.controller.notices.KEPT_A_JOB", KEPT)
    async with open_service("silent") as service:
        row = await service.until(await service.submit(2), "running")
        notices, events = service.controller._notices, service.controller.store.events
        for number in range(KEPT + 5):
            notices.put(row.id, f"notice {number}")
        await service.happens(notices._waiting.empty)
        notices.put("job-gone", "of a job that is not there")
        other = await service.until(await service.submit(1), "running")
        notices.put(other.id, "of another job")
        while not (kept := [one for one in await events.since(other.id, 0, 1000) if one.type == "notice"]):
            await service.controller.changed(other.id).wait()
        assert [one.data["words"] for one in kept] == ["of another job"]
        words = [one.data["words"] for one in await events.since(row.id, 0, 1000) if one.type == "notice"]
        assert words[:-1] == [f"notice {number}" for number in range(KEPT - 1)]
        assert words[-1].startswith(f"notice {KEPT - 1} (further notices")


async def test_a_server_that_goes_away_is_noticed_by_its_jobs(open_service: OpenService) -> None:
    async with open_service("silent", endpoints={"eject_after": 1}) as service:
        row = await service.until(await service.submit(2), "running")
        await service.asked(2)
        await service.servers[0].stop()
        seen: set[str] = set()
        while not any("waiting: no server is healthy" in words for words in seen):
            changed = service.controller.changed(row.id)
            events = await service.controller.store.events.since(row.id, 0, 1000)
            seen = {event.data["words"] for event in events if event.type == "notice"}
            if not any("waiting: no server is healthy" in words for words in seen):
                await changed.wait()
        assert any("ejected" in words for words in seen)
        (load,) = service.controller.view(row).servers
        assert load.state == "ejected"


async def test_a_loop_that_fails_begins_again_and_work_outlives_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_service.controller.background.AGAIN_S", 0.0)
    runs, again, may_end = 0, asyncio.Event(), asyncio.Event()

    async def loop() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            again.set()
            await asyncio.Event().wait()
        raise ValueError("a bug")

    async def work() -> None:
        await may_end.wait()
        done.set()

    done = asyncio.Event()
    async with Background() as background:
        background.keep(loop)
        await again.wait()
        caller = asyncio.create_task(background.finished(work()))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        may_end.set()
        await done.wait()
    assert runs == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}
