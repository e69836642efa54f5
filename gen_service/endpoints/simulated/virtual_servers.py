"""Virtual servers behind the fleet's own interface: hours of a fleet in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.simulated.engine import EngineSequence
from gen_service.endpoints.simulated.virtual_faults import VirtualFault, fault_schedule
from gen_service.endpoints.simulated.virtual_server import VirtualServer
from gen_service.endpoints.simulated.virtual_stream import Patience, Stream, expected_ids, prompt_ids
from gen_service.errors import EndpointError, SpecError, Unreachable

__all__ = ["Patience", "VirtualFault", "VirtualServer", "VirtualServers", "expected_ids", "fault_schedule"]


class AnswerLengths(Protocol):
    """How long answers are."""

    def tokens(self, prompt_id: str, sample: str, /) -> int:
        """Completion tokens of a sample's whole answer, at least 1; always the same for the same sample."""
        ...


class VirtualServers:
    """What the fleet needs of a client, answered by engines in the running loop's time (see `run_in_virtual_time`).

    Drafts are filled as by the real client: token ids and text in chunks, continued from the ids they have, broken in
    the same errors. What an answer is follows from the sample alone, so it is the same on every server and however
    often it was broken off: its ids are `expected_ids`, its length is by `lengths`, up to the budget or the context.

    Args:
        servers: each with a URL of its own.
        lengths: of the answers; the sample is named by its request id.
        patience: how long the client waits.
        prompt_tokens: length of every prompt.

    Attributes:
        servers: by URL; may be added to and taken from.
    """

    def __init__(
        self,
        servers: Sequence[VirtualServer],
        lengths: AnswerLengths,
        *,
        patience: Patience | None = None,
        prompt_tokens: int = 200,
    ) -> None:
        self.servers = {server.url: server for server in servers}
        if len(self.servers) < len(servers):
            raise SpecError("servers", [server.url for server in servers], "a URL of its own for each")
        if prompt_tokens < 1:
            raise SpecError("prompt_tokens", prompt_tokens, "at least 1")
        self._lengths = lengths
        self._patience = patience or Patience()
        self._prompt_tokens = prompt_tokens

    def play(self, faults: Iterable[VirtualFault]) -> None:
        """Let these things go wrong, counted from now in the running loop."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for fault in faults:
            loop.call_at(start + fault.at_s, self._server(fault.url).suffer, fault)

    async def models(self, url: str) -> list[ServedModel]:
        """The models a server offers.

        Raises:
            Unreachable: it is down.
        """
        server = self._server(url)
        server.connect()
        return [ServedModel(server.model, server.max_model_len)]

    async def readings(self, url: str) -> Readings:
        """What a server's /metrics say.

        Raises:
            Unreachable: it is down.
        """
        return self._server(url).readings()

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """Fill `draft` with the server's answer, from its beginning or from the tokens it already has.

        Args:
            budget: completion tokens in all, those already in the draft among them; None for what the context holds.

        Raises:
            EndpointError: the answer did not end. What came before stays in the draft.
        """
        server = self._server(url)
        try:
            stream = self._stream(server, model, question, draft, budget)
            await self._ended(server, stream)
        except EndpointError:
            draft.end_if_full(budget)
            if not draft.is_whole:
                raise

    def _stream(
        self, server: VirtualServer, model: str, question: Question, draft: Draft, budget: int | None
    ) -> Stream:
        loop = asyncio.get_running_loop()
        given = len(draft.token_ids) if draft.can_continue else 0
        server.check(model, self._prompt_tokens + given)
        natural = max(given + 1, self._lengths.tokens(question.prompt_id, question.request_id))
        room = server.max_model_len - self._prompt_tokens
        target = min(natural, room if budget is None else max(given + 1, min(budget, room)))
        stream = Stream(
            EngineSequence(question.request_id, question.prompt_id, self._prompt_tokens, target, given),
            draft,
            question.request_id,
            prompt_ids(question.prompt_id, self._prompt_tokens),
            is_text=question.is_plain or draft.can_continue,
            natural_tokens=natural,
            ended=loop.create_future(),
            patience=self._patience,
            now=loop.time(),
        )
        server.begin(stream)
        return stream

    async def _ended(self, server: VirtualServer, stream: Stream) -> None:
        try:
            await stream.ended
        except asyncio.CancelledError:
            if stream.ended.done() and not stream.ended.cancelled():
                # It failed in the same moment: whoever cancelled does not want to know.
                stream.ended.exception()
            server.leave(stream)
            raise

    def _server(self, url: str) -> VirtualServer:
        if url not in self.servers:
            raise Unreachable(url, "no such host")
        return self.servers[url]
