"""Tenants: who shares the fleet, with what weight and quotas."""

from __future__ import annotations

import re

from pydantic import ValidationError
from sqlalchemy import Connection, bindparam, func, insert, select, update

from gen_service.errors import InvalidRequest
from gen_service.service_settings import QuotaSettings
from gen_service.store.rows import TenantRow, Usage
from gen_service.store.tables import FILES, JOBS, TENANTS, columns, values
from gen_service.store.transactions import Transactions
from gen_service.wire.states import ACTIVE

# A tenant's name is also the name of a folder.
TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TENANTS = select(*columns(TENANTS, TenantRow)).order_by(TENANTS.c.name)
_TENANT = _TENANTS.where(TENANTS.c.name == bindparam("tenant"))
_REPLACE = update(TENANTS).where(TENANTS.c.name == bindparam("tenant"))
_ACTIVE = select(func.count(), func.coalesce(func.sum(JOBS.c.prompts), 0)).where(
    JOBS.c.tenant == bindparam("tenant"), JOBS.c.state.in_(ACTIVE)
)
_STORED = select(func.coalesce(func.sum(FILES.c.bytes), 0)).where(FILES.c.tenant == bindparam("tenant"))


class Tenants:
    """The tenants that are stored; any other has weight 1 and the service's quotas."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def get(self, name: str) -> TenantRow:
        """The tenant, with the defaults when it is not stored."""
        return await self._transactions.read(lambda connection: stored_tenant(connection, name))

    async def put(self, row: TenantRow) -> None:
        """Store a tenant, over what is stored under its name.

        Raises:
            InvalidRequest: the name, the weight or a quota is not one.
        """
        _check(row)

        def put(connection: Connection) -> None:
            if connection.execute(_REPLACE, {"tenant": row.name, **values(row)}).rowcount == 0:
                connection.execute(insert(TENANTS), values(row))

        await self._transactions.write(put, row.name)

    async def all(self) -> list[TenantRow]:
        """The tenants that are stored, by name."""
        return await self._transactions.read(
            lambda connection: [TenantRow(*line) for line in connection.execute(_TENANTS)]
        )


def check_tenant_name(name: str) -> None:
    """Refuse what cannot name a tenant.

    Raises:
        InvalidRequest: says what would be right.
    """
    if TENANT_NAME.fullmatch(name) is None:
        expected = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
        raise InvalidRequest(f"tenant: got {name!r}; expected {expected}", field="tenant")


def stored_tenant(connection: Connection, name: str) -> TenantRow:
    """The tenant, with the defaults when it is not stored."""
    line = connection.execute(_TENANT, {"tenant": name}).first()
    return TenantRow(name, 1.0, {}) if line is None else TenantRow(*line)


def measured_usage(connection: Connection, tenant: str) -> Usage:
    """What the tenant has now."""
    jobs, prompts = connection.execute(_ACTIVE, {"tenant": tenant}).one()
    size = connection.execute(_STORED, {"tenant": tenant}).scalar_one()
    return Usage(jobs, int(prompts), int(size))


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
