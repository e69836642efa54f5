"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import heapq
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple, cast

from gen_service.errors import GenServiceError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Awaited = Coroutine[Any, Any, T] | Generator[Any, None, T]

log = logging.getLogger(__name__)

# Real seconds that a loop with nothing to do waits for a thread of somebody else's to call it.
THREADS_S = 1.0


class Deadlock(GenServiceError):
    """Nothing is ready and no timer is set: the tasks named wait for ever."""


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; what it awaits takes no real time.

    The loop's time starts at 0 and stands still while anything is ready; then it jumps to the next timer. The order
    of everything is the same on every run: callbacks as they were scheduled, timers by time and then as scheduled.
    What would run in another thread (`asyncio.to_thread`, `run_in_executor`) runs at once in this one, and takes no
    time. Sockets, pipes, processes and signals do not exist. A thread that is not the loop's own may call
    `call_soon_threadsafe`, but time may jump while it works.

    Raises:
        Deadlock: the coroutine waits for something that will never come.
        RuntimeError: an event loop is running in this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run_in_virtual_time cannot be called while an event loop is running")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualLoop(asyncio.AbstractEventLoop):
    """The event loop of `run_in_virtual_time`."""

    def __init__(self) -> None:
        self._time = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = count()
        self._foreign: deque[asyncio.Handle] = deque()
        self._called = threading.Event()
        self._is_running = self._is_stopping = self._is_closed = False
        self._debug = False
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self._failure: BaseException | None = None
        self._on_error: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._time

    def run_forever(self) -> None:
        """Run until `stop`.

        Raises:
            Deadlock: nothing is ready and no timer is set.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("an event loop is running in this thread")
        self._is_running, self._is_stopping = True, False
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generators.add, finalizer=self._finalize)
        asyncio._set_running_loop(self)
        try:
            while not self._is_stopping:
                self._turn()
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            self._is_running = False

    def run_until_complete(self, future: Awaited[T] | asyncio.Future[T]) -> T:  # type: ignore[override]
        """Run until the future is done, and return its result."""
        task = future if isinstance(future, asyncio.Future) else self.create_task(future)
        task.add_done_callback(self._stop)
        try:
            self.run_forever()
        finally:
            task.remove_done_callback(self._stop)
        return task.result()

    def stop(self) -> None:
        """End `run_forever` after the callbacks that are ready now."""
        self._is_stopping = True

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """Forget all callbacks."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators that are still open."""
        generators = list(self._generators)
        self._generators.clear()
        await asyncio.gather(*(generator.aclose() for generator in generators), return_exceptions=True)

    async def shutdown_default_executor(self) -> None:
        """Nothing: there is no executor."""

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back in the next turn."""
        if self._is_closed:
            raise RuntimeError("the loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back in a turn soon; from any thread."""
        if self._is_closed:
            raise RuntimeError("the loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._foreign.append(handle)
        self._called.set()
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back after `delay` seconds of virtual time."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at a time; the clock then shows exactly this time, or a later one if it was past already."""
        if self._is_closed:
            raise RuntimeError("the loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._serial), timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Awaited[T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return asyncio.Task(cast("Coroutine[Any, Any, T]", coro), loop=self, name=name, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run it here and now, whatever the executor; a future that is done."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
    ) -> None:
        self._on_error = handler

    def get_exception_handler(self) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None:
        return self._on_error

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """An error in a callback ends the run: it is a bug, and a simulation hides none. Others are logged."""
        error = context.get("exception")
        if "handle" in context and isinstance(error, BaseException):
            self._failure = self._failure or error
        else:
            log.error("%s", context.get("message"), exc_info=error)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._on_error is None:
            self.default_exception_handler(context)
        else:
            self._on_error(self, context)

    def get_debug(self) -> bool:
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        self._debug = enabled

    def get_task_factory(self) -> None:
        return None

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a cancelled timer is dropped when its time comes."""

    def _turn(self) -> None:
        """Run what is ready; when nothing is, jump to the next timers."""
        if self._foreign:
            self._take_foreign()
        if not self._ready and not self._jump():
            self._wait_for_threads()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _jump(self) -> bool:
        """Make the timers of the next moment ready; whether there were any."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            return False
        self._time = max(self._time, timers[0][0])
        while timers and timers[0][0] <= self._time:
            self._ready.append(heapq.heappop(timers)[2])
        return True

    def _wait_for_threads(self) -> None:
        if not self._called.wait(THREADS_S) and not self._foreign:
            names = [f"{task.get_name()} ({_place(task)})" for task in asyncio.all_tasks(self)]
            raise Deadlock(f"nothing is ready and no timer is set; waiting: {', '.join(sorted(names))}")
        self._take_foreign()

    def _take_foreign(self) -> None:
        self._called.clear()
        while self._foreign:
            self._ready.append(self._foreign.popleft())

    def _stop(self, future: asyncio.Future[Any]) -> None:
        self.stop()

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.discard(generator)
        if not self._is_closed:
            self.create_task(_close(generator))


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits."""
    frames = task.get_stack()
    if not frames:
        return "at its end"
    return f"{frames[-1].f_code.co_qualname}, line {frames[-1].f_lineno}"
