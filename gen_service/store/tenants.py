"""Tenants: who shares the fleet, with what weight and quotas."""

from __future__ import annotations

import re

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gen_service.errors import InvalidRequest
from gen_service.service_settings import QuotaSettings
from gen_service.store.rows import TenantRow, Usage
from gen_service.store.sessions import Sessions
from gen_service.store.tables import StoredFile, StoredJob, StoredTenant, row_of, stored
from gen_service.wire.states import ACTIVE

# A tenant's name is also the name of a folder.
TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Tenants:
    """The tenants that are stored; any other has weight 1 and the service's quotas."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def get(self, name: str) -> TenantRow:
        """The tenant, with the defaults when it is not stored."""
        async with self._sessions.reading() as session:
            return await stored_tenant(session, name)

    async def put(self, row: TenantRow) -> None:
        """Store a tenant, over what is stored under its name.

        Raises:
            InvalidRequest: the name, the weight or a quota is not one.
        """
        _check(row)
        async with self._sessions.writing(row.name) as session:
            await session.merge(stored(StoredTenant, row))

    async def all(self) -> list[TenantRow]:
        """The tenants that are stored, by name."""
        async with self._sessions.reading() as session:
            lines = await session.scalars(select(StoredTenant).order_by(StoredTenant.name))
            return [row_of(TenantRow, line) for line in lines]


def check_tenant_name(name: str) -> None:
    """Refuse what cannot name a tenant.

    Raises:
        InvalidRequest: says what would be right.
    """
    if TENANT_NAME.fullmatch(name) is None:
        expected = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
        raise InvalidRequest(f"tenant: got {name!r}; expected {expected}", field="tenant")


async def stored_tenant(session: AsyncSession, name: str) -> TenantRow:
    """The tenant, with the defaults when it is not stored."""
    line = await session.get(StoredTenant, name)
    return TenantRow(name, 1.0, {}) if line is None else row_of(TenantRow, line)


async def measured_usage(session: AsyncSession, tenant: str) -> Usage:
    """What the tenant has now."""
    active = select(func.count(), func.coalesce(func.sum(StoredJob.prompts), 0)).where(
        StoredJob.tenant == tenant, StoredJob.state.in_(ACTIVE)
    )
    jobs, prompts = (await session.execute(active)).one()
    size = await session.scalar(select(func.coalesce(func.sum(StoredFile.bytes), 0)).where(StoredFile.tenant == tenant))
    return Usage(jobs, int(prompts or 0), int(size or 0))


def _check(row: TenantRow) -> None:
    check_tenant_name(row.name)
    if not 0.01 <= row.weight <= 100.0:
        raise InvalidRequest(f"weight: got {row.weight!r}; expected a number from 0.01 to 100", field="weight")
    try:
        QuotaSettings.model_validate(row.quotas)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(("quotas", *map(str, first["loc"])))
        raise InvalidRequest(f"{field}: got {first['input']!r}; {first['msg']}", field=field) from error
