"""The dead letter: rows that ended in an error, one JSON line each, for people to read."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import orjson

from gen_service.errors import BadPromptRow
from gen_service.records import Trace
from gen_service.storage.disk_space import SpaceWaiter, make_folder, sync_file, write_at
from gen_service.storage.seen import Seen
from gen_service.storage.surrogates import scrub

EXCERPT_CHARS = 200
BUFFER_BYTES = 256 * 1024


class DeadLetter:
    """Appends each error once, over all runs.

    A line is `{"kind": "prompt", "row", "reason", "excerpt"}` for a prompt row that was set aside, or
    `{"kind": "sample", "sample_id", "prompt_id", "row", "source", "reason", "retries", "excerpt"}` for a sample
    without an answer. Lines are buffered, and durable when `sync` returns: it is called before the manifest that
    covers them is written. Called from several threads.

    Args:
        path: of the file; what a crash left of a last line is cut off.
        seen: an empty set for the keys of the lines.
    """

    def __init__(self, path: Path, seen: Seen, space: SpaceWaiter) -> None:
        make_folder(path.parent)
        self.path = path
        self.rejected = 0
        self._seen = seen
        self._space = space
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._buffer = bytearray()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = self._read_back()

    def add_prompt(self, bad: BadPromptRow) -> bool:
        """Note a prompt row that was set aside; False if it was noted before."""
        line = {"kind": "prompt", "row": bad.row, "reason": bad.reason, "excerpt": bad.excerpt[:EXCERPT_CHARS]}
        return self._add(line)

    def add_sample(self, trace: Trace) -> bool:
        """Note a sample without an answer; False if it was noted before."""
        prompt, completion = trace.sample.prompt, trace.completion
        line = {
            "kind": "sample",
            "sample_id": trace.sample.sample_id,
            "prompt_id": prompt.prompt_id,
            "row": prompt.row,
            "source": prompt.source,
            "reason": trace.error or (trace.verdict.reason if trace.verdict is not None else ""),
            "retries": list(trace.retries if completion is None else completion.retries),
            "endpoint": None if completion is None else completion.endpoint,
            "excerpt": prompt.messages[-1]["content"][:EXCERPT_CHARS] if prompt.messages else "",
        }
        return self._add(line)

    def sync(self) -> int:
        """Make every line so far durable; may wait for room on the disk. How many of all lines are prompt rows.

        Raises:
            StorageError: the disk failed.
        """
        with self._writing:
            with self._lock:
                lines, rejected = bytes(self._buffer), self.rejected
            if lines:
                self._space.write(str(self.path), lambda: self._write(lines))
            sync_file(self._descriptor)
        return rejected

    def close(self) -> None:
        """Let go of the file, without a sync."""
        os.close(self._descriptor)

    def _add(self, line: dict[str, Any]) -> bool:
        with self._lock:
            if not self._seen.add(_key(line)):
                return False
            self._buffer += orjson.dumps(scrub(line), option=orjson.OPT_APPEND_NEWLINE)
            self.rejected += line["kind"] == "prompt"
        if len(self._buffer) >= BUFFER_BYTES:
            self._spill()
        return True

    def _spill(self) -> None:
        """Write the buffer out without ever waiting: this may run in the event loop's thread."""
        if self._writing.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):
                    self._write(bytes(self._buffer))
            finally:
                self._writing.release()

    def _write(self, lines: bytes) -> None:
        write_at(self._descriptor, lines, self._size)
        self._size += len(lines)
        with self._lock:
            del self._buffer[: len(lines)]

    def _read_back(self) -> int:
        size = 0
        with self.path.open("rb") as file:
            for text in file:
                try:
                    line = orjson.loads(text)
                    key = _key(line)
                except (ValueError, KeyError, TypeError):
                    break
                if not text.endswith(b"\n"):
                    break
                self._seen.add(key)
                self.rejected += line["kind"] == "prompt"
                size += len(text)
        os.ftruncate(self._descriptor, size)
        return size


def _key(line: dict[str, Any]) -> str:
    return f"prompt:{line['row']}" if line["kind"] == "prompt" else f"sample:{line['sample_id']}"
