"""Transactions in threads, and the one place where the database's errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError, OperationalError

from gen_service.errors import Unavailable

# How SQLite begins a transaction is asked for under this name; see `database.py`.
WRITES = "gen_service_writes"
# The most connections: a thread for each. With PostgreSQL threads mostly wait; SQLite computes in them, and many at
# once would keep the event loop from its turn.
CONNECTIONS = 8
_SQLITE_READERS = 4
# How long a transaction may wait for one of PostgreSQL's connections. SQLite's own limit is that of its writer.
_PATIENCE_S = 30.0
_COME_AGAIN_S = 5.0

Result = TypeVar("Result")


class Transactions:
    """Runs functions, each as one transaction in one thread: committed when the function returns, or not at all.

    The loop's thread only hands over the function and takes its result. A caller that is cancelled while it waits for
    a thread takes the function back; once it runs, it runs to its end, and nobody hears the result.

    SQLite has one writer: writers of this process queue for its one thread, so that none waits inside the database;
    other processes are waited for there. PostgreSQL takes them side by side, and who reads before writing locks first.

    Raises (`read` and `write`):
        Unavailable: the database cannot be reached, or cannot write; the transaction did not happen, unless the
            connection broke while it was being committed.
    """

    def __init__(self, engine: Engine, patience_s: float = _PATIENCE_S) -> None:
        is_sqlite = engine.dialect.name == "sqlite"
        self._engine = engine
        self._written = engine.execution_options(**{WRITES: True})
        self._readers = ThreadPoolExecutor(_SQLITE_READERS if is_sqlite else CONNECTIONS, thread_name_prefix="store")
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="store-writer") if is_sqlite else self._readers
        self._patience_s = None if is_sqlite else patience_s
        self._locks_tenants = not is_sqlite

    async def read(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` gives, which only reads."""
        return await self._result(self._readers, lambda: _transaction(self._engine, work))

    async def write(self, work: Callable[[Connection], Result], tenant: str | None = None) -> Result:
        """What `work` gives, which may write; no other with the same `tenant` goes on beside it."""

        def locked(connection: Connection) -> Result:
            if self._locks_tenants and tenant is not None:
                connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(tenant, 0))))
            return work(connection)

        return await self._result(self._writers, lambda: _transaction(self._written, locked))

    def close(self) -> None:
        """Wait for what runs, then close all connections. It blocks, so it is for a thread."""
        self._readers.shutdown()
        self._writers.shutdown()
        self._engine.dispose()

    async def _result(self, threads: ThreadPoolExecutor, transaction: Callable[[], Result]) -> Result:
        running = threads.submit(transaction)
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.wrap_future(running)
        except TimeoutError as error:
            # One that runs cannot be called back, and would not say whether it happened.
            if running.cancel():
                words = "the database answers too slowly: come again"
                raise Unavailable(words, retry_after_s=_COME_AGAIN_S) from error
        return await asyncio.wrap_future(running)


def _transaction(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    try:
        with engine.begin() as connection:
            return work(connection)
    except DBAPIError as error:
        if not (isinstance(error, OperationalError) or error.connection_invalidated):
            raise
        # The whole message would show the statement and its values.
        words = " ".join(str(error.orig).split())
        raise Unavailable(f"the database cannot do this now: {words}", retry_after_s=_COME_AGAIN_S) from error
