"""Webhooks, sent to real receivers over TLS on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gen_service.controller.webhook_signatures import check_webhook_secret, signing_key, webhook_headers
from gen_service.controller.webhooks import AT_ONCE, LONGEST_RETRY_S, WebhookSender, retry_delay_s
from gen_service.errors import InvalidRequest, Unavailable
from gen_service.metrics import WebhookResult
from gen_service.service_settings import QuotaSettings, WebhookSettings
from gen_service.store.database import open_store
from gen_service.store.ids import new_id
from gen_service.store.outbox import Outbox
from gen_service.store.rows import Delivery, JobRow
from gen_service.store.store import Store

NAME = "hooks.test"
SECRET = "a secret of some length"
LOOPBACK = IPv4Network("127.0.0.0/8")


@dataclass
class Clock:
    """Seconds since the epoch, as the test has them."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """What came, and how to answer it: the answers in turn, then 204."""

    url: str = ""
    answers: list[int | Answer] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    came: asyncio.Queue[Received] = field(default_factory=asyncio.Queue)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        received = Received(request.path, dict(request.headers), await request.read())
        self.requests.append(received)
        self.came.put_nowait(received)
        answer = self.answers.pop(0) if self.answers else 204
        return web.Response(status=answer) if isinstance(answer, int) else await answer(request)

    async def never(self, request: web.Request) -> web.StreamResponse:
        """An answer that comes when the test is over."""
        await self.over.wait()
        return web.Response()


@dataclass(frozen=True)
class Certificate:
    """Of hooks.test, 127.0.0.1 and 127.0.0.2, signed by itself."""

    file: Path
    key: Path

    def tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    names = [x509.DNSName(NAME), *(x509.IPAddress(ip_address(host)) for host in ("127.0.0.1", "127.0.0.2"))]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = Certificate(folder / "certificate.pem", folder / "key.pem")
    certificate.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
    return certificate


@contextlib.asynccontextmanager
async def receiving(certificate: Certificate, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=certificate.tls()).start()
        receiver.url = f"https://{host}:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.over.set()
        await runner.cleanup()


@pytest.fixture
async def receiver(certificate: Certificate) -> AsyncIterator[Receiver]:
    async with receiving(certificate) as receiver:
        yield receiver


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


@pytest.fixture
def settings(certificate: Certificate) -> WebhookSettings:
    return WebhookSettings(allow=(LOOPBACK,), ca_file=certificate.file, timeout_s=300.0)


class Names(AbstractResolver):
    """Answers with the next of `answers`, the last one for ever, and notes what was asked."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses.split()
        ]

    async def close(self) -> None:
        return None


