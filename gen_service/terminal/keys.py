"""The verbs about API keys. They open the service's own database, also while it runs: a revoked key ends at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from gen_service.store.rows import KeyRow
    from gen_service.store.store import Store

keys_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
Config = Annotated[Path | None, typer.Option(help="The service's settings, YAML; flags and environment go over them.")]
Data = Annotated[Path | None, typer.Option(help="The service's folder of database, uploads and traces.")]
_Result = TypeVar("_Result")
_WIDTH = 240


@keys_app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Who uses the key: a-z, 0-9, '.', '_', '-'.")],
    scope: Annotated[list[str], typer.Option(help="submit, read or admin; repeat for more.")],
    name: Annotated[str, typer.Option(help="What the key is for, to know it by.")] = "",
    weight: Annotated[float | None, typer.Option(help="The tenant's share of the fleet beside others' [1.0].")] = None,
    config: Config = None,
    data: Data = None,
) -> None:
    """Make a key and print it: the only time that it can be read."""

    async def make(store: Store) -> tuple[KeyRow, str]:
        if weight is not None:
            await store.tenants.put(replace(await store.tenants.get(tenant), weight=weight))
        return await store.keys.create(tenant, scope, name, time.time())

    (row, key), where = with_store(config, data, make, makes=True)
    typer.echo(key)
    typer.echo(f"key {row.id} of tenant {row.tenant}, in {where}; it is not shown again", err=True)


@keys_app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: Config = None,
    data: Data = None,
) -> None:
    """List the keys, oldest first, without their secrets."""
    rows, where = with_store(config, data, lambda store: store.keys.list(tenant))
    if rows:
        _print_table(rows)
    else:
        typer.echo(f"no keys in {where}", err=True)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as list shows it.")],
    config: Config = None,
    data: Data = None,
) -> None:
    """End a key, at once and for ever."""
    row, _ = with_store(config, data, lambda store: store.keys.revoke(key_id, time.time()))
    typer.echo(f"key {row.id} of tenant {row.tenant} is revoked")


def with_store(
    config: Path | None, data: Path | None, work: Callable[[Store], Awaitable[_Result]], *, makes: bool = False
) -> tuple[_Result, str]:
    """What `work` gives, and which database it worked on, for people.

    Args:
        makes: a database that is not there yet is made; else it is an error.
    """
    from gen_service.errors import SpecError
    from gen_service.service_settings import load_data_settings
    from gen_service.store.database import open_store
    from gen_service.store.urls import database_url, driver_url, shown

    settings = load_data_settings(config, {} if data is None else {"data": {"folder": data}})
    url = database_url(settings)
    address = driver_url(url)
    if not makes and address.get_backend_name() == "sqlite" and not Path(str(address.database)).exists():
        raise SpecError(
            "data.folder", str(settings.folder), f"a folder with a database: no {address.database} is there"
        )

    async def run() -> _Result:
        async with open_store(url) as store:
            return await work(store)

    return asyncio.run(run()), shown(address)


def _print_table(rows: Sequence[KeyRow]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "tenant", "scopes", "made", "revoked", "name", box=None, header_style="bold")
    for row in rows:
        scopes, revoked = ",".join(sorted(row.scopes)), "" if row.revoked_at is None else _moment(row.revoked_at)
        table.add_row(row.id, row.tenant, scopes, _moment(row.created_at), revoked, Text(row.name))
    console = Console()
    # A file or a pipe has no width to keep to.
    (console if console.is_terminal else Console(width=_WIDTH)).print(table)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
