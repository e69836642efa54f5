"""Which server the next request goes to, and who waits for one: late binding."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from gen_service.endpoints.endpoint import Endpoint, Place

# Prompts whose server is remembered, so that siblings meet their prefix cache; forgetting one costs a prefill.
REMEMBERED_PROMPTS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    place: asyncio.Future[Place]
    prompt_id: str
    avoid: Endpoint | None


class Places:
    """Places at servers, given out when a server has room, first come first served.

    Invariant: the places taken never exceed `limit`, nor any server's own limit. The least loaded server is chosen;
    siblings of a prompt prefer the server of the first while it has room; a retry avoids the server that just failed
    while another has room; a server on trial gets its one request at once.
    """

    def __init__(self, endpoints: Sequence[Endpoint], limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._endpoints = endpoints
        self._waiters: deque[_Waiter] = deque()
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests that wait for a server."""
        return len(self._waiters)

    async def take(self, prompt_id: str, avoid: Endpoint | None) -> Place:
        """Wait for a server with room and take a place on it. Each `take` is followed by exactly one `give_back`."""
        endpoint = None if self._waiters else self._choose(prompt_id, avoid)
        if endpoint is not None:
            return self._bind(endpoint, prompt_id)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), prompt_id, avoid)
        self._waiters.append(waiter)
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.cancelled():
                # `serve` may have met it, and let it go, first.
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            else:
                # The place was handed over in the same moment.
                self.give_back(waiter.place.result())
            raise

    def give_back(self, place: Place) -> None:
        """The request is over; its place goes to whoever waits longest."""
        self.taken -= 1
        place.endpoint.finished(place)
        self.serve()

    def serve(self) -> None:
        """Hand out what is free. Called when a place, a server or time frees one."""
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.place.done():
                endpoint = self._choose(waiter.prompt_id, waiter.avoid)
                if endpoint is None:
                    return
                waiter.place.set_result(self._bind(endpoint, waiter.prompt_id))
            self._waiters.popleft()

    def _choose(self, prompt_id: str, avoid: Endpoint | None) -> Endpoint | None:
        if self.taken >= self.limit:
            return None
        now = asyncio.get_running_loop().time()
        open_ = [endpoint for endpoint in self._endpoints if endpoint.has_room(now)]
        home = self._homes.get(prompt_id)
        return min(open_, key=lambda one: (one is avoid, one.load() >= 0.0, one is not home, one.load()), default=None)

    def _bind(self, endpoint: Endpoint, prompt_id: str) -> Place:
        self.taken += 1
        self._homes[prompt_id] = endpoint
        self._homes.move_to_end(prompt_id)
        if len(self._homes) > REMEMBERED_PROMPTS:
            self._homes.popitem(last=False)
        return endpoint.sent(asyncio.get_running_loop().time())
