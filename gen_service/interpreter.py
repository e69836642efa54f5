"""The interpreter, set up for one event loop of many short-lived objects beside threads that write."""

from __future__ import annotations

import gc


def settle_interpreter(*, thresholds: tuple[int, int, int]) -> None:
    """To be called once everything is imported.

    What is imported leaves the garbage collector's sight, and it looks less often: at Python's defaults a tenth of a
    job's time goes into looking through modules that never change.

    Python's switch interval stays: where threads asked for the interpreter each 0.5 ms and not each 5 ms, the event
    loop was later (200 jobs: p99 at most 100 ms instead of 50 ms; one job: no difference).

    Args:
        thresholds: of the three generations, as `gc.set_threshold` takes them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)
