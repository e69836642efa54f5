"""What is kept, and what is joined."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.caches import Flights, Lru, digest


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))), st.integers(1, 5))
def test_the_results_used_last_are_kept(steps: list[tuple[bool, int]], size: int) -> None:
    kept: Lru[int, int] = Lru(size)
    model: list[int] = []
    for is_put, key in steps:
        if is_put:
            kept.put(key, -key)
        else:
            assert kept.get(key) == (-key if key in model else None)
        if is_put or key in model:
            model = [*(other for other in model if other != key), key][-size:]
        assert len(kept) == len(model)
    assert all(kept.get(key) == -key for key in model)


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=3), st.lists(st.text(), max_size=3))
def test_a_digest_is_of_the_texts_and_where_they_part(left: list[str], right: list[str]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)
    assert len(digest(*left)) == 16


class Work:
    """A computation that is let go by hand."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = self.done = self.cancelled = 0

    async def run(self) -> int:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done += 1
        return self.done


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_ask_together_share_one_computation() -> None:
    flights: Flights[str, int] = Flights()
    work, other = Work(), Work()
    asked = [asyncio.create_task(flights.join("a", work.run)) for _ in range(5)]
    apart = asyncio.create_task(flights.join("b", other.run))
    await _turns()
    assert (work.begun, other.begun, len(flights)) == (1, 1, 2)
    work.go.set()
    other.go.set()
    assert sorted(await asyncio.gather(*asked)) == [(1, False)] * 4 + [(1, True)]
    assert await apart == (1, True)
    assert len(flights) == 0
    assert await flights.join("a", work.run) == (2, True)


@pytest.mark.parametrize("leaver", [0, 1])
async def test_one_who_leaves_takes_nothing_from_the_others(leaver: int) -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    asked = [asyncio.create_task(flights.join("a", work.run)) for _ in range(2)]
    await _turns()
    asked[leaver].cancel()
    await _turns()
    assert (asked[leaver].cancelled(), work.cancelled, len(flights)) == (True, 0, 1)
    work.go.set()
    assert (await asked[1 - leaver])[0] == 1


async def test_the_computation_ends_with_the_last_who_waits_for_it() -> None:
    flights: Flights[str, int] = Flights()
    work, again = Work(), Work()
    asked = [asyncio.create_task(flights.join("a", work.run)) for _ in range(3)]
    await _turns()
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    late = asyncio.create_task(flights.join("a", again.run))
    await _turns()
    assert (work.cancelled, work.done, again.begun, len(flights)) == (1, 0, 1, 1)
    again.go.set()
    assert await late == (1, True)
    await flights.landed()
    assert len(flights) == 0


async def test_what_goes_wrong_is_told_to_all_and_forgotten() -> None:
    async def fail() -> int:
        raise LookupError("no")

    flights: Flights[str, int] = Flights()
    told = await asyncio.gather(*(flights.join("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [LookupError] * 3
    assert len(flights) == 0
