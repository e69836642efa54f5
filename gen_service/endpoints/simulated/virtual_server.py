"""One simulated vLLM server in virtual time: an engine, its streams, and what goes wrong with it."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from gen_service.endpoints.readings import Readings
from gen_service.endpoints.simulated.engine import Engine, EngineProfile, EngineSequence
from gen_service.endpoints.simulated.virtual_faults import VirtualFault
from gen_service.endpoints.simulated.virtual_stream import Stream
from gen_service.errors import (
    Overloaded,
    RequestRefused,
    ServerFailed,
    SpecError,
    StreamBroken,
    Unreachable,
)

# What vLLM 0.32 says to new requests while it drains.
DRAINING: Final = "cannot schedule new futures after shutdown"


class VirtualServer:
    """A server that answers in the running loop's time.

    A stream gets its first token at once, and then what has come each `deliver_s` seconds, at its end, and when it
    breaks: single stream intervals are too fine for hours of a fleet.

    Args:
        url: its name.
        profile: its engine.
        model: what it serves.
        max_model_len: tokens of prompt and answer together.
        deliver_s: seconds between two deliveries.

    Raises:
        SpecError: the longest context does not fit in the KV cache (vLLM does not start then), or nothing is delivered.

    Attributes:
        engine: what it computes with; another one after each death.
        is_up: whether it takes connections.
        is_draining: whether it takes no new requests since it was told to stop.
    """

    def __init__(
        self,
        url: str,
        profile: EngineProfile,
        *,
        model: str = "simulated",
        max_model_len: int = 40960,
        deliver_s: float = 10.0,
    ) -> None:
        if not 0 < max_model_len <= profile.kv_tokens:
            expected = f"from 1 to what the KV cache holds, which is {profile.kv_tokens} tokens"
            raise SpecError("max_model_len", max_model_len, expected)
        if not deliver_s > 0.0:
            raise SpecError("deliver_s", deliver_s, "more than 0 seconds")
        self.url = url
        self.profile = profile
        self.model = model
        self.max_model_len = max_model_len
        self.engine = Engine(profile)
        self.is_up, self.is_draining = True, False
        self._deliver_s = deliver_s
        self._lives = 0
        self._overloaded_until = -math.inf
        self._retry_after_s: float | None = None
        self._streams: dict[EngineSequence, Stream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._delivery: asyncio.TimerHandle | None = None

    @property
    def open_streams(self) -> int:
        """Requests under way."""
        return len(self._streams)

    def check(self, model: str, tokens: int) -> None:
        """Whether it takes a request with a prompt of so many tokens.

        Raises:
            EndpointError: it does not.
        """
        self.connect()
        if self.is_draining:
            raise ServerFailed(self.url, DRAINING, 500)
        if _now() < self._overloaded_until:
            raise Overloaded(self.url, "too many requests", 429, self._retry_after_s)
        if model != self.model:
            raise RequestRefused(self.url, f"The model `{model}` does not exist.", 404)
        if tokens >= self.max_model_len:
            raise RequestRefused(self.url, f"the context is {self.max_model_len} tokens, the prompt {tokens}", 400)

    def connect(self) -> None:
        """Whether it takes a connection.

        Raises:
            Unreachable: it is down.
        """
        if not self.is_up:
            raise Unreachable(self.url, "connection refused")

    def begin(self, stream: Stream) -> None:
        """Compute a request that was checked; its `ended` says when it is over."""
        loop = asyncio.get_running_loop()
        self.engine.watch(stream.sequence, stream.sequence.given + 1)
        self.engine.submit(stream.sequence, loop.time())
        self._streams[stream.sequence] = stream
        self._wait(stream)
        self._advance()

    def leave(self, stream: Stream) -> None:
        """The client closed the connection: vLLM aborts the request."""
        if self._end(stream, None):
            self.engine.cancel(stream.sequence, _now())
            self._advance()

    def readings(self) -> Readings:
        """What its /metrics say.

        Raises:
            Unreachable: it is down.
        """
        self.connect()
        self._advance()
        engine = self.engine
        return Readings(
            kv_tokens=self.profile.kv_tokens,
            kv_usage=engine.kv_usage(),
            running=engine.running,
            waiting=engine.waiting,
            preemptions=float(engine.preemptions),
            completed=float(engine.completed),
            generated_tokens=float(engine.generation_tokens),
        )

    def suffer(self, fault: VirtualFault) -> None:
        """A fault begins now, and ends by itself."""
        loop = asyncio.get_running_loop()
        match fault.kind:
            case "dies":
                self.die()
                loop.call_later(fault.for_s, self._return, self._lives)
            case "drains":
                self.is_draining = True
                loop.call_later(fault.for_s, self._end_draining, self._lives, fault.down_s)
            case "stalls":
                self._pause(True, self._lives)
                loop.call_later(fault.for_s, self._pause, False, self._lives)
            case "slows":
                self._slow(fault.factor, self._lives)
                loop.call_later(fault.for_s, self._slow, 1.0, self._lives)
            case "overloaded":
                self._overloaded_until = _now() + fault.for_s
                self._retry_after_s = fault.retry_after_s

    def die(self) -> None:
        """Break every stream, and refuse connections until `come_back`."""
        self._advance()
        for stream in list(self._streams.values()):
            self._deliver(stream)
            self._end(stream, StreamBroken(self.url, "connection reset by peer"))
        self.is_up = self.is_draining = False
        self.engine = Engine(self.profile)
        self._lives += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def come_back(self) -> None:
        """Take connections again, with an empty cache and counters at zero."""
        self.is_up = True

    def _return(self, life: int) -> None:
        if life == self._lives and not self.is_up:
            self.come_back()

    def _end_draining(self, life: int, down_s: float) -> None:
        if life == self._lives and self.is_draining:
            self.die()
            asyncio.get_running_loop().call_later(down_s, self._return, self._lives)

    def _pause(self, paused: bool, life: int) -> None:
        if life == self._lives:
            self.engine.set_paused(paused, _now())
            self._advance()

    def _slow(self, factor: float, life: int) -> None:
        if life == self._lives:
            self.engine.set_speed(factor, _now())
            self._advance()

    def _advance(self) -> None:
        """Hand over what is due now, and come again when there is more."""
        loop = asyncio.get_running_loop()
        for sequence in self.engine.advance(loop.time()):
            # One that was given up in the moment of its end has none.
            if sequence in self._streams:
                self._finish(self._streams[sequence])
        for sequence in self.engine.take_reached():
            if sequence in self._streams:
                self._first_token(self._streams[sequence])
        at = self.engine.next_event()
        if self._timer is not None and (at is None or self._timer.when() != at):
            self._timer.cancel()
            self._timer = None
        if at is not None and self._timer is None:
            self._timer = loop.call_at(at, self._on_time)
        if self._streams and self._delivery is None:
            self._delivery = loop.call_later(self._deliver_s, self._deliver_all)

    def _on_time(self) -> None:
        self._timer = None
        self._advance()

    def _deliver_all(self) -> None:
        self._delivery = None
        self._advance()
        for stream in list(self._streams.values()):
            self._deliver(stream)

    def _first_token(self, stream: Stream) -> None:
        self._deliver(stream)
        if stream.sequence in self._streams:
            self._wait(stream)

    def _deliver(self, stream: Stream) -> None:
        try:
            stream.deliver(self.profile.stream_interval, _now())
        except Exception as error:
            # Whoever reads the answer failed; in a client that would have ended the reading.
            self._break(stream, error)

    def _finish(self, stream: Stream) -> None:
        error: Exception | None = None
        try:
            stream.finish(self.model, self.profile.stream_interval, _now())
        except Exception as raised:
            error = raised
        self._end(stream, error)

    def _wait(self, stream: Stream) -> None:
        """Look again when the client's patience would end."""
        if stream.deadline is not None:
            stream.deadline.cancel()
        at = stream.gives_up_at(self.engine.last_token_at(stream.sequence))
        if at < math.inf:
            stream.deadline = asyncio.get_running_loop().call_at(at, self._look_at, stream)

    def _look_at(self, stream: Stream) -> None:
        """Break the stream off if its client's patience is at its end."""
        self._advance()
        if stream.sequence not in self._streams:
            return
        now = _now()
        if now < stream.gives_up_at(self.engine.last_token_at(stream.sequence)):
            self._wait(stream)
            return
        self._deliver(stream)
        self._break(stream, stream.timed_out(self.url, now))
        self._advance()

    def _break(self, stream: Stream, error: Exception) -> None:
        """The request ends before its answer does."""
        if self._end(stream, error):
            self.engine.cancel(stream.sequence, _now())

    def _end(self, stream: Stream, error: Exception | None) -> bool:
        if self._streams.pop(stream.sequence, None) is None:
            return False
        if stream.deadline is not None:
            stream.deadline.cancel()
        if not stream.ended.done():
            if error is None:
                stream.ended.set_result(None)
            else:
                stream.ended.set_exception(error)
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
