from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.storage.arrow_arrays import array_of
from gen_service.storage.schema import SCHEMA

PLAIN = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
MOMENTS = st.integers(0, 2**50)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.none() | PLAIN,
    "int32": st.none() | st.integers(-(2**31), 2**31 - 1),
    "int64": st.none() | st.integers(-(2**63), 2**63 - 1),
    "double": st.none() | st.floats(allow_nan=False),
    "timestamp[us, tz=UTC]": st.none() | MOMENTS,
    "list<item: string>": st.lists(PLAIN, max_size=3),
    "list<item: struct<role: string, content: string>>": st.lists(
        st.fixed_dictionaries({"role": PLAIN, "content": PLAIN}), max_size=3
    ),
}


@pytest.mark.parametrize("kind", {str(field.type): field.type for field in SCHEMA}.values(), ids=str)
# pyarrow's own way imports pandas at its first call.
@settings(deadline=None)
@given(data=st.data())
def test_an_array_is_the_one_that_pyarrow_makes(kind: pa.DataType, data: st.DataObject) -> None:
    drawn = KINDS.get(str(kind), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3))
    values = data.draw(st.lists(drawn, max_size=20))
    made = array_of(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))


def test_a_number_too_large_is_an_error() -> None:
    with pytest.raises(OverflowError):
        array_of([2**31], pa.int32())


def test_writing_rows_does_not_import_pandas() -> None:
    code = """
import sys
from gen_service.records import Prompt, Sample, Trace, Verdict
from gen_service.storage.schema import to_table
prompt = Prompt("p", ({"role": "user", "content": "1 + 1?"},), None, "s", 1)
to_table([Trace(Sample("s", "job", prompt, 0), None, Verdict("error", "e"), "e")], "{}")
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
