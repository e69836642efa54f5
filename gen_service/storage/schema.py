"""The versioned Arrow schema of published rows, and traces as a table of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gen_service.records import NO_TOKENS, Completion, Trace, Verdict
from gen_service.storage.arrow_arrays import array_of, int32_array, lists
from gen_service.storage.codec import SEED_BITS, TOKEN_BITS, clamp
from gen_service.storage.surrogates import scrub

SCHEMA_VERSION = 2
VERSION_KEY = b"gen_service.schema_version"

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

# Columns of the completion are null in rows that ended in an error. Version 1 had no normalised, extracted_how,
# verdict_path, verdict_cpu_s and verifier: there they are read as null.
SCHEMA = pa.schema(
    [
        ("job_id", pa.string()),
        ("sample_id", pa.string()),
        ("prompt_id", pa.string()),
        ("sample_index", pa.int32()),
        ("source", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("answer", pa.string()),
        ("reasoning", pa.string()),
        ("content", pa.string()),
        ("extracted", pa.string()),
        ("normalised", pa.string()),
        ("extracted_how", pa.string()),
        ("verdict", pa.string()),
        ("verdict_reason", pa.string()),
        ("verdict_path", pa.string()),
        ("verdict_cpu_s", pa.float64()),
        ("verifier", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("token_ids", pa.list_(pa.int32())),
        ("model", pa.string()),
        ("endpoint", pa.string()),
        ("sampling", pa.string()),
        ("seed", pa.int64()),
        ("attempts", pa.int32()),
        ("retries", pa.list_(pa.string())),
        ("continued", pa.int32()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("first_token_s", pa.float64()),
        ("total_s", pa.float64()),
        ("error", pa.string()),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def to_table(traces: Sequence[Trace], sampling: str) -> pa.Table:
    """One row per trace, in order.

    Args:
        traces: each with a verdict.
        sampling: how they were sampled, as JSON; a batch line's row has its own body instead.

    Raises:
        ValueError: a trace has no verdict.
    """
    columns = {
        **_sample_columns(traces),
        **_completion_columns([trace.completion for trace in traces]),
        **_verdict_columns([_verdict(trace) for trace in traces]),
        "retries": [list(_retries(trace)) for trace in traces],
        "attempts": [len(_retries(trace)) + 1 for trace in traces],
        "error": [trace.error for trace in traces],
        "sampling": [_sampling(trace, sampling) for trace in traces],
        "token_ids": token_lists(_token_ids(trace) for trace in traces),
    }
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def conformed(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """The named columns of rows of any version, in that order; those that the version did not have are null."""
    fields = [SCHEMA.field(name) for name in names]
    there = set(batch.schema.names)
    columns = [
        batch.column(field.name) if field.name in there else pa.nulls(batch.num_rows, field.type) for field in fields
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def token_lists(token_ids: Iterable[np.ndarray[Any, np.dtype[np.int32]]]) -> pa.ListArray:
    """Token ids as one Arrow list array. As Python lists they would cost four fifths of the writing speed."""
    rows = list(token_ids)
    return lists(rows, int32_array(np.concatenate([NO_TOKENS, *rows], dtype=np.int32)))


def _sample_columns(traces: Sequence[Trace]) -> dict[str, list[Any]]:
    samples = [trace.sample for trace in traces]
    prompts = [sample.prompt for sample in samples]
    return {
        "job_id": [sample.job_id for sample in samples],
        "sample_id": [sample.sample_id for sample in samples],
        "sample_index": [sample.index for sample in samples],
        "seed": [None if sample.seed is None else clamp(sample.seed, SEED_BITS) for sample in samples],
        "prompt_id": [prompt.prompt_id for prompt in prompts],
        "source": [prompt.source for prompt in prompts],
        "messages": [list(prompt.messages) for prompt in prompts],
        "answer": [prompt.answer for prompt in prompts],
    }


def _completion_columns(completions: Sequence[Completion | None]) -> dict[str, list[Any]]:
    def column(value: Callable[[Completion], Any]) -> list[Any]:
        return [None if completion is None else value(completion) for completion in completions]

    return {
        "reasoning": column(lambda completion: completion.reasoning),
        "content": column(lambda completion: completion.content),
        "finish_reason": column(lambda completion: completion.finish_reason),
        "prompt_tokens": column(lambda completion: clamp(completion.prompt_tokens, TOKEN_BITS)),
        "completion_tokens": column(lambda completion: clamp(completion.completion_tokens, TOKEN_BITS)),
        "model": column(lambda completion: completion.model),
        "endpoint": column(lambda completion: completion.endpoint),
        "continued": column(lambda completion: completion.continued),
        "started_at": column(lambda completion: round(completion.started_at * 1_000_000)),
        "first_token_s": column(lambda completion: completion.first_token_s),
        "total_s": column(lambda completion: completion.total_s),
    }


def _verdict_columns(verdicts: Sequence[Verdict]) -> dict[str, list[Any]]:
    return {
        "extracted": [verdict.extracted for verdict in verdicts],
        "normalised": [verdict.normalised for verdict in verdicts],
        "extracted_how": [verdict.how for verdict in verdicts],
        "verdict": [verdict.outcome for verdict in verdicts],
        "verdict_reason": [verdict.reason for verdict in verdicts],
        "verdict_path": [verdict.path for verdict in verdicts],
        "verdict_cpu_s": [verdict.cpu_s for verdict in verdicts],
        "verifier": [verdict.verifier for verdict in verdicts],
    }


def _sampling(trace: Trace, of_job: str) -> str:
    request = trace.sample.prompt.request
    if request is None:
        return of_job
    body = {name: value for name, value in request.body.items() if name not in ("messages", "prompt")}
    return json.dumps(body, ensure_ascii=False)


def _verdict(trace: Trace) -> Verdict:
    if trace.verdict is None:
        raise ValueError(f"sample {trace.sample.sample_id} has no verdict: it cannot be published")
    return trace.verdict


def _retries(trace: Trace) -> tuple[str, ...]:
    return trace.retries if trace.completion is None else trace.completion.retries


def _token_ids(trace: Trace) -> np.ndarray[Any, np.dtype[np.int32]]:
    return NO_TOKENS if trace.completion is None else trace.completion.token_ids


def _array(values: list[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    try:
        return array_of(values, kind)
    except UnicodeEncodeError:
        return array_of(scrub(values), kind)
