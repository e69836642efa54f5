"""What all tests share."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_loop_before_the_first_async_test() -> None:
    """looptime asks for the current event loop in every test; unless told that there is none, asyncio would make one
    that nobody closes."""
    asyncio.set_event_loop(None)
