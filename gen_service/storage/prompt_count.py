"""How many prompts a source has, told without parsing it: for a total and an ETA, not for decisions."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from gen_service.settings import PromptSettings

CHUNK_BYTES = 1 << 20


def count(settings: PromptSettings) -> int | None:
    """Rows of a local JSONL or Parquet file, bad rows among them; None for any other source.

    At most `settings.limit`. Raises nothing for a source that cannot be read: reading it will say why.
    """
    path = Path(settings.path)
    kind = settings.format if settings.format != "auto" else path.suffix.lstrip(".")
    try:
        if kind == "jsonl" and path.suffix == ".jsonl":
            rows = _lines(path)
        elif kind == "parquet":
            rows = int(pq.read_metadata(path).num_rows)
        else:
            return None
    except (OSError, ValueError):
        return None
    return rows if settings.limit is None else min(rows, settings.limit)


def _lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")
