"""Opens the database: SQLite in a file, or PostgreSQL; brings its tables up to date first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gen_service.errors import SpecError
from gen_service.store.migrate import MIGRATIONS, upgrade
from gen_service.store.sessions import WRITES, Sessions
from gen_service.store.store import Store
from gen_service.store.urls import SETTING, driver_url, shown

# How long SQLite waits for a writer in another process (a `keys` verb beside the service), and PostgreSQL's connect.
_BUSY_S = 60.0
_CONNECT_S = 10


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """Open the database at `url` (`sqlite:///path` or `postgresql://...`), made and migrated as needed.

    Raises:
        SpecError: the URL is none, or the database cannot be opened or reached; the password is not shown.
        StorageError: the database was written by a newer version of this package.
    """
    address = driver_url(url)
    try:
        await migrate(address)
    except (DBAPIError, OSError) as error:
        words = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        raise SpecError(SETTING, shown(address), f"a database that can be opened ({words})") from error
    engine = _engine(address, foreign_keys=True)
    try:
        yield Store(Sessions(engine))
    finally:
        await engine.dispose()


async def migrate(url: URL, migrations: str = MIGRATIONS) -> None:
    """Bring the tables of a database to the newest of `migrations`, or leave them as they are.

    Raises:
        StorageError: the database was written by a newer version of this package.
    """
    if url.get_backend_name() == "sqlite":
        await asyncio.to_thread(_make_private, Path(str(url.database)))
    # Changing a table of SQLite may mean to make it anew, and dropping the old one must not cascade.
    engine = _engine(url, foreign_keys=False)
    try:
        async with engine.execution_options(**{WRITES: True}).begin() as connection:
            await connection.run_sync(upgrade, migrations)
    finally:
        await engine.dispose()


def _make_private(path: Path) -> None:
    """The file, which holds webhooks' secrets, is for its owner only, and so are SQLite's files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _engine(url: URL, *, foreign_keys: bool) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        # A connection that was lost while it rested is replaced before it is used.
        timeout = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_S}
        return create_async_engine(url, pool_pre_ping=True, connect_args=timeout)
    engine = create_async_engine(url, connect_args={"timeout": _BUSY_S})
    _tune_sqlite(engine, foreign_keys)
    return engine


def _tune_sqlite(engine: AsyncEngine, foreign_keys: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: SqliteConnection, _: object) -> None:
        # Python's own idea of when a transaction begins leaves out reads and changes of tables.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        # A reader that turns writer late is refused, whatever the timeout: a writer is one from its beginning.
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine.sync_engine, "invalidate")
    def invalidated(connection: DBAPIConnection, *_: object) -> None:
        # A transaction outlives its closed connection for as long as a traceback holds its cursor, and would keep
        # every writer out. A second cancellation changes nothing: the driver has its order by then.
        with suppress(Exception, asyncio.CancelledError):
            connection.rollback()
