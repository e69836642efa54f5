"""What a person asked `verify` for, checked: settings, columns, and which rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from gen_service.errors import SpecError
from gen_service.jobs.job import spec_error
from gen_service.jobs.judging import Choice
from gen_service.records import Outcome
from gen_service.settings import VerificationSettings
from gen_service.storage.answered_rows import AnswerColumns

_SIZE = re.compile(r"([0-9]+)\s*(?:([KMGT])(?:iB|B)?)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def make_verification(
    settings: dict[str, Any], options: Sequence[str] = (), memory: str | None = None
) -> VerificationSettings:
    """The verification's settings.

    Args:
        settings: those that were given.
        options: `key=value` each; a value is JSON where it can be read as such, else text.
        memory: bytes, or a number with K, M, G or T (powers of 1024).

    Raises:
        SpecError: names the first field that is wrong.
    """
    document = settings | ({"options": dict(map(_option, options))} if options else {})
    if memory is not None:
        document["memory_bytes"] = _size(memory)
    try:
        return VerificationSettings.model_validate(document)
    except ValidationError as error:
        raise spec_error(error) from error


def make_columns(**names: str | None) -> AnswerColumns | None:
    """The columns of a file; None when no name was given."""
    given = {field: name for field, name in names.items() if name is not None}
    return AnswerColumns(**given) if given else None


def make_choice(limit: int | None, only_outcome: str | None) -> Choice:
    """Which rows are judged.

    Raises:
        SpecError: there is no such verdict.
    """
    for outcome in get_args(Outcome):
        if outcome == only_outcome:
            return Choice(limit, outcome)
    if only_outcome is not None:
        raise SpecError("only_outcome", only_outcome, f"one of {', '.join(get_args(Outcome))}")
    return Choice(limit)


def _option(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise SpecError("option", text, "key=value")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SpecError("memory", text, "bytes, or a number with K, M, G or T, such as 2G")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]
