"""An answer while it is being written: what has come so far, over any number of requests."""

from __future__ import annotations

import array
import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from gen_service.records import NO_TOKENS, Completion, TokenIds

OPEN, CLOSE = "<think>", "</think>"
# What vLLM reports for answers it gave up on: they did not end by themselves.
ABORTED = frozenset({"abort", "error"})

Times = tuple[float | None, float]
_NOTHING: dict[str, Any] = {}


class Draft:
    """Collects one sample's text and token ids from stream events.

    Text reaches it in three shapes and leaves in one: vLLM's `reasoning`, older servers' `reasoning_content`, and
    `<think>` tags inside `content`. An answer is taken up again from `prompt_ids` + `token_ids`, whose text is raw
    (tags and all).

    Args:
        is_plain: the text is of `/v1/completions` from its beginning, and tags in it are text like any other.

    Attributes:
        on_first_token: called once, when the next token comes.
        on_progress: called each time tokens came.
    """

    __slots__ = (
        "_content",
        "_covered",
        "_covered_before",
        "_has_text_without_ids",
        "_raw",
        "_reasoning",
        "_reopened",
        "_usage_tokens",
        "continued",
        "finish_reason",
        "first_token_at",
        "is_plain",
        "model",
        "on_first_token",
        "on_progress",
        "prompt_ids",
        "prompt_tokens",
        "token_ids",
    )

    def __init__(self, is_plain: bool = False) -> None:
        self.is_plain = is_plain
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._raw: list[str] = []
        self._usage_tokens = 0
        # Tokens whose text has come, now and before the last piece of text.
        self._covered = self._covered_before = 0
        self._has_text_without_ids = False
        self._reopened = False
        self.token_ids = array.array("i")
        self.prompt_ids = array.array("i")
        self.prompt_tokens = 0
        self.finish_reason: str | None = None
        self.first_token_at: float | None = None
        self.on_first_token: Callable[[], None] | None = None
        self.on_progress: Callable[[], None] | None = None
        self.continued = 0
        self.model = ""

    @property
    def can_continue(self) -> bool:
        """Whether the tokens whose text has come are known exactly, so that another server can go on from them."""
        return bool(self.prompt_ids) and self._certain > 0 and not self._has_text_without_ids

    @property
    def _is_thinking(self) -> bool:
        """Whether the last piece is one of a thought that the server splits off, with nothing after it."""
        return self._covered_before < self._covered and bool(self._reasoning) and not self._content and not self._raw

    @property
    def _certain(self) -> int:
        """Tokens that another server may go on from."""
        return self._covered_before if self._is_thinking else self._covered

    @property
    def is_whole(self) -> bool:
        """Whether the answer ended."""
        return self.finish_reason is not None and self.finish_reason not in ABORTED

    @property
    def tokens(self) -> int:
        """Completion tokens so far."""
        return self._usage_tokens if self._has_text_without_ids else len(self.token_ids) or self._usage_tokens

    def take_prompt_ids(self, ids: list[int]) -> None:
        """Add the prompt's ids; only the first request's count, a later one's hold generated tokens."""
        if not self.prompt_ids:
            self.prompt_ids = array.array("i", ids)
            self.prompt_tokens = len(ids)

    def take_chat_choice(self, choice: dict[str, Any]) -> bool:
        """Add a choice of a chat chunk (`delta`) or of a whole chat body (`message`). True if it carried output.

        Raises:
            TypeError, OverflowError, AttributeError: it has another shape; nothing of it was added.
        """
        part = choice.get("delta") or choice.get("message") or _NOTHING
        reasoning = part.get("reasoning") or part.get("reasoning_content")
        content = part.get("content")
        if reasoning:
            _check_text(reasoning)
        if content:
            _check_text(content)
        progressed = self._take_ids(choice, bool(reasoning or content))
        if reasoning:
            self._reasoning.append(reasoning)
        if content:
            self._content.append(content)
        return progressed

    def take_text_choice(self, choice: dict[str, Any]) -> bool:
        """Add a choice of a `/v1/completions` chunk: raw text that goes on where the draft stopped.

        Raises:
            TypeError, OverflowError: it has another shape; nothing of it was added.
        """
        text = choice.get("text")
        if text:
            _check_text(text)
        progressed = self._take_ids(choice, bool(text))
        if text:
            self._raw.append(text)
        if progressed and self._reopened:
            self._reopened = False
            self.continued += 1
        return progressed

    def take_usage(self, usage: dict[str, Any]) -> None:
        """Add the usage of a request: counts where token ids were not sent."""
        self._usage_tokens += int(usage.get("completion_tokens") or 0)
        if not self.prompt_tokens:
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)

    def came(self, now: float) -> None:
        """Tokens came at loop time `now`."""
        if self.first_token_at is None:
            self.first_token_at = now
            if self.on_first_token is not None:
                self.on_first_token()
        if self.on_progress is not None:
            self.on_progress()

    def end_if_full(self, budget: int | None) -> None:
        """An answer that has all the tokens it may have is at its end, whether the server still said so or not."""
        if self.finish_reason is None and budget is not None and len(self.token_ids) >= budget:
            self.finish_reason = "length"

    def reopened(self) -> Draft:
        """A draft that goes on from the tokens of this one whose text is certain; this one stays as it is.

        A server may hold text back while it has sent the ids (half of a character): those tokens are given up, since
        no other server would send their text. So is the last piece of a thought, whose ids may hold the `</think>`
        that its text does not show: the text of the next server would count as thought.
        """
        draft = copy.copy(self)
        draft._reasoning = self._reasoning[:-1] if self._is_thinking else self._reasoning[:]
        draft._content, draft._raw = self._content[:], self._raw[:]
        draft.token_ids = self.token_ids[: self._certain]
        draft._covered = draft._covered_before = len(draft.token_ids)
        draft.finish_reason = None
        draft.first_token_at = None
        draft._reopened = True
        return draft

    def completion(self, endpoint: str, retries: tuple[str, ...], started_at: float, times: Times) -> Completion:
        """The finished draft as a record. `times` is (first token, total) in seconds."""
        reasoning, content = self.text()
        return Completion(
            reasoning=reasoning,
            content=content,
            finish_reason=self.finish_reason or "",
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.tokens,
            token_ids=self._ids(),
            model=self.model,
            endpoint=endpoint,
            continued=self.continued,
            retries=retries,
            started_at=started_at,
            first_token_s=times[0],
            total_s=times[1],
        )

    def text(self) -> tuple[str | None, str]:
        """(reasoning or None, content), the same whichever way the server sends them."""
        reasoning, content = "".join(self._reasoning), "".join(self._content)
        raw = "".join(self._raw)
        if self.is_plain:
            return None, raw
        if not reasoning:
            return split_thinking(content + raw)
        if raw and not content:
            more, _, content = raw.partition(CLOSE)
            reasoning += more
        else:
            content += raw
        return tidied(reasoning, content)

    def _take_ids(self, choice: dict[str, Any], has_text: bool) -> bool:
        ids, reason = choice.get("token_ids"), choice.get("finish_reason")
        if ids:
            self.token_ids.fromlist(ids)
        elif ids is None and has_text:
            self._has_text_without_ids = True
        if has_text:
            self._covered_before, self._covered = self._covered, len(self.token_ids)
        if reason:
            self.finish_reason = str(reason)
        return bool(ids) or has_text

    def _ids(self) -> TokenIds:
        if not self.token_ids or self._has_text_without_ids:
            return NO_TOKENS
        return np.frombuffer(self.token_ids.tobytes(), dtype=np.int32)


def split_thinking(text: str) -> tuple[str | None, str]:
    """Split text with `<think>` tags into (reasoning or None, content).

    A template may have put the opening tag into the prompt, so a closing tag alone is enough; an opening tag that is
    never closed leaves no content.
    """
    body = text.lstrip()
    opened = body.startswith(OPEN)
    before, closed, after = (body.removeprefix(OPEN) if opened else text).partition(CLOSE)
    return tidied(before, after) if closed or opened else (None, text)


def tidied(reasoning: str, content: str) -> tuple[str | None, str]:
    """Without the line ends that templates put around the tags; None for a thought that holds nothing."""
    return reasoning.strip("\n") or None, content.lstrip("\n")


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
