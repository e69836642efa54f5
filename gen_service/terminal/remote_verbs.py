"""The verbs that talk to a running service. Parses, then imports only what the verb runs, as `gen_service/cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gen_service.terminal.remote import Remote

Url = Annotated[str, typer.Option(envvar="GEN_SERVICE_URL", help="Base URL of the service.")]
Key = Annotated[str | None, typer.Option(envvar="GEN_SERVICE_KEY", help="API key; in a flag, other users may see it.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as submit printed it.")]
LOCAL = "http://127.0.0.1:8080"


def submit(
    spec: Annotated[Path, typer.Argument(help="Job request, YAML or JSON: a job spec without servers.")],
    name: Annotated[str | None, typer.Option(help="Name of the job, over the file's.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the job until it ends.")] = False,
    on_server: Annotated[bool, typer.Option("--on-server", help="prompts.path is the service's: no upload.")] = False,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Ask a service for a job, with its prompts' file uploaded, and print the job's id."""
    raise typer.Exit(_remote(url, key).submit(spec, name, on_server=on_server, watch=watch))


def watch(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Show a job of a service until it ends: 0 when it completed, 1 when it did not. Ctrl-C leaves it running."""
    raise typer.Exit(_remote(url, key).watch(job_id))


def jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeat for more.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """List a service's jobs."""
    raise typer.Exit(_remote(url, key).jobs(state or [], limit))


def cancel(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """End a job of a service; what it finished stays readable."""
    raise typer.Exit(_remote(url, key).act("cancel", job_id))


def pause(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Let a job of a service rest."""
    raise typer.Exit(_remote(url, key).act("pause", job_id))


def resume(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Let a paused job of a service go on."""
    raise typer.Exit(_remote(url, key).act("resume", job_id))


def download(
    job_id: JobId,
    output: Annotated[Path | None, typer.Option(help="Folder for the files [default: the job's id].")] = None,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Fetch the published Parquet files of a job, each checked; those already there are not fetched again."""
    raise typer.Exit(_remote(url, key).download(job_id, output))


def add_verbs(app: typer.Typer) -> None:
    """Register all of them."""
    for verb in (submit, watch, jobs, cancel, pause, resume, download):
        app.command()(verb)


def _remote(url: str, key: str | None) -> Remote:
    from rich.console import Console

    from gen_service.terminal.remote import Remote

    return Remote(Console(), url, key)
