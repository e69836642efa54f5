"""Reads server-sent events (WHATWG HTML, 9.2.6) from bytes as they come. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_BYTES = 8 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLong(Exception):
    """An event of more than MOST_BYTES."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its type, its data, and the id to go on from (the last one that any event so far had)."""

    type: str
    data: str
    last_id: str


class EventStream:
    """Takes the bytes of one connection, gives its events.

    Args:
        last_id: the id that the connection goes on from.
    """

    def __init__(self, last_id: str = "") -> None:
        self._last_id = last_id
        self._rest = b""
        self._type = ""
        self._data: list[str] = []

    def take(self, piece: bytes) -> list[ServerSentEvent]:
        """The events that end within `piece`. One that the stream breaks off in never comes out.

        Raises:
            EventTooLong: so many bytes came without an event's end.
        """
        pending = self._rest + piece
        # A final CR may be half of a CR LF: it waits with what follows the last line end.
        held = b"\r" if pending.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(pending.removesuffix(held))
        self._rest = rest + held
        events = [event for line in lines if (event := self._take_line(line.decode("utf-8", "replace"))) is not None]
        if len(self._rest) + sum(map(len, self._data)) > MOST_BYTES:
            raise EventTooLong(f"an event of more than {MOST_BYTES} bytes")
        return events

    def _take_line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._end()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._last_id = value
        return None

    def _end(self) -> ServerSentEvent | None:
        kind, data = self._type or "message", self._data
        self._type, self._data = "", []
        return ServerSentEvent(kind, "\n".join(data), self._last_id) if data else None
