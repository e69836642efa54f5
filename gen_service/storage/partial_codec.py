"""What has come of an unfinished completion, as bytes: each record holds what is new since the one before.

Layout of a record: header length (u32, little endian), header (JSON, UTF-8), the prompt's ids (only in a first record)
and the new ids: the first bytes of all (int32, little endian), then all second bytes, and so on, as in the journal.
A record that is not the first says by a mark what it goes on from, so that it is never added to anything else.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from gen_service.records import NO_TOKENS, Partial, TokenIds

RECORD_VERSION = 1
_HEADER_LENGTH = struct.Struct("<I")

Counts = tuple[int, int, int, int]
Texts = tuple[str, str, str]
_NOTHING: Counts = (0, 0, 0, 0)


class Mark(NamedTuple):
    """How far a partial goes, and what it is as far as that.

    Attributes:
        counts: tokens; characters of reasoning, content and raw text.
        sums: crc32 of the prompt's and the completion's ids, and of each text.
    """

    counts: Counts
    sums: Counts

    def after(self, ids: TokenIds, texts: Texts) -> Mark:
        """The mark when these have been added."""
        tokens, *lengths = self.counts
        ids_sum, *sums = self.sums
        reasoning, content, raw = (length + len(text) for text, length in zip(texts, lengths, strict=True))
        of_texts = (zlib.crc32(text.encode(), before) for text, before in zip(texts, sums, strict=True))
        of_reasoning, of_content, of_raw = of_texts
        of_ids = zlib.crc32(_bytes(ids), ids_sum)
        return Mark((tokens + len(ids), reasoning, content, raw), (of_ids, of_reasoning, of_content, of_raw))


def beginning(prompt_ids: TokenIds) -> Mark:
    """The mark of a partial with a prompt and nothing else."""
    return Mark((0, 0, 0, 0), (zlib.crc32(_bytes(prompt_ids)), 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Addition:
    """One record.

    Attributes:
        sample_id: whose.
        after: what it goes on from; None for a first record, which replaces what was before.
        prompt_ids: of a first record; else none.
        ids, texts: what is new.
        continued, started_at, model: of the partial that it makes.
    """

    sample_id: str
    after: Mark | None
    prompt_ids: TokenIds
    ids: TokenIds
    texts: Texts
    continued: int
    started_at: float
    model: str


class Growing:
    """A partial that is put together again from its records."""

    def __init__(self, first: Addition) -> None:
        self._last = first
        self._prompt_ids = first.prompt_ids
        self._ids = [first.ids]
        self._texts = [first.texts]
        self.mark = beginning(first.prompt_ids).after(first.ids, first.texts)

    def add(self, more: Addition) -> bool:
        """Add a record; False where it goes on from something else, and then nothing is added."""
        if more.after != self.mark:
            return False
        self._last = more
        self._ids.append(more.ids)
        self._texts.append(more.texts)
        self.mark = self.mark.after(more.ids, more.texts)
        return True

    def partial(self) -> Partial:
        """What its records make."""
        reasoning, content, raw = map("".join, zip(*self._texts, strict=True))
        return Partial(
            self._last.sample_id,
            self._prompt_ids,
            np.concatenate(self._ids),
            reasoning,
            content,
            raw,
            self._last.continued,
            self._last.started_at,
            self._last.model,
        )


def addition(partial: Partial, before: Mark | None) -> tuple[Addition, Mark]:
    """What is to be written of a partial of which `before` is written, and the mark then.

    Raises:
        UnicodeEncodeError: it holds text that cannot be written.
    """
    first = beginning(partial.prompt_ids)
    if before is not None and first.after(*_part(partial, _NOTHING, before.counts)) != before:
        before = None
    ids, texts = _part(partial, _NOTHING if before is None else before.counts, None)
    mark = (before or first).after(ids, texts)
    prompt_ids = partial.prompt_ids if before is None else NO_TOKENS
    rest = (partial.continued, partial.started_at, partial.model)
    return Addition(partial.sample_id, before, prompt_ids, ids, texts, *rest), mark


def encode(record: Addition) -> bytes:
    """The record as bytes."""
    tree = {
        "version": RECORD_VERSION,
        "sample_id": record.sample_id,
        "after": None if record.after is None else tuple(record.after),
        "prompt": len(record.prompt_ids),
        "texts": record.texts,
        "continued": record.continued,
        "started_at": record.started_at,
        "model": record.model,
    }
    header = orjson.dumps(tree)
    ids = np.concatenate((record.prompt_ids, record.ids)).astype("<i4", copy=False)
    planes = np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 4).T.tobytes()
    return b"".join((_HEADER_LENGTH.pack(len(header)), header, planes))


def decode(record: bytes | memoryview) -> Addition:
    """The record that `encode` was given.

    Raises:
        ValueError: the bytes are no record, or of a later version.
    """
    try:
        tree, planes = _parts(record)
        if tree["version"] > RECORD_VERSION:
            raise ValueError(f"record version {tree['version']} is newer than {RECORD_VERSION}")
        split = np.frombuffer(planes, dtype=np.uint8).reshape(4, -1)
        ids = np.ascontiguousarray(split.T).view("<i4").reshape(-1).astype(np.int32)
        after = tree["after"] and Mark(*map(tuple, tree["after"]))
        reasoning, content, raw = tree["texts"]
        prompt = tree["prompt"]
        return Addition(
            tree["sample_id"],
            after,
            ids[:prompt],
            ids[prompt:],
            (reasoning, content, raw),
            tree["continued"],
            tree["started_at"],
            tree["model"],
        )
    except (KeyError, TypeError, struct.error) as error:
        raise ValueError(f"no record of a partial completion: {error!r}") from error


def sample_id_of(record: bytes | memoryview) -> str | None:
    """Whose record it is; None where the bytes are no record."""
    try:
        return str(_parts(record)[0]["sample_id"])
    except (ValueError, KeyError, TypeError, struct.error):
        return None


def _parts(record: bytes | memoryview) -> tuple[dict[str, Any], bytes | memoryview]:
    (length,) = _HEADER_LENGTH.unpack_from(record)
    start = _HEADER_LENGTH.size + length
    return orjson.loads(record[_HEADER_LENGTH.size : start]), record[start:]


def _part(partial: Partial, first: Counts, last: Counts | None) -> tuple[TokenIds, Texts]:
    """The ids and texts between two places; None for the end."""
    slices = [slice(start, None if last is None else last[index]) for index, start in enumerate(first)]
    texts = (partial.reasoning[slices[1]], partial.content[slices[2]], partial.raw[slices[3]])
    return partial.token_ids[slices[0]], texts


def _bytes(ids: TokenIds) -> bytes:
    return ids.astype("<i4", copy=False).tobytes()
