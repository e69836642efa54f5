"""The service as one process: opens the store, the controller and the REST door, and drains when it is told to end.

The first SIGTERM or SIGINT lets running samples have their grace while the door goes on answering: looking is still
possible, new jobs are refused. When all jobs are at rest the process ends. A second signal ends the grace, and a third
the process, which loses nothing that was answered: the next start goes on as after a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import structlog
import uvicorn
import uvloop

from gen_service.controller.controller import Controller
from gen_service.controller.tracing import open_tracing
from gen_service.errors import SpecError
from gen_service.interpreter import settle_interpreter
from gen_service.service_settings import HttpSettings, ServiceSettings
from gen_service.store.database import open_store
from gen_service.store.store import Store
from gen_service.store.urls import database_url
from gen_service.web.app import create_app
from gen_service.web.logs import setup_logs

DONE, INTERRUPTED = 0, 130
# Requests and jobs leave cycles behind, so that all generations are looked through, but the oldest seldom.
COLLECTED = (10_000, 20, 20)
# How long answers that are being sent may take once everything else has ended.
LAST_ANSWERS_S = 10
# For what is not a running job's: uploads, validation, reading rows.
SPARE_THREADS = 32
_log = structlog.get_logger(__name__)


def serve(settings: ServiceSettings) -> int:
    """Run the service until a signal ends it; the exit code: 0 when it drained, 130 when it was told thrice.

    Writes one line, `listening on http://host:port`, to standard output when it answers.

    Raises:
        SpecError: the address cannot be listened on, or is open to others while there is no key.
        StorageError: the data folder is another service's.
    """
    setup_logs(settings.log)
    allow_many_files()
    settle_interpreter(thresholds=COLLECTED)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


def allow_many_files() -> None:
    """Every request in flight and every watcher is an open file: take as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:
        _log.warning("the limit on open files stays", soft=soft, hard=hard, reason=str(error))


async def refuse_open_door(http: HttpSettings, store: Store) -> None:
    """A service that others can reach needs keys.

    Raises:
        SpecError: the address is not a loopback one, and no key was ever made.
    """
    if not http.is_loopback and not await store.keys.any():
        raise SpecError(
            "http.host",
            http.host,
            "127.0.0.1 while there is no key, since anybody could send jobs: make a key first, by "
            "`gen-service keys create`",
        )


async def _serve(settings: ServiceSettings) -> int:
    # A job that waits for room on a full disk may hold a thread: it must not be one that others need.
    threads = ThreadPoolExecutor(settings.fleet.max_running_jobs + SPARE_THREADS, thread_name_prefix="service")
    asyncio.get_running_loop().set_default_executor(threads)
    tracing = open_tracing()
    try:
        async with open_store(database_url(settings.data)) as store:
            await refuse_open_door(settings.http, store)
            with _bound(settings.http) as listener:
                async with Controller(settings, store, tracing=tracing) as controller:
                    await _answer(controller, settings, listener)
    finally:
        await tracing.close()
    return DONE


async def _answer(controller: Controller, settings: ServiceSettings, listener: socket.socket) -> None:
    """Answer until a signal came and all jobs are at rest."""
    door = _Door(_door_config(controller, settings), _url(settings.http.host, listener))
    ending = _Ending(controller, door)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.ask)
    await door.serve(sockets=[listener])
    await ending.finished()


def _door_config(controller: Controller, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(controller, settings),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here depends on who a proxy says the client is.
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
    )


class _Door(uvicorn.Server):
    """Without uvicorn's own signals: it would stop answering at the first. Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From here on connections are taken."""
        await super().startup(sockets)
        _log.info("listening", url=self._url)
        sys.stdout.write(f"listening on {self._url}\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Ending:
    """What signals do: the first lets jobs come to rest, the second ends their grace, the third everything."""

    def __init__(self, controller: Controller, door: uvicorn.Server) -> None:
        self._controller = controller
        self._door = door
        self._drains: list[asyncio.Task[None]] = []

    def ask(self) -> None:
        """A signal came."""
        if len(self._drains) == 2:
            _log.warning("ending at once")
            # Not by an exception: a thread that waits for a locked database would be waited for.
            os._exit(INTERRUPTED)
        if self._drains:
            _log.warning("ending the grace")
        drain = asyncio.create_task(self._controller.drain())
        drain.add_done_callback(self._close_door)
        self._drains.append(drain)

    async def finished(self) -> None:
        """The door is closed: raises what the draining raised."""
        await asyncio.gather(*self._drains)

    def _close_door(self, _: object) -> None:
        self._door.should_exit = True


@contextlib.contextmanager
def _bound(http: HttpSettings) -> Iterator[socket.socket]:
    """A socket at the address, not yet listening, so that nobody is let in before there is an answer."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SpecError("http.host", http.host, f"an address of this machine ({error.strerror})") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind(address)
        except OSError as error:
            raise SpecError("http.port", http.port, f"a free port at {http.host} ({error.strerror})") from error
        yield listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
