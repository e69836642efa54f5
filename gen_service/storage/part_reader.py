"""Opens a published Parquet file to be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from gen_service.errors import StorageError
from gen_service.storage.destination import Destination


@contextmanager
def open_part(destination: Destination, name: str, version_key: bytes, newest: int) -> Iterator[pq.ParquetFile]:
    """A file that a manifest names.

    Args:
        version_key: of its metadata, where the version of its rows stands; without it they are of version 0.
        newest: the last version that can be read here.

    Raises:
        StorageError: the file is missing or of a later version.
    """
    try:
        file = destination.open(name)
    except FileNotFoundError as error:
        raise StorageError(f"{destination.locate(name)} is named by a manifest, but is not there") from error
    with file, pq.ParquetFile(file) as parquet:
        version = int((parquet.schema_arrow.metadata or {}).get(version_key, b"0"))
        if version > newest:
            raise StorageError(f"{destination.locate(name)} has rows of version {version}, newer than {newest}")
        yield parquet
