"""The real service in a process of its own, to be asked over HTTP, stopped, killed and started again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LISTENING = "listening on "
ENDS_WITHIN_S = 180.0
COMMAND = [sys.executable, "-c", "from gen_service.cli import main; main()"]


@dataclass(slots=True)
class ServiceProcess:
    """A service that is ready.

    Attributes:
        url: where it listens.
        child: its process.
        words: the file that its log goes to.
    """

    url: str
    child: subprocess.Popen[str]
    words: Path

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self.child.kill()
        self.child.wait()

    def exit_code(self) -> int:
        """The exit code of a service that is about to end.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        return self.child.wait(ENDS_WITHIN_S)


def service_settings(servers: Sequence[str], folder: Path, **more: str) -> dict[str, str]:
    """The environment of a service on these servers; `more` are settings, such as `fleet__grace_s="5"`."""
    settings = {"endpoints__urls": ",".join(servers), "data__folder": str(folder), "data__min_free_bytes": "0"}
    settings |= {"http__port": "0", "endpoints__backoff_s": "0.1", "fleet__grace_s": "2", **more}
    return {f"GEN_SERVICE_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def running_service(settings: Mapping[str, str], words: Path) -> Iterator[ServiceProcess]:
    """Start `gen-service serve`, yield it when it is ready; killed at the end if it lives.

    Args:
        settings: its environment, beside this process's own.
        words: the file that its log is appended to.

    Raises:
        RuntimeError: it ended instead; with its last words.
    """
    with words.open("ab") as log:
        child = subprocess.Popen(
            [*COMMAND, "serve"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield ServiceProcess(_url(child, words), child, words)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def make_key(settings: Mapping[str, str], tenant: str, scopes: Sequence[str] = ("submit", "read")) -> str:
    """A new key for a tenant, by `gen-service keys create`, whose last word on stdout is the key."""
    arguments = ["keys", "create", "--tenant", tenant, *(part for scope in scopes for part in ("--scope", scope))]
    made = subprocess.run(
        [*COMMAND, *arguments], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise RuntimeError(f"no key was made: {made.stderr[-2000:]}")
    return next(word for word in made.stdout.split() if word.startswith("gs_"))


def _url(child: subprocess.Popen[str], words: Path) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(LISTENING):
            return line.removeprefix(LISTENING).strip()
    raise RuntimeError(f"the service did not start: {words.read_text()[-4000:]}")
