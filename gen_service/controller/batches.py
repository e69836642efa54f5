"""A batch before it runs: every line of its input file is looked at, for it fails as a whole or runs as a whole."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gen_service.controller.engine_fields import refusal_of
from gen_service.service_settings import UploadSettings
from gen_service.storage.prompt_batch import BadLine, RequestLine, read_line
from gen_service.storage.prompt_text import Line, lines
from gen_service.storage.seen import Seen
from gen_service.wire.openai import BatchError

MOST_ERRORS = 100


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """What validation found.

    Attributes:
        lines: requests in the file.
        samples: completions they ask for in all: each line's n.
        model: the one they all ask; None where no line was good.
        errors: why the batch cannot run, at most 100 of them; empty for a batch that can.
    """

    lines: int
    samples: int
    model: str | None
    errors: tuple[BatchError, ...]


async def validate_batch(path: Path, endpoint: str, served: Collection[str], limits: UploadSettings) -> BatchCheck:
    """Read a batch's input file through, in a thread with memory for one line.

    What only a model server can tell of a line (its context is too long, it does not know a parameter) is not looked
    at: that line ends in the error file.

    Args:
        path: the uploaded file.
        endpoint: the batch's, which each line's `url` must equal.
        served: the models that the fleet offers; while it is not known to offer any, no model is refused.
        limits: most lines, and most bytes of a line.

    Raises:
        OSError: the file cannot be read.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_validate, path, endpoint, served, limits, stop)
    finally:
        stop.set()  # cancelled, the thread ends at its next line


def _validate(
    path: Path, endpoint: str, served: Collection[str], limits: UploadSettings, stop: threading.Event
) -> BatchCheck:
    with (
        tempfile.TemporaryDirectory(prefix="gen-service-") as temporary,
        Seen(Path(temporary) / "custom-ids") as custom_ids,
        path.open("rb") as file,
    ):
        checking = _Checking(endpoint, served, limits, custom_ids)
        for line in lines(file, limits.max_line_bytes):
            if not checking.take(line) or stop.is_set():
                break
        return checking.result()


class _Checking:
    """What is known of the lines so far."""

    def __init__(self, endpoint: str, served: Collection[str], limits: UploadSettings, custom_ids: Seen) -> None:
        self._endpoint = endpoint
        self._served = served
        self._limits = limits
        self._custom_ids = custom_ids
        self._lines = self._samples = 0
        self._model: str | None = None
        self._errors: list[BatchError] = []

    def take(self, line: Line) -> bool:
        """Look at one line; False when no more need to be."""
        if not line.is_cut and not line.content.strip():
            return True
        self._lines += 1
        try:
            if self._lines > self._limits.max_lines:
                expected = f"at most {self._limits.max_lines} requests in a file"
                raise BadLine("too_many_requests", f"the file has more requests; expected {expected}")
            request = read_line(line, self._limits.max_line_bytes)
            self._samples += request.request.n
            self._check(request)
        except BadLine as bad:
            self._errors.append(BatchError(code=bad.code, line=line.number, message=str(bad), param=bad.param))
        return len(self._errors) < MOST_ERRORS and self._lines <= self._limits.max_lines

    def result(self) -> BatchCheck:
        if self._lines == 0:
            self._errors.append(BatchError(code="empty_file", message="the file has no lines; expected at least one"))
        return BatchCheck(self._lines, self._samples, self._model, tuple(self._errors))

    def _check(self, line: RequestLine) -> None:
        """What a line must be beside the others.

        Raises:
            BadLine: it is not.
        """
        if line.request.url != self._endpoint:
            words = f"url: got {line.request.url!r}; expected the batch's endpoint {self._endpoint!r}"
            raise BadLine("mismatched_endpoint", words, "url")
        if (refusal := refusal_of(line.request.body)) is not None:
            raise BadLine("unsupported_parameter", f"body.{refusal[0]}: {refusal[1]}", f"body.{refusal[0]}")
        if not self._custom_ids.add(line.custom_id):
            words = f"custom_id: {line.custom_id!r:.100} names an earlier line; expected each once in a file"
            raise BadLine("duplicate_custom_id", words, "custom_id")
        if self._model is None:
            self._model = line.model
            if self._served and line.model not in self._served:
                words = f"body.model: got {line.model!r:.100}; expected one of: {', '.join(sorted(self._served))}"
                raise BadLine("model_not_found", words, "body.model")
        elif line.model != self._model:
            words = f"body.model: got {line.model!r:.100}; expected {self._model!r:.100}, as in the lines before"
            raise BadLine("mismatched_model", words, "body.model")
