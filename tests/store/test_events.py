"""Events: who reads on from the last id misses none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gen_service.errors import NotFound
from gen_service.service_settings import QuotaSettings
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
