"""Stored files: who has them and how large they are. Their bytes lie elsewhere, by id."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gen_service.errors import NotFound
from gen_service.service_settings import QuotaSettings
from gen_service.store.quotas import check_file, effective_quotas
from gen_service.store.rows import FileRow
from gen_service.store.sessions import Sessions
from gen_service.store.tables import StoredFile, row_of, stored
from gen_service.store.tenants import measured_usage, stored_tenant


class Files:
    """All files of all tenants."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def create(self, row: FileRow, quotas: QuotaSettings | None) -> None:
        """Store a new file within the tenant's quota; `quotas` None is for what the service itself writes.

        Raises:
            TooManyRequests: its bytes do not fit.
        """
        async with self._sessions.writing(row.tenant) as session:
            if quotas is not None:
                tenant = await stored_tenant(session, row.tenant)
                usage = await measured_usage(session, row.tenant)
                check_file(usage, effective_quotas(quotas, tenant), row.bytes)
            session.add(stored(StoredFile, row))

    async def get(self, file_id: str, tenant: str | None) -> FileRow:
        """The file; `tenant` None is any tenant's.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        async with self._sessions.reading() as session:
            return row_of(FileRow, await _file(session, file_id, tenant))

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
        query = select(StoredFile).order_by(StoredFile.id if order == "asc" else StoredFile.id.desc())
        if tenant is not None:
            query = query.where(StoredFile.tenant == tenant)
        if purpose is not None:
            query = query.where(StoredFile.purpose == purpose)
        if after is not None:
            query = query.where(StoredFile.id > after if order == "asc" else StoredFile.id < after)
        async with self._sessions.reading() as session:
            rows = [row_of(FileRow, line) for line in await session.scalars(query.limit(limit + 1))]
        return rows[:limit], len(rows) > limit

    async def delete(self, file_id: str, tenant: str | None) -> None:
        """Forget a file.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        async with self._sessions.writing() as session:
            await session.delete(await _file(session, file_id, tenant))

    async def all_ids(self) -> set[str]:
        """The ids of all files, to tell which of those on disk belong to nobody."""
        async with self._sessions.reading() as session:
            return set(await session.scalars(select(StoredFile.id)))


async def _file(session: AsyncSession, file_id: str, tenant: str | None) -> StoredFile:
    line = await session.get(StoredFile, file_id)
    if line is None or tenant not in (None, line.tenant):
        raise NotFound(f"there is no file {file_id!r}", field="file_id")
    return line
