"""What every request passes, with an app of a few routes behind it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import httpx
import pytest
import structlog
from fastapi import FastAPI, Query, Request
from structlog.testing import LogCapture

from gen_service.errors import Conflict, InvalidRequest, StorageError, TooManyRequests, Unauthenticated, Unavailable
from gen_service.web.door import Door
from gen_service.web.problems import install_problems
from gen_service.wire.jobs import Problem
from gen_service.wire.openai import OpenAIError

MOST = 1000
ERRORS = {
    "invalid": InvalidRequest("no\r\nX-Evil: 1", field="a.b"),
    "state": Conflict("the job is paused", code="wrong_state"),
    "quota": TooManyRequests("too many", retry_after_s=0.2),
    "draining": Unavailable("later", retry_after_s=29.1),
    "key": Unauthenticated("no key"),
    "storage": StorageError("/srv/secret/path is damaged"),
    "bug": ZeroDivisionError("the secret of the bug"),
}


Observed = list[tuple[str, str, int]]


def build(observed: Observed) -> FastAPI:
    app = FastAPI()
    install_problems(app)

    def observe(route: str, method: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        observed.append((route, method, status))

    app.add_middleware(Door, max_body_bytes=MOST, observe=observe)

    async def fail(kind: str) -> None:
        raise ERRORS[kind]

    async def read(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    async def typed(number: Annotated[int, Query(ge=1)]) -> dict[str, int]:
        return {"number": number}

    async def json(body: dict[str, int]) -> dict[str, int]:
        return body

    for prefix in ("/api/v1", "/v1"):
        app.add_api_route(f"{prefix}/fail/{{kind}}", fail)
        app.add_api_route(f"{prefix}/files", read, methods=["POST"])
        app.add_api_route(f"{prefix}/typed", typed)
        app.add_api_route(f"{prefix}/json", json, methods=["POST"])
    return app


@pytest.fixture
def observed() -> Observed:
    return []


@pytest.fixture
async def client(observed: Observed) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build(observed)), base_url="http://test") as client:
        yield client


@pytest.fixture
def log() -> Iterator[LogCapture]:
    capture, before = LogCapture(), structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture
    structlog.configure(**before)


STATUSES = [
    ("invalid", 422, 400, "invalid_request_error", "invalid_value"),
    ("state", 409, 409, "invalid_request_error", "wrong_state"),
    ("quota", 429, 429, "rate_limit_error", "rate_limit_exceeded"),
    ("draining", 503, 503, "server_error", "unavailable"),
    ("key", 401, 401, "authentication_error", "invalid_api_key"),
    ("storage", 500, 500, "server_error", "storage_error"),
    ("bug", 500, 500, "server_error", "internal_error"),
]


@pytest.mark.parametrize(("kind", "ours", "openai", "openai_type", "code"), STATUSES)
async def test_an_error_has_the_shape_of_its_door(
    kind: str, ours: int, openai: int, openai_type: str, code: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"/api/v1/fail/{kind}")
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.status, problem.code) == (ours, ours, code)
    assert answer.headers["content-type"] == "application/problem+json"
    answer = await client.get(f"/v1/fail/{kind}")
    error = OpenAIError.model_validate_json(answer.content).error
    assert (answer.status_code, error.type, error.code) == (openai, openai_type, code)
    assert answer.headers["content-type"] == "application/json"
    for words in (problem.detail, error.message):
        assert "secret" not in words
        assert words.isprintable()
    if kind == "invalid":
        assert (problem.field, error.param) == ("a.b", "a.b")


async def test_errors_say_when_to_come_again_and_how_to_say_who_asks(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/fail/quota")).headers["retry-after"] == "1"
    assert (await client.get("/api/v1/fail/draining")).headers["retry-after"] == "30"
    assert (await client.get("/api/v1/fail/key")).headers["www-authenticate"].startswith("Bearer")
    assert "retry-after" not in (await client.get("/api/v1/fail/state")).headers


@pytest.mark.parametrize("prefix", ["/api/v1", "/v1"])
async def test_what_routing_refuses_has_the_same_shape(prefix: str, client: httpx.AsyncClient) -> None:
    absent, wrong = await client.get(f"{prefix}/absent"), await client.delete(f"{prefix}/json")
    assert (absent.status_code, wrong.status_code, wrong.headers["allow"]) == (404, 405, "POST")
    for answer in (absent, wrong):
        model = Problem if prefix == "/api/v1" else OpenAIError
        model.model_validate_json(answer.content)


async def test_a_wrong_parameter_and_a_body_that_is_no_json_are_told(client: httpx.AsyncClient) -> None:
    problem = Problem.model_validate_json((await client.get("/api/v1/typed?number=0")).content)
    assert (problem.status, problem.field) == (422, "number")
    assert problem.detail == "number: got '0'; expected greater than or equal to 1"
    answer = await client.post("/api/v1/json", content=b"{", headers={"Content-Type": "application/json"})
    assert Problem.model_validate_json(answer.content).code == "malformed_json"
    assert answer.status_code == 400


async def test_an_unknown_error_is_logged_under_the_request_id(client: httpx.AsyncClient, log: LogCapture) -> None:
    answer = await client.get("/api/v1/fail/bug", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    failed = next(entry for entry in log.entries if entry["event"] == "request failed")
    assert failed["request_id"] == "mine-1"
    assert isinstance(failed["exc_info"], ZeroDivisionError)
    passed = next(entry for entry in log.entries if entry["event"] == "request")
    assert (passed["status"], passed["path"]) == (500, "/api/v1/fail/bug")


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "ä", "a\tb", "a/b"])
async def test_a_request_id_that_could_forge_a_log_is_replaced(given: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/typed?number=1", headers={"X-Request-Id": given.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_answers_are_neither_sniffed_nor_kept(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/typed?number=1", "/v1/absent", "/v1/fail/bug"):
        answer = await client.get(path)
        assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert "cache-control" not in (await client.get("/healthz")).headers


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size):
        yield b"x"


@pytest.mark.parametrize("size", [0, MOST, MOST + 1, 10 * MOST])
async def test_the_bytes_of_a_body_are_counted_as_they_come(size: int, client: httpx.AsyncClient) -> None:
    named = await client.post("/api/v1/files", content=b"x" * size)
    streamed = await client.post("/api/v1/files", content=chunks(size))
    lying = await client.post("/api/v1/files", content=chunks(size), headers={"Content-Length": "5"})
    for answer in (named, streamed, lying):
        if size <= MOST:
            assert answer.json() == {"bytes": size}
        else:
            problem = Problem.model_validate_json(answer.content)
            assert (answer.status_code, problem.status) == (413, 413)
            assert "http.max_body_bytes" in problem.detail


async def test_uploads_count_for_themselves(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/files", content=b"x" * (10 * MOST))
    assert answer.json() == {"bytes": 10 * MOST}


async def test_encoded_bodies_are_refused_everywhere(client: httpx.AsyncClient) -> None:
    for path in ("/v1/files", "/api/v1/files"):
        answer = await client.post(path, content=b"x", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415
        assert (await client.post(path, content=b"x", headers={"Content-Encoding": "identity"})).status_code == 200


@pytest.mark.parametrize("address", ["/api/v1/typed?number=1&x=%00", "/api/v1/fail/%00", "/v1/%00"])
async def test_an_address_holds_no_nul(address: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(address)
    assert (answer.status_code, "malformed_address" in answer.text) == (400, True)


async def test_each_answer_is_counted_under_its_route(client: httpx.AsyncClient, observed: Observed) -> None:
    await client.get("/api/v1/fail/state")
    await client.get("/api/v1/typed?number=7")
    await client.get("/wp-login.php")
    await client.post("/v1/json", content=b"x" * (MOST + 1))
    assert observed == [
        ("/api/v1/fail/{kind}", "GET", 409),
        ("/api/v1/typed", "GET", 200),
        ("unmatched", "GET", 404),
        ("unmatched", "POST", 413),
    ]
