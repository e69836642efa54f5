"""Cursors: places in a list, opaque to clients. Nothing secret is in one, so it is not signed; one that was not made
here is refused."""

from __future__ import annotations

import base64
import binascii
import math

import orjson

from gen_service.errors import InvalidRequest


def encode_cursor(first: float, second: str | int) -> str:
    """The cursor of a place that two values name."""
    return base64.urlsafe_b64encode(orjson.dumps([first, second])).rstrip(b"=").decode()


def decode_list_cursor(cursor: str) -> tuple[float, str]:
    """The time (seconds since the epoch) and id behind a cursor of a list.

    Raises:
        InvalidRequest: it was not made by this service.
    """
    match _decode(cursor):
        case [int() | float() as created_at, str() as id_] if math.isfinite(created_at) and "\0" not in id_:
            return float(created_at), id_
    raise _broken(cursor)


def decode_row_cursor(cursor: str) -> tuple[int, int]:
    """The part and the row behind a cursor of results.

    Raises:
        InvalidRequest: it was not made by this service.
    """
    match _decode(cursor):
        case [int() as part, int() as row] if part >= 0 and row >= 0:
            return part, row
    raise _broken(cursor)


def _decode(cursor: str) -> object:
    try:
        value: object = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (binascii.Error, orjson.JSONDecodeError, ValueError) as error:
        raise _broken(cursor) from error
    return value


def _broken(cursor: str) -> InvalidRequest:
    shown = cursor if len(cursor) <= 100 else f"{cursor[:100]}..."
    return InvalidRequest(f"cursor: got {shown!r}; expected one from an earlier answer, or none", field="cursor")
