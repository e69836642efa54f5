"""The samples of requests that ask for several choices, held on disk until all of a request's are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson


class Siblings:
    """Joins rows (of JSON values) that may lie far apart, with memory for those of one request.

    Args:
        path: of a file to work in, which must not be there; left to whoever owns its folder.
        choices: custom id and number of choices of each request that asks for more than one.
    """

    def __init__(self, path: Path, choices: Iterable[tuple[str, int]]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE wanted (custom_id TEXT PRIMARY KEY, choices INTEGER) WITHOUT ROWID",
            "CREATE TABLE waiting (custom_id TEXT, sample_index INTEGER, row BLOB, "
            "PRIMARY KEY (custom_id, sample_index))",
            "BEGIN",
        ):
            self._connection.execute(statement)
        self._connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?, ?)", choices)

    def add(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """A published row comes; returns all rows of its request when it is the last of them, else none."""
        custom_id = row["prompt_id"]
        found = self._connection.execute("SELECT choices FROM wanted WHERE custom_id=?", (custom_id,)).fetchone()
        if found is None:
            return [row]
        query = "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?)"
        self._connection.execute(query, (custom_id, row["sample_index"], orjson.dumps(row)))
        query = "SELECT count(*) FROM waiting WHERE custom_id=?"
        if self._connection.execute(query, (custom_id,)).fetchone()[0] < found[0]:
            return []
        rows = self._connection.execute("SELECT row FROM waiting WHERE custom_id=?", (custom_id,)).fetchall()
        self._connection.execute("DELETE FROM waiting WHERE custom_id=?", (custom_id,))
        return [orjson.loads(content) for (content,) in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Siblings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
