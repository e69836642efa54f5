"""How often a tenant may ask, and how often an address may come with a wrong key.

Doors that need no key (health, metrics) are free of both.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from ipaddress import IPv6Address, IPv6Network, ip_address

from gen_service.errors import TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.quotas import effective_quotas
from gen_service.store.tenants import Tenants

FAILURES_PER_MINUTE = 60
# Addresses that failed lately; the one whose last failure is the longest ago goes first.
MOST_ADDRESSES = 4096
# How long a tenant's limit may be known without asking the store again.
KNOWN_S = 10.0
# Of one request: far more than what is lost in rounding the loop's times.
_ROUNDING = 1e-3


class TokenBucket:
    """`per_minute` requests over time, of which ten seconds' worth (at least one) may come at once.

    In any T seconds at most `burst + per_minute * T / 60` are let through. Pure: times are the loop's, in seconds, and
    never go back.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.burst = max(1, per_minute // 6)
        self._rate = per_minute / 60.0
        self._left = float(self.burst)
        self._as_of = 0.0

    def take(self, now: float) -> float:
        """Let one through, which is 0.0, or say in how many seconds the next one may come."""
        self._left = min(self.burst, self._left + (now - self._as_of) * self._rate)
        self._as_of = now
        if self._left < 1.0 - _ROUNDING:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


class RequestLimits:
    """Counts requests; one for an app.

    Args:
        quotas: of tenants that have none of their own.
        failures_per_minute: requests without a key that counts, by address.
    """

    def __init__(self, quotas: QuotaSettings, tenants: Tenants, failures_per_minute: int = FAILURES_PER_MINUTE) -> None:
        self._quotas = quotas
        self._tenants = tenants
        # With when the store was last asked; None has no limit. Tenants are the operator's, so they are not many.
        self._buckets: dict[str, tuple[TokenBucket | None, float]] = {}
        self._failures_per_minute = failures_per_minute
        self._failures: OrderedDict[str, TokenBucket] = OrderedDict()

    async def admit(self, tenant: str) -> None:
        """Count a request of a tenant.

        Raises:
            TooManyRequests: its `requests_per_minute` are used up.
        """
        bucket = await self._bucket(tenant)
        if bucket is not None and (wait_s := bucket.take(_now())) > 0.0:
            words = f"more than the quota requests_per_minute, {bucket.per_minute}: come again in {wait_s:.3g} s"
            raise TooManyRequests(words, retry_after_s=wait_s)

    def count_failure(self, address: str) -> None:
        """Count a request from `address` without a key that counts.

        Right keys are not held back by wrong ones from the same address: many clients may share it.

        Raises:
            TooManyRequests: there were too many; to be answered instead of what was wrong with the key.
        """
        source = _source(address)
        bucket = self._failures.pop(source, None) or TokenBucket(self._failures_per_minute)
        self._failures[source] = bucket
        if len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        if (wait_s := bucket.take(_now())) > 0.0:
            words = f"more than {self._failures_per_minute} requests in a minute without a key that counts"
            raise TooManyRequests(words, retry_after_s=wait_s)

    async def _bucket(self, tenant: str) -> TokenBucket | None:
        known = self._buckets.get(tenant)
        if known is not None and _now() - known[1] < KNOWN_S:
            return known[0]
        per_minute = effective_quotas(self._quotas, await self._tenants.get(tenant)).requests_per_minute
        bucket, _ = self._buckets.get(tenant, (None, 0.0))
        if bucket is None or bucket.per_minute != per_minute:
            bucket = None if per_minute is None else TokenBucket(per_minute)
        self._buckets[tenant] = bucket, _now()
        return bucket


def _now() -> float:
    return asyncio.get_running_loop().time()


def _source(address: str) -> str:
    """What counts as one client: a customer's network has 2**64 IPv6 addresses, of which it may use any."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Network((int(parsed), 64), strict=False)) if isinstance(parsed, IPv6Address) else address
