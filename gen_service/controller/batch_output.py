"""The files of a batch that ended: what was answered in one, what was not in the other."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from gen_service.controller.batch_lines import (
    COLUMNS,
    Tree,
    answer_line,
    is_success,
    refused_line,
    undone_line,
)
from gen_service.controller.batch_siblings import Siblings
from gen_service.errors import BadPromptRow, NotFound
from gen_service.storage import manifest
from gen_service.storage.destination import open_destination
from gen_service.storage.disk_space import SpaceWaiter, sync_folder
from gen_service.storage.part_file import PartFile
from gen_service.storage.prompt_batch import RequestLine, batch_rows, to_prompt
from gen_service.storage.seen import Seen
from gen_service.storage.traces import read_batches
from gen_service.store.files import Files
from gen_service.store.ids import derived_id
from gen_service.store.rows import FileRow, JobRow

BUFFER_BYTES = 1 << 20


async def write_outputs(
    row: JobRow,
    folder: str,
    input_path: Path,
    uploads: Path,
    files: Files,
    now: float,
    on_notice: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Write the output and the error file of a batch from its published rows, and make them the tenant's.

    Each line of the input is in one of the two files once, except that a cancelled batch has no line for what was not
    done. A file without lines is not made. The files' ids and contents follow from the job, so that writing again
    after a crash makes the same files; they count against no quota. Memory is bounded; the work is done in a thread.

    Args:
        row: the batch, in the state `finalizing`, `expiring` or `cancelling`.
        folder: of its traces; one that was never made has no rows.
        input_path: the batch's input file.
        uploads: the folder of files.
        files: the files of the store.
        now: seconds since the epoch.
        on_notice: told, in that thread, of a full disk, for whose room this waits.

    Returns:
        The row's `batch` with `output_file_id`, `error_file_id` and `request_counts`.

    Raises:
        StorageError: the traces are damaged, or the disk failed.
        OSError: the input file cannot be read.
    """
    space, stop = SpaceWaiter(on_notice, on_notice), threading.Event()
    try:
        written = await asyncio.to_thread(_write, row, folder, input_path, uploads, space, stop)
    finally:
        stop.set()  # cancelled, the thread ends at its next line
        space.give_up()
    for file in (written.output, written.error):
        if file.lines:
            await _register(file, row, files, now)
    total = written.output.lines + written.error.lines
    if row.state == "cancelling":  # which has no lines for what was not done
        total = max(total, row.prompts or 0)
    return {
        **(row.batch or {}),
        "output_file_id": written.output.id if written.output.lines else None,
        "error_file_id": written.error.id if written.error.lines else None,
        "request_counts": {"total": total, "completed": written.output.lines, "failed": written.error.lines},
    }


@dataclass(frozen=True, slots=True)
class _Written:
    output: _LinesFile
    error: _LinesFile


class _LinesFile:
    """A JSONL file under its final name once it is whole, and only if it has a line."""

    def __init__(self, row: JobRow, kind: str, uploads: Path, space: SpaceWaiter) -> None:
        self.id = derived_id("file-", row.times[row.state], f"{row.id} {kind}")
        self.filename = f"{row.id}_{kind}.jsonl"
        self.lines = self.bytes = 0
        self._path = uploads / self.id
        self._part = uploads / f"{self.id}.part"
        self._file = PartFile(self._part, space)
        self._buffer = bytearray()

    def add(self, line: Tree) -> None:
        content = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        self._buffer += content
        self.lines += 1
        self.bytes += len(content)
        if len(self._buffer) >= BUFFER_BYTES:
            self._spill()

    def publish(self) -> None:
        """Durable when this returns."""
        self._spill()
        if self.lines:
            self._file.sync()
            os.replace(self._part, self._path)
            sync_folder(self._path.parent)

    def close(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _spill(self) -> None:
        self._file.write(bytes(self._buffer))
        self._buffer.clear()


def _write(
    row: JobRow, folder: str, input_path: Path, uploads: Path, space: SpaceWaiter, stop: threading.Event
) -> _Written:
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-service-")))
        done = stack.enter_context(Seen(temporary / "done"))
        output, error = (_LinesFile(row, kind, uploads, space) for kind in ("output", "error"))
        stack.callback(output.close)
        stack.callback(error.close)
        max_bytes = int(row.spec["prompts"]["max_row_bytes"])
        siblings = stack.enter_context(Siblings(temporary / "siblings", _choices(row, input_path, max_bytes)))
        for line in _answers(folder, row.request["endpoint"], siblings):
            if done.add(line["custom_id"]):
                (output if is_success(line) else error).add(line)
            if stop.is_set():
                break
        if row.state != "cancelling" and len(done) != row.prompts:
            for line in _others(row, input_path, max_bytes, done):
                error.add(line)
                if stop.is_set():
                    break
        if not stop.is_set():
            output.publish()
            error.publish()
        return _Written(output, error)


def _choices(row: JobRow, input_path: Path, max_bytes: int) -> Iterator[tuple[str, int]]:
    """The requests that ask for several choices; the file is read only where there are any."""
    if row.samples is None or row.samples == row.prompts:
        return
    for line in _requests(input_path, max_bytes):
        if line.request.n > 1:
            yield line.custom_id, line.request.n


def _requests(input_path: Path, max_bytes: int) -> Iterator[RequestLine]:
    with input_path.open("rb") as file:
        for _, line in batch_rows(file, max_bytes):
            if isinstance(line, RequestLine):
                yield line


def _answers(folder: str, endpoint: str, siblings: Siblings) -> Iterator[Tree]:
    """A line for each request of which all samples are published."""
    if not manifest.load(open_destination(folder)):
        return
    for batch in read_batches(folder, COLUMNS):
        # As numbers: pyarrow loads pandas to make times of a column of times.
        at = batch.schema.get_field_index("started_at")
        for published in batch.set_column(at, "started_at", batch.column(at).cast(pa.int64())).to_pylist():
            started_us = published["started_at"]
            published["started_at"] = None if started_us is None else started_us // 1_000_000
            if rows := siblings.add(published):
                yield answer_line(rows, endpoint)


def _others(row: JobRow, input_path: Path, max_bytes: int, done: Seen) -> Iterator[Tree]:
    """A line for each request that has no answer: it was set aside, or its time was over."""
    for number, line in _numbered(input_path, max_bytes):
        if isinstance(line, BadPromptRow):
            yield refused_line(row.id, None, str(line))
        elif line.custom_id not in done:
            yield _undone(row, number, line)


def _numbered(input_path: Path, max_bytes: int) -> Iterator[tuple[int, RequestLine | BadPromptRow]]:
    with input_path.open("rb") as file:
        yield from batch_rows(file, max_bytes)


def _undone(row: JobRow, number: int, line: RequestLine) -> Tree:
    try:
        to_prompt(line, number, "")
    except BadPromptRow as bad:
        return refused_line(row.id, line.custom_id, bad.reason)
    if row.state == "expiring":
        words = "the batch's completion window ended before this request was done"
        return undone_line(row.id, line.custom_id, "batch_expired", words)
    return undone_line(row.id, line.custom_id, "server_error", "this request was not done; send it again")


async def _register(file: _LinesFile, row: JobRow, files: Files, now: float) -> None:
    """Make a written file the tenant's, unless an earlier try has done so."""
    try:
        await files.get(file.id, row.tenant)
    except NotFound:
        stored = FileRow(file.id, row.tenant, "batch_output", file.filename, file.bytes, file.lines, now)
        await files.create(stored, None)
