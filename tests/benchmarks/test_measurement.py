"""What the host of a virtual machine takes is told apart from what the machine used."""

from __future__ import annotations

from collections import namedtuple

import psutil
import pytest

from benchmarks.measurement import Steal

LINUX = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
Linux, Mac = namedtuple("Linux", LINUX), namedtuple("Mac", LINUX[:4])


def test_the_share_is_of_what_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([Linux(100, 5, 10, 500, 7, 1, 1, 20, 50, 5), Linux(160, 10, 20, 900, 70, 3, 3, 40, 80, 10)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(times))
    # Those of guests lie in user and nice.
    user, nice, system, interrupts, stolen = 60, 5, 10, 4, 20
    assert Steal().share() == pytest.approx(stolen / (user + nice + system + interrupts + stolen))


def test_a_machine_that_does_not_count_it_has_none_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([Mac(1, 0, 1, 5), Mac(4, 0, 2, 9)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(times))
    assert Steal().share() == 0.0
