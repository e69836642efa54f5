"""Who asks: API keys, what they allow, and the door that needs none.

Without keys the service answers only while no key was ever made, only on a loopback address, and only to what comes
from this machine itself: the Host header must be a loopback name or one of `http.public_hosts`, so that a web page
whose name was turned to 127.0.0.1 is refused, and no browser may call from another site's page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from gen_service.errors import Forbidden, Unauthenticated
from gen_service.service_settings import LOOPBACK_HOSTS, HttpSettings
from gen_service.store.keys import SCOPES, Scope
from gen_service.web.state import controller_of, limits_of, settings_of

ALL_SCOPES: frozenset[str] = frozenset(SCOPES)
OPEN_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        scopes: `submit` makes and stops jobs and files, `read` looks, `admin` does both for any tenant's.
        key_id: None at the open door.
    """

    tenant: str
    scopes: frozenset[str]
    key_id: str | None = None

    @property
    def reach(self) -> str | None:
        """The tenant whose things the caller may touch; None for any."""
        return None if "admin" in self.scopes else self.tenant

    def allows(self, scope: Scope) -> bool:
        """Whether the caller may do what needs `scope`."""
        return scope in self.scopes or "admin" in self.scopes


async def authenticate(connection: HTTPConnection) -> Caller:
    """Who asks, looked up and counted once a request.

    Raises:
        Unauthenticated: no key where one is needed, or one that does not count.
        Forbidden: no key is needed, but the request comes from elsewhere than this machine.
        TooManyRequests: the tenant asked too often, or the address came with wrong keys too often.
    """
    known: Caller | None = getattr(connection.state, "caller", None)
    if known is not None:
        return known
    limits = limits_of(connection)
    try:
        caller = await _look_up(connection)
    except Unauthenticated:
        limits.count_failure(connection.client.host if connection.client is not None else "")
        raise
    structlog.contextvars.bind_contextvars(tenant=caller.tenant)
    await limits.admit(caller.tenant)
    connection.state.caller = caller
    return caller


async def _look_up(connection: HTTPConnection) -> Caller:
    store, http = controller_of(connection).store, settings_of(connection).http
    if http.is_loopback and not await store.keys.any():
        # Whatever the header says: some clients cannot do without one.
        refuse_foreign(connection, http)
        return Caller(OPEN_TENANT, ALL_SCOPES)
    header = connection.headers.get("authorization")
    if header is None:
        raise Unauthenticated("an API key is needed: send `Authorization: Bearer <API key>`")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("the Authorization header must be `Bearer <API key>`")
    row = await store.keys.check(key.strip())
    return Caller(row.tenant, row.scopes, row.id)


def refuse_foreign(connection: HTTPConnection, http: HttpSettings) -> None:
    """Pass a request that comes from this machine or to a name that the operator listed.

    Raises:
        Forbidden: the Host header is another name, or a browser sent it for another site's page.
    """
    host = connection.headers.get("host", "")
    if _host_name(host) not in LOOPBACK_HOSTS | {name.lower() for name in http.public_hosts}:
        raise Forbidden(
            f"without keys this service answers only as localhost or one of http.public_hosts, not as {host!r}",
            code="unknown_host",
        )
    origin = connection.headers.get("origin")
    foreign_origin = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if foreign_origin or connection.headers.get("sec-fetch-site") == "cross-site":
        raise Forbidden("without keys this service takes no request from another site's page", code="cross_site")


def _host_name(host: str) -> str:
    """The name in a Host header, without the port and without the brackets of an IPv6 address."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


# For the OpenAPI document only: `authenticate` reads the header.
_BEARER = HTTPBearer(auto_error=False, scheme_name="api_key", description="`Authorization: Bearer gs_<id>_<secret>`")


class _Needs:
    """A dependency: the caller, who must hold `scope`."""

    def __init__(self, scope: Scope) -> None:
        self._scope: Scope = scope

    async def __call__(
        self, caller: Annotated[Caller, Depends(authenticate)], _documented: Annotated[object, Security(_BEARER)]
    ) -> Caller:
        if not caller.allows(self._scope):
            raise Forbidden(f"this needs a key with the scope {self._scope!r}; this one has {sorted(caller.scopes)}")
        return caller


Submitter = Annotated[Caller, Depends(_Needs("submit"))]
Reader = Annotated[Caller, Depends(_Needs("read"))]
Admin = Annotated[Caller, Depends(_Needs("admin"))]
