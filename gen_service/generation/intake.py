"""A synchronous, blocking source as an asynchronous one: read in a thread, a chunk at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


async def in_chunks(source: Iterator[Item], chunk: int) -> AsyncGenerator[Item, None]:
    """Yield the items of `source`, reading at most `chunk` ahead, without blocking the event loop.

    Args:
        source: read from one thread only, never from two at once.
        chunk: items read at a time.
    """
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="intake")
    try:
        while items := await loop.run_in_executor(thread, lambda: list(itertools.islice(source, chunk))):
            for item in items:
                yield item
    finally:
        # A read that is under way ends before what it reads from is closed.
        await asyncio.shield(asyncio.to_thread(thread.shutdown))
