"""Jobs as resources, on the real controller."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gen_service.endpoints.simulated import Script, SimulationSettings
from gen_service.endpoints.simulated.timing import Fixed, TotalLatency
from gen_service.wire.jobs import JobList, JobView, Problem

FOR_HOURS = SimulationSettings(script=Script(timing=TotalLatency(Fixed(36_000.0))))


async def test_a_job_is_taken_runs_and_is_shown(serving: Any, sums_request: Any) -> None:
    async with serving() as service:
        request = sums_request(4) | {"name": "sums", "samples": 2, "metadata": {"a": "b"}}
        answer = await service.client.post("/api/v1/jobs", json=request)
        assert answer.status_code == 202
        job = JobView.model_validate_json(answer.content)
        assert answer.headers["location"] == f"/api/v1/jobs/{job.id}"
        ended = await service.ended(job.id)
        shown = JobView.model_validate_json((await service.client.get(answer.headers["location"])).content)
        assert shown == ended
        assert (shown.state, shown.name, shown.kind, shown.metadata) == ("completed", "sums", "native", {"a": "b"})
        assert (shown.counts.published, shown.counts.verdicts) == (8, {"correct": 8})
        assert shown.model == "simulated"


async def test_the_same_idempotency_key_makes_one_job(serving: Any, sums_request: Any) -> None:
    async with serving(FOR_HOURS) as service:
        headers = {"Idempotency-Key": "mine-1"}
        answers = [await service.client.post("/api/v1/jobs", json=sums_request(2), headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 200]
        assert answers[0].json()["id"] == answers[1].json()["id"]
        assert answers[0].headers["location"] == answers[1].headers["location"]
        other = await service.client.post("/api/v1/jobs", json=sums_request(3), headers=headers)
        assert other.status_code == 409
        wrong = await service.client.post("/api/v1/jobs", json=sums_request(3), headers={"Idempotency-Key": "a b"})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "Idempotency-Key")


async def test_a_job_rests_goes_on_and_is_cancelled(serving: Any) -> None:
    async with serving(FOR_HOURS, fleet={"grace_s": 0.0}) as service:
        job = await service.submit()
        path = f"/api/v1/jobs/{job.id}"
        await service.until(job.id, lambda view: view.counts.in_flight > 0)
        assert (await service.client.post(f"{path}/pause")).status_code == 200
        await service.until(job.id, lambda view: view.state == "paused")
        assert (await service.client.post(f"{path}/pause")).json()["state"] == "paused"
        assert (await service.client.delete(path)).status_code == 409
        assert (await service.client.post(f"{path}/resume")).status_code == 200
        await service.until(job.id, lambda view: view.state == "running")
        assert (await service.client.post(f"{path}/cancel")).status_code == 200
        assert (await service.ended(job.id)).state == "cancelled"
        refused = await service.client.post(f"{path}/resume")
        assert (refused.status_code, Problem.model_validate_json(refused.content).title) == (409, "Conflict")
        assert (await service.client.delete(path)).status_code == 204
        assert (await service.client.get(path)).status_code == 404


async def test_a_list_has_every_job_once_newest_first(serving: Any) -> None:
    async with serving(FOR_HOURS, fleet={"grace_s": 0.0, "max_running_jobs": 1}) as service:
        made = [(await service.submit(1, name=f"job-{n % 2}")).id for n in range(5)]
        await service.client.post(f"/api/v1/jobs/{made[4]}/cancel")
        await service.ended(made[4])

        async def listed(**query: Any) -> list[str]:
            found: list[str] = []
            while True:
                page = JobList.model_validate_json((await service.client.get("/api/v1/jobs", params=query)).content)
                found += [job.id for job in page.data]
                if page.next_cursor is None:
                    return found
                query["cursor"] = page.next_cursor

        assert await listed() == made[::-1]
        assert await listed(limit=1) == made[::-1]
        assert await listed(limit=2, name="job-0") == [made[4], made[2], made[0]]
        assert await listed(state="cancelled") == [made[4]]
        assert await listed(state=["queued", "running"], limit=3) == made[3::-1]
        assert await listed(kind="batch") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("cursor=nonsense", "cursor"),
        ("state=asleep", "state.0"),
        ("kind=other", "kind"),
        ("name=a%20b", "name"),
    ],
)
async def test_a_wrong_filter_is_named(query: str, field: str, serving: Any) -> None:
    async with serving() as service:
        answer = await service.client.get(f"/api/v1/jobs?{query}")
        assert (answer.status_code, Problem.model_validate_json(answer.content).field) == (422, field)


WRONG: list[tuple[Any, str | None, int]] = [
    ({"endpoints": ["http://10.0.0.1:8000"]}, "endpoints", 422),
    ({"samples": 0}, "samples", 422),
    ({"samples": 1e400}, None, 400),
    ({"verification": {"kind": "os:system"}}, "verification.kind", 422),
    ({"prompts": {"path": "/etc/passwd"}}, "prompts.path", 422),
    ({"output": {"path": "/tmp/elsewhere"}}, "output.path", 422),
    ({"webhook": {"url": "http://a"}}, "webhook.url", 422),
    ({"model": "absent"}, "model", 422),
    ({"model": "a\0b"}, None, 400),
]


@pytest.mark.parametrize(("changes", "field", "status"), WRONG)
async def test_what_is_wrong_is_named(
    changes: dict[str, Any], field: str | None, status: int, serving: Any, sums_request: Any
) -> None:
    async with serving() as service:
        body = json.dumps(sums_request(1) | changes)
        answer = await service.client.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        problem = Problem.model_validate_json(answer.content)
        assert (answer.status_code, problem.field) == (status, field), problem
        assert (await service.client.get("/api/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"\xff", "application/json", 400),
        (b'{"prompts": {"rows": [{"prompt": "\\ud800"}]}}', "application/json", 400),
        (b"[" * 5000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"a=1", "application/x-www-form-urlencoded", 415),
    ],
)
async def test_a_body_that_is_no_request_is_refused(content: bytes, kind: str, status: int, serving: Any) -> None:
    async with serving() as service:
        answer = await service.client.post("/api/v1/jobs", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, answer.text
        assert Problem.model_validate_json(answer.content).status == status


async def test_probes_need_no_key_and_tell_when_no_job_is_taken(serving: Any, sums_request: Any) -> None:
    async with serving() as service:
        await service.key()
        assert (await service.client.get("/healthz")).json() == {"ready": True, "reasons": []}
        assert (await service.client.get("/readyz")).status_code == 200
        await service.controller.drain()
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "draining" in ready.json()["reasons"][0]
        headers = await service.key()
        refused = await service.client.post("/api/v1/jobs", json=sums_request(1), headers=headers)
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        assert (await service.client.get("/api/v1/jobs", headers=headers)).status_code == 200
