"""What the training benchmark trains: the shape of a model, made-up traces, and the arithmetic that they need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gen_service.training.trace_examples import Counts, Example

PROMPT_SHARE: Final = 0.1  # of a trace's tokens
# The median trace as a share of the context, and the spread of the logarithm: at 16,384 the mean is about 5,000 tokens,
# close to what R1 writes (6,000), and a tenth are longer than 10,000.
MEDIAN_SHARE: Final = 0.25
SIGMA: Final = 0.8
# Dense bfloat16, 10^12 per second, from NVIDIA's data sheets; the first name that the device's contains.
PEAK_TFLOPS: Final = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H200 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("A100", 312.0),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder like Qwen2, with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    def config(self) -> dict[str, Any]:
        """As transformers' `Qwen2Config` takes them."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131_072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
        }

    def layer_weights(self) -> int:
        """Weights of all layers that a token is multiplied with."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.hidden * self.kv_heads // self.heads
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def head_weights(self) -> int:
        """Weights of the head, which only a token with loss needs."""
        return self.hidden * self.vocabulary


SHAPES: Final = {
    "qwen2.5-1.5b": Shape(1536, 28, 12, 2, 8960, 151_936),
    "tiny": Shape(64, 2, 4, 2, 128, 512),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What was learned from in one step.

    Attributes:
        seconds: from the end of the step before to its own.
        tokens: without padding.
        with_loss: of those.
        places: tokens with padding, as the model computed them.
        pairs: of a token and one it may look at, itself among them: n (n + 1) / 2 for a trace of n tokens.
    """

    seconds: float
    tokens: int
    with_loss: int
    places: int
    pairs: int

    def tokens_per_s(self) -> float:
        """Tokens learned from per second."""
        return self.tokens / self.seconds


def needed_flops(shape: Shape, work: Work) -> float:
    """Operations that forward and backward of a step need, nothing that is computed again, padded or masked.

    Model FLOPs as the PaLM paper counts them (Chowdhery and others, 2022, appendix B): 6 for each token and weight that
    it is multiplied with, and 12 L H Q T for the attention of a token that looks at T others (L layers, H heads of size
    Q). There T is the whole sequence; here only tokens before it in its own trace. The head counts for tokens with
    loss, looking up embeddings not at all.
    """
    weights = 6 * (shape.layer_weights() * work.tokens + shape.head_weights() * work.with_loss)
    return float(weights + 12 * shape.layers * shape.hidden * work.pairs)


def peak_tflops(device: str) -> float | None:
    """Of a device by its name; None where it is not known."""
    return next((peak for name, peak in PEAK_TFLOPS if name in device), None)


class MadeUpTraces:
    """Traces of random tokens with lognormal lengths, none longer than the context: the same ones for a seed.

    Args:
        tokens: at least this many in all.

    Attributes:
        counts: of those given so far.
    """

    def __init__(self, shape: Shape, context: int, tokens: int, seed: int) -> None:
        self.counts = Counts()
        self._vocabulary = shape.vocabulary
        self._context = context
        self._tokens = tokens
        self._seed = seed

    def __iter__(self) -> Iterator[Example]:
        """The traces, each with a prompt and a completion."""
        random = np.random.default_rng(self._seed)
        made = 0
        while made < self._tokens:
            length = max(2, round(random.lognormal(math.log(MEDIAN_SHARE * self._context), SIGMA)))
            if length > self._context:
                continue
            ids = random.integers(10, self._vocabulary, length).tolist()
            prompt = max(1, round(PROMPT_SHARE * length))
            example = Example(ids[:prompt], ids[prompt:], is_held_out=False)
            self.counts.read += 1
            self.counts.add(example)
            made += length
            yield example
