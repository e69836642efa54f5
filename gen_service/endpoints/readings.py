"""What a server says of itself on /metrics: the few numbers that scheduling needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at a server's /metrics, summed over its engines and models. None: it does not say.

    Attributes:
        kv_tokens: tokens that fit in the KV cache: blocks times their size, of all engines.
        kv_usage: share of the KV cache in use, 0 to 1; the mean over engines.
        running, waiting: requests that are computed, and that wait inside the server.
        preemptions: running requests that were put back to be computed again, since the server started.
        completed: requests that ended with an answer, since the server started.
        generated_tokens: completion tokens made, since the server started.
    """

    kv_tokens: int | None = None
    kv_usage: float | None = None
    running: int | None = None
    waiting: int | None = None
    preemptions: float | None = None
    completed: float | None = None
    generated_tokens: float | None = None
