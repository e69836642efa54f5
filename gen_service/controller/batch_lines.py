"""The published samples of one request of a batch as a line of its output or error file, in OpenAI's words. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from gen_service.errors import failure_of
from gen_service.storage.prompt_batch import CHAT

# What is read of the published rows.
COLUMNS = (
    "prompt_id",
    "sample_id",
    "sample_index",
    "reasoning",
    "content",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "model",
    "started_at",
    "error",
)
# What an error means for the client of a gateway, where the server named no status.
_STATUS = {
    "refused": 400,
    "overloaded": 503,
    "stalled": 504,
    "unreachable": 502,
    "stream_broken": 502,
    "malformed": 502,
}

Tree = dict[str, Any]


def answer_line(rows: Sequence[Tree], endpoint: str) -> Tree:
    """All samples of a request as a line of the output file or, where one of them failed, of the error file.

    Args:
        rows: published rows with COLUMNS, one for each choice; `started_at` in whole seconds since the epoch.
        endpoint: the batch's.
    """
    rows = sorted(rows, key=lambda row: int(row["sample_index"]))
    first = rows[0]
    line = {"id": f"batch_req_{first['sample_id']}", "custom_id": first["prompt_id"]}
    if (failed := next((row for row in rows if row["error"] is not None), None)) is not None:
        status, error = _failure(failed["error"])
        response = {"status_code": status, "request_id": failed["sample_id"], "body": {"error": error}}
    else:
        response = {"status_code": 200, "request_id": first["sample_id"], "body": _body(rows, endpoint)}
    return {**line, "response": response, "error": None}


def refused_line(job_id: str, custom_id: str | None, words: str) -> Tree:
    """A line of the error file for a request that was set aside before any server was asked."""
    response = {
        "status_code": 400,
        "request_id": _digest(job_id, custom_id),
        "body": {"error": _error(words, 400, "invalid_request")},
    }
    return {**_named(job_id, custom_id), "response": response, "error": None}


def undone_line(job_id: str, custom_id: str, code: str, words: str) -> Tree:
    """A line of the error file for a request that was never done."""
    return {**_named(job_id, custom_id), "response": None, "error": {"code": code, "message": words}}


def is_success(line: Tree) -> bool:
    """Whether a line belongs into the output file."""
    return line["response"] is not None and line["response"]["status_code"] == 200


def _body(rows: Sequence[Tree], endpoint: str) -> Tree:
    first, is_chat = rows[0], endpoint == CHAT
    prompt_tokens = int(first["prompt_tokens"])
    completion_tokens = sum(int(row["completion_tokens"]) for row in rows)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{first['sample_id']}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": first["started_at"],
        "model": first["model"],
        "choices": [_chat_choice(row) if is_chat else _text_choice(row) for row in rows],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _chat_choice(row: Tree) -> Tree:
    message = {"role": "assistant", "content": row["content"]}
    if row["reasoning"] is not None:
        message["reasoning_content"] = row["reasoning"]
    return {
        "index": row["sample_index"],
        "message": message,
        "finish_reason": row["finish_reason"],
        "logprobs": None,
    }


def _text_choice(row: Tree) -> Tree:
    return {
        "index": row["sample_index"],
        "text": row["content"],
        "finish_reason": row["finish_reason"],
        "logprobs": None,
    }


def _failure(text: str) -> tuple[int, Tree]:
    """An error of a row as an HTTP status and OpenAI's error object. What no server would take is 4xx, all else 5xx:
    the client may send that line again."""
    if (failure := failure_of(text)) is None:
        return 500, _error(text, 500, "server_error")
    status = failure.status or _STATUS.get(failure.cause, 500)
    if failure.cause != "refused" and status < 500:
        status = _STATUS.get(failure.cause, 500)
    return status, _error(failure.words, status, failure.cause)


def _error(words: str, status: int, code: str) -> Tree:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": words, "type": kind, "param": None, "code": code}


def _named(job_id: str, custom_id: str | None) -> Tree:
    return {"id": f"batch_req_{_digest(job_id, custom_id)}", "custom_id": custom_id}


def _digest(job_id: str, custom_id: str | None) -> str:
    return hashlib.blake2b(f"{job_id}\x1f{custom_id}".encode(), digest_size=16).hexdigest()
