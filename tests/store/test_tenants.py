"""Tenants, and what their quotas refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import InvalidRequest, TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.quotas import check_file, check_job, effective_quotas
from gen_service.store.rows import TenantRow, Usage
from gen_service.store.store import Store

LIMITS = st.none() | st.integers(0, 10)
COUNTS = st.integers(0, 12)


async def test_who_is_not_stored_has_the_defaults(store: Store) -> None:
    assert await store.tenants.get("a") == TenantRow("a", 1.0, {})
    assert await store.tenants.all() == []


async def test_a_tenant_is_replaced_whole(store: Store) -> None:
    await store.tenants.put(TenantRow("b", 2.0, {"active_jobs": 3}))
    await store.tenants.put(TenantRow("a", 0.5, {"stored_bytes": None}))
    assert await store.tenants.get("b") == TenantRow("b", 2.0, {"active_jobs": 3})
    await store.tenants.put(TenantRow("b", 4.0, {}))
    assert await store.tenants.all() == [TenantRow("a", 0.5, {"stored_bytes": None}), TenantRow("b", 4.0, {})]


async def test_many_may_store_one_tenant_at_once(store: Store) -> None:
    await asyncio.gather(*(store.tenants.put(TenantRow("a", float(weight), {})) for weight in range(1, 21)))
    assert [row.name for row in await store.tenants.all()] == ["a"]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (TenantRow("../a", 1.0, {}), "tenant"),
        (TenantRow("a", 0.0, {}), "weight"),
        (TenantRow("a", float("nan"), {}), "weight"),
        (TenantRow("a", 1.0, {"active_jobs": -1}), "quotas.active_jobs"),
        (TenantRow("a", 1.0, {"jobs": 1}), "quotas.jobs"),
    ],
)
async def test_what_is_no_tenant_is_refused(store: Store, row: TenantRow, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await store.tenants.put(row)
    assert refusal.value.field == field
    assert await store.tenants.all() == []


@given(service=st.fixed_dictionaries({"active_jobs": LIMITS, "queued_prompts": LIMITS}), own=LIMITS)
def test_only_the_quotas_that_a_tenant_has_go_over_the_services(service: dict[str, Any], own: int | None) -> None:
    quotas = QuotaSettings(**service)
    assert effective_quotas(quotas, TenantRow("a", 1.0, {})) == quotas
    mine = effective_quotas(quotas, TenantRow("a", 1.0, {"active_jobs": own}))
    assert mine == quotas.model_copy(update={"active_jobs": own})


@given(jobs=COUNTS, queued=COUNTS, stored=COUNTS, most=st.tuples(LIMITS, LIMITS, LIMITS), prompts=COUNTS, size=COUNTS)
def test_a_quota_is_never_passed_and_never_refuses_early(
    jobs: int, queued: int, stored: int, most: tuple[int | None, int | None, int | None], prompts: int, size: int
) -> None:
    usage = Usage(jobs, queued, stored)
    quotas = QuotaSettings(active_jobs=most[0], queued_prompts=most[1], stored_bytes=most[2])

    def fits(value: int, limit: int | None) -> bool:
        return limit is None or value <= limit

    if fits(jobs + 1, most[0]) and fits(queued + prompts, most[1]):
        check_job(usage, quotas, prompts)
    else:
        with pytest.raises(TooManyRequests, match=r"active_jobs|queued_prompts") as refusal:
            check_job(usage, quotas, prompts)
        can_ever = fits(1, most[0]) if not fits(jobs + 1, most[0]) else fits(prompts, most[1])
        assert (refusal.value.retry_after_s is not None) == can_ever
    if fits(stored + size, most[2]):
        check_file(usage, quotas, size)
    else:
        with pytest.raises(TooManyRequests, match="stored_bytes"):
            check_file(usage, quotas, size)
