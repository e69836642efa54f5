"""API keys: `gs_<id>_<secret>`, shown once. A database that leaks gives nobody a key.

A secret is 32 random bytes, too many to guess from their hash at any speed; a slow hash, which protects short
passwords, would only make each request slow. So SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update

from gen_service.errors import InvalidRequest, NotFound, Unauthenticated
from gen_service.store.ids import new_id
from gen_service.store.rows import KeyRow
from gen_service.store.tables import KEYS, columns, values
from gen_service.store.tenants import check_tenant_name
from gen_service.store.transactions import Transactions

Scope = Literal["submit", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SECRET_BYTES = 32
_KEYS = select(*columns(KEYS, KeyRow))
_KEY = _KEYS.where(KEYS.c.id == bindparam("key"))
_KEY_AND_DIGEST = _KEY.add_columns(KEYS.c.digest)
_REVOKE = (
    update(KEYS)
    .where(KEYS.c.id == bindparam("key"))
    .values(revoked_at=func.coalesce(KEYS.c.revoked_at, bindparam("now")))
)
_ANY = select(exists().select_from(KEYS))


class Keys:
    """All keys of all tenants. Each check asks the database, so a revoked key ends at once."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._has_any = False

    async def create(self, tenant: str, scopes: Collection[str], name: str, now: float) -> tuple[KeyRow, str]:
        """Make a key.

        Returns:
            Its row, and the key itself, which nobody can read again.

        Raises:
            InvalidRequest: the tenant's name is none, or a scope is unknown or missing.
        """
        check_tenant_name(tenant)
        if not scopes or not set(scopes) <= set(SCOPES):
            expected = f"one or more of {', '.join(SCOPES)}"
            raise InvalidRequest(f"scope: got {sorted(scopes)}; expected {expected}", field="scope")
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        row = KeyRow(new_id(""), tenant, name, frozenset(scopes), now, None)
        line = {**values(row), "scopes": sorted(row.scopes), "digest": _digest(secret)}
        await self._transactions.write(lambda connection: connection.execute(insert(KEYS), line).close())
        return row, f"gs_{row.id}_{secret}"

    async def check(self, key_text: str) -> KeyRow:
        """The row of a key that counts. An id that nobody has costs what a wrong secret costs.

        Raises:
            Unauthenticated: it is unknown, wrong or revoked; the answer does not say which.
        """
        _, _, rest = key_text.partition("_")
        key_id, _, secret = rest.partition("_")
        line = await self._transactions.read(
            lambda connection: connection.execute(_KEY_AND_DIGEST, {"key": key_id}).first()
        )
        is_right = hmac.compare_digest(_digest(secret), line.digest if line is not None else "0" * 64)
        if line is None or not is_right or line.revoked_at is not None or not key_text.startswith("gs_"):
            raise Unauthenticated("the API key is unknown or was revoked: expected gs_<id>_<secret> as it was printed")
        return _row(line[:-1])

    async def list(self, tenant: str | None = None) -> Sequence[KeyRow]:
        """The keys of a tenant or of all, oldest first, revoked ones too."""
        query = _KEYS.order_by(KEYS.c.id)
        query = query if tenant is None else query.where(KEYS.c.tenant == tenant)
        return await self._transactions.read(lambda connection: [_row(line) for line in connection.execute(query)])

    async def revoke(self, key_id: str, now: float) -> KeyRow:
        """Make a key count no more, from now on and for ever; one that is revoked stays as it is.

        Raises:
            NotFound: there is none of that id.
        """

        def revoke(connection: Connection) -> KeyRow:
            connection.execute(_REVOKE, {"key": key_id, "now": now})
            line = connection.execute(_KEY, {"key": key_id}).first()
            if line is None:
                raise NotFound(f"there is no key {key_id!r}: `gen-service keys list` shows their ids", field="id")
            return _row(line)

        return await self._transactions.write(revoke)

    async def any(self) -> bool:
        """Whether a key was ever made: revoking the last one must not open the service to everybody."""
        if not self._has_any:
            # Keys are never removed, so that what is found once holds; every request asks.
            self._has_any = await self._transactions.read(lambda connection: bool(connection.execute(_ANY).scalar()))
        return self._has_any


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _row(line: Sequence[Any]) -> KeyRow:
    row = KeyRow(*line)
    return replace(row, scopes=frozenset(row.scopes))
