"""The verbs about tenants: their weight in the fleet, and quotas of their own over the service's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gen_service.terminal.keys import Config, Data, with_store

if TYPE_CHECKING:
    from gen_service.store.rows import TenantRow
    from gen_service.store.store import Store

tenants_app = typer.Typer(help="Weights and quotas of tenants.", no_args_is_help=True, rich_markup_mode=None)
Quota = Annotated[int | None, typer.Option(min=0)]


@tenants_app.command("set")
def set_tenant(
    name: Annotated[str, typer.Argument(help="The tenant, as its keys name it.")],
    weight: Annotated[float | None, typer.Option(help="Its share of the fleet beside others'.")] = None,
    active_jobs: Quota = None,
    queued_prompts: Quota = None,
    stored_bytes: Quota = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    reset: Annotated[bool, typer.Option(help="Forget its own quotas first: the service's hold again.")] = False,
    config: Config = None,
    data: Data = None,
) -> None:
    """Set a tenant's weight and its own quotas; what is not named stays. A running service follows within seconds."""
    given = {
        "active_jobs": active_jobs,
        "queued_prompts": queued_prompts,
        "stored_bytes": stored_bytes,
        "requests_per_minute": requests_per_minute,
    }
    quotas = {quota: value for quota, value in given.items() if value is not None}

    async def put(store: Store) -> TenantRow:
        row = await store.tenants.get(name)
        before = {} if reset else row.quotas
        changed = replace(row, weight=row.weight if weight is None else weight, quotas=before | quotas)
        await store.tenants.put(changed)
        return changed

    typer.echo(_line(with_store(config, data, put)[0]))


@tenants_app.command("list")
def list_tenants(config: Config = None, data: Data = None) -> None:
    """List the tenants that have a weight or quotas of their own."""
    rows, where = with_store(config, data, lambda store: store.tenants.all())
    for row in rows:
        typer.echo(_line(row))
    if not rows:
        typer.echo(f"no tenant in {where} has a weight or quotas of its own", err=True)


def _line(row: TenantRow) -> str:
    quotas = " ".join(f"{quota}={value}" for quota, value in row.quotas.items()) or "the service's quotas"
    return f"{row.name} weight={row.weight:g} {quotas}"
