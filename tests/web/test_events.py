"""Events of jobs as they happen: each kept one once and in order over any connections, numbers between them, an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.simulated import Script, SimulationSettings
from gen_service.endpoints.simulated.timing import Fixed, TotalLatency
from gen_service.remote.event_stream import EventStream
from gen_service.store.rows import EventRow
from gen_service.web.events import follow
from gen_service.web.feeds import Feeds, encoded
from gen_service.wire.jobs import JobEventView, Problem

FOR_HOURS = SimulationSettings(script=Script(timing=TotalLatency(Fixed(36_000.0))))
RESTLESS = {"grace_s": 0.0}


def decoded(stream: EventStream, piece: bytes) -> list[JobEventView]:
    return [JobEventView.model_validate_json(data) for data in stream.take(piece)]


async def events_of(answer: httpx.Response) -> AsyncIterator[JobEventView]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    stream = EventStream()
    async for piece in answer.aiter_bytes():
        for event in decoded(stream, piece):
            yield event


async def all_events(client: httpx.AsyncClient, job_id: str, **request: Any) -> list[JobEventView]:
    async with client.stream("GET", f"/api/v1/jobs/{job_id}/events", **request) as answer:
        return [event async for event in events_of(answer)]


def kept(events: list[JobEventView]) -> list[JobEventView]:
    return [event for event in events if event.id is not None]


words = st.text(st.characters()) | st.text(st.sampled_from("\u2028\u2029\x85\r\n\x0b\x1c:dat "))


@given(text=words.filter(lambda text: text.encode("utf-8", "replace").decode() == text), id=st.none() | st.integers(1))
def test_an_event_comes_back_whatever_it_holds(text: str, id: int | None) -> None:
    event = JobEventView(id=id, type="notice", job_id="job-1", at=datetime.now(UTC), data={"words": text, text: 1})
    sent = encoded(event)
    assert decoded(EventStream(), sent) == [event]
    assert sent.count(b"\ndata: ") == 1
    assert (f"\nid: {id}\n".encode() in sent) == (id is not None)


async def test_a_job_is_followed_to_its_end_and_again_from_any_event(serving: Any, listening: Any) -> None:
    async with serving() as service, listening(service) as client:
        job = await service.submit(4)
        live = await all_events(client, job.id)
        states = [event.data["to"] for event in live if event.type == "state"]
        assert states == ["queued", "running", "finalizing", "completed"]
        assert live[-1].data["to"] == "completed"
        assert all(event.id is None for event in live if event.type == "progress")
        ids = [event.id for event in kept(live)]
        assert ids == sorted(set(ids))
        again = await all_events(client, job.id)
        assert kept(again) == kept(live)
        for place, event in enumerate(kept(live)):
            resumed = await all_events(client, job.id, headers={"Last-Event-ID": str(event.id)})
            assert kept(resumed) == kept(live)[place + 1 :]
            resumed = await all_events(client, job.id, params={"last_event_id": event.id})
            assert kept(resumed) == kept(live)[place + 1 :]
        last = next(event for event in reversed(again) if event.type == "progress")
        assert last.data["counts"]["published"] == 4


async def test_what_happens_is_told_to_every_watcher(serving: Any, listening: Any) -> None:
    async with serving(FOR_HOURS, fleet=RESTLESS) as service, listening(service) as client:
        job = await service.submit(2)
        watchers = [asyncio.create_task(all_events(client, job.id)) for _ in range(20)]
        await service.until(job.id, lambda view: view.counts.in_flight > 0)
        for change, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
            await client.post(f"/api/v1/jobs/{job.id}/{change}")
            await service.until(job.id, lambda view, state=state: view.state == state)
        told = await asyncio.gather(*watchers)
        states = [event.data["to"] for event in told[0] if event.type == "state"]
        assert states[-2:] == ["cancelling", "cancelled"]
        assert {"paused", "running"} <= set(states)
        assert all(kept(events) == kept(told[0]) for events in told)


async def test_twenty_watchers_read_once(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(FOR_HOURS, fleet=RESTLESS) as service:
        job = await service.submit(1)
        await service.until(job.id, lambda view: view.counts.in_flight > 0)
        store, reads = service.controller.store, 0
        since = store.events.since

        async def counted(job_id: str, after_id: int, limit: int) -> list[EventRow]:
            nonlocal reads
            reads += 1
            return await since(job_id, after_id, limit)

        monkeypatch.setattr(store.events, "since", counted)
        feeds = Feeds(service.controller)

        async def watch() -> list[bytes]:
            with feeds.watching(job.id) as feed:
                async with aclosing(follow(feed, 0, 60.0)) as events:
                    return [event async for event in events]

        watchers = [asyncio.create_task(watch()) for _ in range(20)]
        await service.client.post(f"/api/v1/jobs/{job.id}/cancel")
        await service.ended(job.id)
        told = await asyncio.gather(*watchers)
        assert len(set(map(tuple, told))) <= 20
        # At each change one read for those at the same place, and one that finds no more.
        changes = len(await since(job.id, 0, 1000)) + 4
        assert reads <= 2 * changes


async def test_a_silent_job_beats(serving: Any, listening: Any) -> None:
    async with (
        serving(FOR_HOURS, http={"heartbeat_s": 0.02}, fleet=RESTLESS) as service,
        listening(service) as client,
    ):
        job = await service.submit(1)
        await client.post(f"/api/v1/jobs/{job.id}/pause")
        await service.until(job.id, lambda view: view.state == "paused")
        beats = 0
        async with client.stream("GET", f"/api/v1/jobs/{job.id}/events") as answer:
            async for piece in answer.aiter_bytes():
                beats += piece.count(b": alive\n\n")
                if beats >= 5:
                    break
        assert beats >= 5


async def test_a_stream_ends_when_the_service_drains(serving: Any, listening: Any) -> None:
    async with serving(FOR_HOURS, fleet=RESTLESS) as service, listening(service) as client:
        job = await service.submit(1)
        paused = await service.submit(1)
        await client.post(f"/api/v1/jobs/{paused.id}/pause")
        watchers = [asyncio.create_task(all_events(client, one.id)) for one in (job, paused)]
        await service.until(job.id, lambda view: view.counts.in_flight > 0)
        await service.controller.drain()
        for events in await asyncio.gather(*watchers):
            assert not {"completed", "cancelled", "failed"} & {event.data.get("to") for event in events}


async def test_a_stream_ends_when_the_job_is_deleted(serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(1)
        await service.ended(job.id)
        feeds = Feeds(service.controller)
        assert (await service.client.delete(f"/api/v1/jobs/{job.id}")).status_code == 204
        with feeds.watching(job.id) as feed:
            async with aclosing(follow(feed, 0, 60.0)) as events:
                assert [event async for event in events if b"data:" in event] == []


async def test_a_feed_lives_as_long_as_it_is_watched(serving: Any) -> None:
    async with serving(FOR_HOURS, fleet=RESTLESS) as service:
        job = await service.submit(1)
        feeds = Feeds(service.controller)
        with feeds.watching(job.id) as first:
            with feeds.watching(job.id) as second:
                assert first is second
            assert not (await first.after(0)).is_last
            with feeds.watching(job.id) as third:
                assert third is first
        with feeds.watching(job.id) as later:
            assert later is not first
            assert not (await later.after(0)).is_last


@pytest.mark.parametrize("given", ["x", "-1", "1.5", str(2**63)])
async def test_an_event_id_that_is_none_is_refused(given: str, serving: Any) -> None:
    async with serving() as service:
        job = await service.submit(1)
        answer = await service.client.get(f"/api/v1/jobs/{job.id}/events", headers={"Last-Event-ID": given})
        assert (answer.status_code, Problem.model_validate_json(answer.content).field) == (422, "Last-Event-ID")
        assert (await service.client.get("/api/v1/jobs/job-absent/events")).status_code == 404
        await service.ended(job.id)
