"""What a simulated vLLM engine costs: its KV room and the seconds of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gen_service.errors import SpecError


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One engine of vLLM V1: one model on one group of GPUs.

    A step takes `step_s` at its batch size, plus `kv_token_s` for each token in the KV cache of its running sequences,
    plus `prefill_token_s` for each prompt token it computes. Attention within a long prefill is not counted: it is
    under a tenth of the whole below 16k tokens.

    Attributes:
        kv_blocks: blocks of the KV cache.
        block_size: tokens in one block.
        max_num_seqs: sequences that run at once (vLLM's `--max-num-seqs`).
        watermark: share of the blocks that an admission leaves free (vLLM's `--watermark`).
        max_batched_tokens: tokens of one step, prefills and decodes together (`--max-num-batched-tokens`).
        step_s: points (batch size, seconds of a decode step); linear between them, and on from the last two.
        kv_token_s: seconds that one token in the KV cache adds to a step.
        prefill_token_s: seconds that one prompt token computed adds to a step.
        stream_interval: tokens in one chunk of a stream (`--stream-interval`); the first token comes alone.
    """

    kv_blocks: int
    block_size: int = 16
    max_num_seqs: int = 256
    watermark: float = 0.0
    max_batched_tokens: int = 8192
    step_s: tuple[tuple[int, float], ...] = ((1, 0.02), (256, 0.03))
    kv_token_s: float = 0.0
    prefill_token_s: float = 0.0
    stream_interval: int = 1

    def __post_init__(self) -> None:
        for name in ("kv_blocks", "block_size", "max_num_seqs", "max_batched_tokens", "stream_interval"):
            if getattr(self, name) < 1:
                raise SpecError(f"profile.{name}", getattr(self, name), "at least 1")
        for name in ("kv_token_s", "prefill_token_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise SpecError(f"profile.{name}", getattr(self, name), "seconds, 0 or more")
        if not 0.0 <= self.watermark < 1.0:
            raise SpecError("profile.watermark", self.watermark, "a share of the blocks, from 0 to below 1")
        _check_points(self.step_s)

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit in the KV cache."""
        return self.kv_blocks * self.block_size

    @property
    def watermark_blocks(self) -> int:
        """Blocks that an admission leaves free, rounded down as in vLLM."""
        return int(self.watermark * self.kv_blocks)

    def decode_s(self, batch: int) -> float:
        """Seconds of a step that makes one token for each of `batch` sequences, the KV cache not counted."""
        points = self.step_s
        if batch <= points[0][0] or len(points) == 1:
            return points[0][1]
        pairs = list(pairwise(points))
        (x0, y0), (x1, y1) = next((pair for pair in pairs if batch <= pair[1][0]), pairs[-1])
        return y0 + (y1 - y0) * (batch - x0) / (x1 - x0)

    def full_rate(self, mean_live_tokens: float) -> float:
        """Tokens per second with the KV cache exactly full and nothing preempted or prefilled: the 100% of a benchmark.

        Args:
            mean_live_tokens: what a running sequence holds in the cache on average, its prompt included.
        """
        if not mean_live_tokens > 0.0:
            raise SpecError("mean_live_tokens", mean_live_tokens, "a positive number of tokens")
        batch = min(float(self.max_num_seqs), self.kv_tokens / mean_live_tokens)
        low = math.floor(batch)
        base_s = self.decode_s(low) + (batch - low) * (self.decode_s(low + 1) - self.decode_s(low))
        return batch / (base_s + self.kv_token_s * batch * mean_live_tokens)


def _check_points(points: tuple[tuple[int, float], ...]) -> None:
    expected = "points (batch size, seconds): sizes from 1 on and rising, seconds above 0 and not falling"
    sizes, seconds = [size for size, _ in points], [second for _, second in points]
    if not points or sizes[0] < 1 or not all(0.0 < second < math.inf for second in seconds):
        raise SpecError("profile.step_s", points, expected)
    if any(a >= b for a, b in pairwise(sizes)) or any(a > b for a, b in pairwise(seconds)):
        raise SpecError("profile.step_s", points, expected)


# R1-Distill-Qwen-32B on two H100 SXM with tensor parallelism, by roofline; no number of it was measured.
_MEMORY_BYTES_S: Final = 2 * 3.35e12  # H100 SXM data sheet: 3.35 TB/s of HBM3 each
_FLOPS: Final = 2 * 989e12 * 0.5  # data sheet: 989 TFLOP/s dense bf16 each; half of it is what large prefills reach
_WEIGHTS_BYTES: Final = 64e9  # 32 G parameters in bf16
_PREFILL_FLOPS: Final = 2 * 32e9  # two operations for each parameter and token
_KV_BYTES: Final = 2 * 64 * 8 * 128 * 1  # keys and values x 64 layers x 8 heads x 128, one byte in fp8: 131 kB a token
_ATTENTION_SHARE: Final = 0.67  # of the memory's bandwidth, that attention over paged blocks reaches: an estimate
_REDUCE_S: Final = 128 * 10e-6  # two all-reduces a layer over NVLink, about 10 us each at these sizes
_HOST_S: Final = 1.0e-3  # launch of the graph, scheduler, sampler: an estimate
_HOST_SEQUENCE_S: Final = 10e-6  # sampling and detokenizing for one more sequence: an estimate
_STEP_S: Final = _WEIGHTS_BYTES / _MEMORY_BYTES_S + _REDUCE_S + _HOST_S  # 9.6 + 1.3 + 1.0 = 11.8 ms

# The replica of the benchmark: a KV room of 400k tokens (of some 600k that two H100 leave beside the weights). A full
# cache adds 400k x 131 kB / (0.67 x 6.7 TB/s) = 11.7 ms to a step. Compute stays below the memory's time up to about
# 290 sequences, so a decode step depends on the batch by the host's work alone. The estimates above were chosen within
# what is plausible so that the two loops of the Open-R1 post come out as in an earlier, independent simulation of the
# same four replicas (gather-500 in 4,378 s, streaming-500 in 2,643 s, with the watermark in 2,465 s).
R1_DISTILL_32B_TP2_H100: Final = EngineProfile(
    kv_blocks=25_000,
    block_size=16,
    max_num_seqs=256,
    step_s=((1, _STEP_S), (256, _STEP_S + 255 * _HOST_SEQUENCE_S)),
    kv_token_s=_KV_BYTES / (_ATTENTION_SHARE * _MEMORY_BYTES_S),
    prefill_token_s=_PREFILL_FLOPS / _FLOPS,
    stream_interval=32,
)
