"""What every request passes before any route: its id, the cap on its body, plain bodies only, an answer to unknown
errors, and the headers that every answer has."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gen_service.errors import RequestError, TooLarge, UnsupportedMedia
from gen_service.web.problems import answer, as_request_error

# Uploads count their bytes themselves, against a cap of their own.
UPLOADS = ("POST", "/v1/files")
# Asked for every few seconds by whoever watches over the service.
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
# The route of a path that is none of ours, and the status where the client left before there was one.
UNMATCHED, LEFT = "unmatched", 499
Observe = Callable[[str, str, int, float], None]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PRIVATE = ("/v1/", "/api/")
_log = structlog.get_logger(__name__)


class Door:
    """ASGI middleware.

    Args:
        max_body_bytes: bounds what a body brings, whatever its Content-Length says.
        observe: told of each answer: the template of its route, the method, the status, and the seconds to its head.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, observe: Observe) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        leaving = _Leaving(send, request_id, scope["path"])
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = time.perf_counter()
        try:
            await self._pass(scope, headers, receive, leaving)
        finally:
            self._note(scope, leaving, began)

    def _note(self, scope: Scope, leaving: _Leaving, began: float) -> None:
        """One line of the log, and the numbers. The route is the template that the path fits, if any."""
        route, now = getattr(scope.get("route"), "path", UNMATCHED), time.perf_counter()
        method, status = scope["method"], leaving.status or LEFT
        self._observe(route, method, status, (leaving.head_at or now) - began)
        level = _log.debug if scope["path"] in QUIET else _log.info
        path, seconds = scope["path"], round(now - began, 4)
        level("request", method=method, path=path, route=route, status=status, seconds=seconds)

    async def _pass(self, scope: Scope, headers: Headers, receive: Receive, leaving: _Leaving) -> None:
        counted = (scope["method"], scope["path"]) != UPLOADS
        refused = _refusal(scope, headers, self._max_body_bytes if counted else None)
        if refused is not None:
            await answer(scope["path"], refused)(scope, receive, leaving)
            return
        try:
            await self._app(scope, _Counted(receive, self._max_body_bytes) if counted else receive, leaving)
        except Exception as error:
            if leaving.status is not None:
                # The answer has begun: only an aborted connection tells the client that it is not whole.
                raise
            await answer(scope["path"], as_request_error(error))(scope, receive, leaving)


class _Leaving:
    """The way out: the status is noted, and the headers of every answer are put on it."""

    def __init__(self, send: Send, request_id: str, path: str) -> None:
        self._send = send
        self._request_id = request_id
        self._private = path.startswith(_PRIVATE)
        self.status: int | None = None
        self.head_at: float | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.head_at = message["status"], time.perf_counter()
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self._private:
                headers["Cache-Control"] = "no-store"
        await self._send(message)


class _Counted:
    """The way in: the bytes of the body are counted as they come."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._came = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            if self._came > self._most:
                # An HTTPException, since the framework turns any other error in a body into a 400.
                raise HTTPException(TooLarge.status, _too_large(self._most))
        return message


def _refusal(scope: Scope, headers: Headers, most: int | None) -> RequestError | None:
    """Why a request is refused before its body comes, or None."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return RequestError("an address holds no NUL character (%00)", code="malformed_address")
    if (encoding := headers.get("content-encoding", "identity").strip().lower()) != "identity":
        return UnsupportedMedia(f"bodies come as they are, without Content-Encoding {encoding!r}")
    length = headers.get("content-length", "0")
    if most is not None and length.isdecimal() and int(length) > most:
        return TooLarge(_too_large(most))
    return None


def _too_large(most: int) -> str:
    return f"the body is larger than {most} bytes (http.max_body_bytes); upload prompts as a file instead"


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
