"""Reads server-sent events (WHATWG HTML, 9.2.6) from bytes as they come. Pure.

Only their data is kept: the type and the id of a job's event are in it.
"""

from __future__ import annotations

import re

MOST_BYTES = 8 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLong(Exception):
    """An event of more than MOST_BYTES."""


class EventStream:
    """Takes the bytes of one connection, gives the data of its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def take(self, piece: bytes) -> list[str]:
        """The data of the events that end within `piece`. One that the stream breaks off in never comes out.

        Raises:
            EventTooLong: so many bytes came without an event's end.
        """
        pending = self._rest + piece
        # A final CR may be half of a CR LF: it waits with what follows the last line end.
        held = b"\r" if pending.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(pending.removesuffix(held))
        self._rest = rest + held
        events = [data for line in lines if (data := self._take_line(line.decode("utf-8", "replace"))) is not None]
        if len(self._rest) + sum(map(len, self._data)) > MOST_BYTES:
            raise EventTooLong(f"an event of more than {MOST_BYTES} bytes")
        return events

    def _take_line(self, line: str) -> str | None:
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        ended, self._data = self._data, []
        return "\n".join(ended) if ended else None
