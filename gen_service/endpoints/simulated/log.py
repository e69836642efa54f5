"""The server's own account of what it received and what it sent, to compare a client's results with."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

LogLine = dict[str, object]


class ServerLog:
    """One JSON line per event, in memory and in a file.

    Each line is one `write` to a file opened for appending: it survives the death of this process and of its clients,
    not that of the machine.

    Args:
        path: the file; None for none.
        keep: whether lines stay in memory.
    """

    def __init__(self, path: Path | None, keep: bool) -> None:
        self.lines: list[LogLine] = []
        self._keep = keep
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @property
    def enabled(self) -> bool:
        return self._keep or self._file is not None

    def note(self, line: LogLine) -> None:
        if self._keep:
            self.lines.append(line)
        if self._file is not None:
            os.write(self._file, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