@dataclass
class Sending:
    """A sender at work; `results` has what became of each attempt."""

    sender: WebhookSender
    clock: Clock
    results: asyncio.Queue[WebhookResult]
    task: asyncio.Task[None]

    async def result(self) -> WebhookResult:
        """What became of the next attempt; the sender's own error, if it ended."""
        result = asyncio.ensure_future(self.results.get())
        await asyncio.wait([result, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            result.cancel()
            await self.task
        return result.result()

    async def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.sender.wake()


@contextlib.asynccontextmanager
async def sending(
    outbox: Outbox, settings: WebhookSettings, names: AbstractResolver | None = None, clock: Clock | None = None
) -> AsyncIterator[Sending]:
    clock, results = clock or Clock(), asyncio.Queue[WebhookResult]()
    sender = WebhookSender(
        settings, outbox, names=names, clock=clock, chance=random.Random(1), on_result=results.put_nowait
    )
    task = asyncio.create_task(sender.run())
    try:
        yield Sending(sender, clock, results, task)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def end_job(store: Store, url: str, secret: str | None = SECRET) -> JobRow:
    """A job that failed, so that its webhook is in the outbox."""
    row = JobRow(
        **dict.fromkeys(("reason", "name", "model", "idempotency_key", "max_in_flight", "prompts", "samples")),
        **dict.fromkeys(("expires_at", "batch")),
        **{"id": new_id("job-"), "tenant": "default", "kind": "native", "state": "queued", "request_hash": "0"},
        **{"request": {}, "spec": {}, "metadata": {}, "counts": {"published": 3}, "times": {}},
        **{"priority": 0, "weight": 1.0, "created_at": 1.8e9 - 1, "webhook": {"url": url, "secret": secret}},
    )
    await store.jobs.create(row, QuotaSettings())
    return await store.jobs.move(row.id, "fail", 1.8e9 - 1, reason="no model was served")


async def test_a_job_that_ended_is_told_of_once_and_signed(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    job = await end_job(store, f"{receiver.url}/done?x=1")
    async with sending(store.outbox, settings) as at_work:
        received = await receiver.came.get()
        assert await at_work.result() == "delivered"
        assert await store.outbox.due(at_work.clock() + 1e9, 10) == []
    body = json.loads(received.body)
    assert (received.path, body["type"], body["data"]["job_id"]) == ("/done", "job.failed", job.id)
    assert received.headers["Content-Type"] == "application/json"
    assert "Cookie" not in received.headers
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert received.headers["webhook-signature"] == f"v1,{expected}"
    assert received.headers["webhook-timestamp"] == "1800000000"
    assert len(receiver.requests) == 1


async def test_without_a_secret_nothing_is_signed(store: Store, receiver: Receiver, settings: WebhookSettings) -> None:
    await end_job(store, receiver.url, None)
    async with sending(store.outbox, settings):
        headers = (await receiver.came.get()).headers
    assert headers["webhook-id"].startswith("msg_")
    assert "webhook-signature" not in headers


async def test_failures_are_tried_again_later_and_later(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    receiver.answers = [500, 503, 404, 200]
    await end_job(store, receiver.url)
    async with sending(store.outbox, settings) as at_work:
        waited = []
        for _ in range(3):
            assert await at_work.result() == "failed"
            assert await store.outbox.due(at_work.clock(), 10) == []
            (waiting,) = await store.outbox.due(at_work.clock() + LONGEST_RETRY_S, 10)
            assert waiting.attempts == len(waited) + 1
            waited.append(5.0 * 3 ** len(waited))
            await at_work.later(waited[-1])
        assert await at_work.result() == "delivered"
    ids = {request.headers["webhook-id"] for request in receiver.requests}
    assert (len(receiver.requests), len(ids)) == (4, 1)


@pytest.mark.parametrize(("answers", "attempts", "sent"), [([500] * 9, 3, 3), ([410], 12, 1), ([500, 410], 12, 2)])
async def test_it_is_given_up_after_so_many_attempts_or_when_it_is_gone(
    store: Store, receiver: Receiver, settings: WebhookSettings, answers: list[int], attempts: int, sent: int
) -> None:
    receiver.answers = list(answers)
    await end_job(store, receiver.url)
    async with sending(store.outbox, settings.model_copy(update={"attempts": attempts})) as at_work:
        for _ in range(sent - 1):
            assert await at_work.result() == "failed"
            await at_work.later(LONGEST_RETRY_S)
        assert await at_work.result() == "given_up"
        assert await store.outbox.due(at_work.clock() + 1e9, 10) == []
    assert len(receiver.requests) == sent


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    store: Store, receiver: Receiver, settings: WebhookSettings, status: int
) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": f"{receiver.url}/elsewhere"})

    receiver.answers = [elsewhere]
    await end_job(store, f"{receiver.url}/first")
    async with sending(store.outbox, settings) as at_work:
        assert await at_work.result() == "failed"
    assert [request.path for request in receiver.requests] == ["/first"]


async def test_what_was_under_way_at_a_stop_is_sent_again_after_it(
    tmp_path: Path, receiver: Receiver, settings: WebhookSettings
) -> None:
    receiver.answers = [receiver.never]
    url = f"sqlite:///{tmp_path}/restarted.db"
    async with open_store(url) as store:
        await end_job(store, receiver.url)
        async with sending(store.outbox, settings):
            before = await receiver.came.get()
    async with open_store(url) as store:
        async with sending(store.outbox, settings) as at_work:
            after = await receiver.came.get()
            assert await at_work.result() == "delivered"
        assert await store.outbox.due(2e9, 10) == []
    assert after.headers["webhook-id"] == before.headers["webhook-id"]
    assert after.body == before.body


async def test_retries_go_on_after_a_restart(tmp_path: Path, receiver: Receiver, settings: WebhookSettings) -> None:
    receiver.answers = [500]
    url, clock = f"sqlite:///{tmp_path}/restarted.db", Clock()
    async with open_store(url) as store:
        await end_job(store, receiver.url)
        async with sending(store.outbox, settings, clock=clock) as at_work:
            assert await at_work.result() == "failed"
    async with open_store(url) as store:
        clock.now += 5.0
        async with sending(store.outbox, settings, clock=clock) as at_work:
            assert await at_work.result() == "delivered"
    assert len(receiver.requests) == 2


@contextlib.asynccontextmanager
async def counting(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[int, list[object]]]:
    """A port and the connections that came to it."""
    came: list[object] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(connected, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1], came


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "localhost"],
)
async def test_this_machine_is_refused_in_every_spelling_without_a_connection(store: Store, host: str) -> None:
    async with counting() as (port, came):
        await end_job(store, f"https://{host}:{port}/")
        async with sending(store.outbox, WebhookSettings()) as at_work:
            assert await at_work.result() == "failed"
        # Were a connection under way, it would be in front of this one.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        assert came == [writer.get_extra_info("sockname")]
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("::1", "::ffff:127.0.0.1", "fe80::1", "fd00:ec2::254", "64:ff9b::7f00:1", "2002:7f00:1::", "::"),
        "10.0.0.1 127.0.0.1 ::1",
    ],
)
async def test_a_name_that_resolves_to_what_is_not_public_is_refused_without_a_socket(
    store: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = socket.socket

    class Noted(real):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object, **options: object) -> None:
            made.append(arguments)
            super().__init__(*arguments, **options)

    names = Names(address)
    await end_job(store, f"https://{NAME}/")
    monkeypatch.setattr(socket, "socket", Noted)
    async with sending(store.outbox, WebhookSettings(), names) as at_work:
        assert await at_work.result() == "failed"
    assert (names.asked, made) == ([NAME], [])


