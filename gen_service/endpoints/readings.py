"""What a server says of itself on /metrics: the few numbers that scheduling needs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# vLLM 0.32's names.
RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
KV_USAGE: Final = "vllm:kv_cache_usage_perc"
CACHE: Final = "vllm:cache_config_info"
PREEMPTIONS: Final = "vllm:num_preemptions_total"
ENDED: Final = "vllm:request_success_total"
GENERATED: Final = "vllm:generation_tokens_total"
_WANTED: Final = frozenset(name.encode() for name in (RUNNING, WAITING, KV_USAGE, CACHE, PREEMPTIONS, ENDED, GENERATED))
# How a request can end that got its answer; the others were cut off or failed.
_ANSWERED: Final = frozenset({"stop", "length", "repetition"})

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at a server's /metrics, summed over its engines and models. None: it does not say.

    Attributes:
        kv_tokens: tokens that fit in the KV cache: blocks times their size, of all engines.
        kv_usage: share of the KV cache in use, 0 to 1; the mean over engines.
        running, waiting: requests that are computed, and that wait inside the server.
        preemptions: running requests that were put back to be computed again, since the server started.
        completed: requests that ended with an answer, since the server started.
        generated_tokens: completion tokens made, since the server started.
    """

    kv_tokens: int | None = None
    kv_usage: float | None = None
    running: int | None = None
    waiting: int | None = None
    preemptions: float | None = None
    completed: float | None = None
    generated_tokens: float | None = None


def readings_of(page: bytes) -> Readings:
    """The readings on a page in Prometheus' text format. Names and numbers that it lacks, or that are NaN, are None.

    Raises:
        ValueError: a line of a name that counts is not of that format.
    """
    series: defaultdict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for sample in _samples(page):
        if math.isfinite(sample.value):
            series[sample.name].append((sample.labels, sample.value))
    usages = [value for _, value in series[KV_USAGE]]
    ended = [value for labels, value in series[ENDED] if labels.get("finished_reason") in _ANSWERED]
    return Readings(
        kv_tokens=_kv_tokens([labels for labels, _ in series[CACHE]]),
        kv_usage=math.fsum(usages) / len(usages) if usages else None,
        running=_whole(_sum(series[RUNNING])),
        waiting=_whole(_sum(series[WAITING])),
        preemptions=_sum(series[PREEMPTIONS]),
        completed=math.fsum(ended) if ended else None,
        generated_tokens=_sum(series[GENERATED]),
    )


def _samples(page: bytes) -> Iterable[Sample]:
    """The samples of the names that count. A page has hundreds of lines of others, so these are picked out first:
    parsing a line takes ten microseconds, looking at its beginning a tenth of one."""
    lines = [
        line
        for line in page.split(b"\n")
        if line.startswith(b"vllm:") and line.partition(b"{")[0].partition(b" ")[0] in _WANTED
    ]
    # A line end ends the last line too; without its type a counter keeps the name that it is written with.
    text = b"".join(line.rstrip(b"\r") + b"\n" for line in lines).decode("utf-8", "replace")
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except IndexError as error:
        # The parser reads past the end of some lines.
        raise ValueError(f"a line that ends too early ({error})") from error


def _kv_tokens(engines: list[Labels]) -> int | None:
    """Tokens that fit in all engines together; one that does not say (yet) is taken to be like the others."""
    sizes = [size for labels in engines if (size := _tokens(labels)) is not None]
    return sum(sizes) * len(engines) // len(sizes) if sizes else None


def _tokens(labels: Labels) -> int | None:
    block_size, blocks = labels.get("block_size", ""), labels.get("num_gpu_blocks", "")
    if not (block_size.isdecimal() and blocks.isdecimal() and len(block_size) + len(blocks) < 30):
        return None
    return int(block_size) * int(blocks) or None


def _sum(series: list[tuple[Labels, float]]) -> float | None:
    return math.fsum(value for _, value in series) if series else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
