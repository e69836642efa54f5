"""Breaks off what a task waits for, from outside, without ending the task."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Interruption:
    """What runs inside `with` ends at `ask`, as if it were cancelled; after the `with` the task goes on.

    It is told apart from a cancellation of the whole task as asyncio.timeout does it: a task that was cancelled, too,
    ends. Nested ones may be asked in any order, also at once: the outermost is what happened.

    Attributes:
        happened: whether it was asked for and broke something off; known after the `with`.
    """

    __slots__ = ("_asked", "_before", "_task", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._asked = False
        self._before = 0
        self._task: asyncio.Task[object] | None = None

    def ask(self) -> bool:
        """Break off what runs inside the `with`; False when it is over. From inside, it is broken off where it next
        waits, or not at all if it ends before."""
        task = self._task
        if task is None:
            return False
        if asyncio.current_task() is task:
            asyncio.get_running_loop().call_soon(self.ask)
        elif not self._asked:
            self._asked = True
            task.cancel()
        return True

    def __enter__(self) -> Interruption:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._before = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        assert task is not None
        if not self._asked:
            return False
        is_alone = task.uncancel() <= self._before
        self.happened = is_alone and kind is not None and issubclass(kind, asyncio.CancelledError)
        return self.happened
