"""Finds the servers while jobs run: looks again into the file that lists them, and at the DNS names they are behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from gen_service.endpoints.server_list import Answers, host_and_port, is_name, parse_list, urls_at
from gen_service.endpoints.unexpected import tell
from gen_service.errors import SpecError
from gen_service.settings import EndpointSettings

# How long one look waits for DNS; what comes later counts at the next look.
LOOKUP_S = 10.0
# A longer file is taken for something else that was named by mistake.
MOST_BYTES = 1024 * 1024

Notice = Callable[[str], None]
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


class Discovery:
    """The servers that the settings' sources name: fixed URLs, a file, and DNS names in either.

    Invariant: a source that says nothing of use (a file that is broken, empty or away, a lookup that fails) keeps what
    it said last, and says so once; so what is found never becomes empty again.

    The file is read whole at each look: it is small, and its time and size would miss a change now and then.

    Args:
        on_notice: told in words of a source that is of no use.
        resolve: the addresses behind a host's name; it raises OSError when it cannot tell.

    Attributes:
        servers: as last found, each once: base URLs.
    """

    def __init__(self, settings: EndpointSettings, on_notice: Notice, resolve: Resolve | None = None) -> None:
        self.servers: tuple[str, ...] = ()
        self._fixed = settings.urls
        self._file = settings.file
        self._every_s = settings.discover_s
        self._on_notice = on_notice
        self._resolve = resolve or addresses_of
        self._listed: tuple[str, ...] | None = None
        self._answers: dict[str, Answers] = {}
        self._lookups: dict[str, asyncio.Task[list[str] | str]] = {}
        self._said: dict[str, str] = {}
        self._watching: asyncio.Task[None] | None = None

    def watch(self, on_servers: Callable[[Sequence[str]], object]) -> None:
        """Look again from now on, where a source may change: `on_servers` is given the servers whenever they do."""
        if self._file is not None or any(map(is_name, self._fixed)):
            self._watching = asyncio.create_task(self._watch(on_servers))

    async def close(self) -> None:
        """Leave nothing running."""
        tasks = [*self._lookups.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Ask every source once.

        Raises:
            SpecError: the file was never read, and cannot be, or is no list of servers. A name that cannot be resolved
                is an outage: its servers are found when it can.
        """
        await self._read()
        written = dict.fromkeys((*self._fixed, *(self._listed or ())))
        await self._look_up([url for url in written if is_name(url)])
        servers = (self._answers[url].urls if is_name(url) else [url] for url in written)
        self.servers = tuple(dict.fromkeys(url for some in servers for url in some)) or self.servers

    async def _watch(self, on_servers: Callable[[Sequence[str]], object]) -> None:
        told = self.servers
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
                if self.servers != told:
                    on_servers(self.servers)
                    told = self.servers
            except Exception as error:
                # Only a bug. The next look may go well, and without it no server would be found any more.
                tell("servers are not looked for", error)

    async def _read(self) -> None:
        """Take in the file as it is now."""
        if self._file is None:
            return
        try:
            self._listed = await asyncio.to_thread(_listed, self._file)
            self._said.pop(str(self._file), None)
        except (OSError, ValueError) as error:
            words = f"a file that lists servers, a URL a line ({error})"
            if self._listed is None:
                raise SpecError("endpoints.file", str(self._file), words) from error
            self._say(str(self._file), f"{self._file} is of no use, the servers stay those that it named: {error}")

    async def _look_up(self, names: list[str]) -> None:
        """Look the names up at once; one that has not come back from the last look is not asked again."""
        self._answers = {name: self._answers.get(name) or Answers() for name in names}
        for name in names:
            if name not in self._lookups:
                self._lookups[name] = asyncio.create_task(self._addresses(name))
        if self._lookups:
            await asyncio.wait(self._lookups.values(), timeout=LOOKUP_S)
        for name, task in list(self._lookups.items()):
            if task.done():
                del self._lookups[name]
            answer = task.result() if task.done() else f"no answer within {LOOKUP_S:g} s"
            if name in self._answers:
                self._take(name, answer)

    def _take(self, name: str, answer: list[str] | str) -> None:
        if isinstance(answer, str):
            self._say(name, f"{name} is not resolved, its servers stay as they were: {answer}")
        else:
            self._answers[name].take(answer)
            self._said.pop(name, None)

    async def _addresses(self, name: str) -> list[str] | str:
        """The servers behind a name, or why that cannot be told."""
        try:
            return urls_at(name, await self._resolve(*host_and_port(name))) or "it has no address"
        except (OSError, ValueError) as error:
            return str(error)

    def _say(self, source: str, words: str) -> None:
        """Once, until the source is of use again or something else is wrong with it."""
        if self._said.get(source) != words:
            self._said[source] = words
            self._on_notice(words)


async def addresses_of(host: str, port: int) -> list[str]:
    """The addresses behind a host's name, as this machine resolves it.

    Raises:
        OSError, ValueError: it cannot be resolved.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _listed(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        path.stat()
        raise OSError("it is no file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(f"it has more than {MOST_BYTES:,} bytes")
    return parse_list(content.decode("utf-8-sig"))
