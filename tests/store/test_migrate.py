"""The tables that the migrations make are those that the program uses, and no row is lost on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

import gen_service.store.migrations
from gen_service.errors import StorageError
from gen_service.service_settings import QuotaSettings
from gen_service.store.database import migrate, open_store
from gen_service.store.migrate import MIGRATIONS
from gen_service.store.rows import JobRow
from gen_service.store.tables import METADATA
from gen_service.store.urls import driver_url

NEXT = '''
"""A revision that is not there yet."""
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = {head!r}


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("colour", sa.Text(), nullable=False, server_default="blue"))
        table.alter_column("reason", new_column_name="words")
'''


def on(url: str, action: Callable[[Connection], object]) -> object:
    """What `action` gives, in a transaction with plain settings."""
    engine = create_engine(driver_url(url))
    try:
        with engine.begin() as connection:
            return action(connection)
    finally:
        engine.dispose()


def newest() -> str:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.set_main_option("path_separator", "os")
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


async def test_the_migrated_tables_are_the_tables(database_url: str) -> None:
    async with open_store(database_url):
        pass

    def differences(connection: Connection) -> object:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)

    assert on(database_url, differences) == []


async def test_what_compares_the_tables_sees_a_difference(database_url: str) -> None:
    async with open_store(database_url):
        pass
    for change in ("DROP INDEX ix_jobs_state", "ALTER TABLE files ADD COLUMN more TEXT"):
        on(database_url, lambda connection, change=change: connection.execute(text(change)))
    found = on(
        database_url,
        lambda connection: compare_metadata(MigrationContext.configure(connection), METADATA),
    )
    assert isinstance(found, list)
    assert sorted(difference[0] for difference in found) == ["add_index", "remove_column"]


async def test_ids_sort_in_the_order_of_their_bytes(database_url: str) -> None:
    async with open_store(database_url):
        pass

    def collations(connection: Connection) -> object:
        columns = inspect(connection).get_columns("jobs")
        return {getattr(column["type"], "collation", None) for column in columns if column["name"] == "id"}

    assert on(database_url, collations) == ({None} if database_url.startswith("sqlite") else {"C"})


async def test_an_older_database_is_brought_up_to_date_with_its_rows(
    database_url: str, tmp_path: Path, job: Callable[..., JobRow]
) -> None:
    async with open_store(database_url) as store:
        row, _ = await store.jobs.create(job(reason="since"), QuotaSettings())
        await store.events.append(row.id, "notice", 1.0, {})
    later = tmp_path / "migrations"
    shutil.copytree(Path(gen_service.store.migrations.__file__).parent, later)
    (later / "versions" / "later.py").write_text(NEXT.format(head=newest()))
    await migrate(driver_url(database_url), str(later))

    def look(connection: Connection) -> object:
        kept = connection.execute(text("SELECT id, words, colour FROM jobs")).one()
        events = connection.execute(text("SELECT count(*) FROM events")).scalar_one()
        return (*kept, events, connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())

    assert on(database_url, look) == (row.id, "since", "blue", 2, "later")
    with pytest.raises(StorageError, match=r"made by a newer gen-service.*later"):
        async with open_store(database_url):
            pass
    assert on(database_url, look) == (row.id, "since", "blue", 2, "later")


async def test_a_migration_that_fails_changes_nothing(database_url: str, tmp_path: Path) -> None:
    async with open_store(database_url) as store:
        await store.keys.create("a", ["read"], "", 1.0)
    later = tmp_path / "migrations"
    shutil.copytree(Path(gen_service.store.migrations.__file__).parent, later)
    failing = NEXT.format(head=newest()) + '    raise RuntimeError("no further")\n'
    (later / "versions" / "later.py").write_text(failing)
    async with open_store(database_url):
        pass
    with pytest.raises(RuntimeError, match="no further"):
        await migrate(driver_url(database_url), str(later))
    async with open_store(database_url) as store:
        assert await store.keys.any()
