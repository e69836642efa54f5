"""Lists of servers that change: how a file of them is read, what is new in one, and when an address is gone. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import yaml

from gen_service.settings import server_url

NAME_PREFIX = "dns+"
# DNS answers flap, and a server that is taken out for nothing loses its prompts' prefixes: an address is gone when this
# many answers in a row are without it.
LOOKS_UNTIL_GONE = 2


def parse_list(text: str) -> tuple[str, ...]:
    """The servers that a file names: a URL a line, with `#` before a comment, or a YAML (or JSON) list of them.

    Returns:
        URLs as `settings.server_url` keeps them, each once.

    Raises:
        ValueError: it names none, or a line is none; its words say what would be right.
    """
    lines = [re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in text.splitlines()]
    entries: Iterable[object] = filter(None, lines)
    if next((line[0] for line in lines if line), "") in ("-", "["):
        entries = _yaml_list(text)
    found: dict[str, None] = {}
    for entry in entries:
        if not isinstance(entry, str):
            raise ValueError(f"{entry!r} is not a server's base URL such as http://10.0.0.1:8000")
        found[server_url(entry)] = None
    if not found:
        raise ValueError("it names no server; at least 1 is needed")
    return tuple(found)


def _yaml_list(text: str) -> list[object]:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it begins as a YAML list and is none: {' '.join(str(error).split())}") from error
    if not isinstance(document, list):
        raise ValueError("it begins as a YAML list and is none")
    return document


def is_name(url: str) -> bool:
    """Whether a URL stands for the servers behind a DNS name."""
    return url.startswith(NAME_PREFIX)


def host_and_port(name: str) -> tuple[str, int]:
    """What to look up for `dns+http://host:port`."""
    parts = urlsplit(name.removeprefix(NAME_PREFIX))
    assert parts.hostname is not None, "settings.server_url saw to it"
    return parts.hostname, parts.port or 80


def urls_at(name: str, addresses: Iterable[str]) -> list[str]:
    """A server's URL for each address that `dns+http://host:port` has.

    Only those of IPv4 count where there are any: a pod of a dual-stack cluster has one of each, and it is one server.
    """
    parts = urlsplit(name.removeprefix(NAME_PREFIX))
    user, at, _ = parts.netloc.rpartition("@")
    parsed = sorted({ip_address(address) for address in addresses}, key=lambda one: (one.version, int(one)))
    hosts = [
        f"[{one}]" if isinstance(one, IPv6Address) else str(one) for one in parsed if one.version == parsed[0].version
    ]
    return [f"{parts.scheme}://{user}{at}{host}:{parts.port or 80}{parts.path}" for host in hosts]


def difference(before: Iterable[str], after: Iterable[str]) -> tuple[list[str], list[str]]:
    """Which of a list are new, and which are gone, in the order of each."""
    was, will_be = dict.fromkeys(before), dict.fromkeys(after)
    return [one for one in will_be if one not in was], [one for one in was if one not in will_be]


class Answers:
    """What a DNS name stands for, by its answers so far.

    An address belongs from the first answer with it, until `LOOKS_UNTIL_GONE` answers in a row are without it. A
    lookup that failed says nothing, neither for an address nor against it.
    """

    def __init__(self) -> None:
        self._missed: dict[str, int] = {}

    @property
    def urls(self) -> list[str]:
        """The servers that belong now."""
        return list(self._missed)

    def take(self, urls: Collection[str]) -> None:
        """An answer; not an empty one, which is a failure."""
        missed = {url: 0 if url in urls else count + 1 for url, count in self._missed.items()}
        self._missed = {url: count for url, count in missed.items() if count < LOOKS_UNTIL_GONE} | dict.fromkeys(
            urls, 0
        )
