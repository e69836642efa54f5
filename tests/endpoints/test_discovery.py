"""Sources of servers that change: real files, and names under a resolver of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from gen_service.endpoints import discovery as discovery_module
from gen_service.endpoints.discovery import MOST_BYTES, Discovery, Notice, addresses_of
from gen_service.errors import SpecError
from gen_service.settings import EndpointSettings

A, B, C = (f"http://10.0.0.{number}:8000" for number in (1, 2, 3))
NAME = "dns+http://vllm:8000"


class Resolver:
    """Gives what `answers` holds in turn, the last of them for ever; an error is raised."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Heard(asyncio.Queue[tuple[str, ...]]):
    """The lists that were handed on."""

    def __call__(self, servers: Sequence[str]) -> None:
        self.put_nowait(tuple(servers))


@contextlib.asynccontextmanager
async def watched(
    settings: EndpointSettings, notice: Notice = lambda _: None, resolver: Resolver | None = None
) -> AsyncIterator[tuple[Discovery, Heard]]:
    """After a first look; what is found from then on goes into the queue."""
    found, heard = Discovery(settings, notice, resolver), Heard()
    try:
        await found.look()
        found.watch(heard)
        yield found, heard
    finally:
        await found.close()


def put(path: Path, content: bytes) -> None:
    """Write it in one step: nobody reads a half of it."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)


def of_file(path: Path, *urls: str) -> EndpointSettings:
    return EndpointSettings(file=path, urls=urls, discover_s=0.01)


def of_names(*urls: str) -> EndpointSettings:
    return EndpointSettings(urls=urls, discover_s=0.01)


async def test_fixed_servers_are_as_they_are_written_and_nothing_is_watched() -> None:
    before = asyncio.all_tasks()
    async with watched(EndpointSettings(urls=(A, B))) as (found, _):
        assert found.servers == (A, B)
        assert asyncio.all_tasks() == before


async def test_a_changed_file_is_heard_of(tmp_path: Path) -> None:
    path = tmp_path / "servers.txt"
    path.write_text(f"{A}\n")
    async with watched(of_file(path, C)) as (found, heard):
        assert found.servers == (C, A)
        path.write_text(f"\ufeff{A}\n{B}\n", encoding="utf-8")
        assert await heard.get() == (C, A, B)
        path.write_text(f"- {B}\n- {C}\n")
        assert await heard.get() == (C, B)


async def test_a_change_that_time_and_size_do_not_show_is_heard_of(tmp_path: Path) -> None:
    path = tmp_path / "servers.txt"
    path.write_text(A)
    times = path.stat()
    async with watched(of_file(path)) as (_, heard):
        with path.open("r+") as file:
            file.write(B)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert await heard.get() == (B,)


async def test_a_file_that_is_replaced_is_followed(tmp_path: Path) -> None:
    """As Kubernetes does it with a mounted ConfigMap: the path is a link, and the link is moved."""
    first, second, path = tmp_path / "first", tmp_path / "second", tmp_path / "servers.txt"
    first.write_text(A)
    second.write_text(B)
    path.symlink_to(first)
    async with watched(of_file(path)) as (_, heard):
        new = tmp_path / "new"
        new.symlink_to(second)
        new.replace(path)
        assert await heard.get() == (B,)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: put(path, f"{A}\nnonsense\n".encode()), "'nonsense' is not a server's base URL"),
        (lambda path: put(path, b"# nothing yet\n"), "names no server"),
        (lambda path: put(path, b""), "names no server"),
        (lambda path: put(path, b"\xff\xfe"), "can't decode"),
        (lambda path: put(path, b"#" * (MOST_BYTES + 1)), "more than 1,048,576 bytes"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "it is no file"),
    ],
)
async def test_a_file_that_breaks_keeps_its_servers_says_so_once_and_is_taken_up_again(
    tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    path, notices = tmp_path / "servers.txt", asyncio.Queue[str]()
    path.write_text(f"{A}\n{B}\n")
    async with watched(of_file(path), notices.put_nowait) as (found, heard):
        spoil(path)
        said = await notices.get()
        assert said.startswith(f"{path} is of no use, the servers stay those that it named: ")
        assert words in said
        for _ in range(3):
            await found.look()
        assert (found.servers, notices.empty(), heard.empty()) == ((A, B), True, True)
        if path.is_dir():
            path.rmdir()
        put(path, C.encode())
        assert await heard.get() == (C,)
        put(path, b"")
        assert "names no server" in await notices.get()


@pytest.mark.parametrize(
    ("text", "words"), [(None, "No such file"), ("", "names no server"), ("nonsense", "'nonsense' is not a server's")]
)
async def test_a_file_that_never_was_of_use_is_a_mistake_in_the_spec(
    tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "servers.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError, match=words) as caught:
        await Discovery(of_file(path, A), lambda _: None).look()
    assert (caught.value.field, caught.value.value) == ("endpoints.file", str(path))


async def test_a_name_is_a_server_at_each_address_and_is_asked_again() -> None:
    resolver = Resolver(["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    async with watched(of_names(NAME, A), resolver=resolver) as (found, heard):
        assert found.servers == (A, B)
        assert await heard.get() == (A, B, C)
    assert set(resolver.asked) == {("vllm", 8000)}


async def test_an_address_that_flaps_is_kept_and_one_that_stays_away_is_not() -> None:
    both, one = ["10.0.0.1", "10.0.0.2"], ["10.0.0.1"]
    found = Discovery(of_names(NAME), lambda _: None, Resolver(both, one, both, one, OSError("no"), one, one))
    seen = []
    for _ in range(7):
        await found.look()
        seen.append(found.servers)
    assert seen == [(A, B)] * 5 + [(A,)] * 2


async def test_a_lookup_that_fails_keeps_the_servers_and_says_so_once() -> None:
    notices: list[str] = []
    failing: list[list[str] | Exception] = [OSError("Name or service not known"), [], UnicodeError("label too long")]
    resolver = Resolver(*failing, ["10.0.0.1"], *failing[2:] * 3, ["10.0.0.2"])
    found = Discovery(of_names(NAME), notices.append, resolver)
    for _ in range(3):
        await found.look()
        assert found.servers == ()
    assert [notice.rpartition(": ")[2] for notice in notices] == [
        "Name or service not known",
        "it has no address",
        "label too long",
    ]
    for _ in range(4):
        await found.look()
        assert found.servers == (A,)
    assert notices[3:] == [f"{NAME} is not resolved, its servers stay as they were: label too long"]
    await found.look()
    assert set(found.servers) == {A, B}


async def test_a_lookup_that_hangs_keeps_no_other_source_waiting_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_module, "LOOKUP_S", 0.01)
    path, notices, answer = tmp_path / "servers.txt", list[str](), asyncio.Event()
    path.write_text(f"{NAME}\n{B}")
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(f"{host}:{port}")
        await answer.wait()
        return ["10.0.0.1"]

    found, heard = Discovery(of_file(path), notices.append, resolve), Heard()
    await found.look()
    await found.look()
    assert (found.servers, asked) == ((B,), ["vllm:8000"])
    assert notices == [f"{NAME} is not resolved, its servers stay as they were: no answer within 0.01 s"]
    found.watch(heard)
    answer.set()
    assert await heard.get() == (A, B)
    answer.clear()
    await found.close()
    assert [task for task in asyncio.all_tasks() if "_addresses" in repr(task) and not task.done()] == []


async def test_a_file_may_name_names_and_never_empties_the_list(tmp_path: Path) -> None:
    path, notices = tmp_path / "servers.txt", list[str]()
    path.write_text(A)
    found = Discovery(of_file(path), notices.append, Resolver(OSError("no such name"), ["10.0.0.2"]))
    await found.look()
    path.write_text(NAME)
    await found.look()
    assert found.servers == (A,)
    await found.look()
    assert found.servers == (B,)
    path.write_text(C)
    await found.look()
    assert found.servers == (C,)


async def test_a_bug_of_whoever_is_told_is_said_and_the_servers_are_told_again() -> None:
    resolver = Resolver(["10.0.0.1"], ["10.0.0.2", "10.0.0.1"])
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(str(context["exception"])))
    found, heard, wrong = Discovery(of_names(NAME), lambda _: None, resolver), Heard(), [True, True]

    def on_servers(servers: Sequence[str]) -> None:
        if wrong:
            wrong.pop()
            raise LookupError("a bug")
        heard(servers)

    await found.look()
    found.watch(on_servers)
    assert set(await heard.get()) == {A, B}
    assert said == ["a bug", "a bug"]
    await found.close()


async def test_names_are_resolved_as_this_machine_does_it() -> None:
    assert set(await addresses_of("localhost", 80)) <= {"127.0.0.1", "::1"}
    assert await addresses_of("127.0.0.1", 80) == ["127.0.0.1"]
    assert await addresses_of("::1", 80) == ["::1"]
    with pytest.raises(ValueError, match="label"):
        await addresses_of("a" * 70 + ".invalid", 80)
