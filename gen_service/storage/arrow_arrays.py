"""Python values as Arrow arrays, built from buffers.

`pa.array` imports pandas at its first call in a process: measured 1.1 s of CPU and 50 MB, beside a running event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_NUMBERS: Final[dict[Any, type[np.generic]]] = {
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.float64(): np.float64,
    pa.timestamp("us", tz="UTC"): np.int64,
}


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """One Arrow array of strings, numbers, lists or structs of them; None is null, except in place of a list.

    Raises:
        UnicodeEncodeError: a string holds a lone surrogate.
        OverflowError: a number is too large for its type.
    """
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        content = pa.py_buffer(b"".join(encoded))
        return pa.Array.from_buffers(kind, len(values), [_validity(values), _offset_buffer(encoded), content])
    if pa.types.is_list(kind):
        flat = [item for value in values for item in value]
        return lists(values, array_of(flat, kind.value_type))
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        columns = [array_of([value.get(field.name) for value in values], field.type) for field in fields]
        return pa.StructArray.from_arrays(columns, fields=fields)
    numbers = np.array([0 if value is None else value for value in values], dtype=_NUMBERS[kind])
    return pa.Array.from_buffers(kind, len(values), [_validity(values), pa.py_buffer(numbers)])


def lists(values: Iterable[Any], content: pa.Array) -> pa.ListArray:
    """Lists as long as these values, one after another over `content`."""
    rows = list(values)
    offsets = pa.Array.from_buffers(pa.int32(), len(rows) + 1, [None, _offset_buffer(rows)])
    return pa.ListArray.from_arrays(offsets, content)


def int32_array(numbers: NDArray[np.int32]) -> pa.Array:
    """The same numbers, without a copy."""
    return pa.Array.from_buffers(pa.int32(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _offset_buffer(values: Sequence[Any]) -> pa.Buffer:
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.py_buffer(offsets)


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    present = [value is not None for value in values]
    return None if all(present) else pa.py_buffer(np.packbits(present, bitorder="little"))
