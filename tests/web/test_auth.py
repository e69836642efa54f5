"""Who is let in, and how far."""

from __future__ import annotations

from typing import Any

import pytest

from gen_service.errors import SpecError
from gen_service.service_settings import HttpSettings
from gen_service.web.serve import refuse_open_door
from gen_service.wire.jobs import JobList, Problem

FOREIGN = [
    ({"Host": "evil.example"}, "unknown_host"),
    ({"Host": "localhost.evil.example:8080"}, "unknown_host"),
    ({"Host": "127.0.0.1.evil.example"}, "unknown_host"),
    ({"Host": ""}, "unknown_host"),
    ({"Host": "[::2]:8080"}, "unknown_host"),
    ({"Origin": "http://evil.example"}, "cross_site"),
    ({"Origin": "http://127.0.0.1:9999"}, "cross_site"),
    ({"Origin": "null"}, "cross_site"),
    ({"Sec-Fetch-Site": "cross-site"}, "cross_site"),
]
LOCAL: list[dict[str, str]] = [
    {},
    {"Host": "localhost:8080"},
    {"Host": "LOCALHOST"},
    {"Host": "[::1]:8080"},
    {"Host": "jobs.example"},
    {"Origin": "http://127.0.0.1:8080"},
    {"Origin": "https://jobs.example", "Host": "jobs.example"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
]


async def test_without_keys_only_this_machine_is_let_in(serving: Any) -> None:
    async with serving(http={"public_hosts": ["Jobs.example"]}) as service:
        for headers in LOCAL:
            answer = await service.client.get("/api/v1/jobs", headers=headers)
            assert answer.status_code == 200, headers
        for headers, code in FOREIGN:
            for answer in (
                await service.client.get("/api/v1/jobs", headers=headers),
                await service.client.post("/api/v1/jobs", headers=headers, json={}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, code), headers


async def test_another_address_needs_keys(serving: Any) -> None:
    async with serving(http={"host": "0.0.0.0"}) as service:
        answer = await service.client.get("/api/v1/jobs")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="gen-service"')
        with pytest.raises(SpecError, match="gen-service keys create"):
            await refuse_open_door(service.settings.http, service.controller.store)
        await refuse_open_door(HttpSettings(), service.controller.store)
        headers = await service.key()
        await refuse_open_door(service.settings.http, service.controller.store)
        assert (await service.client.get("/api/v1/jobs", headers=headers)).status_code == 200


async def test_the_first_key_closes_the_open_door_for_good(serving: Any) -> None:
    async with serving() as service:
        assert (await service.client.get("/api/v1/jobs")).status_code == 200
        headers = await service.key()
        assert (await service.client.get("/api/v1/jobs")).status_code == 401
        # With a key it does not matter where a request comes from.
        assert (await service.client.get("/api/v1/jobs", headers=headers | {"Host": "evil"})).status_code == 200
        keys = service.controller.store.keys
        await keys.revoke((await keys.list())[0].id, 1.0)
        assert (await service.client.get("/api/v1/jobs", headers=headers)).status_code == 401
        assert (await service.client.get("/api/v1/jobs")).status_code == 401


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Basic abc", "Bearer gs_x_y", "gs_x_y", "Bearer gs__", "bearer \u00e4", "Bearer a b"],
)
async def test_a_header_that_is_no_key_is_refused(header: str, serving: Any) -> None:
    async with serving() as service:
        given = {"Authorization": header.encode("latin-1")}
        # While there is no key, whatever a client sends along changes nothing: some cannot do without one.
        assert (await service.client.get("/api/v1/jobs", headers=given)).status_code == 200
        await service.key()
        answer = await service.client.get("/api/v1/jobs", headers=given)
        assert answer.status_code == 401
        assert Problem.model_validate_json(answer.content).code == "invalid_api_key"


async def test_scopes_bound_what_a_key_does(serving: Any, sums_request: Any) -> None:
    async with serving() as service:
        reader, submitter = await service.key("team", "read"), await service.key("team", "submit")
        admin = await service.key("operator", "admin")
        client = service.client
        refused = await client.post("/api/v1/jobs", json=sums_request(1), headers=reader)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
        assert (await client.get("/api/v1/jobs", headers=submitter)).status_code == 403
        job = (await client.post("/api/v1/jobs", json=sums_request(1), headers=submitter)).json()
        path = f"/api/v1/jobs/{job['id']}"
        for change in ("pause", "resume", "cancel"):
            assert (await client.post(f"{path}/{change}", headers=reader)).status_code == 403
        assert (await client.delete(path, headers=reader)).status_code == 403
        for headers in (reader, admin):
            assert (await client.get(path, headers=headers)).json()["tenant"] == "team"
        assert (await client.post(f"{path}/cancel", headers=admin)).status_code == 200


async def test_another_tenants_job_is_not_there(serving: Any, sums_request: Any) -> None:
    async with serving() as service:
        mine, theirs = await service.key("mine"), await service.key("theirs")
        admin, client = await service.key("operator", "admin"), service.client
        job = (await client.post("/api/v1/jobs", json=sums_request(1), headers=mine)).json()
        path = f"/api/v1/jobs/{job['id']}"
        answers = [
            await client.request(method, f"{path}{rest}", headers=theirs)
            for method, rest in [
                ("GET", ""),
                ("GET", "/events"),
                ("GET", "/results"),
                ("GET", "/shards"),
                ("GET", "/shards/part-0001-000001.parquet"),
                ("POST", "/pause"),
                ("POST", "/resume"),
                ("POST", "/cancel"),
                ("DELETE", ""),
            ]
        ]
        absent = await client.get(f"/api/v1/jobs/{job['id'][:-1]}~".replace("~", "x"), headers=mine)
        assert {answer.status_code for answer in answers} == {404}
        assert {answer.json()["code"] for answer in answers} == {absent.json()["code"]}
        seen = [
            JobList.model_validate_json((await client.get("/api/v1/jobs", headers=headers)).content).data
            for headers in (mine, theirs, admin)
        ]
        assert [len(jobs) for jobs in seen] == [1, 0, 1]


async def test_a_tenants_requests_are_counted(serving: Any) -> None:
    async with serving(quotas={"requests_per_minute": 6}) as service:
        headers = await service.key()
        answers = [await service.client.get("/api/v1/jobs", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        assert 1 <= int(answers[1].headers["retry-after"]) <= 10
        assert (await service.client.get("/healthz")).status_code == 200


async def test_nobody_is_read_before_it_is_known_who_asks(serving: Any) -> None:
    async with serving() as service:
        await service.key()
        answer = await service.client.post("/api/v1/jobs", content=b"{", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 401
