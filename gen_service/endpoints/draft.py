"""An answer while it is being written: what has come so far, over any number of requests."""

from __future__ import annotations

import array
from typing import Any

import numpy as np

from gen_service.records import NO_TOKENS, Completion, TokenIds

OPEN, CLOSE = "<think>", "</think>"


class Draft:
    """Collects one sample's text and token ids from stream events.

    Text reaches it in three shapes and leaves in one: vLLM's `reasoning`, older servers' `reasoning_content`, and
    `<think>` tags inside `content`. An answer is taken up again from `prompt_ids` + `token_ids`, whose text is raw
    (tags and all).
    """

    __slots__ = (
        "_content",
        "_raw",
        "_reasoning",
        "_usage_tokens",
        "continued",
        "finish_reason",
        "first_token_at",
        "model",
        "prompt_ids",
        "prompt_tokens",
        "token_ids",
    )

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._raw: list[str] = []
        self._usage_tokens = 0
        self.token_ids = array.array("i")
        self.prompt_ids: list[int] = []
        self.prompt_tokens = 0
        self.finish_reason: str | None = None
        self.first_token_at: float | None = None
        self.continued = 0
        self.model = ""

    @property
    def can_continue(self) -> bool:
        """Whether the tokens so far are known exactly, so that another server can go on from them."""
        return bool(self.prompt_ids) and len(self.token_ids) > 0

    @property
    def tokens(self) -> int:
        """Completion tokens so far."""
        return len(self.token_ids) or self._usage_tokens

    def take_chat_choice(self, choice: dict[str, Any]) -> bool:
        """Add a choice of a chat chunk (`delta`) or of a whole chat body (`message`). True if it carried output."""
        part = choice.get("delta") or choice.get("message") or {}
        reasoning = part.get("reasoning") or part.get("reasoning_content")
        content = part.get("content")
        if reasoning:
            self._reasoning.append(reasoning)
        if content:
            self._content.append(content)
        return self._take_end(choice) or bool(reasoning or content)

    def take_text_choice(self, choice: dict[str, Any]) -> bool:
        """Add a choice of a `/v1/completions` chunk: raw text that goes on where the draft stopped."""
        text = choice.get("text")
        if text:
            self._raw.append(text)
        return self._take_end(choice) or bool(text)

    def take_usage(self, usage: dict[str, Any]) -> None:
        """Add the usage of a request: counts where token ids were not sent."""
        self._usage_tokens += int(usage.get("completion_tokens") or 0)
        if not self.prompt_tokens:
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)

    def _take_end(self, choice: dict[str, Any]) -> bool:
        ids = choice.get("token_ids")
        if ids:
            self.token_ids.extend(ids)
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])
        return bool(ids)

    def reopen(self) -> None:
        """Prepare to go on from the tokens so far."""
        self.finish_reason = None
        self.first_token_at = None
        self.continued += 1

    def completion(self, endpoint: str, retries: tuple[str, ...], started_at: float, times: Times) -> Completion:
        """The finished draft as a record. `times` is (first token, total) in seconds."""
        reasoning, content = self.text()
        return Completion(
            reasoning=reasoning,
            content=content,
            finish_reason=self.finish_reason or "",
            prompt_tokens=self.prompt_tokens or len(self.prompt_ids),
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
        if not reasoning:
            return split_thinking(content + raw)
        if raw and not content:
            more, found, after = raw.partition(CLOSE)
            reasoning += more
            content = after if found else ""
        else:
            content += raw
        return reasoning.strip("\n"), content.lstrip("\n")

    def _ids(self) -> TokenIds:
        if not self.token_ids:
            return NO_TOKENS
        return np.frombuffer(self.token_ids.tobytes(), dtype=np.int32)


Times = tuple[float | None, float]


def split_thinking(text: str) -> tuple[str | None, str]:
    """Split text with `<think>` tags into (reasoning or None, content).

    A template may have put the opening tag into the prompt, so a closing tag alone is enough; an opening tag that is
    never closed leaves no content.
    """
    body = text.lstrip()
    opened = body.startswith(OPEN)
    before, closed, after = text.partition(CLOSE)
    if closed:
        return before.lstrip().removeprefix(OPEN).strip("\n"), after.lstrip("\n")
    if opened:
        return body.removeprefix(OPEN).strip("\n"), ""
    return None, text
