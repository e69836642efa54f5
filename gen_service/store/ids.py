"""Names of stored things: made here, never by a client, so that they are safe in paths and URLs."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time

_TIME_BYTES, _RANDOM_BYTES = 6, 10


def new_id(prefix: str) -> str:
    """`prefix` (with its separator, such as `job-`) and 26 characters of [0-9a-v].

    They are 48 bits of milliseconds since the epoch and 80 random bits in base32hex, whose alphabet sorts as its
    values do: ids sort by the millisecond they were made in, and cannot be guessed.
    """
    return _id(prefix, time.time_ns() // 1_000_000, secrets.token_bytes(_RANDOM_BYTES))


def derived_id(prefix: str, at: float, of: str) -> str:
    """As `new_id` at `at` seconds since the epoch, but the same again for the same text `of`: for what a crash makes
    be made twice."""
    return _id(prefix, int(at * 1000), hashlib.blake2b(of.encode(), digest_size=_RANDOM_BYTES).digest())


def _id(prefix: str, milliseconds: int, tail: bytes) -> str:
    raw = milliseconds.to_bytes(_TIME_BYTES, "big") + tail
    return prefix + base64.b32hexencode(raw).decode().rstrip("=").lower()
