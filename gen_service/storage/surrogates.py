"""Text that cannot be written as UTF-8, made writable."""

from __future__ import annotations

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def is_encodable(text: str) -> bool:
    """Whether `text` has no lone surrogate, so that it can be written as UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


def scrub(value: Any) -> Any:
    """The same value with each lone surrogate in its strings, lists, tuples and dicts replaced by U+FFFD.

    A server's JSON may hold half of a surrogate pair ("\\ud83d"): Python reads it, but no UTF-8 writer takes it.
    """
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub(REPLACEMENT, value)
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    if isinstance(value, dict):
        return {scrub(key): scrub(item) for key, item in value.items()}
    return value
