"""Numbers of a simulated server under vLLM 0.32's names and labels, in Prometheus' text format.

Kept by hand because a benchmark's own cost counts here: an observation is one bisection.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from gen_service.endpoints.simulated.engine import Engine
from gen_service.endpoints.simulated.settings import SimulationSettings

_LATENCY_BUCKETS: Final = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 480.0, 1920.0)
_TOKEN_BUCKETS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0)
_FIRST_TOKEN_BUCKETS: Final = (0.001, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 40.0, 160.0, 640.0)
_INTER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 40.0, 80.0)
_FINISHED: Final = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts per bucket; `observe` may count the same value several times."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def lines(self, name: str, labels: str) -> list[str]:
        total = 0
        lines = [f"# TYPE {name} histogram"]
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
        return [*lines, f"{name}_count{{{labels}}} {total}", f"{name}_sum{{{labels}}} {self.total}"]


class ServerNumbers:
    """What the server counts. Every attribute is written by the server and read by `render`."""

    def __init__(self, settings: SimulationSettings) -> None:
        self._settings = settings
        self.running = 0
        self.waiting = 0
        self.live_tokens = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.prefix_hits = 0
        self.finished = dict.fromkeys(_FINISHED, 0)
        self.first_token = Histogram(_FIRST_TOKEN_BUCKETS)
        self.inter_token = Histogram(_INTER_TOKEN_BUCKETS)
        self.latency = Histogram(_LATENCY_BUCKETS)
        self.queue_time = Histogram(_LATENCY_BUCKETS)
        self.request_prompt = Histogram(_TOKEN_BUCKETS)
        self.request_generation = Histogram(_TOKEN_BUCKETS)
        self.request_preemptions = Histogram((0.0, 1.0, 2.0, 5.0))

        self._kv_usage: float | None = None

    def take(self, engine: Engine) -> None:
        """Everything but the histograms and the finished requests, as an engine has it now."""
        self.running, self.waiting = engine.running, engine.waiting
        self.prompt_tokens, self.generation_tokens = engine.prompt_tokens, engine.generation_tokens
        self.preemptions, self.prefix_hits = engine.preemptions, engine.prefix_hits
        self._kv_usage = engine.kv_usage()

    def kv_usage(self) -> float:
        """Share of the KV cache in use: of an engine's blocks, or without an engine what running requests' tokens
        fill, 1 at most."""
        if self._kv_usage is not None:
            return self._kv_usage
        return min(1.0, self.live_tokens / (self._settings.block_size * self._settings.num_gpu_blocks))

    def render(self) -> str:
        """The text of GET /metrics."""
        labels = f'engine="0",model_name="{self._settings.model}"'
        lines = [*self._gauges(labels), *self._counters(labels)]
        for name, histogram in self._histograms().items():
            lines += histogram.lines(f"vllm:{name}", labels)
        return "\n".join(lines) + "\n"

    def _gauges(self, labels: str) -> list[str]:
        size, count = self._settings.kv_cache
        blocks = f'block_size="{size}",num_gpu_blocks="{count}"'
        values: dict[str, float] = {
            f"num_requests_running{{{labels}}}": self.running,
            f"num_requests_waiting{{{labels}}}": self.waiting,
            f'num_requests_waiting_by_reason{{{labels},reason="capacity"}}': self.waiting,
            f'num_requests_waiting_by_reason{{{labels},reason="deferred"}}': 0,
            f"kv_cache_usage_perc{{{labels}}}": self.kv_usage(),
            f'cache_config_info{{{blocks},engine="0"}}': 1,
            f'engine_sleep_state{{{labels},sleep_state="awake"}}': 1,
        }
        return _series(values, "gauge")

    def _counters(self, labels: str) -> list[str]:
        values: dict[str, float] = {
            f"num_preemptions_total{{{labels}}}": self.preemptions,
            f"prompt_tokens_total{{{labels}}}": self.prompt_tokens,
            f"generation_tokens_total{{{labels}}}": self.generation_tokens,
            f"prefix_cache_queries_total{{{labels}}}": self.prompt_tokens,
            f"prefix_cache_hits_total{{{labels}}}": self.prefix_hits,
        }
        for reason, count in self.finished.items():
            values[f'request_success_total{{{labels},finished_reason="{reason}"}}'] = count
        return _series(values, "counter")

    def _histograms(self) -> dict[str, Histogram]:
        return {
            "time_to_first_token_seconds": self.first_token,
            "inter_token_latency_seconds": self.inter_token,
            "e2e_request_latency_seconds": self.latency,
            "request_queue_time_seconds": self.queue_time,
            "request_prompt_tokens": self.request_prompt,
            "request_generation_tokens": self.request_generation,
            "request_num_preemptions": self.request_preemptions,
        }


def _series(values: dict[str, float], kind: str) -> list[str]:
    """Lines of a gauge or counter, each family after its type."""
    lines: list[str] = []
    family = ""
    for series, value in values.items():
        name = series.partition("{")[0]
        if name != family:
            family = name
            lines.append(f"# TYPE vllm:{name} {kind}")
        lines.append(f"vllm:{series} {value}")
    return lines
