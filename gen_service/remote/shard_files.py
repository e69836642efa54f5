"""Fetches the published files of a job into a folder: each is whole and checked, or not there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gen_service.errors import StorageError
from gen_service.remote.problems import unexpected
from gen_service.remote.transport import Transport
from gen_service.wire.jobs import Shard

CHUNK_BYTES = 1024 * 1024
# A file is named by the service and written here: nothing but a plain name is taken.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download left: all files in the order they were published, and how many of them it fetched."""

    files: tuple[Path, ...]
    fetched: int
    fetched_bytes: int


async def fetch_shard(transport: Transport, shard: Shard, folder: Path) -> bool:
    """Bring one shard into `folder` under its own name; False if it was there already and whole.

    The bytes go to `<name>.part`, are compared with the shard's SHA-256, and get their name after that.

    Raises:
        RequestError: the service does not give it.
        StorageError: the bytes are not the shard's.
        OSError: they cannot be written.
    """
    if not _PLAIN_NAME.fullmatch(shard.name):
        raise unexpected(transport.url, f"a shard named {shard.name!r}")
    target, part = folder / shard.name, folder / f"{shard.name}.part"
    if await asyncio.to_thread(_is_whole, target, shard):
        return False
    digest = await transport.persistently(lambda: _fetch(transport, shard.url, part), is_repeatable=True)
    if digest != shard.sha256:
        await asyncio.to_thread(part.unlink)
        raise StorageError(f"{shard.name}: the bytes that came have SHA-256 {digest}; expected {shard.sha256}")
    await asyncio.to_thread(os.replace, part, target)
    return True


async def _fetch(transport: Transport, path: str, part: Path) -> str:
    """Write what `path` holds to `part`; its SHA-256."""
    digest = hashlib.sha256()
    file = await asyncio.to_thread(part.open, "wb")
    try:
        async with transport.opened("GET", path) as response:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(_take, file, digest, chunk)
        await asyncio.to_thread(_settle, file)
    finally:
        await asyncio.to_thread(file.close)
    return digest.hexdigest()


def _take(file: BinaryIO, digest: hashlib._Hash, chunk: bytes) -> None:
    file.write(chunk)
    digest.update(chunk)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_whole(path: Path, shard: Shard) -> bool:
    if not path.is_file() or path.stat().st_size != shard.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
