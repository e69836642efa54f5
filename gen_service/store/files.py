"""Stored files: who has them and how large they are. Their bytes lie elsewhere, by id."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, bindparam, delete, insert, select

from gen_service.errors import NotFound
from gen_service.service_settings import QuotaSettings
from gen_service.store.quotas import check_file, effective_quotas
from gen_service.store.rows import FileRow
from gen_service.store.tables import FILES, columns, values
from gen_service.store.tenants import measured_usage, stored_tenant
from gen_service.store.transactions import Transactions

_FILES = select(*columns(FILES, FileRow))
_FILE = _FILES.where(FILES.c.id == bindparam("file"))


class Files:
    """All files of all tenants."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def create(self, row: FileRow, quotas: QuotaSettings | None) -> None:
        """Store a new file within the tenant's quota; `quotas` None is for what the service itself writes.

        Raises:
            TooManyRequests: its bytes do not fit.
        """

        def create(connection: Connection) -> None:
            if quotas is not None:
                tenant = stored_tenant(connection, row.tenant)
                usage = measured_usage(connection, row.tenant)
                check_file(usage, effective_quotas(quotas, tenant), row.bytes)
            connection.execute(insert(FILES), values(row))

        await self._transactions.write(create, row.tenant)

    async def get(self, file_id: str, tenant: str | None) -> FileRow:
        """The file; `tenant` None is any tenant's.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        return await self._transactions.read(lambda connection: _file(connection, file_id, tenant))

    async def page(
        self,
        tenant: str | None,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int,
        order: Literal["asc", "desc"] = "desc",
    ) -> tuple[list[FileRow], bool]:
        """Files by id, which is the order they were made in, from after the id `after`, which may be deleted by now.

        Returns:
            At most `limit` of them, and whether there are more.
        """
        query = _FILES.order_by(FILES.c.id if order == "asc" else FILES.c.id.desc())
        if tenant is not None:
            query = query.where(FILES.c.tenant == tenant)
        if purpose is not None:
            query = query.where(FILES.c.purpose == purpose)
        if after is not None:
            query = query.where(FILES.c.id > after if order == "asc" else FILES.c.id < after)
        query = query.limit(limit + 1)
        rows = await self._transactions.read(lambda connection: [FileRow(*line) for line in connection.execute(query)])
        return rows[:limit], len(rows) > limit

    async def delete(self, file_id: str, tenant: str | None) -> None:
        """Forget a file.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """

        def forget(connection: Connection) -> None:
            _file(connection, file_id, tenant)
            connection.execute(delete(FILES).where(FILES.c.id == file_id))

        await self._transactions.write(forget)

    async def all_ids(self) -> set[str]:
        """The ids of all files, to tell which of those on disk belong to nobody."""
        return await self._transactions.read(lambda connection: set(connection.execute(select(FILES.c.id)).scalars()))


def _file(connection: Connection, file_id: str, tenant: str | None) -> FileRow:
    line = connection.execute(_FILE, {"file": file_id}).first()
    if line is None or tenant not in (None, line.tenant):
        raise NotFound(f"there is no file {file_id!r}", field="file_id")
    return FileRow(*line)
