from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gen_service.storage.frames import JournalPosition
from gen_service.storage.watermark import Watermark


@given(st.integers(0, 40), st.integers(0, 40), st.randoms(use_true_random=False), st.booleans())
def test_every_row_below_the_low_mark_is_settled_and_the_mark_never_falls(
    replayed: int, written: int, chance: random.Random, is_replayed: bool
) -> None:
    covered = JournalPosition(1, 0, 0)
    watermark = Watermark(covered)
    old = [JournalPosition(1, number // 3 * 100, number % 3) for number in range(replayed)]
    new = [JournalPosition(2, number // 5 * 100, number % 5) for number in range(written)]
    published = {position for position in old if chance.random() < 0.3}
    all_rows, lows = [*old, *new], [covered]
    to_replay, to_write, open_rows = list(old), list(new), []
    while to_replay or to_write or open_rows:
        step = chance.choice(["replay", "write", "settle"])
        if step == "replay" and to_replay and is_replayed:
            position = to_replay.pop(0)
            watermark.replaying(position, position not in published)
            if position not in published:
                open_rows.append(position)
            if not to_replay:
                watermark.replayed()
        elif step == "write" and to_write:
            position = to_write.pop(0)
            watermark.opened([position], position._replace(row=position.row + 1))
            open_rows.append(position)
        elif step == "settle" and open_rows:
            position = open_rows.pop(chance.randrange(len(open_rows)))
            watermark.settled([position])
            published.add(position)
        elif not is_replayed:
            to_replay.clear()
        lows.append(watermark.low())
        assert watermark.open_rows == len(open_rows)
        assert (watermark.oldest_s() > 0.0) == bool(open_rows)
        assert all(position in published for position in all_rows if position < lows[-1])
    assert lows == sorted(lows)
    if is_replayed and replayed and new:
        assert lows[-1] == new[-1]._replace(row=new[-1].row + 1)
