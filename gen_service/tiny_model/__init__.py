"""A tiny reasoning model that ships with the service, and the problems it was taught.

It makes the demo, the tests and the benchmarks run a real vLLM on any laptop: small enough to commit, right often but
not always.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder with the weights, the tokenizer and the chat template, as vLLM's `--model` takes it."""