async def test_a_name_that_changes_its_address_reaches_vetted_addresses_only(
    store: Store, certificate: Certificate, settings: WebhookSettings
) -> None:
    only_second = settings.model_copy(update={"allow": (IPv4Network("127.0.0.2/32"),)})
    # Each look-up is for one connection: what it answered is vetted, and what it answers next is vetted again.
    names = Names("127.0.0.2", "127.0.0.1", "127.0.0.1 127.0.0.2")
    async with receiving(certificate, "127.0.0.2") as vetted:
        port = int(vetted.url.rpartition(":")[2])
        vetted.answers = [500, 204]
        await end_job(store, f"https://{NAME}:{port}/")
        async with (
            counting("127.0.0.1", port) as (_, came),
            sending(store.outbox, only_second, names) as at_work,
        ):
            assert await at_work.result() == "failed"
            assert len(vetted.requests) == 1
            await at_work.later(LONGEST_RETRY_S)
            assert await at_work.result() == "failed"
            assert len(vetted.requests) == 1
            await at_work.later(LONGEST_RETRY_S)
            assert await at_work.result() == "delivered"
        assert came == []
    assert names.asked == [NAME] * 3
    assert [request.headers["Host"] for request in vetted.requests] == [f"{NAME}:{port}"] * 2


async def test_proxies_of_the_environment_are_not_used(
    store: Store, receiver: Receiver, settings: WebhookSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counting() as (port, came):
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        await end_job(store, receiver.url)
        async with sending(store.outbox, settings) as at_work:
            assert await at_work.result() == "delivered"
        assert came == []


async def test_a_certificate_that_nobody_vouches_for_is_refused(store: Store, receiver: Receiver) -> None:
    await end_job(store, receiver.url)
    async with sending(store.outbox, WebhookSettings(allow=(LOOPBACK,))) as at_work:
        assert await at_work.result() == "failed"
    assert receiver.requests == []


async def test_a_certificate_of_another_name_is_refused(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    await end_job(store, receiver.url.replace("127.0.0.1", "other.test"))
    async with sending(store.outbox, settings, Names("127.0.0.1")) as at_work:
        assert await at_work.result() == "failed"
    assert receiver.requests == []


async def test_nothing_is_sent_without_tls(store: Store, settings: WebhookSettings) -> None:
    async with counting() as (port, came):
        await end_job(store, f"http://127.0.0.1:{port}/")
        async with sending(store.outbox, settings) as at_work:
            assert await at_work.result() == "failed"
        assert came == []


async def test_an_answer_without_end_is_not_read(store: Store, receiver: Receiver, settings: WebhookSettings) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            ended.set()

    receiver.answers = [endless]
    await end_job(store, receiver.url)
    async with sending(store.outbox, settings) as at_work:
        assert await at_work.result() == "delivered"
        await ended.wait()


async def test_a_receiver_that_does_not_answer_is_left_after_the_timeout(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    receiver.answers = [receiver.never]
    await end_job(store, receiver.url)
    async with sending(store.outbox, settings.model_copy(update={"timeout_s": 0.3})) as at_work:
        assert await at_work.result() == "failed"


async def test_no_more_than_the_bound_are_under_way_and_all_arrive(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    go_on, under_way, most = asyncio.Event(), 0, 0

    async def held(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == AT_ONCE:
            go_on.set()
        await go_on.wait()
        under_way -= 1
        return web.Response()

    total = 3 * AT_ONCE + 1
    receiver.answers = [held] * total
    for _ in range(total):
        await end_job(store, receiver.url)
    async with sending(store.outbox, settings) as at_work:
        assert {await at_work.result() for _ in range(total)} == {"delivered"}
    assert most == AT_ONCE
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == len(receiver.requests) == total


async def test_one_job_whose_receiver_hangs_holds_up_no_other(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    receiver.answers = [receiver.never]
    await end_job(store, f"{receiver.url}/hangs")
    async with sending(store.outbox, settings) as at_work:
        assert (await receiver.came.get()).path == "/hangs"
        await end_job(store, f"{receiver.url}/well")
        at_work.sender.wake()
        assert await at_work.result() == "delivered"


class ShakyOutbox(Outbox):
    """The real one, out of reach for the first look and the first note."""

    def __init__(self, real: Outbox) -> None:
        self._real = real
        self.refusals: Iterator[str] = iter(("due", "delivered"))
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self._next: str | None = next(self.refusals)

    def _refuse(self, what: str) -> None:
        if self._next == what:
            self._next = next(self.refusals, None)
            self.refused.put_nowait(what)
            raise Unavailable("the database is away")

    async def due(self, now: float, limit: int) -> list[Delivery]:
        self._refuse("due")
        return await self._real.due(now, limit)

    async def delivered(self, delivery_id: str, now: float) -> None:
        self._refuse("delivered")
        await self._real.delivered(delivery_id, now)


async def test_a_store_that_is_away_for_a_while_costs_no_delivery(
    store: Store, receiver: Receiver, settings: WebhookSettings
) -> None:
    outbox = ShakyOutbox(store.outbox)
    await end_job(store, receiver.url)
    async with sending(outbox, settings) as at_work:
        assert await outbox.refused.get() == "due"
        at_work.sender.wake()
        assert await outbox.refused.get() == "delivered"
        assert await at_work.result() == "delivered"
        assert await store.outbox.due(2e9, 10) == []
    assert len(receiver.requests) == 2


@given(attempts=st.integers(1, 10_000), seed=st.integers())
def test_retries_wait_longer_each_time_within_their_bounds(attempts: int, seed: int) -> None:
    delay = retry_delay_s(attempts, random.Random(seed))
    full = min(5.0 * 3.0 ** min(attempts - 1, 50), LONGEST_RETRY_S)
    assert full / 2 <= delay <= full


def test_the_known_signature_of_the_standard() -> None:
    """The example of the Standard Webhooks specification's own libraries."""
    body = b'{"test": 2432232314}'
    headers = webhook_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!", "whsec_abc"])
def test_a_secret_that_is_no_key_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_webhook_secret(secret)
    assert refused.value.field == "webhook.secret"
    assert secret == "whsec_" or secret not in str(refused.value)


@given(key=st.binary(min_size=1))
def test_a_key_in_base64_is_the_key(key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    check_webhook_secret(secret)
    assert signing_key(secret) == key


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=16))
def test_any_other_secret_is_its_own_key(secret: str) -> None:
    if not secret.startswith("whsec_"):
        check_webhook_secret(secret)
        assert signing_key(secret) == secret.encode()
