"""What is seen of virtual servers at work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.planning.watch import Start, steady_part


def test_the_steady_part_is_what_lies_between_half_of_them_and_the_last_request() -> None:
    starts = [Start(float(n), 10 if n < 6 else 20, 1000 * n if n >= 2 else 0) for n in range(9)]
    part = steady_part(starts)
    assert part is not None
    assert (part.seconds, part.tokens_per_s) == (4.0, 1000.0)
    assert part.in_flight == pytest.approx((2 * 10 + 2 * 20) / 4)


def test_requests_that_all_go_out_at_once_have_no_steady_part() -> None:
    assert steady_part([Start(3.0, n, 0) for n in range(10)]) is None
    assert steady_part([]) is None


@given(st.lists(st.tuples(st.floats(0.001, 100), st.integers(1, 50), st.integers(0, 9999)), min_size=2, max_size=40))
def test_means_lie_between_the_least_and_the_most_and_do_not_depend_on_the_clock(
    steps: list[tuple[float, int, int]],
) -> None:
    at, tokens, starts = 0.0, 0, []
    for seconds, in_flight, made in steps:
        at, tokens = at + seconds, tokens + made
        starts.append(Start(at, in_flight, tokens))
    part = steady_part(starts)
    later = steady_part([replace(start, at=start.at + 5.0) for start in starts])
    if part is None:
        assert len(starts) - len(starts) // 2 == 1
        return
    assert later is not None
    assert later.tokens_per_s == pytest.approx(part.tokens_per_s)
    counts = [start.in_flight for start in starts]
    assert min(counts) * 0.999 <= part.in_flight <= max(counts) * 1.001
    assert part.tokens_per_s <= max(made / seconds for seconds, _, made in steps) * 1.001
