"""The client against real HTTP: the simulated server's faults, and raw bytes in any pieces."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.endpoints.client import EVENT_BYTES, PAGE_BYTES, Client, ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import Questions, sampling_parameters
from gen_service.endpoints.replies import error_words, retry_after
from gen_service.endpoints.simulated import Faults, Fixed, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.errors import (
    EndpointError,
    MalformedAnswer,
    Overloaded,
    RequestRefused,
    ServerFailed,
    Stalled,
    StreamBroken,
    Unreachable,
)
from gen_service.records import Message, Prompt, Sample
from gen_service.settings import EndpointSettings, SamplingSettings

SAMPLING = SamplingSettings(max_tokens=200)


def sample(text: str = "What is 1 + 2?", number: int = 0) -> Sample:
    return Sample(f"s{number}", "job", Prompt(f"p{number}", (Message(role="user", content=text),), "3", "sums", 1), 0)


@contextlib.asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    async with Client(EndpointSettings(urls=("http://unused",), **options)) as opened:
        yield opened


async def ask(
    url: str, budget: int = 200, draft: Draft | None = None, sampling: SamplingSettings = SAMPLING, **options: Any
) -> Draft:
    draft = draft or Draft()
    question = Questions(sampling.model_copy(update={"max_tokens": budget})).of(sample())
    async with client(**options) as opened:
        await opened.stream(url, "simulated", question, draft, budget)
    return draft


# Metrics


async def test_readings_of_a_server() -> None:
    settings = SimulationSettings(block_size=16, num_gpu_blocks=100)
    async with SimulatedServer(settings) as server, client() as opened:
        question = Questions(SAMPLING).of(sample())
        await opened.stream(server.url, "simulated", question, Draft(), 200)
        read = await opened.readings(server.url)
    assert (read.kv_tokens, read.running, read.waiting, read.kv_usage) == (1600, 0, 0, 0.0)
    assert (read.preemptions, read.completed, read.generated_tokens) == (0.0, 1.0, 60.0)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (404, b"not here", RequestRefused, "not here"),
        (500, b'{"error": {"message": "broken"}}', ServerFailed, "broken"),
        (503, b"busy", Overloaded, "busy"),
        (200, b"vllm:num_requests_running many\n", MalformedAnswer, "/metrics: "),
        (200, b"#" * (PAGE_BYTES + 1), MalformedAnswer, f"more than {PAGE_BYTES} bytes"),
    ],
)
async def test_metrics_that_cannot_be_read_are_our_errors(
    status: int, body: bytes, kind: type[EndpointError], words: str
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, client() as opened:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(EndpointError, match=words) as caught:
            await opened.readings(f"http://127.0.0.1:{port}")
    assert type(caught.value) is kind


async def test_metrics_of_nobody() -> None:
    async with client() as opened:
        with pytest.raises(Unreachable):
            await opened.readings("http://127.0.0.1:9")
        with pytest.raises(Unreachable, match="not a URL"):
            await opened.readings("http://[")


# What the simulated server does on purpose


async def test_a_good_answer_has_text_ids_usage_and_times() -> None:
    async with SimulatedServer(SimulationSettings(log_texts=True)) as server:
        draft = await ask(server.url)
        reasoning, content = draft.text()
        assert content == "The answer is \\boxed{3}."
        assert reasoning is not None
        assert reasoning + content == server.log[-1]["text"]
        assert (draft.finish_reason, draft.model) == ("stop", "simulated")
        assert len(draft.token_ids) == draft.tokens == 60
        assert draft.prompt_tokens == len(draft.prompt_ids) > 0
        assert draft.first_token_at is not None


@pytest.mark.parametrize(
    ("fault", "kind", "status", "words"),
    [
        ("http_500", ServerFailed, 500, "simulated failure of the engine"),
        ("http_429", Overloaded, 429, "simulated rate limit"),
        ("http_503", Overloaded, 503, "simulated overload"),
        ("reset", StreamBroken, None, ""),
        ("cut_body", StreamBroken, None, "finish_reason None"),
        ("malformed", MalformedAnswer, None, "cont"),
        ("empty_choices", MalformedAnswer, None, "without choices"),
    ],
)
async def test_faults_become_our_errors(fault: str, kind: type[EndpointError], status: int | None, words: str) -> None:
    async with SimulatedServer(SimulationSettings(faults=Faults(**{fault: 1.0}, retry_after_s=7))) as server:
        with pytest.raises(EndpointError) as caught:
            await ask(server.url)
        error = caught.value
        assert type(error) is kind
        assert (error.endpoint, error.status) == (server.url, status)
        assert words in error.words
        if isinstance(error, Overloaded):
            assert error.retry_after_s == 7


async def test_missing_usage_is_no_fault_where_ids_are_sent() -> None:
    async with SimulatedServer(SimulationSettings(faults=Faults(missing_usage=1.0))) as server:
        draft = await ask(server.url)
        assert draft.tokens == 60
        assert draft.prompt_tokens == len(draft.prompt_ids)


async def test_silence_in_the_middle_is_a_stall_and_what_came_stays() -> None:
    async with SimulatedServer(SimulationSettings(faults=Faults(stall=1.0))) as server:
        draft = Draft()
        with pytest.raises(Stalled, match=r"stall_s=0\.05"):
            await ask(server.url, draft=draft, stall_s=0.05)
        assert 0 < len(draft.token_ids) < 60
        assert draft.can_continue


async def test_no_first_token_is_a_stall() -> None:
    slow = Script(timing=TokenRate(first_token_s=Fixed(60.0)))
    async with SimulatedServer(SimulationSettings(script=slow)) as server:
        with pytest.raises(Stalled, match=r"first_token_s=0\.05"):
            await ask(server.url, first_token_s=0.05)


async def test_the_wall_limit_is_not_a_stall() -> None:
    slow = Script(timing=TokenRate(tokens_per_s=100.0), length=Fixed(100_000))
    async with SimulatedServer(SimulationSettings(script=slow, tick_s=0.01, max_model_len=200_000)) as server:
        with pytest.raises(StreamBroken, match=r"wall_s=0\.2"):
            await ask(server.url, budget=100_000, wall_s=0.2)


async def test_a_refused_prompt_has_the_servers_words() -> None:
    async with SimulatedServer(SimulationSettings(faults=Faults(refused_marker="1 + 2"))) as server:
        with pytest.raises(RequestRefused, match="the prompt holds '1 \\+ 2'") as caught:
            await ask(server.url)
        assert caught.value.status == 400


async def test_an_unknown_model_is_refused() -> None:
    async with SimulatedServer(SimulationSettings(model="other")) as server:
        with pytest.raises(RequestRefused, match="does not exist") as caught:
            await ask(server.url)
        assert caught.value.status == 404


async def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(Unreachable):
            await ask(url)
        async with client() as opened:
            with pytest.raises(Unreachable):
                await opened.models(url)


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await ask("http://no-such-host.invalid:1")


async def test_a_whole_body_when_streaming_is_ignored() -> None:
    async with SimulatedServer() as server:
        draft = await ask(server.url, sampling=SamplingSettings(max_tokens=200, extra={"logprobs": False}))
        whole = Draft()
        async with client() as opened:
            question = Questions(SAMPLING).of(sample())
            question = replace(question, parameters={**question.parameters, "stream": False})
            await opened.stream(server.url, "simulated", question, whole, 200)
        assert whole.text() == draft.text()
        assert whole.token_ids == draft.token_ids
        assert whole.prompt_ids == draft.prompt_ids


async def test_an_answer_is_taken_up_from_its_tokens() -> None:
    """The budget is for all tokens, and the usage of the second request does not count the prompt twice."""
    async with SimulatedServer() as server:
        undisturbed = await ask(server.url)
        draft = await ask(server.url, budget=20)
        assert draft.finish_reason == "length"
        prompt_tokens = draft.prompt_tokens
        draft = draft.reopened()
        draft = await ask(server.url, draft=draft)
        assert draft.text() == undisturbed.text()
        assert draft.token_ids == undisturbed.token_ids
        assert (draft.continued, draft.prompt_tokens) == (1, prompt_tokens)
        assert server.log[-2]["given"] == 20


async def test_models_are_listed_when_health_is_good() -> None:
    async with SimulatedServer(SimulationSettings(model="tiny")) as server, client() as opened:
        assert await opened.models(server.url) == [ServedModel("tiny", 32768)]


async def test_connections_are_kept() -> None:
    async with SimulatedServer() as server, client() as opened:
        ports = set()
        for number in range(5):
            await opened.stream(server.url, "simulated", Questions(SAMPLING).of(sample(number=number)), Draft(), 200)
            pool = opened._opened.connector._conns  # type: ignore[union-attr]
            ports |= {conn[0].transport.get_extra_info("sockname")[1] for conns in pool.values() for conn in conns}
        assert len(ports) == 1


# Raw bytes

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def raw_server(pieces: Sequence[bytes], then_wait: bool = False) -> AsyncIterator[str]:
    """Answers any request with these bytes, one write a turn of the loop; then closes, or stays silent."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            await reader.readexactly(length)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then_wait:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await server.wait_closed()


