"""What goes wrong on purpose: drawn from the seed, the server, the request and its attempt, so that a run repeats."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from gen_service.endpoints.simulated.script import uniforms

FaultKind = Literal[
    "http_500",
    "http_429",
    "http_503",
    "reset",
    "cut_body",
    "stall",
    "malformed",
    "empty_choices",
    "missing_usage",
]
REFUSALS: Final[dict[FaultKind, int]] = {"http_500": 500, "http_429": 429, "http_503": 503}
_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one attempt; `where` is the share of the answer that is sent before it does, in (0, 1)."""

    kind: FaultKind
    where: float


@dataclass(frozen=True, slots=True)
class Faults:
    """Each fault's rate among requests; their sum is at most 1, since a request has one fault at most.

    Attributes:
        http_500: an HTTP error before anything is sent; also `http_429` and `http_503`, with `Retry-After`.
        retry_after_s: what `Retry-After` says, whole seconds.
        reset: TCP RST in the middle of the answer.
        cut_body: the body ends in order, but without finish reason and `[DONE]`; a whole answer is half a JSON text.
        stall: silence in the middle of the answer for `stall_s` seconds, or until the client leaves; then it goes on.
        malformed: a chunk (or the whole body) that is not JSON.
        empty_choices: an answer whose `choices` is empty.
        missing_usage: a good answer without its usage.
        refused_marker: a prompt whose text holds this gets HTTP 400 every time.
    """

    http_500: float = 0.0
    http_429: float = 0.0
    http_503: float = 0.0
    reset: float = 0.0
    cut_body: float = 0.0
    stall: float = 0.0
    malformed: float = 0.0
    empty_choices: float = 0.0
    missing_usage: float = 0.0
    retry_after_s: int = 1
    stall_s: float = math.inf
    refused_marker: str | None = None

    def __post_init__(self) -> None:
        total = sum(self.rate(kind) for kind in _KINDS)
        if min(self.rate(kind) for kind in _KINDS) < 0 or total > 1 + 1e-9:
            raise ValueError(f"fault rates must be at least 0 and sum to 1 at most, got a sum of {total}")

    def rate(self, kind: FaultKind) -> float:
        rate: float = getattr(self, kind)
        return rate

    def draw(self, seed: int, server_index: int, request_id: str, attempt: int) -> Fault | None:
        """The fault of a request's attempt (1-based, as seen by this server), or None."""
        text = f"{seed}\0{server_index}\0{request_id}\0{attempt}"
        chosen, where = uniforms(hashlib.blake2b(text.encode(), digest_size=16).digest())
        for kind in _KINDS:
            chosen -= self.rate(kind)
            if chosen < 0:
                return Fault(kind, where)
        return None
