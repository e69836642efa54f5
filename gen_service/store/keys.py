"""API keys: `gs_<id>_<secret>`, shown once. A database that leaks gives nobody a key.

A secret is 32 random bytes, too many to guess from their hash at any speed; a slow hash, which protects short
passwords, would only make each request slow. So SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from typing import Literal, get_args

from sqlalchemy import exists, select

from gen_service.errors import InvalidRequest, NotFound, Unauthenticated
from gen_service.store.ids import new_id
from gen_service.store.rows import KeyRow
from gen_service.store.sessions import Sessions
from gen_service.store.tables import StoredKey
from gen_service.store.tenants import check_tenant_name

Scope = Literal["submit", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SECRET_BYTES = 32


class Keys:
    """All keys of all tenants. Each check asks the database, so a revoked key ends at once."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

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
        key = StoredKey(
            id=new_id(""),
            tenant=tenant,
            name=name,
            scopes=sorted(set(scopes)),
            digest=_digest(secret),
            created_at=now,
            revoked_at=None,
        )
        async with self._sessions.writing() as session:
            session.add(key)
        return _row(key), f"gs_{key.id}_{secret}"

    async def check(self, key_text: str) -> KeyRow:
        """The row of a key that counts. An id that nobody has costs what a wrong secret costs.

        Raises:
            Unauthenticated: it is unknown, wrong or revoked; the answer does not say which.
        """
        _, _, rest = key_text.partition("_")
        key_id, _, secret = rest.partition("_")
        async with self._sessions.reading() as session:
            key = await session.get(StoredKey, key_id)
        is_right = hmac.compare_digest(_digest(secret), key.digest if key is not None else "0" * 64)
        if key is None or not is_right or key.revoked_at is not None or not key_text.startswith("gs_"):
            raise Unauthenticated("the API key is unknown or was revoked: expected gs_<id>_<secret> as it was printed")
        return _row(key)

    async def list(self, tenant: str | None = None) -> Sequence[KeyRow]:
        """The keys of a tenant or of all, oldest first, revoked ones too."""
        query = select(StoredKey).order_by(StoredKey.id)
        async with self._sessions.reading() as session:
            lines = await session.scalars(query if tenant is None else query.where(StoredKey.tenant == tenant))
            return [_row(line) for line in lines]

    async def revoke(self, key_id: str, now: float) -> KeyRow:
        """Make a key count no more, from now on and for ever; one that is revoked stays as it is.

        Raises:
            NotFound: there is none of that id.
        """
        async with self._sessions.writing() as session:
            key = await session.get(StoredKey, key_id, with_for_update=True)
            if key is None:
                raise NotFound(f"there is no key {key_id!r}: `gen-service keys list` shows their ids", field="id")
            key.revoked_at = now if key.revoked_at is None else key.revoked_at
            return _row(key)

    async def any(self) -> bool:
        """Whether a key was ever made: revoking the last one must not open the service to everybody."""
        async with self._sessions.reading() as session:
            return bool(await session.scalar(select(exists().select_from(StoredKey))))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _row(key: StoredKey) -> KeyRow:
    return KeyRow(key.id, key.tenant, key.name, frozenset(key.scopes), key.created_at, key.revoked_at)
