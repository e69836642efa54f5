"""Opens the database: SQLite in a file, or PostgreSQL; brings its tables up to date first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from gen_service.errors import SpecError
from gen_service.store.migrate import MIGRATIONS, upgrade
from gen_service.store.store import Store
from gen_service.store.transactions import CONNECTIONS, WRITES, Transactions
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
    transactions = Transactions(_engine(address, foreign_keys=True))
    try:
        yield Store(transactions)
    finally:
        await asyncio.shield(asyncio.to_thread(transactions.close))


async def migrate(url: URL, migrations: str = MIGRATIONS) -> None:
    """Bring the tables of a database to the newest of `migrations`, or leave them as they are.

    Raises:
        StorageError: the database was written by a newer version of this package.
    """
    await asyncio.to_thread(_migrate, url, migrations)


def _migrate(url: URL, migrations: str) -> None:
    if url.get_backend_name() == "sqlite":
        _make_private(Path(str(url.database)))
    # Changing a table of SQLite may mean to make it anew, and dropping the old one must not cascade.
    engine = _engine(url, foreign_keys=False)
    try:
        with engine.execution_options(**{WRITES: True}).begin() as connection:
            upgrade(connection, migrations)
    finally:
        engine.dispose()


def _make_private(path: Path) -> None:
    """The file, which holds webhooks' secrets, is for its owner only, and so are SQLite's files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _engine(url: URL, *, foreign_keys: bool) -> Engine:
    if url.get_backend_name() == "postgresql":
        # A connection that was lost while it rested is replaced before it is used.
        timeout = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_S}
        return create_engine(url, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True, connect_args=timeout)
    engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=0, connect_args={"timeout": _BUSY_S})
    _tune_sqlite(engine, foreign_keys)
    return engine


def _tune_sqlite(engine: Engine, foreign_keys: bool) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: SqliteConnection, _: object) -> None:
        # Python's own idea of when a transaction begins leaves out reads and changes of tables.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A reader that turns writer late is refused, whatever the timeout: a writer is one from its beginning.
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
