"""One trace as bytes, for the journal: a JSON header and the token ids.

Layout: header length (u32, little endian), header (JSON, UTF-8), token ids to the end: the first bytes of all ids
(int32, little endian), then all second bytes, and so on. Split like this they take a fifth less room when compressed,
and half the time.
A record is complete in itself: it holds the prompt and the gold answer, so a recovered trace needs no prompt source.
"""

from __future__ import annotations

import struct
from dataclasses import astuple
from typing import Any

import numpy as np
import orjson

from gen_service.records import NO_TOKENS, BatchLine, Completion, Prompt, Sample, Trace, Verdict
from gen_service.storage.surrogates import scrub

# 2: a verdict says how an answer was found; 3: a prompt may hold a batch line's request.
RECORD_VERSION = 3
_HEADER_LENGTH = struct.Struct("<I")
SEED_BITS = 63
TOKEN_BITS = 31


def encode(trace: Trace) -> bytes:
    """The trace as one self-contained record.

    Lone surrogates become U+FFFD, and integers too large for their columns the nearest that fits; all else comes
    back exactly.
    """
    tree = _tree(trace)
    try:
        header = orjson.dumps(tree)
    except TypeError:
        header = orjson.dumps(scrub(tree))
    ids = NO_TOKENS if trace.completion is None else trace.completion.token_ids
    planes = np.ascontiguousarray(ids, dtype="<i4").view(np.uint8).reshape(-1, 4).T.tobytes()
    return b"".join((_HEADER_LENGTH.pack(len(header)), header, planes))


def decode(record: bytes | memoryview) -> Trace:
    """The trace that `encode` was given.

    Raises:
        ValueError: the bytes are no record, or of a later version.
    """
    (length,) = _HEADER_LENGTH.unpack_from(record)
    start = _HEADER_LENGTH.size + length
    tree = orjson.loads(record[_HEADER_LENGTH.size : start])
    if tree["version"] > RECORD_VERSION:
        raise ValueError(f"record version {tree['version']} is newer than {RECORD_VERSION}, the last one known here")
    planes = np.frombuffer(record[start:], dtype=np.uint8).reshape(4, -1)
    return _trace(tree, np.ascontiguousarray(planes.T).view("<i4").reshape(-1).astype(np.int32))


def approximate_bytes(trace: Trace) -> int:
    """About how long the record will be, without encoding it: 1 byte a character, 4 a token."""
    prompt = trace.sample.prompt
    size = 512 + sum(len(message["content"]) for message in prompt.messages) * (1 if prompt.request is None else 2)
    if (completion := trace.completion) is not None:
        size += len(completion.reasoning or "") + len(completion.content) + 4 * len(completion.token_ids)
    return size


def clamp(number: int, bits: int) -> int:
    """The nearest integer of that many bits and a sign: a lying server's token count must not stop a job."""
    largest = (1 << bits) - 1
    return max(-largest, min(largest, number))


def _tree(trace: Trace) -> dict[str, Any]:
    sample, prompt, verdict = trace.sample, trace.sample.prompt, trace.verdict
    request = prompt.request
    return {
        "version": RECORD_VERSION,
        "sample_id": sample.sample_id,
        "job_id": sample.job_id,
        "index": sample.index,
        "seed": None if sample.seed is None else clamp(sample.seed, SEED_BITS),
        "prompt": [prompt.prompt_id, list(prompt.messages), prompt.answer, prompt.source, prompt.row],
        "request": None if request is None else [request.url, request.n],
        # No deeper than it came: there is a depth that JSON is not written in.
        "body": None if request is None else request.body,
        "completion": None if trace.completion is None else _completion_tree(trace.completion),
        "verdict": None if verdict is None else list(astuple(verdict)),
        "error": trace.error,
        "retries": list(trace.retries),
    }


def _completion_tree(completion: Completion) -> dict[str, Any]:
    return {
        "reasoning": completion.reasoning,
        "content": completion.content,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": clamp(completion.prompt_tokens, TOKEN_BITS),
        "completion_tokens": clamp(completion.completion_tokens, TOKEN_BITS),
        "model": completion.model,
        "endpoint": completion.endpoint,
        "continued": completion.continued,
        "retries": list(completion.retries),
        "started_at": completion.started_at,
        "first_token_s": completion.first_token_s,
        "total_s": completion.total_s,
    }


def _trace(tree: dict[str, Any], token_ids: np.ndarray[Any, np.dtype[np.int32]]) -> Trace:
    prompt_id, messages, answer, source, row = tree["prompt"]
    asked = tree.get("request")  # since version 3
    request = None if asked is None else BatchLine(asked[0], tree["body"], asked[1])
    prompt = Prompt(prompt_id, tuple(messages), answer, source, row, request)
    sample = Sample(tree["sample_id"], tree["job_id"], prompt, tree["index"], tree["seed"])
    completion = None
    if (fields := tree["completion"]) is not None:
        completion = Completion(**{**fields, "retries": tuple(fields["retries"])}, token_ids=token_ids)
    verdict = None if tree["verdict"] is None else Verdict(*tree["verdict"])  # version 1 had its first three fields
    return Trace(sample, completion, verdict, tree["error"], tuple(tree["retries"]))
