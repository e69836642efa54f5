"""Errors as answers: RFC 9457 problem details on our resources, OpenAI's error object under /v1.

One family of errors is behind both. An unknown error is logged and answered without its words.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gen_service.errors import (
    InvalidRequest,
    NotFound,
    RequestError,
    SpecError,
    StorageError,
    TooLarge,
    Unauthenticated,
    UnsupportedMedia,
)
from gen_service.web.plain_words import invalid_request, plain
from gen_service.wire.jobs import Problem
from gen_service.wire.openai import OpenAIError, OpenAIErrorBody

OPENAI_PREFIX = "/v1/"
PROBLEM_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="gen-service"'
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_FRAMEWORK_WORDS = {
    404: "there is nothing at this address",
    405: "this address does not take that method; the Allow header names those it takes",
}
_log = structlog.get_logger(__name__)


class InternalError(RequestError):
    """Something went wrong that the client cannot help; the log has the words."""

    status = 500
    title = "Internal error"
    default_code = "internal_error"


def install_problems(app: FastAPI) -> None:
    """Make every error of `app` an answer of the right shape."""

    async def answer_it(request: Request, error: Exception) -> Response:
        headers = _headers_of(error)
        if "Allow" in headers:
            headers["Allow"] = _methods_of(request)
        return answer(request.scope["path"], as_request_error(error), headers, _status_of(error))

    for kind in (RequestError, SpecError, StorageError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_it)


def as_request_error(error: Exception) -> RequestError:
    """The error as one of ours. What cannot be told to a client is logged here."""
    match error:
        case RequestError():
            return error
        case SpecError():
            return InvalidRequest(str(error), field=error.field)
        case RequestValidationError():
            return invalid_request(error.errors())
        case HTTPException():
            return _from_http(error)
    _log.error("request failed", exc_info=error)
    if isinstance(error, StorageError):
        return InternalError("stored data cannot be read or written; the service's log says why", code="storage_error")
    return InternalError("the service failed; its log has the details under this answer's X-Request-Id")


def answer(
    path: str, error: RequestError, headers: dict[str, str] | None = None, status: int | None = None
) -> Response:
    """The answer to a request of `path` that ended in `error`.

    Args:
        headers: to send along, such as Allow.
        status: instead of the error's own.
    """
    openai = path.startswith(OPENAI_PREFIX)
    status = status or (HTTPStatus.BAD_REQUEST if openai and isinstance(error, InvalidRequest) else error.status)
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        sent["WWW-Authenticate"] = CHALLENGE
    if openai:
        return Response(_openai(error, status), status, sent, "application/json")
    return Response(_problem(error, status), status, sent, PROBLEM_TYPE)


def documented(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with errors of these statuses; every route may with 500."""
    name, media = (OpenAIError.__name__, "application/json") if openai else (Problem.__name__, PROBLEM_TYPE)
    content = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in (*statuses, 500)}


def _problem(error: RequestError, status: int) -> str:
    title = HTTPStatus(status).phrase if type(error) is RequestError else error.title
    problem = Problem(title=title, status=status, detail=plain(str(error)), code=error.code, field=error.field)
    return problem.model_dump_json(exclude_none=True)


def _openai(error: RequestError, status: int) -> str:
    kind = "server_error" if status >= 500 else _OPENAI_TYPES.get(status, "invalid_request_error")
    body = OpenAIErrorBody(message=plain(str(error)), type=kind, param=error.field, code=error.code)
    return OpenAIError(error=body).model_dump_json()


def _from_http(error: HTTPException) -> RequestError:
    """A refusal by the framework: no such route, no such method, a body that is not what it says."""
    phrase = HTTPStatus(error.status_code).phrase
    words = _FRAMEWORK_WORDS.get(error.status_code, phrase) if error.detail == phrase else error.detail
    kind = next((kind for kind in (NotFound, TooLarge, UnsupportedMedia) if kind.status == error.status_code), None)
    return kind(words) if kind is not None else RequestError(words, code=phrase.lower().replace(" ", "_"))


def _headers_of(error: Exception) -> dict[str, str]:
    return dict(error.headers or {}) if isinstance(error, HTTPException) else {}


def _methods_of(request: Request) -> str:
    """The methods of all routes at this address; the framework tells those of the first one only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in fitting for method in route.methods or ()}))


def _status_of(error: Exception) -> int | None:
    return error.status_code if isinstance(error, HTTPException) else None
