"""Where a webhook may go: public addresses of the internet, and the networks that the operator allows.

Pure. A name is judged by the addresses it resolves to, at the moment of connecting; what is wrong without asking
anybody, `check_webhook_url` says when a job is submitted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from yarl import URL

from gen_service.errors import InvalidRequest
from gen_service.service_settings import WebhookSettings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FIELD = "webhook.url"
# Of the IANA special-purpose registries, what `is_global` passes in some of the Pythons that this runs on.
_NEVER_V4 = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
# All global unicast lies in 2000::/3. In it 2001::/23 holds Teredo and other protocols' own addresses, 2002::/16 is
# 6to4, which leads to any IPv4 address, and the last two are for documentation.
_GLOBAL_V6 = IPv6Network("2000::/3")
_NEVER_V6 = tuple(IPv6Network(block) for block in ("2001::/23", "2002::/16", "2001:db8::/32", "3fff::/20"))
# Where a cluster has no IPv4 of its own, its DNS gives every IPv4 receiver an address in here.
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACK = ip_address("127.0.0.1")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE)
# What a resolver reads as a number: 2130706433, 0x7f.1, 0177.0.0.1.
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)


def may_be_called(address: Address, allow: Sequence[Network]) -> bool:
    """Whether a webhook may connect to this address: it is public, or in a network that the operator allows.

    An IPv4 address inside an IPv6 one (mapped, NAT64) counts as the IPv4 address.
    """
    target = _embedded(address)
    return any(target in network or address in network for network in allow) or _is_public(target)


def check_webhook_url(url: str, settings: WebhookSettings) -> None:
    """Refuse what is plainly wrong, without looking up any name.

    Raises:
        InvalidRequest: of field `webhook.url`: not https, a user in it, no host, an address that is not public or is
            written otherwise than in the usual way. The URL is not repeated, since its path may be a secret.
    """
    if any(character <= " " or character == "\x7f" for character in url):
        raise _refusal("blanks or control characters", "an https URL without them")
    try:
        # Split by the HTTP client's own reader, so that both mean one host.
        parsed, authority = URL(url), urlsplit(url).netloc
    except ValueError as error:
        raise _refusal("what is not a URL", "an https URL such as https://example.org/done") from error
    if parsed.scheme != "https":
        raise _refusal(f"the scheme {parsed.scheme!r}", "https")
    if "@" in authority:
        raise _refusal("a user before the host", "an https URL without one; webhook.secret signs the request")
    _check_host(parsed.raw_host or "", "[" in authority, settings.allow)


def _check_host(host: str, is_bracketed: bool, allow: Sequence[Network]) -> None:
    if is_bracketed or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None:
        try:
            address = ip_address(host)
        except ValueError as error:
            raise _refusal(f"the host {host!r}", "an address in its usual form") from error
        if not may_be_called(address, allow):
            raise _refusal(f"the address {host}", "a public one, or one in webhooks.allow")
    elif not _NAME.fullmatch(host):
        raise _refusal(f"the host {host!r}", "a host name or an address")
    elif host.lower().rstrip(".").rpartition(".")[2] == "localhost" and not may_be_called(_LOOPBACK, allow):
        raise _refusal(f"the host {host!r}", "one that is not this machine")


def _refusal(given: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"{FIELD}: got {given}; expected {expected}", field=FIELD)


def _embedded(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(address.packed[-4:])
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        is_special = address.is_multicast or address.is_reserved or any(address in block for block in _NEVER_V4)
    else:
        is_special = address not in _GLOBAL_V6 or any(address in block for block in _NEVER_V6)
    return address.is_global and not is_special
