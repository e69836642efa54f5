"""How often a tenant may ask, and how often an address may come with a wrong key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.database import open_store
from gen_service.store.rows import TenantRow
from gen_service.store.store import Store
from gen_service.web import limits
from gen_service.web.limits import FAILURES_PER_MINUTE, KNOWN_S, RequestLimits, TokenBucket

rates = st.integers(1, 100_000)
starts = st.floats(0.0, 1e8)
gaps = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 0.01), st.floats(0.0, 90.0)), min_size=1, max_size=300)


def admitted(bucket: TokenBucket, start: float, waits: list[float]) -> list[float]:
    """When requests were let through that came so long after one another."""
    now, times = start, []
    for wait in waits:
        now += wait
        if bucket.take(now) == 0.0:
            times.append(now)
    return times


@given(per_minute=rates, start=starts, waits=gaps)
def test_no_window_holds_more_than_the_rate_and_the_burst(per_minute: int, start: float, waits: list[float]) -> None:
    bucket = TokenBucket(per_minute)
    times = admitted(bucket, start, waits)
    for first in range(len(times)):
        for last in range(first, len(times)):
            window = times[last] - times[first]
            assert last - first + 1 <= bucket.burst + window * per_minute / 60.0 + 0.01


@given(per_minute=rates, start=starts)
def test_in_any_minute_of_hurry_the_rate_and_the_burst_come_through(per_minute: int, start: float) -> None:
    bucket, now, count = TokenBucket(min(per_minute, 500)), start, 0
    while now < start + 60.0:
        wait = bucket.take(now)
        count += wait == 0.0
        now += wait
    assert abs(count - bucket.per_minute - bucket.burst) <= 1


@given(per_minute=rates, start=starts, waits=gaps)
def test_waiting_as_long_as_is_said_always_lets_one_through_and_waiting_less_does_not(
    per_minute: int, start: float, waits: list[float]
) -> None:
    bucket, now = TokenBucket(per_minute), start
    for pause in waits:
        now += pause
        wait = bucket.take(now)
        if wait > 0.0:
            assert wait <= 60.0 / per_minute * 1.01
            assert bucket.take(now + wait * 0.4) > 0.0
            assert bucket.take(now + wait) == 0.0
            now += wait


@given(per_minute=rates, start=starts)
def test_after_a_rest_a_burst_comes_through_at_once_and_not_one_more(per_minute: int, start: float) -> None:
    bucket = TokenBucket(per_minute)
    assert bucket.burst == max(1, per_minute // 6)
    for now in (start, start + 61.0):
        taken = [bucket.take(now) for _ in range(bucket.burst + 1)]
        assert taken[:-1] == [0.0] * bucket.burst
        assert taken[-1] > 0.0


@given(per_minute=rates, start=starts, refused=st.integers(1, 50))
def test_refused_requests_do_not_put_off_the_next(per_minute: int, start: float, refused: int) -> None:
    bucket = TokenBucket(per_minute)
    while (wait := bucket.take(start)) == 0.0:
        pass
    assert {bucket.take(start) for _ in range(refused)} == {wait}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


async def count_until_refused(requests: RequestLimits, tenant: str) -> tuple[int, TooManyRequests]:
    for count in range(100_000):
        try:
            await requests.admit(tenant)
        except TooManyRequests as refused:
            return count, refused
    raise AssertionError("never refused")


@pytest.mark.looptime
async def test_a_tenant_is_refused_past_its_own_rate_and_no_other_is(store: Store) -> None:
    await store.tenants.put(TenantRow("small", 1.0, {"requests_per_minute": 12}))
    requests = RequestLimits(QuotaSettings(requests_per_minute=60), store.tenants)
    count, refused = await count_until_refused(requests, "small")
    assert (count, refused.retry_after_s) == (2, pytest.approx(5.0))
    assert "12" in str(refused)
    assert (await count_until_refused(requests, "large"))[0] == 10
    assert refused.retry_after_s is not None
    await asyncio.sleep(refused.retry_after_s)
    assert (await count_until_refused(requests, "small"))[0] == 1


@pytest.mark.looptime
async def test_a_changed_quota_counts_after_a_while_and_none_is_no_limit(store: Store) -> None:
    requests = RequestLimits(QuotaSettings(requests_per_minute=6), store.tenants)
    assert (await count_until_refused(requests, "one"))[0] == 1
    await store.tenants.put(TenantRow("one", 1.0, {"requests_per_minute": None}))
    await asyncio.sleep(KNOWN_S + 1.0)
    for _ in range(1000):
        await requests.admit("one")
    await store.tenants.put(TenantRow("one", 1.0, {"requests_per_minute": 60}))
    await asyncio.sleep(KNOWN_S + 1.0)
    assert (await count_until_refused(requests, "one"))[0] == 10


def count_failures(requests: RequestLimits, address: str) -> int:
    for count in range(100_000):
        try:
            requests.count_failure(address)
        except TooManyRequests as refused:
            return count if 0.0 < (refused.retry_after_s or 0.0) <= 60 / FAILURES_PER_MINUTE else -1
    raise AssertionError("never refused")


@pytest.mark.looptime
async def test_failures_are_counted_by_address(store: Store) -> None:
    requests = RequestLimits(QuotaSettings(), store.tenants)
    burst = FAILURES_PER_MINUTE // 6
    assert [count_failures(requests, address) for address in ("10.0.0.1", "10.0.0.2", "unix")] == [burst] * 3
    await asyncio.sleep(1.0)
    assert count_failures(requests, "10.0.0.1") == 1
    # One network of IPv6, in two spellings, is one client; the next network is another.
    assert count_failures(requests, "2001:db8::1") == burst
    assert count_failures(requests, "2001:0db8:0::ffff:1") == 0
    assert count_failures(requests, "2001:db8:0:1::1") == burst


@pytest.mark.looptime
async def test_the_table_of_addresses_is_bounded_and_forgets_the_oldest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_ADDRESSES", 3)
    requests, burst = RequestLimits(QuotaSettings(), store.tenants), FAILURES_PER_MINUTE // 6
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert count_failures(requests, address) == burst
    assert count_failures(requests, "10.0.0.1") == 0
    assert count_failures(requests, "10.0.0.4") == burst
    # The second was the one longest quiet.
    assert [count_failures(requests, address) for address in ("10.0.0.1", "10.0.0.3", "10.0.0.4")] == [0, 0, 0]
    assert count_failures(requests, "10.0.0.2") == burst
