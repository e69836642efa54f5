"""How far a job's disk is, and how far behind: plain numbers for whoever shows them."""

from __future__ import annotations

from gen_service.storage.journal import Journal
from gen_service.storage.shards import Committed, ShardWriter
from gen_service.storage.watermark import Watermark


class Backlog:
    """What lies between the last token and the published row, and what is published, as of now."""

    def __init__(self, watermark: Watermark, journal: Journal, shards: ShardWriter) -> None:
        self._watermark = watermark
        self._journal = journal
        self._shards = shards

    @property
    def committed(self) -> Committed:
        """What this run has published so far."""
        return self._shards.committed

    @property
    def waiting_rows(self) -> int:
        """Rows in memory that are not yet in the journal."""
        return self._journal.waiting_rows

    @property
    def journal_rows(self) -> int:
        """Rows that are in the journal and in no part that is being published or is."""
        return self._watermark.open_rows

    @property
    def journal_oldest_s(self) -> float:
        """Seconds since the oldest of `journal_rows` became durable, or was found again; 0.0 without any."""
        return self._watermark.oldest_s()

    @property
    def journal_bytes(self) -> int:
        """Bytes of the journal on disk."""
        return self._journal.size

    @property
    def shard_rows(self) -> int:
        """Rows with a verdict that no published part holds yet."""
        return self._shards.waiting_rows

    @property
    def shard_oldest_s(self) -> float:
        """Seconds since the oldest of `shard_rows` came; 0.0 without any."""
        return self._shards.oldest_s()
