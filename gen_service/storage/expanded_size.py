"""How large a Parquet file is once it is read: found by reading it, in a process that may be lost.

A file of a kilobyte can hold a value that a million rows point to, or a page that grows to gigabytes, and its metadata
is what its writer says. So a file from outside is read through once under a limit of memory and time, batch by batch
as the prompts of a job are; a reader that is made to crash takes nobody along.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gen_service.storage.prompt_tables import BATCH_ROWS

# Beyond what the process has before it reads: many times a batch of ordinary rows.
MEMORY_BYTES = 1024**3
LONGEST_S = 300.0
# Other allocators reserve a gigabyte of addresses before they need it.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
_WHOLE, _TOO_LARGE, _TOO_MUCH_AT_ONCE, _DAMAGED = 0, 3, 4, 5


class ExpandsTooMuch(Exception):
    """The rows are more bytes, or need more memory or time to read, than is allowed."""


def check_parquet_rows(path: Path, max_bytes: int) -> None:
    """Read a Parquet file through, in a process of its own. Blocking: 0.5 s, and about 1 s for a gigabyte of rows.

    Args:
        max_bytes: most bytes of all rows together, as they are in memory.

    Raises:
        ExpandsTooMuch: it has more, or cannot be read within the limits.
        ValueError: it cannot be read; says why.
    """
    command = [sys.executable, "-m", __name__, str(path), str(max_bytes)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LONGEST_S, env=os.environ | _ENVIRONMENT
        )
    except subprocess.TimeoutExpired as error:
        raise ExpandsTooMuch(f"its rows take more than {LONGEST_S:g} s to read") from error
    if done.returncode == _TOO_LARGE:
        raise ExpandsTooMuch(f"its rows are more than {max_bytes} bytes")
    if done.returncode == _TOO_MUCH_AT_ONCE:
        raise ExpandsTooMuch(f"its rows need more than {MEMORY_BYTES} bytes of memory to read")
    if done.returncode != _WHOLE:
        raise ValueError(done.stdout.strip()[:500] or "its reader crashed")


def read_through(path: str, max_bytes: int) -> int:
    """What the process does; its exit code."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    present = _virtual_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (present + MEMORY_BYTES, present + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    left = max_bytes
    try:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, use_threads=False):
                left -= sum(map(_size, batch.columns))
                if left < 0:
                    return _TOO_LARGE
    except MemoryError:
        return _TOO_MUCH_AT_ONCE
    except (pa.ArrowException, OSError, ValueError) as error:
        sys.stdout.write(str(error))
        return _DAMAGED
    return _WHOLE


def _size(column: pa.Array) -> int:
    """Bytes of a column; a text that several rows point to counts for each of them."""
    if not pa.types.is_dictionary(column.type) or not (
        pa.types.is_large_string(column.type.value_type)
        or pa.types.is_string(column.type.value_type)
        or pa.types.is_binary(column.type.value_type)
        or pa.types.is_large_binary(column.type.value_type)
    ):
        return int(column.nbytes)
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(pc.sum(lengths, min_count=0).as_py())


def _virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(read_through(sys.argv[1], int(sys.argv[2])))
