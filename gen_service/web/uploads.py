"""One upload from the socket to a row: never whole in memory, and either stored for good or not there at all."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from gen_service.errors import InvalidRequest, RequestError, TooLarge, Unavailable
from gen_service.metrics import UploadResult
from gen_service.service_settings import ServiceSettings
from gen_service.storage.disk_space import make_folder
from gen_service.store.ids import new_id
from gen_service.store.quotas import check_file, effective_quotas
from gen_service.store.rows import FileRow
from gen_service.store.store import Store
from gen_service.web.incoming import IncomingFile
from gen_service.web.upload_form import UploadForm

# What is written at once: one visit to a thread for each.
PIECE_BYTES = 256 * 1024
# What a form has besides the file.
FORM_BYTES = 64 * 1024
COME_AGAIN_S = 60.0
OnEnd = Callable[[UploadResult, int], None]
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


async def store_upload(
    request: Request, tenant: str, store: Store, settings: ServiceSettings, on_end: OnEnd
) -> FileRow:
    """Receive a form of a file and its purpose and store it.

    The order is: bytes durable under another name, renamed, the folder durable, the row. A crash before the row leaves
    a file of nobody, which the next start sweeps away; all else that goes wrong leaves nothing.

    Args:
        on_end: told what came of it, and of how many bytes.

    Raises:
        RequestError: the form or the file is refused, or does not fit.
    """
    folder, limits = settings.data.uploads, settings.uploads
    quotas = effective_quotas(settings.quotas, await store.tenants.get(tenant))
    usage = await store.jobs.usage(tenant)
    _check_declared(request, limits.max_bytes)
    check_file(usage, quotas, 1)
    await asyncio.to_thread(_make_room, folder, settings.data.min_free_bytes)
    file_id = new_id("file-")
    reception = _Reception(
        request.headers.get("content-type", ""),
        IncomingFile(folder / file_id, limits, lambda size: check_file(usage, quotas, size)),
    )
    result: UploadResult = "refused"
    try:
        async for piece in _pieces(request):
            await asyncio.to_thread(reception.feed, piece)
        # Shielded, as the end below: a request that is cancelled is stored as a whole, or leaves nothing.
        row = await asyncio.shield(_store(reception, file_id, tenant, store, settings))
        result = "stored"
        return row
    except OSError as error:
        raise _translated(error) from error
    except ClientDisconnect as error:
        result = "abandoned"
        raise InvalidRequest("the client went away before the upload was whole") from error
    finally:
        on_end(result, reception.size)
        await asyncio.shield(asyncio.to_thread(reception.close))


async def _store(reception: _Reception, file_id: str, tenant: str, store: Store, settings: ServiceSettings) -> FileRow:
    row = await asyncio.to_thread(reception.finish, file_id, tenant)
    try:
        await store.files.create(row, settings.quotas)
    except RequestError:
        await asyncio.to_thread((settings.data.uploads / file_id).unlink)
        raise
    return row


class _Reception:
    """The parts of one upload, used in threads. A cancelled request closes it while a thread may still be writing,
    hence the lock."""

    def __init__(self, content_type: str, file: IncomingFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._is_closed = False
        try:
            self._form = UploadForm(content_type, file)
        except RequestError:
            file.close()
            raise

    @property
    def size(self) -> int:
        return self._file.bytes

    def feed(self, piece: bytes) -> None:
        with self._lock:
            if not self._is_closed:
                self._form.feed(piece)

    def finish(self, file_id: str, tenant: str) -> FileRow:
        with self._lock:
            if self._is_closed:
                raise InvalidRequest("the upload was given up")
            lines = self._form.finish()
            self._file.keep()
        purpose, filename = str(self._form.purpose), str(self._form.filename)
        return FileRow(file_id, tenant, purpose, filename, self._file.bytes, lines, time.time())

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._file.close()


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of about PIECE_BYTES, whatever the sizes it comes in."""
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        while len(pending) >= PIECE_BYTES:
            yield bytes(pending[:PIECE_BYTES])
            del pending[:PIECE_BYTES]
    if pending:
        yield bytes(pending)


def _check_declared(request: Request, max_bytes: int) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes + FORM_BYTES:
        raise TooLarge(f"file: {length} bytes; expected at most {max_bytes} (uploads.max_bytes)", field="file")


def _make_room(folder: Path, min_free_bytes: int) -> None:
    make_folder(folder)
    if shutil.disk_usage(folder).free < min_free_bytes:
        raise Unavailable("the disk has no room for uploads now", retry_after_s=COME_AGAIN_S)


def _translated(error: OSError) -> Exception:
    if error.errno in _FULL:
        return Unavailable("the disk has no room for this upload now", retry_after_s=COME_AGAIN_S)
    return error
