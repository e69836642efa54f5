"""Webhooks to send. They are written in the transaction that ends a job, so none is lost and none made up."""

from __future__ import annotations

from sqlalchemy import select, update

from gen_service.store.rows import Delivery
from gen_service.store.tables import OUTBOX, columns
from gen_service.store.transactions import Transactions


class Outbox:
    """All deliveries. One that is neither delivered nor given up comes again, also after a restart."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def due(self, now: float, limit: int) -> list[Delivery]:
        """What is to be sent by now, the longest due first; `attempts` are those that failed."""
        query = (
            select(*columns(OUTBOX, Delivery))
            .where(OUTBOX.c.next_at <= now)
            .order_by(OUTBOX.c.next_at, OUTBOX.c.id)
            .limit(limit)
        )
        return await self._transactions.read(lambda connection: [Delivery(*line) for line in connection.execute(query)])

    async def delivered(self, delivery_id: str, now: float) -> None:
        """It arrived: it is never due again. Nothing happens where its job was deleted meanwhile."""
        await self._change(delivery_id, delivered_at=now, next_at=None, error=None)

    async def failed(self, delivery_id: str, error: str, next_at: float | None) -> None:
        """It did not arrive, for the reason `error`: it is due again at `next_at`, or given up where that is None."""
        await self._change(delivery_id, attempts=OUTBOX.c.attempts + 1, next_at=next_at, error=error)

    async def _change(self, delivery_id: str, **values: object) -> None:
        change = update(OUTBOX).where(OUTBOX.c.id == delivery_id).values(**values)
        await self._transactions.write(lambda connection: connection.execute(change).close())
