"""Simulated servers in processes of their own, so that they outlive a controller and their CPU time is not its."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

ENDS_WITHIN_S = 20.0


@contextmanager
def simulated_servers(
    arguments: Sequence[str], *, processes: int = 1, servers: int = 1, port: int = 0
) -> Iterator[tuple[str, ...]]:
    """Start servers, yield their base URLs, end them.

    Args:
        arguments: of `python -m gen_service.endpoints.simulated`.
        processes: how many processes; each takes about one core when the clients are fast.
        servers: how many in each.
        port: of the first server when there is one process; 0 picks free ones.
    """
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(_process([*arguments, "--first-index", str(index * servers)], servers, port))
            for index in range(processes)
        ]
        yield tuple(url for child in started for url in _ready(child))


@contextmanager
def _process(arguments: Sequence[str], servers: int, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gen_service.endpoints.simulated", "--port", str(port), "--servers", str(servers)]
    child = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _ready(child: subprocess.Popen[str]) -> list[str]:
    words = child.stdout.readline().split() if child.stdout is not None else []
    if words[:1] != ["ready"]:
        raise RuntimeError(f"a simulated server did not start: it said {' '.join(words)!r}")
    return words[1:]
