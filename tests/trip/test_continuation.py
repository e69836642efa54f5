"""kill -9 of real vLLM servers in the middle of answers: the same answers, and few tokens made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.continuation_campaign import greedy
from gen_service.endpoints.local_server import LocalServer

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.timeout(1200)
async def test_killed_servers_change_no_token_of_greedy_answers(
    vllm_servers: tuple[LocalServer, LocalServer], tmp_path: Path
) -> None:
    report = await greedy(vllm_servers, tmp_path, samples=120, kills=1, length=600)
    assert (report.kills.done, report.samples, report.errors) == (1, 120, 0), report
    assert report.continued >= 8, report
    assert report.different == 0, report
    assert report.made_twice < 0.02, report
    assert report.tokens == 120 * 600
    assert report.holds
