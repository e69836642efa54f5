"""Each fault of the simulated server, as a plain HTTP client sees it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.endpoints.simulated import Faults, Fixed, Script, SimulatedServer, SimulationSettings, TokenRate

BODY = {
    "messages": [{"role": "user", "content": "What is 12 + 30?"}],
    "max_tokens": 500,
    "return_token_ids": True,
    "stream_options": {"include_usage": True},
}
STREAM = BODY | {"stream": True}
bodies = pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def serving(**faults: float | str) -> SimulatedServer:
    return SimulatedServer(SimulationSettings(faults=Faults(**faults)))


def asking(client: aiohttp.ClientSession, server: SimulatedServer, body: dict, request_id: str = "r"):
    return client.post(f"{server.url}/v1/chat/completions", json=body, headers={"X-Request-Id": request_id})


@bodies
@pytest.mark.parametrize(("fault", "status"), [("http_500", 500), ("http_429", 429), ("http_503", 503)])
async def test_http_errors(client: aiohttp.ClientSession, fault: str, status: int, body: dict) -> None:
    async with serving(**{fault: 1.0}, retry_after_s=7) as server, asking(client, server, body) as response:
        assert response.status == status
        assert (await response.json())["error"]["code"] == status
        assert response.headers.get("Retry-After") == (None if status == 500 else "7")
    assert server.log[-1]["cause"] == fault


@bodies
async def test_a_reset_breaks_the_connection(client: aiohttp.ClientSession, body: dict) -> None:
    async with serving(reset=1.0) as server:
        with pytest.raises((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
            async with asking(client, server, body) as response:
                await response.read()
        assert server.log[-1]["cause"] == "reset"


async def test_a_reset_stream_has_begun(client: aiohttp.ClientSession) -> None:
    async with serving(reset=1.0) as server, asking(client, server, STREAM) as response:
        assert response.status == 200
        assert (await response.content.readline()).startswith(b"data: ")
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_cut_stream_ends_in_order_but_unfinished(client: aiohttp.ClientSession) -> None:
    async with serving(cut_body=1.0) as server, asking(client, server, STREAM) as response:
        received = await response.read()
    assert received.startswith(b"data: ")
    assert b'"finish_reason":"' not in received
    assert b"[DONE]" not in received
    assert server.log[-1]["cause"] == "cut_body"


@pytest.mark.parametrize("fault", ["cut_body", "malformed"])
async def test_a_spoilt_whole_body_is_not_json(client: aiohttp.ClientSession, fault: str) -> None:
    async with serving(**{fault: 1.0}) as server, asking(client, server, BODY) as response:
        received = await response.read()
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(received)


async def test_a_malformed_chunk_stands_between_good_ones(client: aiohttp.ClientSession) -> None:
    async with serving(malformed=1.0) as server, asking(client, server, STREAM) as response:
        received = await response.read()
    broken = 0
    for block in received.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[:-1]:
        try:
            orjson.loads(block.removeprefix(b"data: "))
        except orjson.JSONDecodeError:
            broken += 1
    assert broken == 1
    assert b'"finish_reason":"stop"' in received


@bodies
async def test_a_stall_lasts_until_the_client_leaves(client: aiohttp.ClientSession, body: dict) -> None:
    async with serving(stall=1.0) as server:
        patience = aiohttp.ClientTimeout(total=0.3)
        with pytest.raises(TimeoutError):
            async with client.post(f"{server.url}/v1/chat/completions", json=body, timeout=patience) as response:
                await response.read()
        while server.numbers.running:  # noqa: ASYNC110  # the closing is on its way through the kernel
            await asyncio.sleep(0)
    assert server.log[-1]["cause"] == "stall"


async def test_a_short_stall_ends_in_a_good_answer(client: aiohttp.ClientSession) -> None:
    async with serving(stall=1.0, stall_s=0.01) as server, asking(client, server, STREAM) as response:
        received = await response.read()
    assert received.endswith(b"data: [DONE]\n\n")
    assert server.log[-1]["event"] == "sent"
    assert server.log[-1]["fault"] == "stall"


async def test_empty_choices(client: aiohttp.ClientSession) -> None:
    async with serving(empty_choices=1.0) as server:
        async with asking(client, server, BODY) as response:
            assert (await response.json())["choices"] == []
        async with asking(client, server, STREAM) as response:
            received = await response.read()
    assert received.count(b"data: ") == 2
    assert b'"choices":[]' in received


async def test_missing_usage_is_otherwise_a_good_answer(client: aiohttp.ClientSession) -> None:
    async with serving(missing_usage=1.0) as server:
        async with asking(client, server, BODY) as response:
            body = await response.json()
        async with asking(client, server, STREAM) as response:
            received = await response.read()
    assert body["usage"] is None
    assert body["choices"][0]["finish_reason"] == "stop"
    assert b'"usage"' not in received
    assert received.endswith(b"data: [DONE]\n\n")
    assert [line["fault"] for line in server.log if line["event"] == "sent"] == ["missing_usage"] * 2


async def test_a_marked_prompt_is_refused_every_time(client: aiohttp.ClientSession) -> None:
    async with serving(refused_marker="12 + 30") as server:
        for _ in range(3):
            async with asking(client, server, STREAM) as response:
                assert response.status == 400
        other = STREAM | {"messages": [{"role": "user", "content": "What is 1 + 30?"}]}
        async with asking(client, server, other) as response:
            assert response.status == 200


async def test_draining_refuses_new_requests_and_finishes_running_ones(client: aiohttp.ClientSession) -> None:
    script = Script(length=Fixed(20), timing=TokenRate(Fixed(0.0), tokens_per_s=100))
    async with SimulatedServer(SimulationSettings(script=script)) as server:
        running = await asking(client, server, STREAM)
        await running.content.readuntil(b"token_ids")
        async with client.post(f"{server.url}/simulation/draining", json={"draining": True}) as response:
            assert await response.json() == {"draining": True}
        async with asking(client, server, STREAM, "new") as response:
            assert response.status == 500
            assert (await response.json())["error"]["message"] == "cannot schedule new futures after shutdown"
        async with client.get(f"{server.url}/health") as response:
            assert response.status == 200
        assert (await running.read()).endswith(b"data: [DONE]\n\n")
        await client.post(f"{server.url}/simulation/draining", json={"draining": False})
        async with asking(client, server, STREAM, "new") as response:
            assert response.status == 200


async def test_a_run_repeats_and_a_retry_may_succeed(client: aiohttp.ClientSession) -> None:
    async def statuses() -> list[list[int]]:
        async with serving(http_500=0.5) as server:
            return [[(await asking(client, server, BODY, str(index))).status for _ in range(4)] for index in range(20)]

    first = await statuses()
    assert await statuses() == first
    assert any(tries[0] == 500 and 200 in tries for tries in first)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(), index=st.integers(0, 9))
def test_rates_are_kept(seed: int, index: int) -> None:
    faults = Faults(http_500=0.2, stall=0.1, reset=0.3)
    drawn = [faults.draw(seed, index, str(request), 1) for request in range(2000)]
    counts = Counter(fault.kind if fault else None for fault in drawn)
    assert set(counts) == {"http_500", "stall", "reset", None}
    assert abs(counts["http_500"] / 2000 - 0.2) < 0.06
    assert abs(counts["reset"] / 2000 - 0.3) < 0.06
    assert all(0 < fault.where < 1 for fault in drawn if fault)


@pytest.mark.parametrize("rates", [{"reset": 0.7, "stall": 0.4}, {"reset": -0.1}])
def test_impossible_rates_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fault rates"):
        Faults(**rates)
