"""Follows a job's events over any number of connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from gen_service.errors import RequestError, Unavailable
from gen_service.remote.event_stream import EventStream, EventTooLong
from gen_service.remote.problems import unexpected
from gen_service.remote.transport import Transport, may_pass
from gen_service.wire.jobs import JobEventView, JobView
from gen_service.wire.states import FINAL

# Three heartbeats of the service's default: a connection that is silent for longer is taken for dead.
SILENCE_S = 45.0


def job_path(job_id: str, *more: str) -> str:
    """`/api/v1/jobs/<id>[/more...]`, each part quoted."""
    return "/".join(["/api/v1/jobs", *(quote(part, safe="") for part in (job_id, *more))])


def is_end(event: JobEventView) -> bool:
    """Whether the event says that the job came into a final state."""
    return event.type == "state" and event.data.get("to") in FINAL


async def follow(
    transport: Transport, job_id: str, after: int | None, without_service_s: float
) -> AsyncGenerator[JobEventView, None]:
    """Every kept event of a job after the id `after` (None: from its first), once and in order, and progress as it
    comes, until the job is final.

    A connection that ends before that is made again from the last kept event.

    Args:
        without_service_s: for how long on end nothing may be heard from the service.

    Raises:
        RequestError: the service says that this will not do, or nothing was heard for `without_service_s`.
    """
    loop = asyncio.get_running_loop()
    heard_at, wait_s = loop.time(), 0.0
    # Only where the caller knows events already can a stream end well without the one that says so.
    may_be_past_the_end, was_final = after is not None, False
    while True:
        error: RequestError | None = None
        try:
            async with aclosing(_one_connection(transport, job_id, after)) as pieces:
                async for events in pieces:
                    heard_at, wait_s = loop.time(), 0.0
                    for event in events:
                        may_be_past_the_end = False
                        after = event.id if event.id is not None else after
                        yield event
                        if is_end(event):
                            return
            if may_be_past_the_end:
                # The service ends a stream when it drains, too: the next one counts, if the job is final before it.
                if was_final:
                    return
                was_final = (await transport.get(JobView, job_path(job_id))).state in FINAL
        except RequestError as problem:
            if not may_pass(problem, is_repeatable=True):
                raise
            error = problem
        wait_s = _next_wait_s(transport, wait_s, error)
        if loop.time() + wait_s - heard_at > without_service_s:
            raise error or Unavailable(f"no event of {job_id} for {without_service_s:g} s")
        await asyncio.sleep(wait_s)


async def _one_connection(
    transport: Transport, job_id: str, after: int | None
) -> AsyncGenerator[list[JobEventView], None]:
    """The events of each piece that comes; none for a heartbeat."""
    headers = {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    path = job_path(job_id, "events")
    async with transport.opened("GET", path, headers=headers, silence_s=SILENCE_S) as response:
        if response.content_type != "text/event-stream":
            raise unexpected(transport.url, f"{path} is {response.content_type}, not text/event-stream")
        stream = EventStream()
        async for piece in response.content.iter_any():
            try:
                came = stream.take(piece)
            except EventTooLong as error:
                raise unexpected(transport.url, str(error)) from error
            yield [transport.decoded(JobEventView, data) for data in came]


def _next_wait_s(transport: Transport, before_s: float, error: RequestError | None) -> float:
    """Seconds to the next connection: what the service asked for, else random and twice as long each time."""
    if error is not None and error.retry_after_s is not None:
        return error.retry_after_s
    patience = transport.patience
    bound = min(patience.longest_wait_s, max(patience.first_wait_s, 2 * before_s))
    return random.uniform(bound / 2, bound)
