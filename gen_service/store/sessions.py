"""Transactions, and the one place where the database's errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError, OperationalError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from gen_service.errors import Unavailable

# How SQLite begins a transaction is asked for under this name; see `database.py`.
WRITES = "gen_service_writes"
_COME_AGAIN_S = 5.0


class Sessions:
    """Opens transactions that are committed at the end of the block, or not at all.

    SQLite has one writer: writers of this process queue here, so that none waits inside the database; other processes
    are waited for there. PostgreSQL takes them side by side, and who reads before writing locks first.

    Raises (each block):
        Unavailable: the database cannot be reached, or cannot write; the transaction did not happen, unless the
            connection broke while it was being committed.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._reads = async_sessionmaker(engine, expire_on_commit=False)
        self._writes = async_sessionmaker(engine.execution_options(**{WRITES: True}), expire_on_commit=False)
        self._one_writer = asyncio.Lock() if engine.dialect.name == "sqlite" else None
        self._is_postgresql = engine.dialect.name == "postgresql"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A transaction that only reads."""
        with _translated():
            async with self._reads.begin() as session:
                yield session

    @asynccontextmanager
    async def writing(self, tenant: str | None = None) -> AsyncIterator[AsyncSession]:
        """A transaction that writes; no other with the same `tenant` goes on beside it."""
        async with AsyncExitStack() as stack:
            if self._one_writer is not None:
                await stack.enter_async_context(self._one_writer)
            with _translated():
                async with self._writes.begin() as session:
                    if self._is_postgresql and tenant is not None:
                        await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(tenant, 0))))
                    yield session


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Unavailable("the database answers too slowly: come again", retry_after_s=_COME_AGAIN_S) from error
    except DBAPIError as error:
        if not (isinstance(error, OperationalError) or error.connection_invalidated):
            raise
        # The whole message would show the statement and its values.
        words = " ".join(str(error.orig).split())
        raise Unavailable(f"the database cannot do this now: {words}", retry_after_s=_COME_AGAIN_S) from error
