"""The verbs about tenants, on the database that the service will open."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gen_service.cli import app
from gen_service.errors import InvalidRequest, SpecError
from gen_service.store.database import open_store
from gen_service.store.rows import TenantRow


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data", "data"], catch_exceptions=False)


def stored(tmp_path: Path, name: str) -> TenantRow:
    async def look() -> TenantRow:
        async with open_store(f"sqlite:///{tmp_path}/data/gen_service.db") as store:
            return await store.tenants.get(name)

    return asyncio.run(look())


def test_a_tenant_gets_weight_and_quotas_piece_by_piece(tmp_path: Path) -> None:
    assert run("keys", "create", "--tenant", "team", "--scope", "read").exit_code == 0
    assert "no tenant" in run("tenants", "list").stderr
    assert (
        run("tenants", "set", "team", "--weight", "2", "--active-jobs", "3").stdout == "team weight=2 active_jobs=3\n"
    )
    assert run("tenants", "set", "team", "--requests-per-minute", "60").exit_code == 0
    assert stored(tmp_path, "team") == TenantRow("team", 2.0, {"active_jobs": 3, "requests_per_minute": 60})
    assert run("tenants", "list").stdout == "team weight=2 active_jobs=3 requests_per_minute=60\n"
    assert run("tenants", "set", "team", "--reset", "--stored-bytes", "5").exit_code == 0
    assert stored(tmp_path, "team") == TenantRow("team", 2.0, {"stored_bytes": 5})


def test_what_cannot_be_a_tenant_is_refused() -> None:
    assert run("keys", "create", "--tenant", "team", "--scope", "read").exit_code == 0
    for arguments in (("Team",), ("team", "--weight", "0")):
        with pytest.raises(InvalidRequest):
            run("tenants", "set", *arguments)


@pytest.mark.parametrize("verb", [("keys", "list"), ("keys", "revoke", "0"), ("tenants", "list")])
def test_a_folder_without_a_database_is_named_and_none_is_made(verb: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"data\.folder: got 'data'; expected a folder with a database"):
        run(*verb)
    assert not (tmp_path / "data").exists()
