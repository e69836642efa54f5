"""What all tests share."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, settings

# No verdict depends on how busy the machine is; a failure prints how to repeat it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _no_loop_before_the_first_async_test() -> None:
    """looptime asks for the current event loop in every test; unless told that there is none, asyncio would make one
    that nobody closes."""
    asyncio.set_event_loop(None)
