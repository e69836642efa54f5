"""Webhooks to send. They are written in the transaction that ends a job, so none is lost and none made up."""

from __future__ import annotations

from sqlalchemy import select, update

from gen_service.store.rows import Delivery
from gen_service.store.sessions import Sessions
from gen_service.store.tables import StoredDelivery, row_of


class Outbox:
    """All deliveries. One that is neither delivered nor given up comes again, also after a restart."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def due(self, now: float, limit: int) -> list[Delivery]:
        """What is to be sent by now, the longest due first; `attempts` are those that failed."""
        query = (
            select(StoredDelivery)
            .where(StoredDelivery.next_at <= now)
            .order_by(StoredDelivery.next_at, StoredDelivery.id)
            .limit(limit)
        )
        async with self._sessions.reading() as session:
            return [row_of(Delivery, line) for line in await session.scalars(query)]

    async def delivered(self, delivery_id: str, now: float) -> None:
        """It arrived: it is never due again. Nothing happens where its job was deleted meanwhile."""
        await self._change(delivery_id, delivered_at=now, next_at=None, error=None)

    async def failed(self, delivery_id: str, error: str, next_at: float | None) -> None:
        """It did not arrive, for the reason `error`: it is due again at `next_at`, or given up where that is None."""
        await self._change(delivery_id, attempts=StoredDelivery.attempts + 1, next_at=next_at, error=error)

    async def _change(self, delivery_id: str, **values: object) -> None:
        async with self._sessions.writing() as session:
            await session.execute(update(StoredDelivery).where(StoredDelivery.id == delivery_id).values(**values))
