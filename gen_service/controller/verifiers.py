"""Verifiers shared by jobs: their processes are the operator's, whatever number of jobs uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from gen_service.errors import SpecError
from gen_service.service_settings import VerifierSettings
from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Verifier
from gen_service.wire.jobs import VerificationChoice

# A verifier stays for the next job so long: its processes take seconds to warm up.
IDLE_S = 60.0


def verification_of(choice: VerificationChoice, budgets: VerifierSettings) -> VerificationSettings:
    """What a client chose, under the operator's budgets."""
    return VerificationSettings.model_validate(choice.model_dump() | budgets.model_dump())


@dataclass(slots=True)
class _Shared:
    """One verifier, how many jobs use it, and when it was left by the last one."""

    verifier: Verifier
    opening: asyncio.Task[Verifier]
    users: int = 0
    closing: asyncio.TimerHandle | None = field(default=None)


class Verifiers:
    """One verifier for each distinct way to verify, opened for the first job that uses it, closed a minute after the
    last one left.

    Each that is opened beside others gets a share of the processes: the second half of them, the third a third, but
    never less than one; so a client that varies its options does not multiply processes.

    Args:
        on_close: given each when its processes have ended.
    """

    def __init__(self, on_close: Callable[[Verifier], None] = lambda verifier: None) -> None:
        self._on_close = on_close
        self._shared: dict[str, _Shared] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> list[Verifier]:
        """Those that are open, for whoever measures them."""
        return [shared.verifier for shared in self._shared.values()]

    @asynccontextmanager
    async def use(self, settings: VerificationSettings) -> AsyncIterator[Verifier]:
        """The verifier of these settings, for as long as it is needed.

        Raises:
            SpecError: settings name no kind there is, or one that cannot be loaded.
        """
        key = settings.model_dump_json()
        shared = self._shared.get(key) or self._opened(key, settings)
        if shared.closing is not None:
            shared.closing.cancel()
        shared.users += 1
        try:
            # A job that is cancelled meanwhile must not end the opening for the others.
            yield await asyncio.shield(shared.opening)
        finally:
            shared.users -= 1
            if shared.opening.done() and shared.opening.exception() is not None:
                self._shared.pop(key, None)
            elif shared.users == 0:
                shared.closing = asyncio.get_running_loop().call_later(IDLE_S, self._close, key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for key in list(self._shared):
            self._close(key)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _opened(self, key: str, settings: VerificationSettings) -> _Shared:
        workers = max(1, settings.workers // (len(self._shared) + 1))
        verifier = Verifier(settings.model_copy(update={"workers": workers}))
        self._shared[key] = _Shared(verifier, asyncio.create_task(verifier.__aenter__()))
        return self._shared[key]

    def _close(self, key: str) -> None:
        shared = self._shared.pop(key)
        if shared.closing is not None:
            shared.closing.cancel()
        ending = asyncio.create_task(self._end(shared))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, shared: _Shared) -> None:
        with suppress(SpecError):
            await shared.opening
            await shared.verifier.__aexit__(None, None, None)
            self._on_close(shared.verifier)
