"""Who used the slots and which stood idle, on cases that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slot_use import (
    Use,
    Window,
    all_waiting,
    idle_in,
    read_uses,
    shares_of,
    slot_seconds,
    while_work_waited,
)

# Two servers with two slots each; the second server's slot is free from 2 to 3, one of the first from 4 on.
USES = [
    Use(0, "a1", 0.0, 4.0),
    Use(0, "b1", 0.0, 4.0),
    Use(1, "a2", 0.0, 2.0),
    Use(1, "b2", 1.0, 5.0),
    Use(1, "a3", 3.0, 6.0),
    Use(0, "b3", 4.5, 6.0),
]
JOB_OF = {name: name[0] for name in ("a1", "a2", "a3", "b1", "b2", "b3")}


def test_a_log_is_read_attempt_by_attempt(tmp_path: Path) -> None:
    lines = [
        {"event": "received", "request_id": "x", "attempt": 1, "at": 1.0},
        {"event": "failed", "request_id": "x", "attempt": 1, "at": 2.0},
        {"event": "received", "request_id": "x", "attempt": 2, "at": 3.0},
        {"event": "received", "request_id": "never", "attempt": 1, "at": 3.5},
        {"event": "sent", "request_id": "x", "attempt": 2, "at": 5.0},
    ]
    log, empty = tmp_path / "log", tmp_path / "empty"
    log.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    empty.touch()
    assert read_uses([empty, log]) == [Use(1, "x", 1.0, 2.0), Use(1, "x", 3.0, 5.0)]


def test_all_wait_from_the_last_beginning_to_the_first_last_request() -> None:
    window = all_waiting(USES, JOB_OF)
    assert window == Window(0.0, 3.0)
    assert slot_seconds(USES, JOB_OF, window) == {"a": 3.0 + 2.0, "b": 3.0 + 2.0}


def test_idle_slots_are_counted_while_work_waited() -> None:
    window = while_work_waited(USES, slots=4)
    assert window == Window(1.0, 4.5)
    idle = idle_in(USES, servers=2, slots=2, window=window)
    # Of 14 slot seconds: one slot free from 2 to 3, two from 4 to 4.5.
    assert idle.share == pytest.approx(2.0 / 14.0)
    assert idle.gaps == (0.5, 1.0)


def test_without_a_full_moment_the_window_begins_with_the_first_request() -> None:
    assert while_work_waited(USES, slots=5) == Window(0.0, 4.5)


@given(
    weights=st.dictionaries(st.text(min_size=1), st.floats(0.01, 100.0), min_size=1, max_size=6),
    factor=st.floats(0.1, 1e6),
)
def test_use_in_proportion_to_the_weights_is_fair(weights: dict[str, float], factor: float) -> None:
    used = {name: weight * factor for name, weight in weights.items()}
    assert all(share == pytest.approx(1.0) for share in shares_of(used, weights).values())
    if len(weights) > 1:
        greedy = max(weights)
        used[greedy] *= 2
        shares = shares_of(used, weights)
        assert shares[greedy] > 1.0
        assert all(share < 1.0 for name, share in shares.items() if name != greedy)


def test_nothing_to_share_is_not_fair() -> None:
    assert shares_of({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 2.0}) == {"a": 0.0, "b": 0.0}
