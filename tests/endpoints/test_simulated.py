"""The simulated server over real HTTP: shapes, continuation, determinism, metrics, log."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_service.endpoints.simulated import (
    Fixed,
    LogNormal,
    Script,
    SimulatedServer,
    SimulationSettings,
    TokenRate,
    TotalLatency,
    render_chat,
    tokenizer,
)

Json = dict
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SUM = [{"role": "user", "content": "What is 12 + 30?"}]


def chat(**more: object) -> Json:
    return {"model": "simulated", "messages": SUM, "max_tokens": 500, **more}


def streamed(**more: object) -> Json:
    return chat(stream=True, return_token_ids=True, stream_options={"include_usage": True}, **more)


def events(body: bytes) -> list[Json]:
    """The chunks of an SSE body, which must end with [DONE]."""
    blocks = body.split(b"\n\n")
    assert blocks[-1] == b""
    assert blocks[-2] == b"data: [DONE]"
    return [orjson.loads(block.removeprefix(b"data: ")) for block in blocks[:-2]]


def ids_of(chunks: list[Json]) -> list[int]:
    return [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or []]


def text_of(chunks: list[Json], field: str) -> str:
    return "".join(choice["delta"].get(field) or "" for chunk in chunks for choice in chunk["choices"])


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(
    client: aiohttp.ClientSession, server: SimulatedServer, path: str, body: Json, request_id: str = "r"
) -> tuple[int, bytes]:
    async with client.post(server.url + path, json=body, headers={"X-Request-Id": request_id}) as response:
        return response.status, await response.read()


async def test_a_streamed_chat_has_the_shape_of_vllm(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer() as server:
        _, body = await post(client, server, CHAT, streamed())
    first, *middle, last, usage = events(body)
    assert {chunk["object"] for chunk in (first, *middle, last)} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in (first, *middle, last, usage)} == {"chatcmpl-r"}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert tokenizer.decode_prompt(first["prompt_token_ids"]) == render_chat(SUM)
    assert all(len(chunk["choices"][0]["token_ids"]) == 1 for chunk in (*middle, last))
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in (first, *middle))
    assert last["choices"][0]["finish_reason"] == "stop"
    ids = ids_of([*middle, last])
    assert len(ids) == 60
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": len(first["prompt_token_ids"]),
        "completion_tokens": 60,
        "total_tokens": len(first["prompt_token_ids"]) + 60,
    }
    reasoning, content = text_of(middle, "reasoning"), text_of(middle, "content")
    assert tokenizer.decode_answer(ids) == f"<think>{reasoning}</think>{content}"
    assert content == "The answer is \\boxed{42}."


async def test_without_the_options_there_are_no_ids_and_no_usage(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer() as server:
        _, body = await post(client, server, CHAT, chat(stream=True))
    chunks = events(body)
    assert chunks[0]["prompt_token_ids"] is None
    assert ids_of(chunks) == []
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


async def test_a_whole_chat_equals_the_streamed_one(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer() as server:
        _, body = await post(client, server, CHAT, streamed())
        status, whole_body = await post(client, server, CHAT, chat(return_token_ids=True))
    chunks, whole = events(body), orjson.loads(whole_body)
    choice = whole["choices"][0]
    assert status == 200
    assert whole["object"] == "chat.completion"
    assert choice["message"]["reasoning"] == text_of(chunks, "reasoning")
    assert choice["message"]["content"] == text_of(chunks, "content")
    assert choice["token_ids"] == ids_of(chunks)
    assert whole["prompt_token_ids"] == chunks[0]["prompt_token_ids"]
    assert whole["usage"] == chunks[-1]["usage"]


@pytest.mark.parametrize("interval", [1, 7, 64])
async def test_stream_interval_groups_tokens(client: aiohttp.ClientSession, interval: int) -> None:
    async with SimulatedServer(SimulationSettings(stream_interval=interval)) as server:
        _, body = await post(client, server, CHAT, streamed())
    sizes = [len(ids_of([chunk])) for chunk in events(body)[1:-1]]
    assert sum(sizes) == 60
    assert all(size == interval for size in sizes[:-1])
    assert text_of(events(body), "content") == "The answer is \\boxed{42}."


async def test_reasoning_styles_hold_the_same_text(client: aiohttp.ClientSession) -> None:
    found = {}
    for style in ("reasoning", "reasoning_content", "think"):
        async with SimulatedServer(SimulationSettings(reasoning_style=style)) as server:
            chunks = events((await post(client, server, CHAT, streamed()))[1])
            message = orjson.loads((await post(client, server, CHAT, chat()))[1])["choices"][0]["message"]
        if style == "think":
            assert text_of(chunks, "content") == message["content"]
            head, content = message["content"].split("</think>")
            found[style] = head.removeprefix("<think>"), content
        else:
            assert text_of(chunks, style) == message[style]
            found[style] = message[style], message["content"]
    assert len(set(found.values())) == 1


async def test_max_tokens_cuts_in_the_middle_of_a_thought(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer() as server:
        _, body = await post(client, server, CHAT, streamed() | {"max_tokens": 10})
        _, whole = await post(client, server, CHAT, chat() | {"max_tokens": 10})
    chunks = events(body)
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert len(ids_of(chunks)) == 10
    assert text_of(chunks, "content") == ""
    assert orjson.loads(whole)["choices"][0]["message"]["content"] is None


async def test_a_completion_takes_text_or_ids(client: aiohttp.ClientSession) -> None:
    text = render_chat(SUM)
    async with SimulatedServer() as server:
        _, plain = await post(client, server, COMPLETIONS, {"prompt": text, "max_tokens": 500})
        ids = tokenizer.encode_prompt(text)
        _, body = await post(
            client,
            server,
            COMPLETIONS,
            {"prompt": ids, "max_tokens": 500, "stream": True, "return_token_ids": True},
        )
    chunks = events(body)
    choice = orjson.loads(plain)["choices"][0]
    assert choice["text"] == "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert choice["text"].startswith("<think>")
    assert chunks[0]["choices"][0]["prompt_token_ids"] == ids
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(0, 79),
    seed=st.integers(0, 5),
    limit=st.integers(80, 90),
    question=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
async def test_another_server_goes_on_with_exactly_the_tokens_left(
    k: int, seed: int, limit: int, question: str
) -> None:
    given_settings = SimulationSettings(script=Script(seed=seed, length=Fixed(80)))
    messages = [{"role": "user", "content": question}]
    async with (
        SimulatedServer(given_settings) as first,
        SimulatedServer(given_settings) as second,
        aiohttp.ClientSession() as client,
    ):
        chunks = events((await post(client, first, CHAT, streamed(messages=messages) | {"max_tokens": limit}))[1])
        whole = ids_of(chunks)
        body = {"prompt": chunks[0]["prompt_token_ids"] + whole[:k], "max_tokens": limit - k, "return_token_ids": True}
        rest = orjson.loads((await post(client, second, COMPLETIONS, body))[1])["choices"][0]
        assert second.log[-1]["given_as_answered"] is True
    assert whole[:k] + rest["token_ids"] == whole
    assert rest["text"] == tokenizer.decode_answer(whole[k:])
    assert rest["finish_reason"] == "stop"


async def test_the_answer_depends_on_seed_prompt_and_identity_only(client: aiohttp.ClientSession) -> None:
    async def answer(seed: int, request_id: str, **more: object) -> bytes:
        async with SimulatedServer(SimulationSettings(script=Script(seed=seed), server_index=seed % 2)) as server:
            _, body = await post(client, server, CHAT, chat(return_token_ids=True, **more), request_id)
        return orjson.dumps(orjson.loads(body)["choices"])

    other = [{"role": "user", "content": "What is 12 + 31?"}]
    answers = [await answer(1, "a"), await answer(2, "a"), await answer(1, "b"), await answer(1, "a", messages=other)]
    assert await answer(1, "a") == answers[0]
    assert len(set(answers)) == 4


async def test_a_body_seed_stands_in_for_the_request_id(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer() as server:
        texts = []
        for seed in (1, 2, 1):
            async with client.post(server.url + CHAT, json=chat(seed=seed)) as response:
                texts.append((await response.json())["choices"][0]["message"]["reasoning"])
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (CHAT, chat(model="gpt"), 404, "The model `gpt` does not exist"),
        (CHAT, {"messages": []}, 400, "messages"),
        (CHAT, chat(n=2), 400, "n=1"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 300}]}, 400, "maximum context length is 128 tokens"),
        (CHAT, chat(max_tokens=129), 400, "max_tokens=129 cannot be greater than max_model_len=128"),
        (CHAT, chat(max_tokens=0), 400, "max_tokens"),
        (COMPLETIONS, {"prompt": [1, "x"]}, 400, "prompt"),
        (COMPLETIONS, {"prompt": [10**9]}, 400, "out of vocabulary"),
    ],
)
async def test_refusals_have_the_shape_of_vllm(
    client: aiohttp.ClientSession, path: str, body: Json, status: int, words: str
) -> None:
    async with SimulatedServer(SimulationSettings(max_model_len=128)) as server:
        got, raw = await post(client, server, path, {"max_tokens": 100} | body if path == COMPLETIONS else body)
    error = orjson.loads(raw)["error"]
    assert got == status == error["code"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]


async def test_an_answer_stops_at_the_end_of_the_context(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer(SimulationSettings(max_model_len=40)) as server:
        _, raw = await post(client, server, CHAT, chat() | {"max_tokens": 40})
    body = orjson.loads(raw)
    assert body["usage"]["total_tokens"] == 40
    assert body["choices"][0]["finish_reason"] == "length"


async def test_models_and_health_and_an_unknown_path(client: aiohttp.ClientSession) -> None:
    async with SimulatedServer(SimulationSettings(model="m", max_model_len=99)) as server:
        async with client.get(server.url + "/health") as response:
            assert response.status == 200
        async with client.get(server.url + "/v1/models") as response:
            card = (await response.json())["data"][0]
        async with client.get(server.url + "/nowhere") as response:
            assert response.status == 404
    assert (card["id"], card["max_model_len"]) == ("m", 99)


async def metrics(client: aiohttp.ClientSession, server: SimulatedServer) -> dict[str, float]:
    async with client.get(server.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def test_metrics_tell_running_waiting_and_what_was_made(client: aiohttp.ClientSession) -> None:
    labels = '{engine="0",model_name="simulated"}'
    slow = SimulationSettings(
        script=Script(timing=TokenRate(Fixed(0.0), tokens_per_s=1.0)), max_num_seqs=2, block_size=4, num_gpu_blocks=100
    )
    async with SimulatedServer(slow) as server:
        streams = [
            await client.post(server.url + CHAT, json=streamed(), headers={"X-Request-Id": str(index)})
            for index in range(2)
        ]
        waiting = asyncio.create_task(client.post(server.url + CHAT, json=streamed()))
        for stream in streams:
            await stream.content.readuntil(b"token_ids")
        while not server.numbers.waiting:  # noqa: ASYNC110  # the third request is on its way through the kernel
            await asyncio.sleep(0)
        seen = await metrics(client, server)
        prompt_tokens = len(tokenizer.encode_prompt(render_chat(SUM)))
        assert seen[f"vllm:num_requests_running{labels}"] == 2
        assert seen[f"vllm:num_requests_waiting{labels}"] == 1
        assert seen[f"vllm:kv_cache_usage_perc{labels}"] == pytest.approx(2 * (prompt_tokens + 1) / 400)
        for stream in streams:
            stream.close()
        stream = await waiting
        stream.close()
        while server.numbers.running:  # noqa: ASYNC110  # the closing is on its way through the kernel
            await asyncio.sleep(0)
        seen = await metrics(client, server)
    assert seen[f"vllm:num_requests_running{labels}"] == seen[f"vllm:kv_cache_usage_perc{labels}"] == 0
    assert seen['vllm:request_success_total{engine="0",model_name="simulated",finished_reason="abort"}'] == 3
    assert {line["cause"] for line in server.log if line["event"] == "failed"} == {"client_left"}


async def test_metrics_have_the_names_of_vllm(client: aiohttp.ClientSession) -> None:
    labels = '{engine="0",model_name="simulated"}'
    async with SimulatedServer() as server:
        await post(client, server, CHAT, streamed())
        seen = await metrics(client, server)
    assert {name.partition("{")[0] for name in seen} >= {
        "vllm:num_requests_waiting_by_reason",
        "vllm:cache_config_info",
        "vllm:num_preemptions_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:request_prompt_tokens_bucket",
        "vllm:request_queue_time_seconds_sum",
        "vllm:request_num_preemptions_count",
    }
    assert seen['vllm:cache_config_info{block_size="16",num_gpu_blocks="1000000",engine="0"}'] == 1
    assert seen[f"vllm:generation_tokens_total{labels}"] == 60
    assert seen['vllm:request_success_total{engine="0",model_name="simulated",finished_reason="stop"}'] == 1
    for name, count in (("time_to_first_token", 1), ("inter_token_latency", 59), ("e2e_request_latency", 1)):
        assert seen[f"vllm:{name}_seconds_count{labels}"] == count
        assert seen[f'vllm:{name}_seconds_bucket{{engine="0",model_name="simulated",le="+Inf"}}'] == count


async def test_the_log_agrees_with_what_was_received(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    received = {}
    async with SimulatedServer(SimulationSettings(log_path=path, log_texts=True)) as server:
        for index in range(5):
            _, body = await post(client, server, CHAT, streamed(), f"request-{index}")
            chunks = events(body)
            received[f"request-{index}"] = text_of(chunks, "reasoning") + text_of(chunks, "content")
        async with client.get(server.url + "/simulation/log") as response:
            in_memory = await response.json()
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert lines == in_memory == server.log
    sent = {line["request_id"]: line for line in lines if line["event"] == "sent"}
    assert {name: line["text"] for name, line in sent.items()} == received
    assert all(line["sha256"] == hashlib.sha256(received[name].encode()).hexdigest() for name, line in sent.items())
    assert [line["attempt"] for line in lines if line["event"] == "received"] == [1] * 5


async def test_a_stopped_server_resets_its_connections_and_comes_back(client: aiohttp.ClientSession) -> None:
    server = SimulatedServer(SimulationSettings(script=Script(timing=TokenRate(Fixed(0.0), tokens_per_s=1.0))))
    await server.start()
    url = server.url
    response = await client.post(url + CHAT, json=streamed())
    await response.content.readuntil(b"token_ids")
    await server.stop()
    with pytest.raises(aiohttp.ClientError):
        await response.read()
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get(url + "/health")
    async with server, client.get(url + "/health") as again:
        assert again.status == 200


async def test_a_slow_server_takes_its_factor_longer(client: aiohttp.ClientSession) -> None:
    took = {}
    for slow in (1.0, 8.0):
        script = Script(timing=TotalLatency(Fixed(0.02)))
        async with SimulatedServer(SimulationSettings(script=script, slow=slow)) as server:
            await post(client, server, CHAT, streamed())
            took[slow] = server.numbers.latency.total
    assert took[1.0] >= 0.019
    assert took[8.0] >= 0.159


@pytest.mark.parametrize("length", [0, 200, 203, 20_000])
async def test_a_length_in_bytes_is_the_length_of_the_text(length: int) -> None:
    script = Script(length=Fixed(length), unit="bytes")
    text = tokenizer.decode_answer(script.answer("What is 1 + 2?", "x").token_ids)
    bare = text.replace("<think>", "").replace("</think>", "")
    assert len(bare) == max(length, len("The answer is \\boxed{3}."))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_prompt_is_recovered_from_its_ids(text: str) -> None:
    ids = tokenizer.encode_prompt(text)
    assert ids.index(tokenizer.END_OF_PROMPT) == len(ids) - 1
    assert tokenizer.decode_prompt(ids) == text
    assert tokenizer.split([*ids, 5, 6]) == (ids, [5, 6])


@given(seed=st.integers(), identity=st.text(max_size=5), length=st.integers(0, 300), reasoning=st.booleans())
def test_an_answer_is_recovered_from_its_text(seed: int, identity: str, length: int, reasoning: bool) -> None:
    script = Script(seed=seed, length=Fixed(length), reasoning=reasoning)
    ids = script.answer("17 + 4", identity).token_ids
    assert ids[-1] == tokenizer.END_OF_ANSWER
    assert tokenizer.encode_answer(tokenizer.decode_answer(ids)) == ids[:-1]
    assert len(ids) == max(length, 9 if reasoning else 7)


def test_text_that_nobody_generated_has_no_ids() -> None:
    with pytest.raises(ValueError, match="at character 4"):
        tokenizer.encode_answer("bab hello")


def test_the_share_of_right_answers_is_p_right() -> None:
    script = Script(p_right=0.7)
    right = sum(
        "\\boxed{42}" in tokenizer.decode_answer(script.answer("12 + 30", str(index)).token_ids)
        for index in range(4000)
    )
    assert 0.67 < right / 4000 < 0.73


def test_latencies_follow_their_distribution() -> None:
    script = Script(timing=TotalLatency(LogNormal(0.5, 3.4, cap=4.1)))
    latencies = sorted(script.latency_s("p", str(index)) for index in range(4000))
    assert latencies[2000] == pytest.approx(0.5, rel=0.1)
    assert latencies[3960] == pytest.approx(3.4, rel=0.25)
    assert latencies[-1] == pytest.approx(4.1)
    assert script.latency_s("p", "1", max_tokens=30) == pytest.approx(script.latency_s("p", "1") / 2)


def test_lognormal_from_its_mean() -> None:
    distribution = LogNormal.with_mean(6000, sigma=0.8)
    mean = sum(distribution.at((index + 0.5) / 20000) for index in range(20000)) / 20000
    assert mean == pytest.approx(6000, rel=0.01)


@given(
    tokens=st.integers(1, 500),
    interval=st.integers(1, 40),
    tick=st.sampled_from([0.0, 0.05, 1e9]),
    rate=st.floats(1, 1e4),
)
def test_every_write_is_due_when_its_last_token_is(tokens: int, interval: int, tick: float, rate: float) -> None:
    pace = TokenRate(Fixed(0.5), rate).pace(0.5, tokens)
    writes = list(pace.writes(tokens, interval, tick))
    ends = [end for end, _ in writes]
    assert ends == sorted(set(ends))
    assert ends[-1] == tokens
    assert all(end % interval == 0 for end in ends[:-1])
    assert all(due == pytest.approx(0.5 + (end - 1) / rate) for end, due in writes)
