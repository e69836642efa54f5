"""Who gets the next free place: a pure policy that owns no clock, no task and no connection.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) on slot-seconds, the time that a request holds a place: each
contender has a tag, the slot-seconds it was given over its weight; the least tag is next. Tenants contend with one
another, and each one's jobs among themselves. How long a request will hold its place is not known when it is given
one: it is charged the mean so far, and what it holds it longer as that comes; the rest is set right when it ends.

Only requests for the same model contend for the same servers, so each model has tags of its own; what joins them is
an offset for each model, which keeps a model whose servers were full from being owed the places that others took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gen_service.endpoints.contests import Contender, Contest, Mean

# What a request is charged before any has ended.
FIRST_CHARGE_S = 1.0
# How often requests that hold their places longer than charged are looked for.
ACCRUE_S = 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """What a job may have of the fleet.

    Attributes:
        job_id, tenant: whose it is.
        tenant_weight: the tenant's part beside other tenants' (the latest that a job of it came with holds).
        priority: while a job of a higher one can use a place, no lower one gets it.
        weight: the job's part beside its tenant's other jobs of the same priority.
        max_in_flight: most places at a time, or None.
    """

    job_id: str
    tenant: str = "default"
    tenant_weight: float = 1.0
    priority: int = 0
    weight: float = 1.0
    max_in_flight: int | None = None


class _Owner:
    """A tenant within one priority. Its weight counts once: it is divided among the models it has places for."""

    __slots__ = ("models", "weight")

    def __init__(self) -> None:
        self.weight = 1.0
        self.models = 0

    @property
    def rate(self) -> float:
        """What one slot-second adds to its tag."""
        return max(1, self.models) / self.weight


class _Tenant(Contender):
    """A tenant's jobs of one model."""

    __slots__ = ("in_flight", "members", "owner", "queue", "size")

    def __init__(self, owner: _Owner, queue: _Queue) -> None:
        super().__init__()
        self.owner = owner
        self.queue = queue
        self.in_flight = self.size = 0
        self.members: Contest[Member] = Contest()


class _Queue:
    """All who want one model."""

    __slots__ = ("contest", "model", "offset", "tenants")

    def __init__(self, model: str) -> None:
        self.model = model
        self.offset = 0.0
        self.tenants: dict[str, _Tenant] = {}
        self.contest: Contest[_Tenant] = Contest()


class _Level:
    """All of one priority. Its clock is how far the model that was chosen last had been served."""

    __slots__ = ("clock", "owners", "queues")

    def __init__(self) -> None:
        self.clock = 0.0
        self.owners: dict[str, _Owner] = {}
        self.queues: dict[str, _Queue] = {}

    def choose(self, offers: Callable[[str], bool], now: float) -> _Tenant | None:
        """The tenant whose turn it is among those whose model can be had now.

        Models that are passed over since their servers are full are brought up to it: no place was lost to them.
        """
        best, least = None, 0.0
        passed: list[tuple[_Queue, float]] = []
        for queue in self.queues.values():
            if not queue.contest.ready:
                continue
            first = queue.contest.first()
            tag = first.tag + queue.offset
            if not offers(queue.model):
                passed.append((queue, tag))
            elif best is None or tag < least:
                best, least = first, tag
        if best is None:
            return None
        self.clock = best.queue.contest.chose(best, now) + best.queue.offset
        for queue, tag in passed:
            queue.offset += max(0.0, self.clock - tag)
        return best


class Member(Contender):
    """One job among those that share the fleet. Ready while it has something to send and is under its own limit.

    Attributes:
        in_flight: places it has.
        held_s: how long its requests held theirs.
    """

    __slots__ = ("held_s", "in_flight", "level", "share", "tenant", "wants")

    def __init__(self, share: Share, level: _Level, tenant: _Tenant) -> None:
        super().__init__()
        self.share = share
        self.level = level
        self.tenant = tenant
        self.in_flight = 0
        self.wants = False
        self.held_s = Mean()

    @property
    def may_send(self) -> bool:
        """Whether it is under its own limit."""
        limit = self.share.max_in_flight
        return limit is None or self.in_flight < limit

    def settle(self) -> None:
        """Be in the contest, or not, after something changed."""
        tenant = self.tenant
        contest, queue = tenant.members, tenant.queue
        if self.wants and self.may_send:
            if self in contest.ready:
                return
            if not contest.ready:
                is_first = not queue.contest.ready
                queue.contest.enter(tenant)
                if is_first:
                    queue.offset = max(queue.offset, self.level.clock - tenant.tag)
            contest.enter(self)
        elif self in contest.ready:
            del contest.ready[self]
            if not contest.ready:
                del queue.contest.ready[tenant]


