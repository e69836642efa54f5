"""What the tests of verification share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def user_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of kinds, on the import path; not imported, before or after."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield "user_kinds"
    sys.modules.pop("user_kinds", None)
