"""The two loops of the Open-R1 post, as small as they can be, and a look at what goes over any client.

Source: the post "Open-R1: update 2" (Hugging Face, 2025) and its generation script: first batches of 500 that are
gathered, then a stream with 500 in flight. Both give requests to servers in turn, and retry nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import Question, Questions
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.servers import Requests
from gen_service.records import Sample
from gen_service.settings import SamplingSettings


@dataclass(slots=True)
class Seen:
    """What went over a client, in seconds of the running loop.

    Attributes:
        sent: requests; `last_sent_at` is when the last of them went out.
        ended: whole answers; `last_ended_at` is when the last of them came.
        tokens: completion tokens of those.
        given: completion tokens that requests came with, to be computed again at another server.
    """

    sent: int = 0
    last_sent_at: float = 0.0
    ended: int = 0
    last_ended_at: float = 0.0
    tokens: int = 0
    given: int = 0


class Watched:
    """A client that notes what goes over it, by job: a request's job is what its prompt's id begins with."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self.seen: dict[str, Seen] = {}

    async def models(self, url: str) -> list[ServedModel]:
        """As the client."""
        return await self._requests.models(url)

    async def readings(self, url: str) -> Readings:
        """As the client."""
        return await self._requests.readings(url)

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """As the client."""
        loop = asyncio.get_running_loop()
        seen = self.seen.setdefault(question.prompt_id.partition("/")[0], Seen())
        seen.sent += 1
        seen.last_sent_at = loop.time()
        seen.given += len(draft.token_ids)
        await self._requests.stream(url, model, question, draft, budget)
        seen.ended += 1
        seen.last_ended_at = loop.time()
        seen.tokens += len(draft.token_ids)


class Sender:
    """Sends one sample to the next server in turn."""

    def __init__(self, requests: Requests, urls: Sequence[str], model: str, sampling: SamplingSettings) -> None:
        self._requests = requests
        self._urls = itertools.cycle(urls)
        self._model = model
        self._questions = Questions(sampling)
        self._budget = sampling.max_tokens

    async def send(self, sample: Sample) -> None:
        """Return when the whole answer is there."""
        question = self._questions.of(sample)
        await self._requests.stream(next(self._urls), self._model, question, Draft(), self._budget)


async def gather(sender: Sender, samples: Iterable[Sample], batch: int = 500) -> None:
    """A batch after another, each when the whole batch before it has come."""
    source = iter(samples)
    while some := list(itertools.islice(source, batch)):
        await asyncio.gather(*(sender.send(sample) for sample in some))


async def stream(sender: Sender, samples: Iterable[Sample], in_flight: int = 500) -> None:
    """So many in flight, each followed by the next when it has come."""
    source = iter(samples)

    async def work() -> None:
        for sample in source:
            await sender.send(sample)

    await asyncio.gather(*(work() for _ in range(in_flight)))