def events(*documents: object, line_end: bytes = b"\n", space: bytes = b" ") -> bytes:
    parts = [document if isinstance(document, bytes) else orjson.dumps(document) for document in documents]
    return b"".join(b"data:" + space + part + line_end * 2 for part in parts)


def chunk(text: str, first_id: int, finish_reason: str | None = None) -> dict[str, Any]:
    ids = list(range(first_id, first_id + len(text)))
    return {"model": "m", "choices": [{"delta": {"content": text}, "token_ids": ids, "finish_reason": finish_reason}]}


STORY = [
    {"model": "m", "choices": [{"delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": [1, 2, 3]},
    chunk("<think>Gödel, ", 0),
    chunk("数学</think>", 14),
    chunk(" 答え😀", 24, "stop"),
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 27}},
]


@settings(max_examples=40, deadline=None)
@given(
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    space=st.sampled_from([b"", b" "]),
    keep_alive=st.booleans(),
    cuts=st.sets(st.integers(1, 900), max_size=25),
)
def test_events_may_be_cut_at_any_byte(line_end: bytes, space: bytes, keep_alive: bool, cuts: set[int]) -> None:
    stream = events(*STORY, b"[DONE]", line_end=line_end, space=space)
    if keep_alive:
        stream = (
            b": ping"
            + line_end * 2
            + stream.replace(b"data:", b": ping" + line_end * 2 + b"event: x" + line_end + b"data:")
        )
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [HEAD, *(stream[start:stop] for start, stop in itertools.pairwise(bounds))]

    async def one() -> Draft:
        async with raw_server(pieces) as url:
            return await ask(url)

    with asyncio.Runner() as runner:
        draft = runner.run(one())
    assert draft.text() == ("Gödel, 数学", " 答え😀")
    assert list(draft.token_ids) == list(range(28))
    assert list(draft.prompt_ids) == [1, 2, 3]
    assert (draft.finish_reason, draft.model, draft.prompt_tokens) == ("stop", "m", 3)


