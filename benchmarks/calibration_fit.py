"""From measured steps to an EngineProfile: least squares, no clock and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from gen_service.endpoints.simulated.engine_profile import EngineProfile


@dataclass(frozen=True, slots=True)
class Step:
    """Decode steps as measured: `batch` sequences run, each with `live_tokens` in the cache, a step takes `seconds`."""

    batch: int
    live_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """One request alone, as measured: seconds from sending a prompt of so many tokens to its first token."""

    prompt_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What was fitted, and how far it is from what was measured.

    Attributes:
        step_error: of each measured step, the fitted seconds over the measured ones, less 1; the largest by amount.
        request_s: what a request alone takes to its first token beyond prefill and step: HTTP, tokenizing, and so on.
    """

    profile: EngineProfile
    step_error: float
    request_s: float


def fit(steps: Sequence[Step], prefills: Sequence[Prefill], like: EngineProfile) -> Fit:
    """The profile whose step times are nearest to the measured ones, in relative terms.

    Args:
        steps: at several batch sizes, at some of them with different numbers of live tokens: only that tells the cost
            of the cache from the cost of the batch.
        prefills: of several lengths.
        like: everything that is not fitted.
    """
    batches = sorted({step.batch for step in steps})
    design = np.array(
        [[float(step.batch == batch) for batch in batches] + [step.batch * step.live_tokens] for step in steps]
    )
    seconds = np.array([step.seconds for step in steps])
    found = _solved(design, seconds)
    if found[-1] < 0.0:
        found = np.append(_solved(design[:, :-1], seconds), 0.0)
    kv_token_s = float(found[-1])
    # A larger batch that was measured faster is noise; a profile must not fall.
    rising = list(accumulate((float(one) for one in found[:-1]), max))
    step_s = tuple(zip(batches, rising, strict=True))
    prefill_token_s, alone_s = _line(prefills)
    profile = EngineProfile(
        kv_blocks=like.kv_blocks,
        block_size=like.block_size,
        max_num_seqs=like.max_num_seqs,
        watermark=like.watermark,
        max_batched_tokens=like.max_batched_tokens,
        step_s=step_s,
        kv_token_s=kv_token_s,
        # A prefill step also pays for the live tokens, which are the prompt's own.
        prefill_token_s=max(0.0, prefill_token_s - kv_token_s),
        stream_interval=like.stream_interval,
    )
    return Fit(profile, _largest_error(profile, steps), max(0.0, alone_s - profile.decode_s(1)))


def _solved(design: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of the relative errors: a step of 5 ms counts as much as one of 50 ms."""
    found = np.linalg.lstsq(design / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]
    return found.astype(np.float64)


def _line(prefills: Sequence[Prefill]) -> tuple[float, float]:
    """Seconds a token, and seconds of an empty prompt."""
    slope, rest = np.polyfit([one.prompt_tokens for one in prefills], [one.seconds for one in prefills], 1)
    return float(slope), float(rest)


def _largest_error(profile: EngineProfile, steps: Sequence[Step]) -> float:
    errors = [
        (profile.decode_s(step.batch) + profile.kv_token_s * step.batch * step.live_tokens) / step.seconds - 1.0
        for step in steps
    ]
    return max(errors, key=abs)
