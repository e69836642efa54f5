"""One sample on its way through any number of attempts."""

from __future__ import annotations

import time

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint
from gen_service.endpoints.question import Question
from gen_service.errors import EndpointError, RequestRefused
from gen_service.records import Completion

# Failures that are not held against a sample (an outage, 429) end it too, after this many times the counted ones:
# a prompt that kills every server it reaches must not go round for ever.
UNCOUNTED_FACTOR = 10


class Attempts:
    """What one sample has been through, and whether it may try again.

    A failed attempt leaves its tokens in the draft, and the next server goes on from them; without token ids the next
    attempt begins from nothing.

    Args:
        limit: failures held against the sample that end it.

    Attributes:
        budget: completion tokens in all, or None for what the server gives by default.
    """

    __slots__ = (
        "_began_at",
        "_counted",
        "_limit",
        "_sent_at",
        "_started",
        "avoid",
        "budget",
        "draft",
        "question",
        "retries",
    )

    def __init__(self, question: Question, limit: int) -> None:
        self.question = question
        self.budget = question.budget
        self.draft = Draft(question.is_plain)
        self.avoid: Endpoint | None = None
        self.retries: list[str] = []
        self._limit = limit
        self._counted = 0
        self._started: float | None = None
        self._began_at = self._sent_at = 0.0

    @property
    def can_continue(self) -> bool:
        """Whether another server can go on from the tokens so far."""
        return self.question.is_exact and self.draft.can_continue

    def sent(self, now: float) -> None:
        """An attempt begins at loop time `now`."""
        self._sent_at = now
        if self._started is None:
            self._started = time.time()
            self._began_at = now

    def failed(self, error: EndpointError, counts: bool, endpoint: Endpoint) -> None:
        """An attempt failed at `endpoint`; `counts` says whether it is held against the sample."""
        self.retries.append(error.cause)
        self._counted += counts
        self.avoid = endpoint
        if self.can_continue and (self.budget is None or len(self.draft.token_ids) < self.budget):
            self.draft = self.draft.reopened()
        else:
            self.draft = Draft(self.question.is_plain)

    def budget_at(self, context: int | None) -> int | None:
        """Completion tokens in all that the next server may be asked for, or None for its default.

        Where the request names no number, an answer goes on up to the end of the context; where that is not known or
        leaves no room, it begins anew.

        Args:
            context: the server's longest context in tokens.
        """
        if self.budget is not None or not self.draft.can_continue:
            return self.budget
        room = 0 if context is None else context - len(self.draft.prompt_ids)
        if room > len(self.draft.token_ids):
            return room
        self.draft = Draft(self.question.is_plain)
        return None

    def may_try_again(self, error: BaseException) -> bool:
        """Whether another attempt follows this error."""
        if not isinstance(error, EndpointError) or isinstance(error, RequestRefused):
            return False
        return self._counted < self._limit and len(self.retries) < self._limit * UNCOUNTED_FACTOR

    def completion(self, endpoint_url: str, now: float) -> Completion:
        """The answer, finished at loop time `now`."""
        first = None if self.draft.first_token_at is None else self.draft.first_token_at - self._sent_at
        times = (first, now - self._began_at)
        return self.draft.completion(endpoint_url, tuple(self.retries), self._started or 0.0, times)