async def test_comments_are_no_tokens() -> None:
    """Keep-alive comments go on for ever: only tokens put off the limit on the first one."""
    async with raw_server([HEAD, *([b": keep-alive\n\n"] * 50)], then_wait=True) as url:
        draft = Draft()
        with pytest.raises(Stalled, match="first_token_s"):
            await ask(url, draft=draft, first_token_s=0.05, stall_s=60.0)
        assert draft.first_token_at is None


@pytest.mark.parametrize(
    ("documents", "kind", "words"),
    [
        ([*STORY[:2], chunk("x", 14, "abort")], StreamBroken, "'abort'"),
        ([*STORY[:2], chunk("x", 14, "error")], StreamBroken, "'error'"),
        ([*STORY[:2]], StreamBroken, "finish_reason None"),
        ([*STORY[:2], {"error": {"message": "engine died", "code": 500}}], ServerFailed, "engine died"),
        ([*STORY[:2], {"error": "plain words"}], ServerFailed, "plain words"),
        ([*STORY[:2], {"error": {"message": "too long", "code": 400}}], RequestRefused, "too long"),
        ([*STORY[:2], {"choices": 5}], MalformedAnswer, ""),
        ([*STORY[:2], {"choices": ["x"]}], MalformedAnswer, ""),
        ([*STORY[:2], {"choices": [{"delta": {"content": 5}}]}], MalformedAnswer, "text expected"),
        ([*STORY[:2], {"choices": [{"delta": {"content": "x"}, "token_ids": [2**40]}]}], MalformedAnswer, ""),
        ([*STORY[:2], {"choices": [], "usage": "none"}], MalformedAnswer, ""),
        ([*STORY[:2], [1, 2]], MalformedAnswer, ""),
        ([*STORY[:2], 5], MalformedAnswer, ""),
        ([*STORY[:2], b'{"choices": ['], MalformedAnswer, ""),
        ([*STORY[:2], b"\xff\xfe"], MalformedAnswer, ""),
    ],
)
async def test_what_is_not_an_answer_is_an_error_and_leaves_what_came(
    documents: list[object], kind: type[EndpointError], words: str
) -> None:
    async with raw_server([HEAD, events(*documents)]) as url:
        draft = Draft()
        with pytest.raises(EndpointError) as caught:
            await ask(url, draft=draft)
        assert type(caught.value) is kind
        assert words in caught.value.words
        assert list(draft.token_ids)[:14] == list(range(14))
        assert draft.finish_reason is None
        assert (draft.text()[0] or "").startswith("Gödel, ")


