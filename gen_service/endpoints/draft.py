"""An answer while it is being written: what has come so far, over any number of requests."""

from __future__ import annotations

import array
import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gen_service.endpoints.thoughts import CLOSE, split_thinking, tidied
from gen_service.records import NO_TOKENS, Completion, Partial, TokenIds

# What vLLM reports for answers it gave up on: they did not end by themselves.
ABORTED = frozenset({"abort", "error"})

Times = tuple[float | None, float]


class _Border(NamedTuple):
    """A place between two tokens where all text of those before it has come: counts of tokens and of pieces."""

    tokens: int
    reasoning: int
    content: int
    raw: int


class Draft:
    """Collects one sample's text and token ids from stream events.

    Text reaches it in three shapes and leaves in one: vLLM's `reasoning`, older servers' `reasoning_content`, and
    `<think>` tags inside `content`. An answer is taken up again from `prompt_ids` + `token_ids`, whose text is raw
    (tags and all).

    It is taken up only where the text of all tokens before is known to have come. A server may hold back the text of
    a token that is half of a character, also the last one of a piece; vLLM's next server would then send the text of
    the whole prompt with the other half. So the last border counts that has one token with text just before it, or
    text that begins with an ASCII character just after it: half a character would have been completed first. A border
    between a thought that the server splits off and its content does not count: the ids before it hold a `</think>`
    that the text does not show, and what the next server sends would count as thought.

    Args:
        is_plain: the text is of `/v1/completions` from its beginning, and tags in it are text like any other.

    Attributes:
        on_first_token: called once, when the next token comes.
        on_progress: called each time tokens came.
        continued: how many times the answer was taken up again.
    """

    __slots__ = (
        "_certain",
        "_content",
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
        # The last certain border; None where that is the end, which costs nothing for each token.
        self._certain: _Border | None = None
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

    @classmethod
    def restored(cls, partial: Partial, is_plain: bool) -> Draft:
        """A draft that goes on from what an earlier run kept."""
        draft = cls(is_plain)
        draft.take_prompt_ids(partial.prompt_ids.tolist())
        draft.token_ids = array.array("i", partial.token_ids.tolist())
        draft._reasoning = [partial.reasoning] if partial.reasoning else []
        draft._content = [partial.content] if partial.content else []
        draft._raw = [partial.raw] if partial.raw else []
        draft.continued = partial.continued
        draft._reopened = True
        return draft

    @property
    def can_continue(self) -> bool:
        """Whether there are tokens whose text has come for certain, so that another server can go on from them."""
        return bool(self.prompt_ids) and self._border().tokens > 0 and not self._has_text_without_ids

    @property
    def pieces(self) -> int:
        """Tokens so far, or pieces of text where a server sends no ids: grows whenever something came."""
        if self._has_text_without_ids:
            return len(self._reasoning) + len(self._content) + len(self._raw)
        return len(self.token_ids)

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
        part = choice.get("delta") or choice.get("message") or {}
        reasoning = part.get("reasoning") or part.get("reasoning_content")
        content = part.get("content")
        _check_texts(reasoning, content)
        leaves_thought = bool(self._reasoning) and not (reasoning or self._content or self._raw)
        progressed = self._take_ids(choice, reasoning or content, leaves_thought)
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
        _check_texts(text)
        progressed = self._take_ids(choice, text)
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
        """A draft that goes on from the tokens of this one whose text is certain; this one stays as it is."""
        draft, certain = copy.copy(self), self._border()
        draft._reasoning = self._reasoning[: certain.reasoning]
        draft._content = self._content[: certain.content]
        draft._raw = self._raw[: certain.raw]
        draft.token_ids = self.token_ids[: certain.tokens]
        draft._certain = draft.finish_reason = draft.first_token_at = None
        draft._reopened = True
        draft.let_go()
        return draft

    def let_go(self) -> None:
        """Tell nobody any more. Who is told holds the draft, too, and only the garbage collector would free the two."""
        self.on_first_token = self.on_progress = None

    def partial(self, sample_id: str, started_at: float, model: str = "") -> Partial | None:
        """What `reopened` goes on from, to be kept; None where the answer cannot be taken up again."""
        if not self.can_continue:
            return None
        certain = self._join()
        return Partial(
            sample_id=sample_id,
            prompt_ids=np.frombuffer(self.prompt_ids.tobytes(), dtype=np.int32),
            token_ids=np.frombuffer(memoryview(self.token_ids)[: certain.tokens].tobytes(), dtype=np.int32),
            reasoning=self._reasoning[0] if certain.reasoning else "",
            content=self._content[0] if certain.content else "",
            raw=self._raw[0] if certain.raw else "",
            continued=self.continued,
            started_at=started_at,
            model=model,
        )

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

    def _take_ids(self, choice: dict[str, Any], text: str | None, leaves_thought: bool = False) -> bool:
        """Add the ids of a choice, before its text is added; whether it carries output."""
        ids, reason, known = choice.get("token_ids"), choice.get("finish_reason"), len(self.token_ids)
        if ids:
            self.token_ids.fromlist(ids)
        elif ids is None and text:
            self._has_text_without_ids = True
        if reason:
            self.finish_reason = str(reason)
        if text and ids and len(ids) == 1:
            self._certain = None
        elif ids or text:
            # Text without ids of its own is that of ids before it.
            follows = text and ids and known and not leaves_thought and text[0].isascii()
            if follows or self._certain is None:
                self._certain = _Border(known, len(self._reasoning), len(self._content), len(self._raw))
        return bool(ids or text)

    def _border(self) -> _Border:
        """The last certain border."""
        if self._certain is not None:
            return self._certain
        return _Border(len(self.token_ids), len(self._reasoning), len(self._content), len(self._raw))

    def _join(self) -> _Border:
        """Make one piece of all text before the last certain border, lest each partial joins all pieces again."""
        tokens, *counts = self._border()
        for pieces, count in zip((self._reasoning, self._content, self._raw), counts, strict=True):
            if count > 1:
                pieces[:count] = ["".join(pieces[:count])]
        joined = _Border(tokens, *(min(count, 1) for count in counts))
        if self._certain is not None:
            self._certain = joined
        return joined

    def _ids(self) -> TokenIds:
        if not self.token_ids or self._has_text_without_ids:
            return NO_TOKENS
        return np.frombuffer(self.token_ids.tobytes(), dtype=np.int32)


def _check_texts(*values: object) -> None:
    for value in values:
        if value and not isinstance(value, str):
            raise TypeError(f"text expected, not {type(value).__name__}")
