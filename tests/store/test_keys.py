"""Keys: shown once, stored as hashes, and ended at once when revoked."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gen_service.errors import InvalidRequest, NotFound, Unauthenticated
from gen_service.store.database import open_store
from gen_service.store.store import Store


async def test_a_key_is_its_tenants_with_its_scopes(store: Store) -> None:
    row, key = await store.keys.create("team-a", ["submit", "read", "read"], "laptop", 1000.0)
    assert re.fullmatch(r"gs_[0-9a-v]{26}_[A-Za-z0-9_-]{43}", key)
    assert key.startswith(f"gs_{row.id}_")
    assert (row.tenant, row.name, row.scopes) == ("team-a", "laptop", {"submit", "read"})
    assert (row.created_at, row.revoked_at) == (1000.0, None)
    assert await store.keys.check(key) == row


async def test_a_revoked_key_ends_at_once_and_others_go_on(store: Store) -> None:
    row, key = await store.keys.create("a", ["read"], "", 1000.0)
    _, other = await store.keys.create("a", ["read"], "", 1001.0)
    assert (await store.keys.revoke(row.id, 2000.0)).revoked_at == 2000.0
    with pytest.raises(Unauthenticated):
        await store.keys.check(key)
    assert (await store.keys.check(other)).tenant == "a"
    assert (await store.keys.revoke(row.id, 3000.0)).revoked_at == 2000.0
    with pytest.raises(NotFound, match="keys list"):
        await store.keys.revoke("nobody", 1.0)


async def test_revoking_the_last_key_does_not_open_the_service(store: Store) -> None:
    assert not await store.keys.any()
    row, _ = await store.keys.create("a", ["admin"], "", 1000.0)
    await store.keys.revoke(row.id, 2000.0)
    assert await store.keys.any()


async def test_keys_are_listed_by_tenant_in_the_order_they_were_made(store: Store) -> None:
    made = [(await store.keys.create(tenant, ["read"], "", 1.0))[0] for tenant in ("a", "b", "a")]
    assert sorted(await store.keys.list(), key=lambda row: row.id) == sorted(made, key=lambda row: row.id)
    assert {row.id for row in await store.keys.list("a")} == {made[0].id, made[2].id}
    assert await store.keys.list("c") == []


@pytest.mark.parametrize(
    ("tenant", "scopes", "field"),
    [
        ("a", [], "scope"),
        ("a", ["read", "write"], "scope"),
        ("", ["read"], "tenant"),
        ("..", ["read"], "tenant"),
        ("a/b", ["read"], "tenant"),
        ("a\n", ["read"], "tenant"),
        ("A", ["read"], "tenant"),
        ("a" * 65, ["read"], "tenant"),
    ],
)
async def test_what_cannot_be_a_key_is_refused_and_says_what_would_be_right(
    store: Store, tenant: str, scopes: list[str], field: str
) -> None:
    with pytest.raises(InvalidRequest, match="expected") as refusal:
        await store.keys.create(tenant, scopes, "", 1.0)
    assert refusal.value.field == field
    assert not await store.keys.any()


@given(change=st.data(), noise=st.text(max_size=100))
@example(change=None, noise="")
@example(change=None, noise="gs_")
@example(change=None, noise="gs__")
@example(change=None, noise="\x00_\ud800_\ud800")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_nothing_but_the_key_itself_is_the_key(
    database_url: str, change: st.DataObject | None, noise: str
) -> None:
    async with open_store(database_url) as store:
        _, key = await store.keys.create("a", ["read"], "", 1.0)
        tries = [noise, key + noise if noise else key[:-1], noise + key if noise else key[1:], key.upper(), key[3:]]
        if change is not None:
            at = change.draw(st.integers(0, len(key) - 1))
            other = change.draw(st.characters().filter(lambda letter: letter != key[at]))
            tries.append(key[:at] + other + key[at + 1 :])
        for text in tries:
            with pytest.raises(Unauthenticated) as refusal:
                await store.keys.check(text)
            assert "gs_<id>_<secret>" in str(refusal.value)
            assert not text or len(text) < 4 or text not in str(refusal.value)


def test_the_database_holds_no_secret(tmp_path: Path) -> None:
    async def make() -> tuple[str, str]:
        async with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
            row, key = await store.keys.create("a", ["read"], "", 1.0)
            return row.id, key

    key_id, key = asyncio.run(make())
    secret = key.removeprefix(f"gs_{key_id}_").encode()
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert any(key_id.encode() in data for data in files)
    assert not any(secret in data or secret[:20] in data for data in files)
