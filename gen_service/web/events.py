"""The events of a job as they happen, server-sent: kept ones with ids to resume from, live numbers between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gen_service.metrics import Metrics
from gen_service.web.auth import Reader
from gen_service.web.feeds import Feed, Feeds
from gen_service.web.jobs import PREFIX, JobId
from gen_service.web.problems import documented
from gen_service.web.route import ServiceRoute
from gen_service.web.state import ControllerDep, FeedsDep, SettingsDep

# A comment: clients pass it over, proxies see that the connection lives.
HEARTBEAT = b": alive\n\n"
LAST_ID = 2**53

router = APIRouter(prefix=PREFIX, route_class=ServiceRoute, tags=["jobs"])


class EventStream(StreamingResponse):
    """Server-sent events from a generator, which is closed when the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # The second header keeps nginx from holding events back.
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them all."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


@router.get(
    "/{job_id}/events",
    status_code=200,
    response_class=EventStream,
    responses=documented(400, 401, 403, 404, 422, 429)
    | {200: {"description": "`state`, `notice` and `progress` events, each a JobEventView as JSON."}},
)
async def watch(
    job_id: JobId,
    caller: Reader,
    controller: ControllerDep,
    settings: SettingsDep,
    feeds: FeedsDep,
    last_event_id: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=LAST_ID)] = None,
    resume_from: Annotated[
        int | None, Query(alias="last_event_id", ge=0, le=LAST_ID, description="As the header Last-Event-ID.")
    ] = None,
) -> EventStream:
    """What happened after Last-Event-ID and what happens now, until the job has ended or the service drains."""
    await controller.store.jobs.get(job_id, caller.reach)
    after = last_event_id if last_event_id is not None else resume_from
    return EventStream(_events(feeds, controller.metrics, job_id, after or 0, settings.http.heartbeat_s))


async def _events(
    feeds: Feeds, metrics: Metrics, job_id: str, after: int, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    with feeds.watching(job_id) as feed, metrics.watching():
        async with aclosing(follow(feed, after, heartbeat_s)) as events:
            async for event in events:
                yield event


async def follow(feed: Feed, last: int, heartbeat_s: float) -> AsyncGenerator[bytes, None]:
    """The events of a feed after the id `last`, encoded; a comment when nothing came for `heartbeat_s` seconds.

    Numbers go before the events that were read after them, and none after the final state.
    """
    number, change, progress = 0, 0, b""
    yield HEARTBEAT
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                look = await feed.after(number)
        except TimeoutError:
            yield HEARTBEAT
            continue
        number = look.number
        events = await feed.events(last) if look.change != change else []
        if look.progress is not None and look.progress is not progress and (events or not look.is_last):
            progress = look.progress
            yield progress
        change = look.change
        while events:
            for _, event in events:
                yield event
            last = events[-1][0]
            events = await feed.events(last)
        if look.is_last:
            return
