"""The floor: aiohttp and uvloop alone. Posts the same bodies, reads the same streams, keeps nothing, retries nothing.

Input: {"urls", "requests": JSONL of id and messages, "in_flight", "max_tokens", "model", "batches": wait for each batch
of `in_flight` before the next (else a place is refilled at once), "warm_up": requests before the measured ones}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from benchmarks.measurement import Meter


async def post(session: aiohttp.ClientSession, url: str, given: dict[str, Any], request: dict[str, Any]) -> None:
    """Send one request and read its whole stream."""
    body = {
        "model": given["model"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "messages": request["messages"],
        "max_tokens": given["max_tokens"],
    }
    headers = {"Content-Type": "application/json", "X-Request-Id": request["id"]}
    async with session.post(f"{url}/v1/chat/completions", data=orjson.dumps(body), headers=headers) as response:
        await response.read()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}")


async def stream(session: aiohttp.ClientSession, given: dict[str, Any], requests: Sequence[dict[str, Any]]) -> None:
    """As many workers as may be in flight, each taking the next request."""
    source, urls = iter(requests), itertools.cycle(given["urls"])

    async def work(left: Iterator[dict[str, Any]]) -> None:
        for request in left:
            await post(session, next(urls), given, request)

    async with asyncio.TaskGroup() as group:
        for _ in range(given["in_flight"]):
            group.create_task(work(source))


async def batches(session: aiohttp.ClientSession, given: dict[str, Any], requests: Sequence[dict[str, Any]]) -> None:
    """Gather a batch, then the next."""
    urls = itertools.cycle(given["urls"])
    for start in range(0, len(requests), given["in_flight"]):
        batch = requests[start : start + given["in_flight"]]
        await asyncio.gather(*(post(session, next(urls), given, request) for request in batch))


async def measured(given: dict[str, Any], requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The cost of all requests."""
    connector = aiohttp.TCPConnector(limit=0)
    send = batches if given.get("batches") else stream
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        warm_up = [{**request, "id": f"warm-up-{request['id']}"} for request in requests[: given.get("warm_up", 0)]]
        await stream(session, given, warm_up)
        meter = Meter()
        await send(session, given, requests)
        return meter.read().as_dict() | {"rows": len(requests)}


def main() -> None:
    """Read the input, print the answer."""
    given = json.load(sys.stdin)
    requests = [orjson.loads(line) for line in Path(given["requests"]).read_bytes().splitlines()]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measured(given, requests))))


if __name__ == "__main__":
    main()
