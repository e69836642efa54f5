"""schemathesis over the whole OpenAPI document of the real service, with a key: only documented answers, never a 500."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.schemas import OpenApiSchema

from benchmarks.servers import simulated_servers
from benchmarks.service_process import ServiceProcess, make_key, running_service, service_settings

EXAMPLES = 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, str]]:
    """A service with jobs, files and a batch to find, and a key that may do everything."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with simulated_servers(["--latency", "0.01", "--length", "20"], servers=2) as urls:
        given = service_settings(urls, folder / "data", quotas__requests_per_minute="1000000")
        key = make_key(given, "fuzz", ("submit", "read", "admin"))
        with running_service(given, folder / "words.txt") as process:
            yield process, key


@pytest.fixture(scope="module")
def document(service: tuple[ServiceProcess, str]) -> OpenApiSchema:
    process, key = service
    schema = schemathesis.openapi.from_url(f"{process.url}/openapi.json")
    schema.config.update(headers={"Authorization": f"Bearer {key}"}, request_timeout=30.0)
    return schema.exclude(path_regex="/events$")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_every_request_gets_a_documented_answer(case: Case) -> None:
    case.call_and_validate()
