"""An on-disk set of strings, for keys that may not all fit in memory."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

_CACHE_KIB = 4096
_BATCH = 10_000


class Seen:
    """A set of strings in a file of its own, deleted at `close`; memory stays at a few MB for any number of keys.

    Keys are stored as 16-byte blake2b digests: that two of 10^9 keys collide has a chance below 10^-20. Nothing here
    survives a crash, and nothing needs to: the set is made anew from the manifests and the journal.
    May be used from several threads.

    Args:
        path: of the file; one left by a killed process is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "PRAGMA locking_mode=EXCLUSIVE",
            f"PRAGMA cache_size=-{_CACHE_KIB}",
            "CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID",
            # One transaction for the whole life: pages go to the file only when the cache is full.
            "BEGIN",
        ):
            self._connection.execute(statement)
        self._length = 0

    def add(self, key: str) -> bool:
        """Put the key in; True if it was not there."""
        with self._lock:
            cursor = self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_digest(key),))
            self._length += cursor.rowcount
            return cursor.rowcount == 1

    def add_many(self, keys: Iterable[str]) -> int:
        """Put many keys in; how many were not there. Sorted batches make this several times faster than `add`."""
        before = self._length
        batch: set[bytes] = set()
        for key in keys:
            batch.add(_digest(key))
            if len(batch) >= _BATCH:
                self._insert(batch)
                batch.clear()
        self._insert(batch)
        return self._length - before

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return self._connection.execute("SELECT 1 FROM seen WHERE key=?", (_digest(key),)).fetchone() is not None

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Delete the file."""
        with self._lock:
            self._connection.close()
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Seen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _insert(self, batch: set[bytes]) -> None:
        with self._lock:
            rows = [(digest,) for digest in sorted(batch)]
            cursor = self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", rows)
            self._length += max(cursor.rowcount, 0)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
