"""What the tests of verification share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def user_kinds(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of kinds, on the import path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "user_kinds"
