"""An on-disk set of strings, for keys that may not all fit in memory."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

_CACHE_KIB = 4096
# Keys that wait in memory to be written together, and keys of one statement: sqlite3 gives the interpreter away at each
# statement, and takes up to 5 ms to get it back.
_FRESH = 1024
_STATEMENT = 512
_FILTER_BYTES = 1 << 21
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})


class Seen:
    """A set of strings in a file of its own, deleted at `close`; memory stays at a few MB for any number of keys.

    Keys are stored as 16-byte blake2b digests: that two of 10^9 keys collide has a chance below 10^-20. Nothing here
    survives a crash, and nothing needs to: the set is made anew from the manifests and the journal. New keys wait in
    memory and are written together; while there is no room for the file they stay there. A filter in memory (Bloom,
    1970; two bits a key) knows most keys that are not in the file, at a million keys all but one in 70.
    May be used from several threads.

    Args:
        path: of the file; one left by a killed process is replaced.
        fresh_keys: how many keys wait in memory before they are written.
    """

    def __init__(self, path: Path, *, fresh_keys: int = _FRESH) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._fresh: set[bytes] = set()
        self._fresh_keys = self._flush_at = fresh_keys
        # Made when the first keys are written: a service has several of these sets for each job, most of them small.
        self._filter = bytearray()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            # A write that finds no room is taken back whole, from memory.
            "PRAGMA journal_mode=MEMORY",
            "PRAGMA synchronous=OFF",
            "PRAGMA locking_mode=EXCLUSIVE",
            f"PRAGMA cache_size=-{_CACHE_KIB}",
        ):
            self._connection.execute(statement)
        self._has_table = False
        self._length = 0

    def add(self, key: str) -> bool:
        """Put the key in; True if it was not there."""
        with self._lock:
            return self._add(_digest(key))

    def add_many(self, keys: Iterable[str]) -> int:
        """Put many keys in; how many were not there."""
        before = self._length
        for key in keys:
            self.add(key)
        return self._length - before

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return self._has(_digest(key))

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Delete the file and give the memory back, though what holds the set may wait for the garbage collector."""
        with self._lock:
            self._connection.close()
            self._filter = bytearray()
            self._fresh = set()
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Seen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, digest: bytes) -> bool:
        if self._has(digest):
            return False
        self._fresh.add(digest)
        self._length += 1
        if len(self._fresh) >= self._flush_at:
            self._flush()
        return True

    def _has(self, digest: bytes) -> bool:
        if digest in self._fresh:
            return True
        if not self._filter or not all(self._filter[byte] & bit for byte, bit in _bits(digest)):
            return False
        found = self._connection.execute("SELECT 1 FROM seen WHERE key=?", (digest,)).fetchone()
        return found is not None

    def _flush(self) -> None:
        try:
            self._write(sorted(self._fresh))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _FULL:
                raise
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._flush_at = len(self._fresh) + self._fresh_keys
            return
        if not self._filter:
            self._filter = bytearray(_FILTER_BYTES)
        for digest in self._fresh:
            for byte, bit in _bits(digest):
                self._filter[byte] |= bit
        self._fresh.clear()
        self._flush_at = self._fresh_keys

    def _write(self, digests: list[bytes]) -> None:
        self._connection.execute("BEGIN")
        if not self._has_table:
            self._connection.execute("CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        for start in range(0, len(digests), _STATEMENT):
            some = digests[start : start + _STATEMENT]
            self._connection.execute("INSERT INTO seen VALUES " + ",".join(["(?)"] * len(some)), some)
        self._connection.execute("COMMIT")
        self._has_table = True


def _bits(digest: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """The filter's two bits of a key: (byte, mask) each."""
    first = int.from_bytes(digest[:4]) % (8 * _FILTER_BYTES)
    second = int.from_bytes(digest[4:8]) % (8 * _FILTER_BYTES)
    return (first >> 3, 1 << (first & 7)), (second >> 3, 1 << (second & 7))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
