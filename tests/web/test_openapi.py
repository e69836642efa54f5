"""The OpenAPI document: what tools and fuzzers take the service at its word by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gen_service.wire.jobs import JobRequest, Problem


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        yield from ((path, operation) for operation in methods.values())


def references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if isinstance(tree.get("$ref"), str):
            yield tree["$ref"]
        for value in tree.values():
            yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


async def test_the_document_is_whole_and_says_how_each_route_fails(serving: Any) -> None:
    async with serving() as service:
        document = (await service.client.get("/openapi.json")).json()
    components = document["components"]
    names = {f"#/components/{kind}/{name}" for kind, held in components.items() for name in held}
    assert set(references(document)) <= names
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name.rpartition("/")[2]) for name in names)
    assert components["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for model in (JobRequest, Problem):
        assert model.__name__ in components["schemas"]
    seen = 0
    for path, operation in operations(document):
        if path.startswith(("/api/", "/v1/")):
            seen += 1
            assert operation["security"] == [{"api_key": []}], path
            assert {"401", "403", "429", "500"} <= set(operation["responses"]), path
            media = "application/problem+json" if path.startswith("/api/") else "application/json"
            for status, answer in operation["responses"].items():
                assert int(status) < 400 or status == "416" or list(answer["content"]) == [media], (path, status)
    assert seen > 15
    assert "HTTPValidationError" not in str(document)
