"""Which server the next request goes to, and who waits for one: late binding."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gen_service.endpoints.endpoint import Endpoint, Place
from gen_service.endpoints.shares import FairShares, Member, Share

# Prompts whose server is remembered, so that siblings meet their prefix cache; forgetting one costs a prefill.
REMEMBERED_PROMPTS = 4096
# How far the server of a prompt's first request may be above the least loaded one and still get its siblings: this
# share of its limit, and one request.
HOME_SLACK = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    place: asyncio.Future[Place]
    prompt_id: str
    avoid: Endpoint | None


class Line:
    """One job's requests: those that wait for a place, first come first served, and how many have one.

    Attributes:
        model: what they ask for; None while that is not known, and then they wait.
        at: places by server.
    """

    __slots__ = ("at", "member", "model", "on_bound", "share", "waiters")

    def __init__(self, share: Share, on_bound: Callable[[], None]) -> None:
        self.share = share
        self.on_bound = on_bound
        self.model: str | None = None
        self.member: Member | None = None
        self.waiters: deque[_Waiter] = deque()
        self.at: Counter[Endpoint] = Counter()

    @property
    def in_flight(self) -> int:
        """Places it has."""
        return 0 if self.member is None else self.member.in_flight


class Places:
    """Places at servers, given out when a server has room, to jobs by their shares.

    Invariants: the places taken never exceed `limit`, nor any server's own limit, nor any job's; no place stays free
    while a request waits that may have it; a server that was removed gets none, and keeps what it has.

    Where a request goes, among the servers with room that offer its model:

    - not to the one that just failed it, while there is another;
    - to one on trial: its one request decides whether it is back;
    - to its prompt's home, where the last of its siblings went, whose prefix cache saves its prefill, while that
      server's load is at most a tenth of its limit and one request above the least loaded one's. Without that bound
      one prompt of many samples fills one server while the others idle, and a request costs far more than its prefill;
    - to the least loaded, which is its prompt's home from then on.

    Args:
        endpoints: the servers, shared with whoever else looks at them: the list is changed in place.

    Attributes:
        leaving: servers that were removed and still have requests in flight, by URL.
    """

    def __init__(self, endpoints: list[Endpoint], limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.waiting = 0
        self.leaving: dict[str, Endpoint] = {}
        self._endpoints = endpoints
        self._shares = FairShares()
        self._lines: dict[Member, Line] = {}
        self._homes: OrderedDict[tuple[Line, str], Endpoint] = OrderedDict()

    def add(self, endpoint: Endpoint) -> None:
        """One more server, or one back that was leaving."""
        self.leaving.pop(endpoint.url, None)
        self._endpoints.append(endpoint)
        self.serve()

    def remove(self, endpoint: Endpoint) -> None:
        """A server gets nothing from now on. What it has in flight ends there, and then it is forgotten."""
        self._endpoints.remove(endpoint)
        if endpoint.in_flight:
            self.leaving[endpoint.url] = endpoint

    def join(self, share: Share, on_bound: Callable[[], None]) -> Line:
        """Add a job.

        Args:
            on_bound: called each time one of its requests gets a place.
        """
        return Line(share, on_bound)

    def name(self, line: Line, model: str) -> None:
        """The job's model is known: from now on it gets places. Done once."""
        line.model = model
        line.member = self._shares.join(line.share, model)
        self._lines[line.member] = line
        self._shares.wants(line.member, bool(line.waiters))
        self.serve()

    def leave(self, line: Line) -> None:
        """Forget a job whose requests have all ended."""
        if line.member is not None:
            del self._lines[line.member]
            self._shares.leave(line.member)

    async def take(self, line: Line, prompt_id: str, avoid: Endpoint | None) -> Place:
        """Wait for a server with room and take a place on it. Each `take` is followed by exactly one `give_back`."""
        if not self.waiting and line.member is not None and line.member.may_send:
            endpoint = self._best(self._open(), line, prompt_id, avoid)
            if endpoint is not None:
                return self._bind(endpoint, line, line.member, prompt_id)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), prompt_id, avoid)
        line.waiters.append(waiter)
        self.waiting += 1
        if line.member is not None:
            self._shares.wants(line.member, True)
            self.serve()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.cancelled():
                self._forget(line, waiter)
            else:
                # The place was handed over in the same moment.
                self.give_back(waiter.place.result())
            raise

    def give_back(self, place: Place) -> None:
        """The request is over; its place goes to whoever's turn it is."""
        assert place.turn is not None
        self.taken -= 1
        member, endpoint = place.turn.member, place.endpoint
        if member in self._lines:
            at = self._lines[member].at
            at[endpoint] -= 1
            if not at[endpoint]:
                del at[endpoint]
        self._shares.end(place.turn, asyncio.get_running_loop().time())
        endpoint.finished(place)
        if not endpoint.in_flight:
            self.leaving.pop(endpoint.url, None)
        self.serve()

    def serve(self) -> None:
        """Hand out what is free. Called when a place, a server or time frees one."""
        while self.waiting and (open_ := self._open()):
            member = self._shares.choose(partial(_offered, open_), asyncio.get_running_loop().time())
            if member is None:
                return
            line = self._lines[member]
            waiter = self._next(line)
            if waiter is not None:
                endpoint = self._best(open_, line, waiter.prompt_id, waiter.avoid)
                assert endpoint is not None
                waiter.place.set_result(self._bind(endpoint, line, member, waiter.prompt_id))

    def _next(self, line: Line) -> _Waiter | None:
        """The request that has waited longest; None when all of them were cancelled in this moment."""
        assert line.member is not None
        found = None
        while line.waiters and found is None:
            waiter = line.waiters.popleft()
            self.waiting -= 1
            found = None if waiter.place.done() else waiter
        self._shares.wants(line.member, bool(line.waiters))
        return found

    def _forget(self, line: Line, waiter: _Waiter) -> None:
        # `serve` may have met it, and let it go, first.
        with suppress(ValueError):
            line.waiters.remove(waiter)
            self.waiting -= 1
        if line.member is not None:
            self._shares.wants(line.member, bool(line.waiters))

    def has_other(self, line: Line, avoid: Endpoint | None) -> bool:
        """Whether a request of the job would get a place at once, at another server than this one."""
        if line.member is None or not line.member.may_send:
            return False
        return any(one is not avoid and line.model in one.models for one in self._open())

    def _open(self) -> list[Endpoint]:
        """Servers that one more request may be sent to."""
        if self.taken >= self.limit:
            return []
        now = asyncio.get_running_loop().time()
        return [endpoint for endpoint in self._endpoints if endpoint.has_room(now)]

    def _best(self, open_: Iterable[Endpoint], line: Line, prompt_id: str, avoid: Endpoint | None) -> Endpoint | None:
        offered = [one for one in open_ if line.model in one.models]
        least = min(offered, key=lambda one: (one is avoid, one.load()), default=None)
        home = self._homes.get((line, prompt_id))
        if least is None or least.load() < 0.0 or home not in offered or home is avoid:
            return least
        return home if home.load() <= least.load() + HOME_SLACK + 1.0 / home.limit else least

    def _bind(self, endpoint: Endpoint, line: Line, member: Member, prompt_id: str) -> Place:
        self.taken += 1
        key = (line, prompt_id)
        self._homes[key] = endpoint
        self._homes.move_to_end(key)
        if len(self._homes) > REMEMBERED_PROMPTS:
            self._homes.popitem(last=False)
        now = asyncio.get_running_loop().time()
        place = endpoint.sent(now)
        place.turn = self._shares.begin(member, now)
        line.at[endpoint] += 1
        line.on_bound()
        return place


def _offered(servers: Iterable[Endpoint], model: str) -> bool:
    return any(model in server.models for server in servers)
