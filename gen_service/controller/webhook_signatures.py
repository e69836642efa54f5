"""Signatures of webhooks, as Standard Webhooks 1.0 has them: HMAC-SHA256 of id, time and body. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from gen_service.errors import InvalidRequest

PREFIX = "whsec_"


def check_webhook_secret(secret: str | None) -> None:
    """Refuse a secret that no key can be made of; None is none, and passes.

    Raises:
        InvalidRequest: of field `webhook.secret`; the secret is not repeated.
    """
    try:
        if secret is not None:
            signing_key(secret)
    except ValueError as error:
        expected = f"base64 after {PREFIX}, or a secret that does not begin with {PREFIX}"
        raise InvalidRequest(f"webhook.secret: got {PREFIX}...; expected {expected}", field="webhook.secret") from error


def signing_key(secret: str) -> bytes:
    """The bytes that sign: what `whsec_` stands before is base64, anything else is its own UTF-8.

    Raises:
        ValueError: it is not base64, or empty.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 after {PREFIX}") from error
    if not key:
        raise ValueError(f"nothing after {PREFIX}")
    return key


def webhook_headers(message_id: str, at: float, body: bytes, secret: str | None) -> dict[str, str]:
    """The headers of a message; without a secret it is unsigned.

    Args:
        message_id: the same for each attempt, so that a receiver can tell a repetition.
        at: seconds since the epoch, of this attempt.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at))}
    if secret is not None:
        signed = b".".join([message_id.encode(), headers["webhook-timestamp"].encode(), body])
        digest = hmac.new(signing_key(secret), signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers
