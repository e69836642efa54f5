"""How every route of the service takes a request: who asks is known before a byte of the body is read.

JSON is read strictly (no NaN, no lone surrogates, no NUL characters, which PostgreSQL cannot store), and of the
requests that bring some only a few are worked on at a time, so that hundreds at once do not hold up the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response, params
from fastapi.routing import APIRoute

from gen_service.errors import UnsupportedMedia
from gen_service.web.auth import authenticate
from gen_service.web.state import turns_of


class ServiceRoute(APIRoute):
    """For `APIRouter(route_class=ServiceRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI behind these checks."""
        handle, body = super().get_route_handler(), self.body_field
        takes_json = body is not None and not isinstance(body.field_info, params.Form)

        async def checked(request: Request) -> Response:
            await authenticate(request)
            strict = _StrictJson(request.scope, request.receive)
            if not takes_json:
                return await handle(strict)
            _refuse_other_than_json(request)
            # Before its turn, so that a slow client holds nobody up.
            await strict.body()
            async with turns_of(request):
                return await handle(strict)

        return checked


class _StrictJson(Request):
    async def json(self) -> object:
        body = await self.body()
        tree: object = orjson.loads(body)
        try:
            orjson.dumps(tree)
        except orjson.JSONEncodeError as error:
            # More than 254 levels can be read, but neither stored nor shown again.
            raise json.JSONDecodeError("nested too deeply", "", 0) from error
        if b"\\u0000" in body and _holds_nul(tree):
            # The one kind of error that the framework answers with its words.
            raise json.JSONDecodeError("a NUL character (\\u0000) cannot be stored", "", 0)
        return tree


def _refuse_other_than_json(request: Request) -> None:
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMedia(f"the body must be application/json, not {given!r}", field="Content-Type")


def _holds_nul(tree: object) -> bool:
    if isinstance(tree, str):
        return "\0" in tree
    if isinstance(tree, dict):
        return any(map(_holds_nul, tree)) or any(map(_holds_nul, tree.values()))
    return isinstance(tree, list) and any(map(_holds_nul, tree))
