"""The file that a part is written to before it is published."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from gen_service.storage.disk_space import SpaceWaiter, sync_file, write_at

BUFFER_BYTES: Final = 64 * 1024


class PartFile(io.RawIOBase):
    """A file that Parquet is written to, through `arrow_stream`: waits for room on a full disk, and hashes what it
    takes."""

    def __init__(self, path: Path, space: SpaceWaiter) -> None:
        self.sha256 = hashlib.sha256()
        self._path = path
        self._space = space
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = space.write(str(path), lambda: os.open(path, flags, 0o644))
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        if self.closed:
            # The descriptor may be another file's by now.
            raise ValueError(f"{self._path} is closed")
        self._space.write(str(self._path), lambda: write_at(self._descriptor, data, self._size))
        self.sha256.update(data)
        self._size += len(data)
        return len(data)

    def sync(self) -> None:
        sync_file(self._descriptor)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def arrow_stream(file: PartFile) -> pa.NativeFile:
    """What Arrow writes to, to be flushed before the file's `sync`.

    It gathers Arrow's small writes, a hundred for the smallest part: each would take the interpreter from the event
    loop, and wait for it where many jobs publish at once. Not to be held by the file, which would live for ever.
    """
    return pa.BufferedOutputStream(pa.PythonFile(file, mode="w"), BUFFER_BYTES)
