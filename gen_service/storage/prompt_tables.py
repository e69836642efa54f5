"""Rows of Parquet files and of what the `datasets` library loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from gen_service.errors import BadPromptRow, SpecError
from gen_service.settings import PromptSettings
from gen_service.storage.prompt_rows import Row, named_columns
from gen_service.storage.prompt_text import NumberedRow

BATCH_ROWS = 64


def wanted_columns(present: Iterable[str], settings: PromptSettings) -> list[str]:
    """The columns of a table that matter.

    Raises:
        SpecError: there is neither a prompt nor a messages column, or a column that the spec names is missing.
    """
    names = list(present)
    columns = settings.columns
    for field in named_columns(columns):
        if (name := getattr(columns, field)) not in names:
            raise SpecError(f"prompts.columns.{field}", name, "one of the source's columns: " + ", ".join(names))
    if columns.prompt not in names and columns.messages not in names:
        raise SpecError("prompts.columns.prompt", columns.prompt, "one of the source's columns: " + ", ".join(names))
    return [name for name in columns.model_dump().values() if name in names]


def parquet_rows(file: BinaryIO, settings: PromptSettings) -> Iterator[NumberedRow]:
    """The rows of a Parquet file, numbered from 1.

    Raises:
        SpecError: it is not Parquet, or has no column of prompts.
    """
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise SpecError("prompts.path", settings.path, f"a Parquet file: {error}") from error
    with parquet:
        columns = wanted_columns(parquet.schema_arrow.names, settings)
        yield from batch_rows(parquet.iter_batches(BATCH_ROWS, columns=columns))


def saved_dataset_rows(path: Path, settings: PromptSettings) -> Iterator[NumberedRow]:
    """The rows of a folder saved with `datasets.save_to_disk`, numbered from 1; memory-mapped, never loaded whole.

    Raises:
        SpecError: there is no such split, or no column of prompts.
    """
    import datasets

    loaded: Any = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.DatasetDict):
        if settings.split not in loaded:
            raise SpecError("prompts.split", settings.split, "one of " + ", ".join(loaded))
        loaded = loaded[settings.split]
    columns = wanted_columns(loaded.column_names, settings)
    tables = loaded.select_columns(columns).with_format("arrow").iter(BATCH_ROWS)
    yield from batch_rows(batch for table in tables for batch in table.to_batches())


def hub_rows(settings: PromptSettings) -> Iterator[NumberedRow]:
    """The rows of a dataset on the hub, streamed, numbered from 1.

    The path is `hub:owner/name` or `hub:owner/name/configuration`; a local folder that the `datasets` library can
    load is read in the same way.

    Raises:
        SpecError: it cannot be loaded, has no such split, or has no column of prompts.
    """
    import datasets

    name = settings.path.removeprefix("hub:")
    configuration = None
    if not Path(name).exists() and name.count("/") == 2:
        name, configuration = name.rsplit("/", 1)
    try:
        loaded: Any = datasets.load_dataset(name, configuration, split=settings.split, streaming=True)
        if loaded.column_names is not None:
            loaded = loaded.select_columns(wanted_columns(loaded.column_names, settings))
        yield from enumerate(loaded, 1)
    except SpecError:
        raise
    except Exception as error:  # what a dataset's builder may raise has no common ancestor
        expected = f"a dataset with a split {settings.split!r} that can be loaded: {type(error).__name__}: {error}"
        raise SpecError("prompts.path", settings.path, expected) from error


def batch_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[NumberedRow]:
    """The rows of Arrow record batches, numbered from 1; a row that Python cannot hold is a BadPromptRow."""
    number = 0
    for batch in batches:
        for index in range(batch.num_rows):
            number += 1
            yield number, _row(batch, index, number)


def _row(batch: pa.RecordBatch, index: int, number: int) -> Row | BadPromptRow:
    try:
        return {name: batch.column(name)[index].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        return BadPromptRow(number, f"not UTF-8 at byte {error.start + 1}")
    except (ValueError, OverflowError) as error:
        return BadPromptRow(number, f"a value that Python cannot hold: {error}")
