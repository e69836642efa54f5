"""Names of stored things."""

from __future__ import annotations

import re
import time

import pytest

from gen_service.store.ids import derived_id, new_id
from gen_service.wire.jobs import JOB_NAME


def test_ids_are_safe_in_paths_and_urls_and_never_the_same() -> None:
    made = {new_id("job-") for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(re.fullmatch(r"job-[0-9a-v]{26}", one) and re.match(JOB_NAME, one) for one in made)


def test_ids_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [0, 1_000_000, 31_000_000, 32_000_000, 10**15, 1_700_000_000 * 10**9, 5_000_000_000 * 10**9]
    made = []
    for moment in moments:
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        made.append(new_id(""))
    assert made == sorted(made)


def test_a_derived_id_is_the_same_again_and_sorts_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    before = new_id("file-")
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_001_000_000_000)
    derived = derived_id("file-", 1_700_000_000.5, "batch_0 output")
    assert before < derived < new_id("file-")
    assert derived == derived_id("file-", 1_700_000_000.5, "batch_0 output")
    assert derived != derived_id("file-", 1_700_000_000.5, "batch_0 error")
