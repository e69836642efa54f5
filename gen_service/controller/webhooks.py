"""Webhooks out: what ended is told at least once, from the store's outbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver

from gen_service.controller.host_names import HostNames
from gen_service.controller.webhook_addresses import may_be_called
from gen_service.controller.webhook_signatures import webhook_headers
from gen_service.errors import Unavailable
from gen_service.metrics import WebhookResult
from gen_service.service_settings import WebhookSettings
from gen_service.store.outbox import Outbox
from gen_service.store.rows import Delivery

# Deliveries under way at once: receivers that hang hold this many connections, and nothing else of the service.
AT_ONCE = 16
# How often the outbox is looked at when nobody calls `wake`, for retries that have come due.
POLL_S = 2.0
# Twelve attempts with these come to about a day and a half.
FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 12 * 3600.0
GONE = 410
_log = structlog.get_logger(__name__)


def retry_delay_s(attempts: int, chance: random.Random) -> float:
    """Seconds to wait after so many failed attempts: three times longer each, at most 12 h, less up to a half."""
    return min(FIRST_RETRY_S * 3.0 ** min(attempts - 1, 20), LONGEST_RETRY_S) * chance.uniform(0.5, 1.0)


class WebhookSender:
    """Sends what is due in the outbox, until it is cancelled.

    At least once: an attempt that was under way when the service stopped is made again, with the same `webhook-id`.
    An answer of 2xx is the end, and so is 410; a redirect is a failure like any other. Only the status of an answer is
    read. Each connection is vetted as it is made, so what a name resolved to before does not matter.

    Args:
        names: resolves host names; the system's by default.
        clock: seconds since the epoch, as the outbox counts them.
        chance: of the times of retries.
        on_result: told of each attempt after it is recorded.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        outbox: Outbox,
        *,
        names: AbstractResolver | None = None,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
        on_result: Callable[[WebhookResult], None] = lambda result: None,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._names = names
        self._clock = clock
        self._chance = chance or random.Random()
        self._on_result = on_result
        self._wake = asyncio.Event()
        self._under_way: set[str] = set()

    def wake(self) -> None:
        """Look at the outbox now: something ended."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled; what is under way then stays in the outbox."""
        async with self._opened() as session, asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                for delivery in await self._due():
                    self._under_way.add(delivery.id)
                    tasks.create_task(self._deliver(session, delivery))
                # Not `wait_for`, which may swallow a cancellation that comes with a wake (Python 3.11).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()

    async def _due(self) -> list[Delivery]:
        """What may be begun now."""
        # What is delivered while the outbox is read is still in what was read.
        before = frozenset(self._under_way)
        try:
            due = await self._outbox.due(self._clock(), 2 * AT_ONCE)
        except Unavailable as error:
            _log.warning("the outbox cannot be read", error=str(error))
            return []
        waiting = [delivery for delivery in due if delivery.id not in before]
        return waiting[: AT_ONCE - len(self._under_way)]

    async def _deliver(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        try:
            self._on_result(await self._attempt(session, delivery))
        except Unavailable as error:
            # Sent perhaps, but not noted: it is sent again when the outbox is next looked at.
            _log.warning("the outbox cannot be written", delivery=delivery.id, error=str(error))
        else:
            self._wake.set()
        finally:
            self._under_way.discard(delivery.id)

    async def _attempt(self, session: aiohttp.ClientSession, delivery: Delivery) -> WebhookResult:
        status, failure = await self._post(session, delivery)
        now, attempts = self._clock(), delivery.attempts + 1
        if failure is None:
            await self._outbox.delivered(delivery.id, now)
            return "delivered"
        is_over = status == GONE or attempts >= self._settings.attempts
        next_at = None if is_over else now + retry_delay_s(attempts, self._chance)
        await self._outbox.failed(delivery.id, failure, next_at)
        _log.warning("webhook failed", delivery=delivery.id, job=delivery.job_id, error=failure, given_up=is_over)
        return "given_up" if is_over else "failed"

    async def _post(self, session: aiohttp.ClientSession, delivery: Delivery) -> tuple[int | None, str | None]:
        """The status, where there was one, and why this attempt failed, or None."""
        body = json.dumps(delivery.body, separators=(",", ":")).encode()
        try:
            headers = webhook_headers(delivery.id, self._clock(), body, delivery.secret)
            if not delivery.url.startswith("https://"):
                raise ValueError("the URL is not https")
            async with session.post(delivery.url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except TimeoutError:
            return None, f"no answer within {self._settings.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return None, f"{type(error).__name__}: {error}"
        return status, None if 200 <= status < 300 else f"the receiver answered {status}"

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[aiohttp.ClientSession]:
        names = self._names or HostNames(AT_ONCE)
        connector = aiohttp.TCPConnector(
            resolver=names,
            use_dns_cache=False,
            force_close=True,  # So that each delivery makes a connection, which is vetted.
            limit=AT_ONCE,
            ssl=await asyncio.to_thread(self._tls),
            socket_factory=self._vetted_socket,
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
                headers={"Content-Type": "application/json", "User-Agent": "gen-service"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=4096,
                trust_env=False,  # A proxy would connect where this may not.
            ) as session:
                yield session
        finally:
            await names.close()

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._settings.ca_file is not None:
            context.load_verify_locations(self._settings.ca_file)
        return context

    def _vetted_socket(self, target: tuple[Any, ...]) -> socket.socket:
        """The socket that the HTTP client then connects to `target`, an entry of `getaddrinfo`, and to no other.

        Raises:
            PermissionError: webhooks may not go there.
        """
        family, kind, protocol, _, (host, *_) = target
        if not may_be_called(ip_address(host), self._settings.allow):
            raise PermissionError(f"{host} is neither a public address nor in webhooks.allow")
        return socket.socket(family, kind, protocol)