async def test_an_event_with_a_null_error_is_no_error() -> None:
    async with raw_server([HEAD, events(*(document | {"error": None} for document in STORY))]) as url:
        assert (await ask(url)).is_whole


@pytest.mark.parametrize("ending", [b"", b"data: {broken\n\n", events({"error": "late"})])
async def test_what_happens_after_the_finish_reason_does_not_matter(ending: bytes) -> None:
    async with raw_server([HEAD, events(*STORY[:4]) + ending]) as url:
        draft = await ask(url)
    assert draft.finish_reason == "stop"
    assert list(draft.token_ids) == list(range(28))


async def test_silence_after_done_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_service.endpoints.client.END_S", 0.01)
    async with raw_server([HEAD, events(*STORY, b"[DONE]")], then_wait=True) as url:
        assert (await ask(url)).is_whole


async def test_a_connection_is_kept_when_the_end_of_the_body_comes_after_done() -> None:
    """As vLLM sends it: the empty last chunk is a write of its own."""
    connections: list[asyncio.StreamWriter] = []
    body = events(*STORY, b"[DONE]")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked"))
                writer.write(b"%x\r\n%b\r\n" % (len(body), body))
                await writer.drain()
                await asyncio.sleep(0.01)
                writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with client() as opened:
        for number in range(3):
            await opened.stream(url, "m", Questions(SAMPLING).of(sample(number=number)), Draft(), 200)
    server.close()
    await asyncio.gather(*(writer.wait_closed() for writer in connections))
    assert len(connections) == 1


async def test_a_stream_without_event_ends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVENT_BYTES >= 2**20
    monkeypatch.setattr("gen_service.endpoints.client.EVENT_BYTES", 2**16)
    async with raw_server([HEAD, *([b"x" * 2**15] * 4)], then_wait=True) as url:
        with pytest.raises(MalformedAnswer, match="more than 65536 bytes"):
            await ask(url)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 502, 503, 401])
@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "in words", "code": 1}}',
        b'{"detail": "in words"}',
        b"in words",
        b'{"error": "in words"}',
    ],
)
async def test_each_status_has_its_error_and_the_servers_words(status: int, body: bytes) -> None:
    head = b"HTTP/1.1 %d Reason\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
    kinds = {400: RequestRefused, 404: RequestRefused, 413: RequestRefused, 422: RequestRefused}
    kinds |= {429: Overloaded, 503: Overloaded}
    async with raw_server([head + body]) as url:
        with pytest.raises(EndpointError) as caught:
            await ask(url)
    assert type(caught.value) is kinds.get(status, ServerFailed)
    assert (caught.value.words, caught.value.status) == ("in words", status)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20", b"nonsense\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"])
async def test_answers_that_are_not_http_are_broken_streams(answer: bytes) -> None:
    async with raw_server([answer]) as url:
        with pytest.raises(StreamBroken):
            await ask(url)


@pytest.mark.parametrize("body", [b"[]", b'{"data": 5}', b'{"data": [{}]}', b"null", b"<html>"])
async def test_a_listing_that_is_none_is_malformed(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    async with raw_server([head + body]) as url, client() as opened:
        with pytest.raises(MalformedAnswer):
            await opened.models(url)


# Pure parts


@given(st.one_of(st.text(), st.integers().map(str), st.floats().map(str)))
def test_retry_after_is_a_sensible_number_or_nothing(header: str) -> None:
    seconds = retry_after(header)
    assert seconds is None or (seconds >= 0.0 and math.isfinite(seconds))


@pytest.mark.parametrize(("header", "seconds"), [("0", 0.0), ("12", 12.0), (" 3 ", 3.0), ("-5", 0.0), ("soon", None)])
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


@given(st.integers(-86_400, 86_400), st.booleans())
def test_retry_after_as_a_date(offset: int, with_zone: bool) -> None:
    date = email.utils.formatdate(time.time() + offset, usegmt=True)
    seconds = retry_after(date if with_zone else date.removesuffix("GMT") + "-0000")
    assert seconds == pytest.approx(max(0, offset), abs=2.0)


def test_retry_after_is_optional() -> None:
    assert retry_after(None) is None


@given(st.binary())
def test_error_words_reads_anything(body: bytes) -> None:
    assert isinstance(error_words(body), str)


def test_parameters_leave_out_what_was_not_asked() -> None:
    assert sampling_parameters(SamplingSettings()) == {"temperature": 0.6, "top_p": 0.95}
    asked = SamplingSettings(top_k=5, stop=("END",), extra={"min_p": 0.1})
    assert sampling_parameters(asked) == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 5,
        "stop": ["END"],
        "min_p": 0.1,
    }
