"""Events: who reads on from the last id misses none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from gen_service.errors import NotFound
from gen_service.service_settings import QuotaSettings
from gen_service.store.database import open_store
from gen_service.store.rows import EventRow, JobRow
from gen_service.store.store import Store


async def test_an_event_is_kept_as_it_was_given(store: Store, job: Callable[..., JobRow]) -> None:
    row, _ = await store.jobs.create(job(), QuotaSettings())
    data = {"words": "a server went \x00 away", "number": 1.5}
    event = await store.events.append(row.id, "notice", 1001.5, data)
    assert event == EventRow(event.id, row.id, "notice", 1001.5, data)
    assert (await store.events.since(row.id, event.id - 1, 10)) == [event]
    assert (await store.events.since(row.id, event.id, 10)) == []
    with pytest.raises(NotFound):
        await store.events.append("job-x", "notice", 1.0, {})


async def test_a_reader_that_reads_on_while_many_write_misses_none(store: Store, job: Callable[..., JobRow]) -> None:
    row, _ = await store.jobs.create(job(), QuotaSettings())
    writing = asyncio.gather(*(store.events.append(row.id, "notice", 1.0, {"n": n}) for n in range(60)))
    seen: list[EventRow] = []
    while len(seen) < 61:
        # Once nobody writes, one more look must find the rest.
        was_done = writing.done()
        read = await store.events.since(row.id, seen[-1].id if seen else 0, 7)
        assert read or not was_done
        seen += read
    written = await writing
    assert sorted(event.id for event in written) == [event.id for event in seen[1:]]
    assert sorted(event.data["n"] for event in seen[1:]) == list(range(60))


async def test_an_event_waits_for_the_one_before_it(
    postgresql_url: Callable[[], str], job: Callable[..., JobRow]
) -> None:
    url = postgresql_url()
    locked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    insert = "INSERT INTO events (job_id, type, at, data) VALUES (%s, 'notice', 1, '{}') RETURNING id"
    async with open_store(url) as store, await psycopg.AsyncConnection.connect(url) as first:
        row, _ = await store.jobs.create(job(), QuotaSettings())
        earlier = await (await first.execute(insert, [row.id])).fetchone()
        assert earlier is not None
        appending = asyncio.create_task(store.events.append(row.id, "notice", 2.0, {}))
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watcher:
            while await (await watcher.execute(locked)).fetchone() == (0,) and not appending.done():
                pass
        assert not appending.done()
        assert len(await store.events.since(row.id, 0, 10)) == 1
        await first.commit()
        assert (await appending).id > earlier[0]
        assert len(await store.events.since(row.id, 0, 10)) == 3