class Turn:
    """One place given out. Its rates stay what they were then.

    Attributes:
        since: when.
        charged_s: slot-seconds that the tags hold for it.
    """

    __slots__ = ("_rate", "_tenant_rate", "charged_s", "member", "since")

    def __init__(self, member: Member, now: float) -> None:
        self.member = member
        self.since = now
        self.charged_s = 0.0
        self._rate = 1.0 / member.share.weight
        self._tenant_rate = member.tenant.owner.rate
        member.begin(self._rate, now)
        member.tenant.begin(self._tenant_rate, now)

    def charge(self, seconds: float) -> None:
        """Have the tags hold so many slot-seconds for it."""
        more = seconds - self.charged_s
        self.charged_s = seconds
        self.member.charge(more * self._rate)
        self.member.tenant.charge(more * self._tenant_rate)

    def end(self, held_s: float) -> None:
        """It is over, after that time."""
        self.charge(held_s)
        self.member.end(self._rate, held_s, self.since)
        self.member.tenant.end(self._tenant_rate, held_s, self.since)


class FairShares:
    """Chooses which job's request gets the next place.

    Work-conserving: `choose` finds a job whenever one is ready whose model is offered.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._turns: set[Turn] = set()
        self._accrue_at = 0.0
        self._held_s = Mean()

    def join(self, share: Share, model: str) -> Member:
        """Add a job; it wants nothing yet."""
        if share.priority not in self._levels:
            self._levels[share.priority] = _Level()
            self._levels = dict(sorted(self._levels.items(), reverse=True))
        level = self._levels[share.priority]
        owner = level.owners.setdefault(share.tenant, _Owner())
        owner.weight = share.tenant_weight
        queue = level.queues.setdefault(model, _Queue(model))
        if share.tenant not in queue.tenants:
            queue.tenants[share.tenant] = _Tenant(owner, queue)
        tenant = queue.tenants[share.tenant]
        tenant.size += 1
        return Member(share, level, tenant)

    def leave(self, member: Member) -> None:
        """Forget a job, and its tenant with the last one."""
        self.wants(member, False)
        share, level, tenant = member.share, member.level, member.tenant
        tenant.size -= 1
        if tenant.size:
            return
        del tenant.queue.tenants[share.tenant]
        if not tenant.queue.tenants:
            del level.queues[tenant.queue.model]
        if not any(share.tenant in queue.tenants for queue in level.queues.values()):
            del level.owners[share.tenant]
        if not level.queues:
            del self._levels[share.priority]

    def wants(self, member: Member, wants: bool) -> None:
        """Whether the job has a request that waits for a place."""
        if member.wants is not wants:
            member.wants = wants
            member.settle()

    def choose(self, offers: Callable[[str], bool], now: float) -> Member | None:
        """Whose turn it is; nobody is given anything yet.

        Args:
            offers: whether a server with room has this model.
            now: seconds on any steady clock.
        """
        if now >= self._accrue_at:
            self._accrue(now)
        for level in self._levels.values():
            tenant = level.choose(offers, now)
            if tenant is not None:
                member = tenant.members.first()
                tenant.members.chose(member, now)
                return member
        return None

    def begin(self, member: Member, now: float) -> Turn:
        """The job gets a place. Each `begin` is followed by exactly one `end`."""
        tenant, level = member.tenant, member.level
        tenant.members.gave(member, now)
        level.clock = max(level.clock, tenant.queue.contest.gave(tenant, now) + tenant.queue.offset)
        tenant.owner.models += not tenant.in_flight
        tenant.in_flight += 1
        member.in_flight += 1
        turn = Turn(member, now)
        self._turns.add(turn)
        turn.charge(member.held_s.or_else(self._held_s.or_else(FIRST_CHARGE_S)))
        member.settle()
        return turn

    def end(self, turn: Turn, now: float) -> None:
        """The place is free again."""
        member, held_s = turn.member, now - turn.since
        self._turns.discard(turn)
        turn.end(held_s)
        member.held_s.add(held_s)
        self._held_s.add(held_s)
        member.in_flight -= 1
        member.tenant.in_flight -= 1
        member.tenant.owner.models -= not member.tenant.in_flight
        member.settle()

    def _accrue(self, now: float) -> None:
        """Charge what places are held longer than was expected."""
        self._accrue_at = now + ACCRUE_S
        for turn in self._turns:
            if now - turn.since > turn.charged_s:
                turn.charge(now - turn.since)
