"""Files in the database."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_service.errors import NotFound, TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.database import open_store
from gen_service.store.ids import new_id
from gen_service.store.rows import FileRow, TenantRow, Usage
from gen_service.store.store import Store

FREE = QuotaSettings()


def file(tenant: str = "a", purpose: str = "batch", size: int = 10, name: str | None = None) -> FileRow:
    return FileRow(name or new_id("file-"), tenant, purpose, "my file.jsonl", size, None, 1000.5)


async def test_a_file_comes_back_as_it_was_stored_and_only_to_its_tenant(store: Store) -> None:
    row = FileRow(new_id("file-"), "a", "prompts", "n\u00e4me \u4e2d/..\\", 2**60, 2**40, 1_700_000_000.25)
    await store.files.create(row, None)
    assert await store.files.get(row.id, "a") == await store.files.get(row.id, None) == row
    for job in (store.files.get(row.id, "b"), store.files.delete(row.id, "b"), store.files.get("file-x", "a")):
        with pytest.raises(NotFound, match="there is no file 'file-"):
            await job
    assert await store.files.all_ids() == {row.id}
    await store.files.delete(row.id, "a")
    assert await store.files.all_ids() == set()


async def test_the_quota_of_bytes_holds_however_many_come_at_once(store: Store) -> None:
    quotas = QuotaSettings(stored_bytes=100)
    coming = [store.files.create(file(tenant, size=30), quotas) for tenant in ("a", "b") for _ in range(20)]
    made = await asyncio.gather(*coming, return_exceptions=True)
    refused = [one for one in made if isinstance(one, TooManyRequests)]
    assert len(refused) == 34
    assert all(one.retry_after_s is None and "stored_bytes, 100: delete files" in str(one) for one in refused)
    assert await store.jobs.usage("a") == await store.jobs.usage("b") == Usage(0, 0, 90)


async def test_a_deleted_file_makes_room_and_the_service_itself_is_never_refused(store: Store) -> None:
    await store.tenants.put(TenantRow("a", 1.0, {"stored_bytes": 30}))
    first = file(size=30)
    await store.files.create(first, FREE)
    with pytest.raises(TooManyRequests):
        await store.files.create(file(size=1), FREE)
    await store.files.create(file(size=0), FREE)
    await store.files.create(file(purpose="batch_output", size=5), None)
    await store.files.delete(first.id, "a")
    await store.files.create(file(size=25), FREE)
    assert (await store.jobs.usage("a")).stored_bytes == 30


async def test_files_are_paged_by_purpose_and_tenant_even_after_a_deleted_one(store: Store) -> None:
    rows = [file(name=f"file-{number}", purpose="batch" if number % 2 else "prompts") for number in range(6)]
    for row in [*rows, file("b", name="file-9")]:
        await store.files.create(row, FREE)
    assert await store.files.page("a", limit=6) == (rows[::-1], False)
    assert await store.files.page("a", limit=5, order="asc") == (rows[:5], True)
    assert await store.files.page("a", purpose="batch", limit=2) == ([rows[5], rows[3]], True)
    await store.files.delete("file-3", "a")
    assert await store.files.page("a", purpose="batch", after="file-3", limit=2) == ([rows[1]], False)
    assert await store.files.page("a", after="file-3", limit=2, order="asc") == ([rows[4], rows[5]], False)
    assert [row.tenant for row in (await store.files.page(None, limit=1))[0]] == ["b"]


ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["batch", "prompts"])), max_size=12)


@given(
    made=ROWS,
    purpose=st.none() | st.sampled_from(["batch", "prompts"]),
    size=st.integers(1, 5),
    order=st.sampled_from(["asc", "desc"]),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_file_is_listed_twice_or_left_out(
    database_url: str,
    made: list[tuple[str, str]],
    purpose: str | None,
    size: int,
    order: Literal["asc", "desc"],
) -> None:
    async with open_store(database_url) as store:
        for file_id in await store.files.all_ids():
            await store.files.delete(file_id, None)
        rows = [file(tenant, kind) for tenant, kind in made]
        for row in rows:
            await store.files.create(row, FREE)
        seen: list[FileRow] = []
        has_more = True
        while has_more:
            after = seen[-1].id if seen else None
            page, has_more = await store.files.page("a", purpose=purpose, after=after, limit=size, order=order)
            assert len(page) <= size
            assert len(page) == size or not has_more
            seen += page
    wanted = [row for row in rows if row.tenant == "a" and purpose in (None, row.purpose)]
    assert seen == sorted(wanted, key=lambda row: row.id, reverse=order == "desc")
