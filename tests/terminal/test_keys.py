"""The verbs about keys, on the database that the service will open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from gen_service.cli import app
from gen_service.errors import InvalidRequest, NotFound, SpecError, Unauthenticated
from gen_service.store.database import open_store
from gen_service.store.rows import KeyRow, TenantRow
from gen_service.store.store import Store


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=False)


def checked(url: str, key: str) -> tuple[KeyRow, TenantRow]:
    """What the service knows of a key and its tenant."""

    async def look() -> tuple[KeyRow, TenantRow]:
        async with open_store(url) as store:
            row = await store.keys.check(key)
            return row, await store.tenants.get(row.tenant)

    return asyncio.run(look())


def test_a_key_is_printed_once_and_works(tmp_path: Path) -> None:
    flags = ("--tenant", "team", "--scope", "submit", "--scope", "read", "--name", "lap[b]top", "--weight", "2.5")
    done = keys("create", *flags, "--data", "data")
    assert done.exit_code == 0
    key = done.stdout.removesuffix("\n")
    row, tenant = checked(f"sqlite:///{tmp_path / 'data' / 'gen_service.db'}", key)
    assert (row.tenant, row.scopes, row.name) == ("team", {"submit", "read"}, "lap[b]top")
    assert tenant == TenantRow("team", 2.5, {})
    path = tmp_path / "data" / "gen_service.db"
    assert done.stderr == f"key {row.id} of tenant team, in sqlite:///{path}; it is not shown again\n"
    listed = keys("list", "--data", "data").stdout
    for words in (row.id, "team", "read,submit", "lap[b]top"):
        assert words in listed
    assert key.split("_", 2)[2] not in listed


def test_the_weight_leaves_the_tenants_quotas(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_DATA__DATABASE", database_url)

    async def put(store: Store) -> None:
        await store.tenants.put(TenantRow("a", 1.0, {"active_jobs": 3}))

    asyncio.run(on_store(database_url, put))
    done = keys("create", "--tenant", "a", "--scope", "read", "--weight", "3")
    _, tenant = checked(database_url, done.stdout.strip())
    assert tenant == TenantRow("a", 3.0, {"active_jobs": 3})


async def on_store(url: str, action: Callable[[Store], Awaitable[None]]) -> None:
    async with open_store(url) as store:
        await action(store)


def test_a_revoked_key_ends_while_the_service_runs(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN_SERVICE_DATA__DATABASE", database_url)
    key = keys("create", "--tenant", "a", "--scope", "admin").stdout.strip()

    async def revoke_beside(store: Store) -> None:
        row = await store.keys.check(key)
        done = await asyncio.to_thread(keys, "revoke", row.id)
        assert done.stdout == f"key {row.id} of tenant a is revoked\n"
        with pytest.raises(Unauthenticated, match="unknown or was revoked"):
            await store.keys.check(key)

    asyncio.run(on_store(database_url, revoke_beside))
    assert " a " in keys("list").stdout
    nothing = keys("list", "--tenant", "b")
    assert nothing.stdout == ""
    assert nothing.stderr.startswith("no keys in ")


def test_the_services_file_is_enough_and_needs_no_servers(tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(yaml.safe_dump({"data": {"folder": "elsewhere"}}))
    done = keys("create", "--tenant", "a", "--scope", "read", "--config", "service.yaml")
    assert done.exit_code == 0
    assert (tmp_path / "elsewhere" / "gen_service.db").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["create", "--tenant", "a/b", "--scope", "read"], InvalidRequest, "tenant: got 'a/b'"),
        (["create", "--tenant", "a", "--scope", "write"], InvalidRequest, "one or more of submit, read, admin"),
        (["create", "--tenant", "a", "--scope", "read", "--weight", "0"], InvalidRequest, "from 0.01 to 100"),
        (["revoke", "nobody"], NotFound, "no key 'nobody'"),
        (["list", "--config", "nowhere.yaml"], SpecError, "a readable YAML file"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], error: type[Exception], words: str) -> None:
    assert keys("create", "--tenant", "team", "--scope", "read").exit_code == 0
    with pytest.raises(error, match=words):
        keys(*arguments)


def test_a_wrong_database_is_one_line_without_the_password() -> None:
    code = "import sys; sys.argv = ['gen-service', 'keys', 'list']; from gen_service.cli import main; main()"
    environment = {"GEN_SERVICE_DATA__DATABASE": "postgresql://me:secret@127.0.0.1:1/name"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("gen-service: data.database: got 'postgresql+psycopg://me:***@127.0.0.1:1/name'")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
