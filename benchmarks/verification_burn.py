"""A verifier of a user's own that takes its time: an answer is right when it is the gold's text."""

from __future__ import annotations

import time


def burn(gold: str, answer: str, cpu_s: float = 0.02) -> bool:
    """Use `cpu_s` seconds of CPU, then compare."""
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
    return gold == answer
