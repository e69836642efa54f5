"""What the tests of verification share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def forkservers() -> Callable[[], list[psutil.Process]]:
    """Looks for the forkservers of verifiers of this process, which may have other children: servers of other tests."""

    def look() -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if "gen_service.verification.forkserver" in child.cmdline():
                    found.append(child)
        return found

    return look


@pytest.fixture
def user_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of kinds, on the import path; not imported, before or after."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield "user_kinds"
    sys.modules.pop("user_kinds", None)
