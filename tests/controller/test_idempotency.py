"""The same request, asked again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from gen_service.controller.specs import inline_path
from gen_service.errors import Conflict, TooManyRequests
from gen_service.wire.openai import BatchRequest

OpenService = Callable[..., Any]


async def test_the_same_key_and_request_is_the_same_job(open_service: OpenService) -> None:
    async with open_service("silent") as service:
        first = await service.submit(3, key="k1")
        again = await service.submit(3, key="k1")
        assert again.id == first.id
        assert (await service.submit(3, key="k2")).id != first.id
        assert (await service.submit(3, key="k1", tenant="another")).id != first.id
        assert (await service.submit(3)).id != (await service.submit(3)).id
        assert len(await service.controller.store.jobs.page(None, limit=100)) == 5


async def test_the_same_key_with_another_request_is_a_conflict_and_leaves_nothing(open_service: OpenService) -> None:
    async with open_service("silent") as service:
        first = await service.submit(3, key="k1")
        with pytest.raises(Conflict, match="came with another request before"):
            await service.submit(4, key="k1")
        assert os.listdir(inline_path(first.id, service.settings).parent) == [f"{first.id}.jsonl"]


async def test_a_replay_is_answered_also_while_no_new_job_could_be_taken(open_service: OpenService) -> None:
    async with open_service("quick") as service:
        first = await service.submit(3, key="k1")
    async with open_service(data={"min_free_bytes": 2**62}) as service:
        assert (await service.submit(3, key="k1")).id == first.id


async def test_a_refused_quota_leaves_nothing(open_service: OpenService) -> None:
    async with open_service("silent", quotas={"active_jobs": 1}) as service:
        first = await service.submit(3)
        with pytest.raises(TooManyRequests, match="active_jobs") as refused:
            await service.submit(3)
        assert refused.value.retry_after_s
        assert os.listdir(inline_path(first.id, service.settings).parent) == [f"{first.id}.jsonl"]


async def test_a_retried_batch_without_a_key_is_the_batch_of_the_last_hour(open_service: OpenService) -> None:
    clock = [1e9]
    async with open_service("silent", now=lambda: clock[0]) as service:
        file_id = (await service.batch(2)).request["input_file_id"]
        request = BatchRequest(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
        create = service.controller.create_batch
        first, is_new = await create("tenant", request, None, False)
        assert is_new
        replay, is_new = await create("tenant", request, None, True)
        assert (replay.id, is_new) == (first.id, False)
        # The same request without a sign of a retry is another batch; so is one of other metadata, or an hour later.
        second, is_new = await create("tenant", request, None, False)
        assert is_new
        assert (await create("tenant", request.model_copy(update={"metadata": {"a": "b"}}), None, True))[1]
        assert (await create("tenant", request, None, True))[0].id == second.id
        clock[0] += 3601
        assert (await create("tenant", request, None, True))[1]
        keyed, is_new = await create("tenant", request, "k", False)
        assert is_new
        assert (await create("tenant", request, "k", False))[0].id == keyed.id
