"""What the tests of the store share: an open store on each kind of database, and rows to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from gen_service.store.database import open_store
from gen_service.store.ids import new_id
from gen_service.store.rows import JobRow
from gen_service.store.store import Store

PLAIN = JobRow(
    id="",
    tenant="a",
    kind="native",
    state="queued",
    reason=None,
    name=None,
    model=None,
    request={"samples": 1},
    spec={},
    request_hash="hash",
    idempotency_key=None,
    priority=0,
    weight=1.0,
    max_in_flight=None,
    metadata={},
    prompts=None,
    samples=None,
    counts={},
    created_at=1000.0,
    expires_at=None,
    times={},
    batch=None,
    webhook=None,
)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def job() -> Callable[..., JobRow]:
    """Makes a row of a new job: `job(tenant="b", prompts=3)`."""
    return lambda **fields: replace(PLAIN, **({"id": new_id("job-")} | fields))
