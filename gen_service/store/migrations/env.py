"""What Alembic runs around the revisions: the caller's connection and transaction, and the tables to compare with."""

from __future__ import annotations

from alembic import context

from gen_service.store.tables import METADATA


def run() -> None:
    """Run the revisions that are asked for."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


# The name that Alembic gives to this file when it runs it.
if __name__ == "env_py":
    run()
