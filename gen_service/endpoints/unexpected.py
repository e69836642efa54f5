"""What only a bug can raise in a task that goes on for ever: it is said at once, and the task goes on."""

from __future__ import annotations

import asyncio


def tell(what: str, error: Exception) -> None:
    """Say what went wrong, with the traceback, where asyncio says what became of tasks that nobody awaits: the log."""
    asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})
