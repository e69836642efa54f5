"""One answer of a virtual server on its way to the client."""

from __future__ import annotations

import asyncio
import math
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.simulated.engine import EngineSequence
from gen_service.errors import EndpointError, Stalled, StreamBroken

# The first id of each answer lies below this, and the others follow it.
_OFFSETS: Final = 100_000
_LONGEST: Final = 140_000
# Every chunk has text, or its tokens would count as ids whose text has not come.
_TEXT: Final = "x"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client waits, in seconds, as `EndpointSettings` has it."""

    first_token_s: float = 1800.0
    stall_s: float = 120.0
    wall_s: float | None = None


class Stream:
    """One request under way, and its client's side.

    Chunks are as vLLM's: the first token alone, then whole stream intervals, the rest at the end. Intervals that are
    handed over together are one chunk, except that the last one is a chunk of its own: what a break costs is as in a
    real stream.

    Args:
        sequence: its computing; what it comes with is in the draft already.
        sample_id: whose token ids it gets.
        prompt_ids: sent before the first token.
        is_text: whether the answer is raw text, as `/v1/completions` has it.
        natural_tokens: length of the whole answer, had it no limit.
        ended: its end, well or in an error.

    Attributes:
        deadline: when the client's patience is looked at.
    """

    __slots__ = (
        "_draft",
        "_is_text",
        "_natural_tokens",
        "_prompt_ids",
        "_sample_id",
        "_sent",
        "_sent_at",
        "deadline",
        "ended",
        "patience",
        "sequence",
    )

    def __init__(
        self,
        sequence: EngineSequence,
        draft: Draft,
        sample_id: str,
        prompt_ids: list[int],
        *,
        is_text: bool,
        natural_tokens: int,
        ended: asyncio.Future[None],
        patience: Patience,
        now: float,
    ) -> None:
        self.sequence = sequence
        self.ended = ended
        self.patience = patience
        self.deadline: asyncio.TimerHandle | None = None
        self._draft = draft
        self._sample_id = sample_id
        self._prompt_ids = prompt_ids
        self._is_text = is_text
        self._natural_tokens = natural_tokens
        self._sent = sequence.given
        self._sent_at = now

    def gives_up_at(self, last_token_at: float | None) -> float:
        """When the client's patience ends, if no further token comes; loop time."""
        patience = self.patience
        first_at = self._sent_at + patience.first_token_s
        return min(first_at if last_token_at is None else last_token_at + patience.stall_s, self.wall_at)

    @property
    def wall_at(self) -> float:
        """When the client's patience with the whole answer ends."""
        return math.inf if self.patience.wall_s is None else self._sent_at + self.patience.wall_s

    def timed_out(self, url: str, now: float) -> EndpointError:
        """What the client says of a server at the end of its patience."""
        patience = self.patience
        if now >= self.wall_at:
            return StreamBroken(url, f"no whole answer within wall_s={patience.wall_s:g} s")
        return Stalled(
            url,
            f"no first token within first_token_s={patience.first_token_s:g} s, "
            f"or no further one within stall_s={patience.stall_s:g} s",
        )

    def deliver(self, interval: int, now: float) -> None:
        """Hand over the whole intervals that have come."""
        made = self.sequence.made - self.sequence.given
        whole = 1 + (made - 1) // interval * interval if made else 0
        until = self.sequence.given + whole
        if until > self._sent:
            self._chunks(until, interval, None)
            self._draft.came(now)

    def finish(self, model: str, interval: int, now: float) -> None:
        """Hand over all the rest, and the end."""
        target = self.sequence.target_tokens
        self._draft.model = self._draft.model or model
        self._chunks(target, interval, "stop" if target >= self._natural_tokens else "length")
        self._draft.take_usage(
            {"prompt_tokens": self.sequence.prompt_tokens, "completion_tokens": target - self.sequence.given}
        )
        self._draft.came(now)

    def _chunks(self, until: int, interval: int, reason: str | None) -> None:
        self._draft.take_prompt_ids(self._prompt_ids)
        if self._sent == self.sequence.given and until > self._sent + 1:
            self._chunk(self._sent + 1, None)
        if until - self._sent > interval:
            self._chunk(until - interval, None)
        self._chunk(until, reason)

    def _chunk(self, until: int, reason: str | None) -> None:
        ids = expected_ids(self._sample_id, self._sent, until)
        text = _TEXT if ids else ""
        self._sent = until
        choice: dict[str, Any] = {"index": 0, "token_ids": ids, "finish_reason": reason}
        if self._is_text:
            self._draft.take_text_choice({**choice, "text": text})
        else:
            self._draft.take_chat_choice({**choice, "delta": {"content": text}})


def expected_ids(name: str, start: int, end: int) -> list[int]:
    """The token ids at positions `start` to before `end` of a sample's answer: the same on every server.

    They are consecutive numbers from one that follows from the name, so a token lost or doubled shows.
    """
    offset = zlib.crc32(name.encode()) % _OFFSETS
    return _numbers()[offset + start : offset + end]


def prompt_ids(prompt_id: str, tokens: int) -> list[int]:
    """The token ids of a prompt."""
    return expected_ids(f"prompt {prompt_id}", 0, tokens)


@cache
def _numbers() -> list[int]:
    """One list that all answers are slices of: a slice costs no new numbers."""
    return list(range(_OFFSETS + _LONGEST))
