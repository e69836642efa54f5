"""What becomes of a job when its run has ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.controller.endings import Ending, said
from gen_service.errors import SpecError, StorageError
from gen_service.wire.states import FINAL, STATES, JobState, after

FAILURES = [StorageError("the disk failed"), SpecError("prompts.path", "x", "a file that exists"), ValueError("a bug")]
ENDINGS = st.builds(
    Ending,
    complete=st.booleans(),
    wish=st.sampled_from([None, "pause", "requeue", "end"]),
    recovered=st.booleans(),
    failure=st.none() | st.sampled_from(FAILURES),
    nothing_usable=st.none() | st.just("no usable prompt"),
)


@given(ENDINGS, st.sampled_from(STATES))
def test_what_is_decided_can_happen_and_comes_to_rest(ending: Ending, state: JobState) -> None:
    """However a run ended, its job comes to rest within three steps, and a failure has a reason."""
    for _ in range(3):
        decided = ending.event(state)
        if decided is None:
            break
        event, reason = decided
        assert event != "fail" or reason
        following = after(state, event)
        assert following is not None
        state = following
    assert ending.event(state) is None
    assert state in FINAL | {"validating", "queued", "paused"} or (
        state in ("cancelling", "expiring") and not ending.recovered
    )


@given(ENDINGS)
def test_a_running_job_is_completed_only_when_all_is_published(ending: Ending) -> None:
    decided = ending.event("running")
    assert decided is not None
    assert (decided[0] == "finish") == (ending.complete and ending.failure is None and not ending.nothing_usable)


@pytest.mark.parametrize("state", ["cancelling", "expiring"])
def test_a_job_ends_for_good_only_when_what_was_journaled_is_published(state: JobState) -> None:
    assert Ending(recovered=False).event(state) is None
    assert Ending(recovered=True).event(state) == ("ended", None)
    assert Ending(failure=FAILURES[1]).event(state) == ("ended", None)
    assert Ending(failure=FAILURES[0]).event(state) == ("fail", "the disk failed")


def test_a_wish_to_rest_counts_unless_the_job_got_done() -> None:
    assert Ending(wish="pause").event("running") == ("pause", None)
    assert Ending(wish="pause", complete=True).event("running") == ("finish", None)
    assert Ending(wish="requeue").event("running") == ("requeue", None)
    assert Ending().event("running") == ("requeue", None)


def test_a_bug_is_called_one() -> None:
    assert said(ValueError("x")) == "a bug in the service: ValueError('x')"
