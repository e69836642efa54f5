"""Requests to servers whose weights change: each token is drawn by the version that it is recorded with."""

from __future__ import annotations

from dataclasses import dataclass, field

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.interruption import Interruption
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.scored_draft import ScoredDraft
from gen_service.endpoints.servers import Requests
from gen_service.endpoints.weight_control import DEV_MODE, ON_A_CPU, WeightControl
from gen_service.errors import EndpointError, RequestRefused, ServerFailed, SpecError, Unreachable
from gen_service.training.weight_delivery import WeightDelivery, WeightedServer, Weights


@dataclass(slots=True)
class Trail:
    """What one rollout's requests were sent with.

    Attributes:
        spans: (first token, version, server) of each request that could have brought tokens which are kept.
    """

    prompt_ids: list[int] = field(default_factory=list)
    spans: list[tuple[int, int, str]] = field(default_factory=list)

    def begins(self, token: int, version: int, url: str) -> None:
        """Tokens from this one on come from here; what came before from there on was given up."""
        self.spans = [span for span in self.spans if span[0] < token]
        self.spans.append((token, version, url))

    def oldest(self, tokens: int) -> int:
        """The oldest version that any of the first `tokens` tokens was drawn with."""
        return min(version for first, version, _ in self.spans if first < max(1, tokens))


class VersionedClient:
    """What a Fleet sends its requests by, where their weights change.

    Invariant: a request is sent only to a server that has the current weights, and none is in flight at a server while
    its weights change. So each stream has one version, that which was current when it was sent.

    What is in flight when new weights come is broken off and goes on from its tokens, at the same server once it has
    them: waiting for the longest answer would leave every server idle for it, and an answer that ran on would go on
    from keys and values that the old weights computed. The price is one prefill each.

    A server that was started again has the weights it is started with. It forgot the name that its weights were given
    (`/weight_info`), which is asked before a request, unless it was within the last second, and at each probe. One that
    cannot be brought up to date counts as not reachable: its requests go elsewhere without blame, and it is ejected.

    Args:
        client: sends the requests.
        control: tells servers what they have.
        delivery: brings them the current weights.
        needs_processed: whether log-probabilities have to be asked for as processed by the temperature.

    Attributes:
        trails: by request id, since the first request of each; whoever sent it takes it out.
        unfit: servers that can never serve rollouts, and why.
        recalled: requests broken off for new weights.
    """

    def __init__(
        self, client: Requests, control: WeightControl, delivery: WeightDelivery, *, needs_processed: bool = False
    ) -> None:
        self.trails: dict[str, Trail] = {}
        self.unfit: dict[str, SpecError] = {}
        self.recalled = 0
        self._client = client
        self._control = control
        self._delivery = delivery
        self._needs_processed = needs_processed
        self._fit: set[str] = set()

    async def models(self, url: str) -> list[ServedModel]:
        """The models a server offers, once it has the current weights.

        Raises:
            EndpointError: it is not well, or does not take them.
        """
        offer = await self._client.models(url)
        if url not in self._fit:
            await self._look_whether_fit(url)
        if self._delivery.current is not None:
            await self._delivery.look_again(self._delivery.server(url))
        return offer

    async def readings(self, url: str) -> Readings:
        """What a server's metrics say."""
        return await self._client.readings(url)

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """Fill `draft` with tokens of the current weights, and go on with newer ones when they come meanwhile.

        Raises:
            EndpointError: the answer did not end. What came before stays in the draft.
        """
        assert isinstance(draft, ScoredDraft), "a rollout is asked for with log-probabilities"
        server = self._delivery.server(url)
        trail = self.trails.setdefault(question.request_id, Trail())
        while True:
            weights = await self._ready_or_unreachable(server)
            trail.begins(len(draft.token_ids), weights.version, url)
            recall = Interruption()
            server.streams.add(recall)
            server.idle.clear()
            try:
                with recall:
                    await self._client.stream(url, model, question, draft, budget)
            finally:
                trail.prompt_ids = trail.prompt_ids or draft.prompt_ids.tolist()
                server.streams.remove(recall)
                if not server.streams:
                    server.idle.set()
            draft.end_if_full(budget)
            if not recall.happened or draft.is_whole:
                return
            self.recalled += 1
            draft.reopen()

    async def _look_whether_fit(self, url: str) -> None:
        try:
            await self._control.tag(url)
            described = await self._control.describe(url)
        except RequestRefused as error:
            raise self._is_unfit(url, DEV_MODE) from error
        if described.keeps_old_weights:
            raise self._is_unfit(url, ON_A_CPU)
        if self._needs_processed and described.logprobs_mode not in (None, "processed_logprobs"):
            raise self._is_unfit(url, "--logprobs-mode processed_logprobs, as the temperature is not 1")
        self.unfit.pop(url, None)
        self._fit.add(url)

    def _is_unfit(self, url: str, expected: str) -> ServerFailed:
        """Note that rollouts cannot be had from a server as it was started; what is said of it meanwhile."""
        self.unfit[url] = SpecError("rollouts.endpoints.urls", url, f"a server that was started with {expected}")
        return ServerFailed(url, f"it takes no weights: it has to be started with {expected}")

    async def _ready_or_unreachable(self, server: WeightedServer) -> Weights:
        try:
            return await self._delivery.ready(server)
        except EndpointError as error:
            # The request never arrived, and nothing is wrong with it.
            raise Unreachable(server.url, f"it lacks the current weights: {error.words}") from error
