"""The demo's vLLM servers: started when first needed, and lent with one model's weights after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gen_service.endpoints.local_server_settings import LocalServerSettings
from gen_service.endpoints.local_servers import core_shares, local_servers
from gen_service.endpoints.weight_control import WeightControl
from gen_service.generation.pool import Stop
from gen_service.settings import EndpointSettings
from gen_service.tiny_model import CHECKPOINT
from gen_service.training.demo.commands import Stopped
from gen_service.training.demo.sizes import MODEL

_CONTEXT_TOKENS: Final = 2048
# A whole answer in one chunk: nobody looks at the tokens as they come, and each chunk costs time on the same cores.
_STREAM_INTERVAL: Final = 64
_DRAIN_S: Final = 2

Urls = list[str]
Start = Callable[[], AbstractAsyncContextManager[Urls]]


class LentServers:
    """Servers that have one model after another. Use as an async context manager.

    Invariant: who has them has them alone, and with the weights that were asked for.

    Args:
        start: starts them, when they are first asked for; yields their URLs, none where they were given up.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._urls: Urls = []
        self._control: WeightControl | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def lent(self, weights: Path) -> AsyncIterator[Urls]:
        """Base URLs of the servers, each with these weights; others wait until they are given back.

        Args:
            weights: absolute path of a checkpoint of the architecture that the servers were started with.

        Raises:
            EndpointError: a server did not take the weights.
            LocalServerError: a server did not come up.
            Stopped: they were given up before they were ready.
        """
        async with self._lock:
            if self._control is None:
                self._urls = await self._stack.enter_async_context(self._start())
                if not self._urls:
                    raise Stopped
                endpoints = EndpointSettings(urls=tuple(self._urls))
                self._control = await self._stack.enter_async_context(WeightControl(endpoints))
            await asyncio.gather(*(self._control.bring(url, str(weights), weights.name) for url in self._urls))
            yield self._urls


@asynccontextmanager
async def tiny_servers(count: int, logs: Path, say: Callable[[str], None], stop: Stop) -> AsyncIterator[Urls]:
    """Real vLLM servers on this machine's CPU with the tiny model, whose weights may be changed."""
    await asyncio.to_thread(logs.mkdir, parents=True, exist_ok=True)
    settings = [
        LocalServerSettings(
            *(CHECKPOINT, MODEL),
            cores=cores,
            max_model_len=_CONTEXT_TOKENS,
            stream_interval=_STREAM_INTERVAL,
            drain_s=_DRAIN_S,
            rollouts=True,
            log_path=logs / f"server-{number}.log",
        )
        for number, cores in enumerate(core_shares(count), 1)
    ]
    say(f"starting {count} vLLM servers on this machine's CPU, with the tiny model of the package ...")
    async with local_servers(settings, say, stop.wait) as servers:
        yield [server.url for server in servers]
