"""The outbox: a job that ended with a webhook is told of until it was heard or given up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from gen_service.service_settings import QuotaSettings
from gen_service.store.database import open_store
from gen_service.store.rows import Delivery, JobRow
from gen_service.store.store import Store
from gen_service.wire.states import JobEvent

HOOK = {"url": "https://example.org/hook", "secret": "s" * 16}


async def ended(store: Store, row: JobRow, *events: JobEvent, now: float = 2000.0) -> JobRow:
    await store.jobs.create(row, QuotaSettings())
    for event in events:
        row = await store.jobs.move(row.id, event, now, reason="why", counts={"published": 2})
    return row


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (("start", "finish", "ended"), "completed"),
        (("fail",), "failed"),
        (("cancel", "ended"), "cancelled"),
        (("expire", "ended"), "expired"),
    ],
)
async def test_the_end_of_a_job_is_told_once(
    store: Store, job: Callable[..., JobRow], events: tuple[JobEvent, ...], state: str
) -> None:
    row = await ended(store, job(webhook=HOOK), *events)
    await ended(store, job(), *events)
    due = await store.outbox.due(2000.0, 10)
    data = {"job_id": row.id, "state": state, "reason": "why", "counts": {"published": 2}}
    body = {"type": f"job.{state}", "timestamp": "1970-01-01T00:33:20+00:00", "data": data}
    assert due == [Delivery(due[0].id, row.id, HOOK["url"], HOOK["secret"], body, 0, 2000.0)]
    assert due[0].id.startswith("msg_")
    assert datetime.fromisoformat(due[0].body["timestamp"]).timestamp() == 2000.0
    assert await store.outbox.due(1999.0, 10) == []


async def test_a_delivery_comes_again_until_it_arrives(database_url: str, job: Callable[..., JobRow]) -> None:
    async with open_store(database_url) as store:
        await ended(store, job(webhook=HOOK), "fail")
        (delivery,) = await store.outbox.due(2000.0, 10)
        await store.outbox.failed(delivery.id, "HTTP 500", 2010.0)
        assert await store.outbox.due(2009.0, 10) == []
    async with open_store(database_url) as store:
        (again,) = await store.outbox.due(2010.0, 10)
        assert (again.id, again.body, again.attempts) == (delivery.id, delivery.body, 1)
        await store.outbox.delivered(delivery.id, 2011.0)
        assert await store.outbox.due(1e12, 10) == []


async def test_what_was_given_up_or_whose_job_is_gone_never_comes_again(
    store: Store, job: Callable[..., JobRow]
) -> None:
    first = await ended(store, job(webhook=HOOK), "fail", now=2000.0)
    await ended(store, job(webhook=HOOK), "fail", now=2001.0)
    given_up, gone = await store.outbox.due(3000.0, 10)
    assert given_up.job_id == first.id
    assert await store.outbox.due(3000.0, 1) == [given_up]
    await store.outbox.failed(given_up.id, "HTTP 410", None)
    await store.jobs.delete(gone.job_id)
    await store.outbox.delivered(gone.id, 3000.0)
    await store.outbox.failed(gone.id, "HTTP 500", 3001.0)
    assert await store.outbox.due(1e12, 10) == []
