"""What a client may not ask of a model server, although the server would take it. Pure.

vLLM takes fields beside OpenAI's that name hosts to move caches to, put a request before others' or under another's
id, or load classes and tensors; and it fetches what a message's parts name from wherever it stands. Such fields are
the operator's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ENGINE_FIELDS = frozenset(
    {
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "priority",
        "request_id",
        "logits_processors",
        "prompt_embeds",
    }
)
_URL, _EMBEDDED, _DATA = "_url", "_embeds", "data:"


def engine_field(names: Iterable[str]) -> str | None:
    """The first of these names that only the operator may give, or None."""
    return next((name for name in sorted(names) if name in ENGINE_FIELDS), None)


def refusal_of(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """The field of a request's body that a client may not give, and why; None where there is none."""
    if (name := engine_field(body)) is not None:
        return name, "only the operator of the service may set it; expected a body without it"
    messages = body.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and (why := _why_refused(part)) is not None:
                return f"messages[{number}].content", why
    return None


def _why_refused(part: Mapping[str, Any]) -> str | None:
    """Why a part of a message is refused, if it is: text passes, and media that come along."""
    for key, value in part.items():
        if key.endswith(_EMBEDDED):
            return f"{key} are not taken; expected the media themselves"
        place = value.get("url") if isinstance(value, dict) else value
        if key.endswith(_URL) and not (isinstance(place, str) and place.lower().startswith(_DATA)):
            return f"{key} names another place, which the servers do not fetch; expected a data: URL"
    return None
