"""Brings the tables of a database to the newest revision in `migrations/versions/`, in one transaction."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, func, select

from gen_service.errors import StorageError

MIGRATIONS = "gen_service.store:migrations"
# Any number, the same in every process: two that start at once migrate one after the other.
_LOCK = 0x67656E5F736572


def upgrade(connection: Connection, migrations: str) -> None:
    """Upgrade the tables within the transaction of `connection`.

    Args:
        migrations: where the revisions are, as Alembic's `script_location`.

    Raises:
        StorageError: the database has a revision that this package does not know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    config = Config()
    config.set_main_option("script_location", migrations)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        if isinstance(error.__cause__, ResolutionError):
            raise StorageError(f"the database was made by a newer gen-service: {error}") from error
        raise
