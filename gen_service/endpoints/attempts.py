"""One sample on its way through any number of attempts."""

from __future__ import annotations

import asyncio
import time

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint
from gen_service.errors import EndpointError, RequestRefused
from gen_service.records import Completion, Sample

# Failures that are not held against a sample (an outage, 429) end it too, after this many times the counted ones:
# a prompt that kills every server it reaches must not go round for ever.
UNCOUNTED_FACTOR = 10


class Attempts:
    """What one sample has been through, and whether it may try again.

    A failed attempt leaves its tokens in the draft, and the next server goes on from them; without token ids the next
    attempt begins from nothing.

    Args:
        budget: completion tokens in all.
        limit: failures held against the sample that end it.
    """

    __slots__ = ("_began", "_counted", "_limit", "avoid", "budget", "draft", "retries", "sample", "sent_at", "started")

    def __init__(self, sample: Sample, budget: int, limit: int) -> None:
        self.sample = sample
        self.budget = budget
        self.draft = Draft()
        self.avoid: Endpoint | None = None
        self.retries: list[str] = []
        self.started = time.time()
        self.sent_at = 0.0
        self._limit = limit
        self._counted = 0
        self._began = asyncio.get_running_loop().time()

    def failed(self, error: EndpointError, counts: bool, endpoint: Endpoint) -> None:
        """An attempt failed at `endpoint`; `counts` says whether it is held against the sample."""
        self.retries.append(error.cause)
        self._counted += counts
        self.avoid = endpoint
        if self.draft.can_continue and len(self.draft.token_ids) < self.budget:
            self.draft.reopen()
        else:
            self.draft = Draft()

    def may_try_again(self, error: BaseException) -> bool:
        """Whether another attempt follows this error."""
        if not isinstance(error, EndpointError) or isinstance(error, RequestRefused):
            return False
        return self._counted < self._limit and len(self.retries) < self._limit * UNCOUNTED_FACTOR

    def completion(self, endpoint_url: str) -> Completion:
        """The finished answer."""
        first = None if self.draft.first_token_at is None else self.draft.first_token_at - self.sent_at
        total = asyncio.get_running_loop().time() - self._began
        return self.draft.completion(endpoint_url, tuple(self.retries), self.started, (first, total))
