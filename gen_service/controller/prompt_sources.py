"""Prompts that a request brings along: written beside the uploads, and the first row of any source looked at."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gen_service.errors import BadPromptRow, SpecError
from gen_service.settings import PromptSettings
from gen_service.storage import prompt_count, prompts
from gen_service.storage.destination import is_url
from gen_service.storage.disk_space import make_folder, sync_file, sync_folder
from gen_service.storage.seen import Seen

# Counting the lines of a larger file would hold up who asks; its job counts them when it runs.
COUNTED_BYTES = 256 * 1024 * 1024


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines, durable when this returns. Blocking.

    Raises:
        OSError, StorageError: the disk failed; the file may be there in part.
    """
    make_folder(path.parent)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        file.flush()
        sync_file(file.fileno())
    sync_folder(path.parent)


def remove_rows(path: Path) -> None:
    """Remove them, if they are there. Blocking."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def check_first_row(settings: PromptSettings) -> None:
    """Whether the first row of a source is a prompt: wrong columns, a template for another data set and the like are
    told at once. Blocking.

    Raises:
        SpecError: the source cannot be read, has no rows, or its first one cannot become a prompt, with its number.
    """
    with tempfile.TemporaryDirectory(prefix="gen-service-") as folder, Seen(Path(folder) / "prompts") as seen:
        first = next(prompts.read(settings, seen))
    if isinstance(first, BadPromptRow):
        expected = f"a source whose rows are prompts; {first}"
        raise SpecError("prompts.path", first.excerpt, expected)


def counted(settings: PromptSettings) -> int | None:
    """Rows of a local source where that is cheap to tell, else None. Blocking."""
    path = Path(settings.path)
    is_large = not is_url(settings.path) and path.is_file() and path.stat().st_size > COUNTED_BYTES
    if is_large and path.suffix == ".jsonl":
        return None
    return prompt_count.count(settings)
