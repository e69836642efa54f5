"""The states of a job as a machine."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.wire.states import ACTIVE, FINAL, STATES, TRANSITIONS, JobEvent, JobState, after

EVENTS: tuple[JobEvent, ...] = get_args(JobEvent)
FIRST: frozenset[JobState] = frozenset({"validating", "queued"})


def reachable(start: JobState) -> set[JobState]:
    """The states that some events lead to, the start among them."""
    found, open_ = {start}, [start]
    while open_:
        state = open_.pop()
        fresh = {there for (here, _), there in TRANSITIONS.items() if here == state} - found
        found |= fresh
        open_ += fresh
    return found


@pytest.mark.parametrize("state", STATES)
def test_every_state_reaches_a_final_one(state: JobState) -> None:
    assert reachable(state) & FINAL


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("event", EVENTS)
def test_a_final_state_has_no_way_out(state: JobState, event: JobEvent) -> None:
    assert after(state, event) is None


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_reached(state: JobState) -> None:
    assert any(state in reachable(first) for first in FIRST)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_leads_somewhere(event: JobEvent) -> None:
    assert any(name == event for _, name in TRANSITIONS)


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_a_job_that_has_not_ended_can_fail_or_be_stopped(state: JobState) -> None:
    assert after(state, "fail") == "failed" or after(state, "cancel") == "cancelling"


def test_one_event_leads_from_one_state_to_one_other() -> None:
    assert all(there != here for (here, _), there in TRANSITIONS.items())
    assert set(STATES) == FINAL | ACTIVE


@given(st.sampled_from(sorted(FIRST)), st.lists(st.sampled_from(EVENTS), max_size=40))
def test_whatever_happens_a_job_is_in_one_state_and_stays_ended(state: JobState, events: list[JobEvent]) -> None:
    ended_in: JobState | None = None
    for event in events:
        state = after(state, event) or state
        assert state in STATES
        ended_in = ended_in or (state if state in FINAL else None)
    assert ended_in is None or state == ended_in
