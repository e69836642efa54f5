"""Events come out the same in whatever pieces their bytes come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.remote import event_stream
from gen_service.remote.event_stream import EventStream, EventTooLong

# Lines of an event hold no line ends.
LINE = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20)
EVENTS = st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=6)


@given(events=EVENTS, end=st.sampled_from(["\n", "\r\n", "\r"]), data=st.data())
def test_pieces_do_not_matter(events: list[list[str]], end: str, data: st.DataObject) -> None:
    written = [
        [": a comment", "event: state", *(f"data: {line}" for line in lines), f"id: {number}", ""]
        for number, lines in enumerate(events)
    ]
    # With a bare CR, the end of the last line is known by what follows it.
    raw = "".join(line + end for lines in [*written, [": the last"]] for line in lines).encode()
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10))), len(raw)]
    stream = EventStream()
    came = [event for start, stop in pairwise(cuts) for event in stream.take(raw[start:stop])]
    assert came == ["\n".join(lines) for lines in events]


def test_an_event_that_the_stream_breaks_off_in_never_comes_out() -> None:
    stream = EventStream()
    assert stream.take(b'event: state\nid: 4\ndata: {"state": "comp') == []
    assert stream.take(b'leted"}\n') == []
    assert stream.take(b"\n") == ['{"state": "completed"}']


def test_comments_and_events_without_data_are_nothing() -> None:
    assert EventStream().take(b": ping\n\nid: 9\n\nretry: 10\n\ndata\n\ndata:x\n\n") == ["", "x"]


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MOST_BYTES", 100)
    stream = EventStream()
    assert stream.take(b"data: " + b"x" * 60 + b"\n") == []
    with pytest.raises(EventTooLong):
        stream.take(b"data: " + b"x" * 60 + b"\n")
